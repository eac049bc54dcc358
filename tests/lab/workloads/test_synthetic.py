"""The workloads do what their docstrings say, against dense float64 softmax matrices; the real input is what it says.

Seeds are fixed, so no run differs from another. Where a tolerance is a number of standard deviations it is 6: a false
alarm below 1e-5 per test if seeds were drawn anew (union bound over at most 1024 rows).
"""

import hashlib
import json
from importlib import resources

import numpy as np
import pytest
from scipy.special import zeta

from sublinattn.lab import workloads
from sublinattn.lab.workloads import make, real

SYNTHETIC = [name for name in workloads.names() if name != "real"]


def logits(x):
    return x.scale * x.q.astype(np.float64) @ x.k.astype(np.float64).T


def softmax(z):
    a = np.exp(z - z.max(axis=1, keepdims=True))
    return a / a.sum(axis=1, keepdims=True)


def alpha(x):
    return len(x.k) * np.sum(softmax(logits(x)) ** 2, axis=0).max()


def kappa(x):
    z = logits(x)
    sums = z.max(axis=1) + np.log(np.sum(np.exp(z - z.max(axis=1, keepdims=True)), axis=1))
    return np.exp(sums.max() - sums.min())


# ---------------------------------------------------------------------------------------------------------- all of them
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


@pytest.mark.parametrize("name", ["planted", "sinks", "alpha", "kappa", "heavy_values", "compressible", "needles"])
def test_logits_of_the_dials_do_not_depend_on_the_scale(name):
    one, two = (make(name, 60, 16, rng=0, scale=scale, dtype=np.float64) for scale in (1.0, 1 / 16))
    np.testing.assert_allclose(logits(one), logits(two), atol=1e-10)


# ---------------------------------------------------------------------------------------------------------- one by one
def test_gaussian_typical_column_is_as_documented():
    d = 64
    x = make("gaussian", 1024, d, rng=0)
    columns = 1024 * np.sum(softmax(logits(x)) ** 2, axis=0)
    assert np.median(columns) == pytest.approx((1 + 2 / d) ** (-d / 2) * np.exp(2 / (1 + 2 / d)), rel=0.1)
    assert make("gaussian", 1024, d, rng=0, std=0.5).q.std() == pytest.approx(0.5, abs=6 * 0.5 / np.sqrt(2 * 1024 * d))


def test_clustered_keys_are_clusterable():
    n, d, clusters, spread = 300, 16, 7, 0.2
    x = make("clustered", n, d, rng=0, clusters=clusters, spread=spread, dtype=np.float64)
    within = 2 * spread * np.sqrt(d)
    left, parts = x.k, 0
    while len(left):
        near = np.linalg.norm(left - left[0], axis=1) <= within * (1 + 1e-12)
        assert n // clusters <= near.sum() <= n // clusters + 1
        left, parts = left[~near], parts + 1
    assert parts == clusters
    assert np.linalg.norm(x.q[:, None] - x.k, axis=2).min(axis=1).max() <= within * (1 + 1e-12)


def test_clustered_members_are_equally_far_from_their_centre():
    x = make("clustered", 50, 8, rng=0, clusters=1, spread=0.3, dtype=np.float64)
    members = np.concatenate([x.q, x.k])
    # |x - c|^2 = r^2 is linear in c and r^2 - |c|^2: consistent only if all members are on one sphere.
    unknowns = np.column_stack([2 * members, np.ones(len(members))])
    (*centre, rest), residual, *_ = np.linalg.lstsq(unknowns, np.sum(members**2, axis=1))
    assert residual < 1e-20
    assert np.linalg.norm(centre) == pytest.approx(np.sqrt(8))
    assert np.sqrt(rest + 8) == pytest.approx(0.3 * np.sqrt(8))


def test_clustered_alpha_is_the_number_of_clusters():
    x = make("clustered", 1024, 256, rng=0, clusters=16, spread=0.0)
    assert alpha(x) == pytest.approx(16, rel=0.01)
    assert kappa(x) == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize(("n", "d"), [(256, 16), (1024, 64)])
