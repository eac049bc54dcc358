"""`make`: seeds, shapes and dtypes of every workload, what it refuses, and the real input."""

import hashlib
import json
from importlib import resources

import numpy as np
import pytest
from toy_workloads import logits, softmax

from sublinattn.lab import workloads
from sublinattn.lab.workloads import make, real

SYNTHETIC = [name for name in workloads.names() if name != "real"]


@pytest.mark.parametrize("name", SYNTHETIC)
def test_seed_decides(name):
    one, two, generator, other = (make(name, 60, 16, rng=rng, d_v=5) for rng in (3, 3, np.random.default_rng(3), 4))
    for tensor in "qkv":
        first = getattr(one, tensor)
        np.testing.assert_array_equal(first, getattr(two, tensor))
        np.testing.assert_array_equal(first, getattr(generator, tensor))
        assert not np.array_equal(first, getattr(other, tensor))
    assert one.params["seed"] == 3 and generator.params["seed"] is None
    assert not np.array_equal(make(name, 60, 16, rng=None).q, make(name, 60, 16, rng=None).q)


@pytest.mark.parametrize("name", SYNTHETIC)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_shapes_and_dtype(name, dtype):
    x = make(name, 60, 16, rng=0, d_v=5, dtype=dtype)
    assert (x.q.shape, x.k.shape, x.v.shape) == ((60, 16), (60, 16), (60, 5))
    assert {x.q.dtype, x.k.dtype, x.v.dtype} == {np.dtype(dtype)}
    assert x.scale == 0.25 and x.name == name and x.source == "synthetic"
    assert all(np.isfinite(a).all() for a in (x.q, x.k, x.v))


@pytest.mark.parametrize(
    "name", ["planted", "sinks", "alpha", "kappa", "heavy_values", "compressible", "index", "needles"]
)
def test_logits_of_the_dials_do_not_depend_on_the_scale(name):
    one, two = (make(name, 60, 16, rng=0, scale=scale, dtype=np.float64) for scale in (1.0, 1 / 16))
    np.testing.assert_allclose(logits(one), logits(two), atol=1e-10)


