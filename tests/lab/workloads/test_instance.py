"""Instances survive the disk and refuse what does not fit; files of a whole model, captured or dumped by a user."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from sublinattn.lab.workloads import make
from sublinattn.lab.workloads.instance import Captured, Instance


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_round_trip(tmp_path, dtype):
    x = make("alpha", np.int64(33), 8, rng=np.int64(1), d_v=3, alpha=np.float64(7), dtype=dtype, scale=0.3).first(20)
    x.save(tmp_path / "x.safetensors")
    y = Instance.load(tmp_path / "x.safetensors")
    for tensor in "qkv":
        a, b = getattr(x, tensor), getattr(y, tensor)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert (y.scale, y.name, dict(y.params), y.source) == (x.scale, x.name, dict(x.params), x.source)
    assert y.params == {"n": 20, "d": 8, "d_v": 3, "alpha": 7.0, "noise": 0.05, "seed": 1}
    y.save(tmp_path / "y.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()


def test_round_trip_of_a_transposed_view(tmp_path):
    q = np.arange(24.0).reshape(2, 4, 3).swapaxes(0, 1)  # heads taken out of (token, head, feature): not contiguous
    Instance(q, q, q, 1.0).save(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(Instance.load(tmp_path / "x.safetensors").k, q)


@pytest.mark.parametrize("read", [Instance.load, Captured.open])
def test_a_missing_tensor_or_a_broken_file_is_named(tmp_path, read):
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match="x.safetensors"):
        read(path)
    make("gaussian", 8, 4, rng=0).save(path)
    for junk in (b"", b"not a tensor file", b"PK\x03\x04" * 100, path.read_bytes()[:-1]):
        path.write_bytes(junk)
        with pytest.raises(ValueError, match="is not a whole safetensors file"):
            read(path)
    save_file({"q": np.ones((8, 4)), "w": np.ones((8, 4))}, path, {"sublinattn.Instance": json.dumps({"scale": 1.0})})
    with pytest.raises(ValueError, match=r"lacks the tensors \['k', 'v'\], it has \['q', 'w'\]"):
        read(path)


def test_load_says_what_is_wrong(tmp_path):
    path, x = tmp_path / "x.safetensors", make("gaussian", 8, 4, rng=0)
    save_file({"q": x.q}, path)
    with pytest.raises(ValueError, match="was not written by Instance.save"):
        Instance.load(path)
    for damaged in ("{", "{}", "[]", '{"scale": -1}', '{"scale": 1, "colour": 2}'):
        save_file({"q": x.q, "k": x.k, "v": x.v}, path, {"sublinattn.Instance": damaged})
        with pytest.raises(ValueError, match="holds no valid instance"):
            Instance.load(path)
    save_file({"q": x.q, "k": x.k, "v": x.v[1:]}, path, {"sublinattn.Instance": '{"scale": 1.0}'})
    with pytest.raises(ValueError, match="holds no valid instance: v must have as many rows as k"):
        Instance.load(path)


@pytest.mark.parametrize("value", [np.zeros(3), {1, 2}, float("nan")])
def test_params_that_json_cannot_hold(tmp_path, value):
    x = make("gaussian", 8, 4, rng=0)
    with pytest.raises(TypeError, match="params must hold JSON values only"):
        Instance(x.q, x.k, x.v, 1.0, params={"x": value}).save(tmp_path / "x.safetensors")
    assert not os.listdir(tmp_path)


def test_instance_refuses_shapes_and_scales():
    q = np.zeros((2, 5, 4))
    for k, v in [(q[:1], q[:1]), (q[..., :3], q), (q, q[:, :4]), (q, q[0]), (q[0, 0], q)]:
        with pytest.raises(ValueError, match="^[qkv] must have"):
            Instance(q, k, v, 1.0)
    for scale in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="scale must be positive and finite"):
            Instance(q, q, q, scale)
    Instance(q, q[:, :3], q[:, :3, :1], 1.0)  # n_q != n_k and d_v != d are fine


def test_first_and_head_and_to():
    q = np.arange(48.0).reshape(2, 3, 4, 2)
    x = Instance(q, q + 1, q + 2, 1.0, params={"n": 4})
    one = x.head(1, 2).first(3)
    np.testing.assert_array_equal(one.k, q[1, 2, :3] + 1)
    assert one.params == {"n": 3, "head": [1, 2]}
    np.testing.assert_array_equal(x.to(np).v, x.v)
    for index in [(), (1,), (1, 3), (-3, 0), (0, 0, 0)]:
        with pytest.raises(ValueError, match="head takes one index for each"):
            x.head(*index)
    for n in (0, 5):
        with pytest.raises(ValueError, match="n must be between 1 and the 4 tokens there are"):
            x.first(n)


# ------------------------------------------------------------------------------------------------------------ captured
RNG = np.random.default_rng(0)


def arrays(layers=2, heads=4, kv_heads=2, n=6, d=8, d_v=8, dtype=np.float32):
    shapes = {"q": (layers, heads, n, d), "k": (layers, kv_heads, n, d), "v": (layers, kv_heads, n, d_v)}
    return {name: RNG.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_query_head_reads_the_keys_and_values_of_its_group(tmp_path, dtype):
    made = arrays(dtype=dtype)
    save_file(made, tmp_path / "qkv.safetensors")
    found = Captured.open(tmp_path / "qkv.safetensors")
    assert (found.layers, found.heads, found.kv_heads, found.tokens) == (2, 4, 2, 6)
    for layer in range(2):
        for head, own in enumerate((0, 0, 1, 1)):
            x = found.head(layer, head)
            for tensor, number in (("q", head), ("k", own), ("v", own)):
                np.testing.assert_array_equal(getattr(x, tensor), made[tensor][layer, number])
                assert getattr(x, tensor).dtype == np.float32


def test_integers_and_metadata_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "qkv.safetensors"
    save_file(arrays(dtype=np.int32), path)
    with pytest.raises(ValueError, match=r"must hold tensors in one of .*F16.* got \['I32', 'I32', 'I32'\]"):
        Captured.open(path)
    for text in ("no json", "[1]", '{"scale": "wide"}', '{"scale": null}', '{"scale": NaN}'):
        save_file(arrays(), path, metadata={"sublinattn.Instance": text})
        with pytest.raises(ValueError, match="qkv.safetensors has metadata .* that is no JSON object with a scale"):
            Captured.open(path)


def test_a_dump_without_metadata_has_the_usual_scale_and_may_be_of_one_layer(tmp_path):
    made = {name: x[0] for name, x in arrays(d=16, d_v=5).items()}
    save_file(made, tmp_path / "one.safetensors")
    found = Captured.open(tmp_path / "one.safetensors")
    assert (found.layers, found.scale, found.source) == (1, 0.25, "")
    np.testing.assert_array_equal(found.head(0, 3).v, made["v"][1])


def test_what_an_instance_says_of_itself_is_read(tmp_path):
    made = arrays(kv_heads=4)
    Instance(**made, scale=0.3, source="some model", params={"a": 1}).save(tmp_path / "i.safetensors")
    found = Captured.open(tmp_path / "i.safetensors")
    assert (found.scale, found.source, found.params) == (0.3, "some model", {"a": 1})
    assert found.head(1, 2).scale == 0.3


@pytest.mark.parametrize(
    "change",
    [
        {"k": (2, 3, 6, 8), "v": (2, 3, 6, 8)},
        {"k": (2, 2, 5, 8), "v": (2, 2, 5, 8)},
        {"k": (2, 2, 6, 7)},
        {"v": (2, 1, 6, 8)},
        {"k": (1, 2, 6, 8), "v": (1, 2, 6, 8)},
        {"q": (4, 6, 8)},
        {"q": (6, 8), "k": (6, 8), "v": (6, 8)},
        {"q": (2, 4, 0, 8), "k": (2, 2, 0, 8), "v": (2, 2, 0, 8)},
    ],
    ids=str,
)
def test_tensors_that_do_not_fit_are_named_with_their_shapes(tmp_path, change):
    made = arrays() | {name: np.zeros(shape, np.float32) for name, shape in change.items()}
    save_file(made, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="must hold q .* got") as error:
        Captured.open(tmp_path / "bad.safetensors")
    assert all(str(shape) in str(error.value) for shape in change.values())


def test_a_head_that_is_not_there_is_refused(tmp_path):
    save_file(arrays(), tmp_path / "qkv.safetensors")
    found = Captured.open(tmp_path / "qkv.safetensors")
    for place in ((2, 0), (0, 4), (-1, 0)):
        with pytest.raises(ValueError, match="layer and head must be below 2 and 4"):
            found.head(*place)