def test_planted_entries_are_heavy(n, d):
    share, closeness, strength = 0.1, 0.95, 0.4
    x = make("planted", n, d, rng=1, share=share, closeness=closeness, strength=strength)
    p = softmax(logits(x))
    pairs = round(share * n)
    rows = np.argsort(p.max(axis=1))[-pairs:]
    columns = p[rows].argmax(axis=1)
    assert len(set(columns)) == pairs and set(columns) != set(range(pairs)) and np.mean(rows == columns) < 0.5
    heavy = p[rows, columns]
    assert heavy.mean() == pytest.approx(strength, abs=0.02)
    p[rows, columns] = 0
    assert heavy.min() > p.max()  # no other entry is as heavy as any planted one
    q, k = x.q[rows].astype(np.float64), x.k[columns].astype(np.float64)
    cosine = np.sum(q * k, axis=1) / np.linalg.norm(q, axis=1) / np.linalg.norm(k, axis=1)
    np.testing.assert_allclose(cosine, closeness, atol=1e-6)


@pytest.mark.parametrize("n", [128, 512, 1024])
@pytest.mark.parametrize("mass", [0.2, 0.9])
def test_sinks_take_their_mass_at_any_length(n, mass):
    noise = 0.5
    x = make("sinks", n, 32, rng=0, sinks=3, mass=mass, noise=noise)
    p = softmax(logits(x))
    # The background's sum is one of n lognormals, of log-deviation noise |g_i|, where |g_i| is 1 on average.
    longest = noise * 1.5
    deviation = np.sqrt(np.expm1(longest**2) / n)
    np.testing.assert_allclose(p[:, :3].sum(axis=1), mass, atol=6 * deviation * mass * (1 - mass))
    np.testing.assert_allclose(p[:, :3], p[:, [0]] * np.ones(3), rtol=1e-5)
    assert alpha(x) == pytest.approx((n * mass / 3) ** 2, rel=0.02)


@pytest.mark.parametrize("n", [512, 1024])
@pytest.mark.parametrize("target", [1.0, 1.1, 4.0, 300.0, 1e5])
def test_alpha_dial(n, target):
    x = make("alpha", n, 64, rng=5, alpha=target)
    assert alpha(x) == pytest.approx(target, rel=0.05)
    assert kappa(x) < 1.05


@pytest.mark.parametrize("n", [512, 1024])
@pytest.mark.parametrize("target", [1.0, 1.5, 30.0, 1e6])
def test_kappa_dial_leaves_the_softmax_matrix_alone(n, target):
    x = make("kappa", n, 64, rng=5, kappa=target, dtype=np.float64)
    assert kappa(x) == pytest.approx(target, rel=0.05)
    assert alpha(x) < 1.05
    flat = make("kappa", n, 64, rng=5, kappa=1.0, dtype=np.float64)
    np.testing.assert_allclose(softmax(logits(x)), softmax(logits(flat)), rtol=1e-9)


def test_kappa_dial_evens_out_what_the_noise_adds():
    n, noise = 1024, 1.0
    sums = np.log(np.sum(np.exp(logits(make("kappa", n, 16, rng=5, kappa=1.0, noise=noise))), axis=1))
    sampling = np.sqrt(np.expm1(noise**2) / n)  # relative deviation of a sum of n lognormals; uncorrected it is 4 times
    assert sums.std() < 2 * sampling


def test_heavy_values_and_their_keys():
    plain = make("heavy_values", 512, 32, rng=2, rows=5, factor=50.0)
    norms = np.sort(np.linalg.norm(plain.v, axis=1))
    assert norms[-5] > 10 * norms[-6] and norms[-6] < 2 * np.sqrt(32)
    seen = make("heavy_values", 512, 32, rng=2, rows=5, factor=50.0, mass=0.3, noise=0.5)
    heavy = np.argsort(np.linalg.norm(seen.v, axis=1))[-5:]
    assert softmax(logits(seen))[:, heavy].sum(axis=1) == pytest.approx(0.3, abs=0.05)
    assert softmax(logits(plain))[:, heavy].sum(axis=1).mean() < 0.03