@pytest.mark.parametrize(
    ("name", "knobs", "message"),
    [
        ("gausian", {}, "name must be that of a workload, gaussian, clustered, planted, sinks, alpha, kappa"),
        ("sinks", {"sink": 4}, "no knob sink; it has sinks=4, mass=0.5, noise=0.5, sink_positions=None"),
        ("gaussian", {"std": -1.0}, "std must be between 0"),
        ("gaussian", {"std": "1"}, "std must be between 0"),
        ("gaussian", {"std": np.nan}, "std must be between 0"),
        ("gaussian", {"scale": 0.0}, "scale must be strictly between 0"),
        ("gaussian", {"dtype": np.int32}, "dtype must be a floating dtype, got int32"),
        ("gaussian", {"d_v": 0}, "d_v must be an integer between 1"),
        *(("gaussian", {"n": n}, "n must be an integer between 1") for n in (0, -1, 2.0, True)),
        ("clustered", {"clusters": 65}, "clusters must be an integer between 1 and 64, got 65"),
        ("planted", {"share": 0.001}, "is 0 planted pairs"),
        ("planted", {"closeness": 1.2}, "closeness must be between 0 and 1, got 1.2"),
        ("planted", {"noise": 10.0, "closeness": 0.2}, "strength=0.5 is out of reach"),
        ("sinks", {"sinks": 64}, "sinks must be an integer between 1 and 63, got 64"),
        ("sinks", {"sink_positions": [3, 5]}, r"sink_positions must be 4 different positions below 64, got \[3, 5\]"),
        ("sinks", {"sinks": 2, "sink_positions": [3, 64]}, "sink_positions must be 2 different positions below 64"),
        ("sinks", {"sinks": 2, "sink_positions": [3, 3]}, "sink_positions must be 2 different positions below 64"),
        ("sinks", {"mass": 1.0}, "mass must be strictly between 0 and 1, got 1.0"),
        ("alpha", {"alpha": 0.5}, "alpha must be between 1 and 4096, got 0.5"),
        ("alpha", {"alpha": 4096}, "alpha must be below n"),
        ("alpha", {"alpha": 2.0, "noise": 2.0}, "alpha=2.0 cannot be reached with noise=2.0"),
        ("kappa", {"kappa": 0.5}, "kappa must be between 1"),
        ("heavy_values", {"rows": 0}, "rows must be an integer between 1 and 63, got 0"),
        ("heavy_values", {"mass": 0.0}, "mass must be strictly between 0 and 1, got 0.0"),
        ("compressible", {"decay": -0.5}, "decay must be between 0 and inf, got -0.5"),
        ("compressible", {"decay": np.nan}, "decay must be between 0 and inf, got nan"),
        ("compressible", {"radius": -1.0}, "radius must be between 0 and inf, got -1.0"),
        ("compressible", {"radius": "1"}, "radius must be between 0 and inf, got '1'"),
        ("index", {"mass": 0.015625}, "mass must be strictly between 0.015625 and 1, got 0.015625"),
        ("index", {"n": 1}, "n must be an integer between 2 and inf, got 1"),
        ("index", {"d": 1}, "d must be an integer between 2 and inf, got 1"),
        ("index", {"d": 2}, "n=64 codewords in d=2 dimensions are too near each other"),
        ("clusterable", {"clusters": 65}, "clusters=65, exponent=0.0 are 65 parts of n=64 keys; there must be 1 to n"),
        ("clusterable", {"clusters": 0.2}, "are 0 parts of n=64 keys"),
        ("clusterable", {"clusters": 0}, "clusters must be strictly between 0 and inf, got 0"),
        ("clusterable", {"exponent": 1.1}, "exponent must be between 0 and 1, got 1.1"),
        ("clusterable", {"delta": 0.0}, "delta must be strictly between 0 and inf, got 0.0"),
        ("clusterable", {"norm": -1.0}, "norm must be strictly between 0 and inf, got -1.0"),
        ("clusterable", {"query_norm": 0}, "query_norm must be strictly between 0 and inf, got 0"),
        ("clusterable", {"separation": 2.0}, "separation must be strictly between 2 and inf, got 2.0"),
        ("clusterable", {"mean": np.inf}, "mean must be between -inf and inf, got inf"),
        ("clusterable", {"order": "value"}, "order must be one of random, norm, cluster, got 'value'"),
        ("clusterable", {"d": 1}, "d must be an integer between 2 and inf, got 1"),
        (
            "clusterable",
            {"d": 2},
            "32 centers in d=2 dimensions, farther than 3 apart, need a norm of about 16.1, got norm=8",
        ),
        ("drifting", {"d": 2}, "d must be an integer between 3 and inf, got 2"),
        ("drifting", {"clusters": 2.5}, "clusters must be an integer between 1 and 64, got 2.5"),
        ("drifting", {"clusters": 65}, "clusters must be an integer between 1 and 64, got 65"),
        ("drifting", {"speed": -1.0}, "speed must be between 0 and inf, got -1.0"),
        ("drifting", {"delta": "1"}, "delta must be strictly between 0 and inf, got '1'"),
        ("drifting", {"query_norm": np.nan}, "query_norm must be strictly between 0 and inf, got nan"),
        ("needles", {"d_v": 1}, "d_v must be an integer between 2 and inf, got 1"),
        ("needles", {"d_v": 3}, "needles must be an integer between 1 and 3, got 4"),
        ("needles", {"needles": 0}, "needles must be an integer between 1 and 16, got 0"),
        ("needles", {"clusters": 61}, "clusters must be an integer between 1 and 60, got 61"),
        ("needles", {"mass": 1.0}, "mass must be strictly between 0.015625 and 1, got 1.0"),
        ("needles", {"mass": 0.015625}, "mass must be strictly between 0.015625 and 1, got 0.015625"),
        ("needles", {"norm": 0.0}, "norm must be strictly between 0 and inf, got 0.0"),
        ("needles", {"d": 2, "d_v": 4, "norm": 18.0}, "a needle's key must have the largest logit of its query"),
        ("real", {}, "the real input has d = d_v = 32"),
        ("real", {"layers": 1}, "no knob layers; it has layer=0, head=0"),
    ],
)
def test_make_says_what_is_wrong(name, knobs, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        make(name, **{"n": 64, "d": 16, "rng": 0, **knobs})


# ------------------------------------------------------------------------------------------------------- the real input
def test_real_input():
    x = real()
    assert x.q.shape == x.k.shape == x.v.shape == (6, 12, 512, 32)
    assert x.q.dtype == x.k.dtype == x.v.dtype == np.float16
    assert x.scale == pytest.approx(1 / np.sqrt(32), rel=1e-15)
    assert all(np.isfinite(a).all() for a in (x.q, x.k, x.v))
    to_cls = 0
    for layer in range(6):
        for head in range(12):
            p = softmax(x.head(layer, head))
            np.testing.assert_allclose(p.sum(axis=1), 1)
            to_cls += np.sum(p**2, axis=0).argmax() == 0
    assert to_cls > 36  # most heads park on [CLS]: with tokens, heads or features mixed up, none of this would show


def test_real_input_is_the_one_its_provenance_describes():
    data = resources.files("sublinattn") / "data"
    about = json.loads((data / "minilm.json").read_text())
    assert hashlib.sha256((data / about["file"]).read_bytes()).hexdigest() == about["sha256"]
    assert hashlib.sha256((data / about["text"]["file"]).read_bytes()).hexdigest() == about["text"]["sha256"]
    x = real()
    assert list(x.q.shape) == about["shape"] and str(x.q.dtype) == about["dtype"] and x.q.shape[2] == about["tokens"]
    assert (data / about["file"]).stat().st_size < 8e6


def test_make_real_is_a_slice():
    x = make("real", 100, 32, rng=0, layer=2, head=5)
    np.testing.assert_array_equal(x.q, real().q[2, 5, :100])
    assert x.q.dtype == np.float32 and x.params["layer"] == 2 and "all-MiniLM-L6-v2" in x.source
    with pytest.raises(ValueError, match="n must be between 1 and the 512 tokens there are, got 513"):
        make("real", 513, 32, rng=0)
    with pytest.raises(ValueError, match="head takes one index for each"):
        make("real", 10, 32, rng=0, layer=6)