@pytest.mark.parametrize("n", [1, 2, 257, 600])
@pytest.mark.parametrize("decay", [0.0, 0.5, 2.0])
def test_compressible_lengths(n, decay):
    radius = 1.7
    x = make("compressible", n, 8, rng=0, decay=decay, radius=radius, dtype=np.float64)
    lengths = np.linalg.norm(x.q, axis=1)
    np.testing.assert_allclose(np.sort(lengths), np.sort(np.sqrt(radius / x.scale) * np.arange(1.0, n + 1) ** -decay))
    keys = np.linalg.norm(x.k, axis=1)
    np.testing.assert_allclose(np.sort(keys), np.sqrt(radius / x.scale) * np.r_[np.zeros(n % 2), np.ones(n - n % 2)])
    assert abs(logits(x)).max() <= radius * (1 + 1e-12)
    assert alpha(x) <= np.exp(4 * radius) and kappa(x) <= np.exp(2 * radius)
    if n == 600:  # random order, of the queries and of the keys' pairs
        assert decay == 0 or abs(np.corrcoef(np.argsort(-lengths), np.arange(n))[0, 1]) < 6 / np.sqrt(n)
        partner = np.argmin(x.k @ x.k.T, axis=1)
        np.testing.assert_allclose(x.k[partner], -x.k)
        assert abs(np.corrcoef(partner, np.arange(n))[0, 1]) < 6 / np.sqrt(n / 2)


def test_compressible_output_is_odd_in_the_query():
    x = make("compressible", 301, 6, rng=1, d_v=4, radius=2.0, dtype=np.float64)
    y, mirrored = softmax(logits(x)) @ x.v, softmax(-logits(x)) @ x.v
    np.testing.assert_allclose(mirrored, -y, atol=1e-13)
    short = np.argsort(np.linalg.norm(x.q, axis=1))[:100]  # proportional to a short query: the derivative at 0
    linear = x.scale * x.q @ (x.k.T @ x.v) / 301
    np.testing.assert_allclose(y[short], linear[short], atol=0.01 * abs(linear[short]).max())


@pytest.mark.parametrize("decay", [0.75, 1.0, 1.5])
def test_compressible_tail_is_as_documented(decay):
    """The rows' directions make it random: 20 draws; their mean is held to 6 of its standard errors and 10 percent."""
    n, k = 4000, 30
    found = []
    for seed in range(20):
        x = make("compressible", n, 8, rng=seed, decay=decay, radius=0.5, dtype=np.float64)
        rows = np.sort(np.sum((x.scale * x.q @ (x.k.T @ x.v) / n) ** 2, axis=1))[::-1]  # small logits: y to first order
        found.append(rows[k:].sum() / rows.sum())
    expected = (k ** (1 - 2 * decay) - n ** (1 - 2 * decay)) / ((2 * decay - 1) * zeta(2 * decay))
    assert abs(np.mean(found) - expected) < 6 * np.std(found) / np.sqrt(len(found)) + 0.1 * expected


def test_compressible_without_decay_is_flat():
    n, k = 2000, 20
    x = make("compressible", n, 32, rng=0, decay=0.0, dtype=np.float64)
    rows = np.sort(np.sum((softmax(logits(x)) @ x.v) ** 2, axis=1))
    assert rows[:-k].sum() / rows.sum() == pytest.approx(1 - k / n, abs=0.02)


@pytest.mark.parametrize(
    ("name", "knobs", "message"),
    [
        ("gausian", {}, "unknown workload 'gausian'; there are gaussian, clustered, planted, sinks, alpha, kappa"),
        ("sinks", {"sink": 4}, "no knob sink; it has sinks=4, mass=0.5, noise=0.5"),
        ("gaussian", {"std": -1.0}, "std must be between 0"),
        ("gaussian", {"std": "1"}, "std must be between 0"),
        ("gaussian", {"std": np.nan}, "std must be between 0"),
        ("gaussian", {"scale": 0.0}, "scale must be strictly between 0"),
        ("gaussian", {"dtype": np.int32}, "dtype must be a floating dtype, got int32"),
        ("gaussian", {"d_v": 0}, "d_v must be an integer between 1"),
        ("clustered", {"clusters": 65}, "clusters must be an integer between 1 and 64, got 65"),
        ("planted", {"share": 0.001}, "is 0 planted pairs"),
        ("planted", {"closeness": 1.2}, "closeness must be between 0 and 1, got 1.2"),
        ("planted", {"noise": 10.0, "closeness": 0.2}, "strength=0.5 is out of reach"),
        ("sinks", {"sinks": 64}, "sinks must be an integer between 1 and 63, got 64"),
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
        ("real", {}, "the real input has d = d_v = 32"),
        ("real", {"layers": 1}, "no knob layers; it has layer=0, head=0"),
    ],
)
def test_make_says_what_is_wrong(name, knobs, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        make(name, 64, 16, rng=0, **knobs)


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_make_refuses_sizes(n):
    with pytest.raises(ValueError, match="n must be an integer between 1"):
        make("gaussian", n, 8, rng=0)


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
            p = softmax(logits(x.head(layer, head)))
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
