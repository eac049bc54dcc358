"""What every public function refuses before any work, by a message that names the argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import references

from sublinattn import (
    BalanceKVCache,
    OnePassSketch,
    PolynomialState,
    ReservoirCache,
    SinkCache,
    SubGenCache,
    attention,
    hardness,
    hyper_attention,
    kdeformer_attention,
    nystrom_attention,
    partial_attention,
    performer_attention,
    polynomial_attention,
    reformer_attention,
    thinformer_attention,
    uniform_attention,
)
from sublinattn.lab.workloads import Instance, make

GOOD = dict(zip("qkv", references.qkv(0, 20, 20, lead=(2,), dtype=np.float32), strict=True))
FUNCTIONS: dict[str, Any] = {
    "attention": attention,
    "partial_attention": partial_attention,
    "hyper_attention": lambda q, k, v, **options: hyper_attention(q, k, v, **({"sample_size": 5} | options)),
    "uniform_attention": lambda q, k, v, **options: uniform_attention(q, k, v, **({"sample_size": 5} | options)),
    "hardness": hardness,
    "performer_attention": performer_attention,
    "reformer_attention": lambda q, k, v, **options: reformer_attention(q, k, v, chunk_size=4, **options),
    "kdeformer_attention": lambda q, k, v, **options: kdeformer_attention(q, k, v, block_size=6, **options),
    "nystrom_attention": lambda q, k, v, **options: nystrom_attention(q, k, v, landmarks=5, **options),
    "thinformer_attention": lambda q, k, v, **options: thinformer_attention(q, k, v, oversampling=0, **options),
    "polynomial_attention": lambda q, k, v, **options: polynomial_attention(
        q, k, v, **(options if options.keys() & {"degree", "eps"} else {"degree": 4} | options)
    ),
}


def put(value: float) -> Any:
    def change(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        x[1, 13, 2] = value
        return x

    return change


ARRAYS: dict[str, tuple[Any, type[Exception], str]] = {
    "nan": (put(np.nan), ValueError, "must be finite, got NaN or Inf"),
    "inf": (put(np.inf), ValueError, "must be finite, got NaN or Inf"),
    "minus inf": (put(-np.inf), ValueError, "must be finite, got NaN or Inf"),
    "half precision nan": (None, ValueError, "must be finite"),
    "list": (lambda x: x.tolist(), TypeError, "must be an array .* got list"),
    "none": (lambda x: None, TypeError, "must be an array .* got NoneType"),
    "integers": (lambda x: x.astype(np.int64), TypeError, "must have a floating dtype .* got int64"),
    "bools": (lambda x: x > 0, TypeError, "must have a floating dtype .* got bool"),
    "complex": (lambda x: x.astype(np.complex64), TypeError, "must have a floating dtype .* got complex64"),
    "vector": (lambda x: x[0, 0], ValueError, r"must have shape \(..., n, d\), got \("),
    "no rows": (lambda x: x[:, :0], ValueError, r"must not be empty, got shape \(2, 0, "),
    "masked": (np.ma.masked_invalid, TypeError, "must be a plain array, got a MaskedArray"),
    "matrix": (lambda x: x[0].view(np.matrix), TypeError, "must be a plain array, got a matrix"),
    "no columns": (lambda x: x[..., :0], ValueError, r"must not be empty, got shape \(2, 20, 0\)"),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("argument", ["q", "k", "v"])
@pytest.mark.parametrize("case", ARRAYS)
def test_bad_array(function: str, argument: str, case: str) -> None:
    change, error, message = ARRAYS[case]
    if function == "hardness" and argument == "v" and case == "none":
        pytest.skip("values are optional there")
    arrays = dict(GOOD)
    if case == "half precision nan":
        arrays = {name: x.astype(np.float16) for name, x in GOOD.items()}
        change = put(np.nan)
    arrays[argument] = change(arrays[argument])
    with pytest.raises(error, match=f"^{argument} {message}"):
        FUNCTIONS[function](**arrays)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("argument", "change", "error", "message"),
    [
        ("k", lambda x: x[..., :3], ValueError, r"k must have the last axis of q \(d = 4\), got 3"),
        ("v", lambda x: x[:, :19], ValueError, r"v must have as many rows as k \(n_k = 20\), got 19"),
        ("k", lambda x: x[:1], ValueError, r"k must have the leading axes of q \(2,\), got \(1,\)"),
        ("v", lambda x: x[0], ValueError, r"v must have the leading axes of q \(2,\), got \(\)"),
        ("k", lambda x: x.astype(np.float64), TypeError, r"k must have the dtype of q \(float32\), got float64"),
        ("v", lambda x: x.astype(np.float16), TypeError, r"v must have the dtype of q \(float32\), got float16"),
    ],
)
def test_arrays_that_do_not_fit(function: str, argument: str, change: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        FUNCTIONS[function](**(GOOD | {argument: change(GOOD[argument])}))


@pytest.mark.parametrize("function", [attention, partial_attention])
@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ((4, 3, 3), r"k must have a number of heads that divides that of q \(4\), got 3"),
        ((2, 4, 4), r"k must have a number of heads that divides that of q \(2\), got 4"),
        ((4, 2, 1), r"v must have the leading axes of k \(3, 2\), got \(3, 1\)"),
    ],
)
def test_heads_that_do_not_fit(function: Any, heads: tuple[int, int, int], message: str) -> None:
    arrays = [np.ones((3, count, 5, 4)) for count in heads]
    with pytest.raises(ValueError, match=f"^{message}$"):
        function(*arrays, grouped=True)
    with pytest.raises(ValueError, match=r"^k must have the leading axes of q"):
        function(*arrays)
    for q, k in (((2, 5, 4), (3, 2, 5, 4)), ((2, 2, 5, 4), (3, 2, 5, 4)), ((5, 4), (1, 5, 4))):
        with pytest.raises(ValueError, match=r"^k must have the leading axes of q"):
            function(np.ones(q), np.ones(k), np.ones(k), grouped=True)
    with pytest.raises(TypeError, match="^grouped must be True or False, got 2$"):
        function(*arrays, grouped=2)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_mixed_kinds_and_gradients(function: str) -> None:
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(x) for name, x in GOOD.items()}
    with pytest.raises(TypeError, match=r"^k must be of the same kind as q \(numpy\), got torch"):
        FUNCTIONS[function](**(GOOD | {"k": tensors["k"]}))
    with pytest.raises(TypeError, match=r"^v must be of the same kind as q \(torch\), got numpy"):
        FUNCTIONS[function](**(tensors | {"v": GOOD["v"]}))
    with pytest.raises(TypeError, match=r"^v must be on the device of q \(cpu\), got meta"):
        FUNCTIONS[function](**(tensors | {"v": tensors["v"].to("meta")}))
    with pytest.raises(TypeError, match=r"^k tracks gradients, .* pass k.detach\(\)"):
        FUNCTIONS[function](**(tensors | {"k": tensors["k"].clone().requires_grad_()}))


POSITIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"exact_keys": [0.0, 1.0]}, TypeError, "exact_keys must be an integer or integer positions, got .* float64"),
    ({"exact_keys": [3, -1]}, ValueError, "exact_keys must be positions of keys, 0 to 19, got -1"),
    ({"exact_keys": np.array([3, 20])}, ValueError, "exact_keys must be positions of keys, 0 to 19, got 20"),
    ({"exact_keys": [7, 5, 7]}, ValueError, "exact_keys must not name a position twice, got 7 more than once"),
    (
        {"exact_keys": np.zeros((3, 2), int)},
        ValueError,
        r"exact_keys must have shape \(c,\) or \(2, c\), got \(3, 2\)",
    ),
]
HYPER: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"block_size": 0}, ValueError, "block_size must be at least 1, got 0"),
    ({"block_size": 2.5}, TypeError, "block_size must be an integer, got float"),
    ({"block_size": True}, TypeError, "block_size must be an integer, got bool"),
    ({"sample_size": 0}, ValueError, "sample_size must be at least 1, got 0"),
    ({"sample_size": 21}, ValueError, r"sample_size must be at most the number of keys \(20\), got 21"),
    ({"sample_size": 4.0}, TypeError, "sample_size must be an integer, got float"),
    ({"min_exact": -1}, ValueError, "min_exact must be at least 0, got -1"),
    ({"exact_keys": -1}, ValueError, "exact_keys must be at least 0, got -1"),
    ({"exact_keys": 21}, ValueError, r"exact_keys must be at most the number of keys \(20\), got 21"),
    ({"exact_keys": "4"}, TypeError, "exact_keys must be an integer, got str"),
    ({"exact_keys": True}, TypeError, "exact_keys must be an integer, got bool"),
    *POSITIONS,
    ({"lsh_bits": 0}, ValueError, "lsh_bits must be at least 1, got 0"),
    ({"lsh_bits": 17}, ValueError, "lsh_bits must be at most 16, got 17"),
    ({"estimator": "best"}, ValueError, "estimator must be one of .*, got 'best'"),
    ({"block_kernel": 1}, TypeError, "block_kernel must be a function or None, got int"),
    ({"estimator": "theory", "block_kernel": print}, ValueError, "block_kernel is only for estimator='practical'"),
]
SCALE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"scale": float("nan")}, ValueError, "scale must be finite, got nan"),
    ({"scale": float("inf")}, ValueError, "scale must be finite, got inf"),
    ({"scale": "1"}, TypeError, "scale must be a real number or None, got str"),
    ({"scale": 10**400}, ValueError, "scale must fit in a float, got int beyond the largest"),
]
RANDOM = tuple(f"{name}_attention" for name in ("hyper", "uniform", "performer", "reformer", "kdeformer", "thinformer"))
RNG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"rng": -1}, ValueError, "rng must be a numpy.random.Generator, an int of at least 0 or None, got -1"),
    ({"rng": "seed"}, TypeError, "rng must be .* got 'seed'"),
]
DEGREE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"degree": -1}, ValueError, "degree must be at least 0, got -1"),
    ({"degree": 2.0}, TypeError, "degree must be an integer, got float"),
    ({"degree": True}, TypeError, "degree must be an integer, got bool"),
    ({"degree": 500}, ValueError, r"degree 500 in d = 4 variables has 2.66e\+9 monomials, at most 4194304 are built"),
]
FINITE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"check_finite": "no"}, TypeError, "check_finite must be True or False, got 'no'"),
    ({"check_finite": np.array([True, False])}, TypeError, r"check_finite must be True or False, got array\("),
]
CAUSAL = ({"causal": "no"}, TypeError, "causal must be True or False, got 'no'")
LSE = ({"return_lse": 1}, TypeError, "return_lse must be True or False, got 1")
BASIS = ({"basis": "best"}, ValueError, r"basis must be one of \('taylor', 'chebyshev', 'minimax'\), got 'best'")
POLYNOMIAL: list[tuple[dict[str, Any], type[Exception], str]] = [
    *DEGREE,
    BASIS,
    ({"degree": 4, "eps": 0.1}, ValueError, "degree and eps must not both be given, got 4 and 0.1"),
    ({"eps": 0.0}, ValueError, r"eps must lie in \(0, 1\), got 0.0"),
    ({"eps": 1.0}, ValueError, r"eps must lie in \(0, 1\), got 1.0"),
    ({"eps": float("nan")}, ValueError, r"eps must lie in \(0, 1\), got nan"),
    ({"eps": "small"}, TypeError, "eps must be a real number, got str"),
    ({"eps": 1e-9}, ValueError, "eps must be at least .*, what rounding costs in float32"),
]
PARAMETERS = [
    *((name, *case) for name in FUNCTIONS for case in SCALE),
    *((name, *case) for name in (*RANDOM, "hardness") for case in RNG),
    *(("hyper_attention", *case) for case in HYPER),
    *(("uniform_attention", *case) for case in HYPER if "sample_size" in case[0]),
    *(("hardness", *case) for case in HYPER if case[0].keys() & {"block_size"}),
    *(("polynomial_attention", *case) for case in POLYNOMIAL),
    *((name, *case) for name in FUNCTIONS for case in FINITE),
    *((name, *CAUSAL) for name in FUNCTIONS),
    *((name, *LSE) for name in ("attention", *RANDOM)),
    ("hardness", {"exact_keys": -1}, ValueError, "exact_keys must be at least 0, got -1"),
    *(("hardness", *case) for case in POSITIONS),
    ("hardness", {"exact_keys": 20}, ValueError, r"exact_keys must be below the number of keys \(20\), got 20"),
]


@pytest.mark.parametrize(("function", "options", "error", "message"), PARAMETERS)
def test_impossible_parameter(function: str, options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        FUNCTIONS[function](**GOOD, **options)


@pytest.mark.parametrize("function", ["attention", "uniform_attention"])
def test_the_scan_can_be_skipped(function: str) -> None:
    out = FUNCTIONS[function](**(GOOD | {"v": put(np.nan)(GOOD["v"])}), check_finite=False)
    assert np.isfinite(out[0]).all()


def test_a_norm_that_overflows_is_not_an_infinite_entry() -> None:
    q = np.full((3, 4), 1e30, np.float32)
    out = attention(q, q, GOOD["v"][0, :3], scale=1e-58)
    np.testing.assert_allclose(out, references.attention(q, q, GOOD["v"][0, :3], scale=1e-58)[0], rtol=1e-5)


# ------------------------------------------------------------- parameters of streaming states (rows: core/test_state)
def state(**options: Any) -> PolynomialState:
    return PolynomialState(**({"d": 4, "d_v": 3, "degree": 4} | options))


def sketch(variant: str = "paper", **options: Any) -> OnePassSketch:
    sizes = {"n": 20, "d": 4, "d_v": 3, "degree": 4, "sparsity": 2, "eps1": 1.0, "eps2": 1.0}
    return OnePassSketch(**(sizes | {"variant": variant} | options))


STATE: list[tuple[dict[str, Any], type[Exception], str]] = [
    *DEGREE,
    *SCALE,
    BASIS,
    ({"d": 0}, ValueError, "d must be at least 1, got 0"),
    ({"d": 4.0}, TypeError, "d must be an integer, got float"),
    ({"d_v": 0}, ValueError, "d_v must be at least 1, got 0"),
    ({"radius": 1.0}, ValueError, "radius must be given if, and only if, basis is not 'taylor', got 1.0 and 'taylor'"),
    ({"basis": "minimax"}, ValueError, "radius must be given if, and only if, basis is not 'taylor', got None"),
    ({"basis": "minimax", "radius": -1.0}, ValueError, "radius must be finite and at least 0, got -1"),
    ({"basis": "minimax", "radius": float("inf")}, ValueError, "radius must be finite and at least 0, got inf"),
    ({"basis": "minimax", "radius": "1"}, TypeError, "radius must be a real number, got str"),
]
SKETCH: list[tuple[dict[str, Any], type[Exception], str]] = [
    *DEGREE,
    *SCALE,
    *RNG,
    ({"n": 0}, ValueError, "n must be at least 1, got 0"),
    ({"n": 20.0}, TypeError, "n must be an integer, got float"),
    ({"n": 2**31}, ValueError, "n must be at most 2147483647, got 2147483648"),
    ({"d": 0}, ValueError, "d must be at least 1, got 0"),
    ({"d_v": 0}, ValueError, "d_v must be at least 1, got 0"),
    ({"sparsity": 0}, ValueError, "sparsity must be at least 1, got 0"),
    ({"sparsity": 21}, ValueError, r"sparsity must be at most n \(20\), got 21"),
    *(
        ({name: bad}, ValueError, rf"{name} must lie in \(0, 1\], got {bad}")
        for name in ("eps1", "eps2")
        for bad in (0.0, -0.5, 1.5, float("nan"))
    ),
    *(({name: "1"}, TypeError, f"{name} must be a real number, got str") for name in ("eps1", "eps2")),
    ({"variant": "third"}, ValueError, r"variant must be one of \('paper', 'fused'\), got 'third'"),
]


@pytest.mark.parametrize(
    ("made", "options", "error", "message"), [(state, *case) for case in STATE] + [(sketch, *case) for case in SKETCH]
)
def test_impossible_state(made: Any, options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        made(**options)


# ------------------------------------------------------------------------------------ what cannot be, whatever it is of
ROWS = {name: x[0] for name, x in GOOD.items()}


def fed(cache: Any) -> Any:
    return cache.update(ROWS["k"], ROWS["v"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n: fed(SinkCache(n)), "window must be at most 4611686018427387904, got 9223372036854775808"),
        (lambda n: fed(SinkCache(4, n)), "sinks must be at most"),
        (lambda n: fed(ReservoirCache(n // 4)), "budget must fit in the .* GiB of memory here"),
        (lambda n: fed(BalanceKVCache(n // 4)), "batch must fit in the .* GiB of memory here"),
        (lambda n: fed(BalanceKVCache(4, levels=n)), "levels must be at most 62"),
        (lambda n: fed(SubGenCache(1.0, n // 4, 4)), "cluster_samples must fit in"),
        (lambda n: fed(SubGenCache(1.0, 4, n // 4)), "value_samples must fit in"),
        (lambda n: PolynomialState(4, n // 4, degree=2), "d_v must fit in"),
        (lambda n: uniform_attention(**ROWS, sample_size=n // 4, replace=True), "sample_size must fit in"),
        (lambda n: kdeformer_attention(**ROWS, block_size=6, sample_size=n // 4), "sample_size must fit in"),
        (lambda n: performer_attention(**ROWS, features=n // 4), "features must fit in"),
        (lambda n: reformer_attention(**ROWS, chunk_size=4, rounds=n // 4), "rounds must fit in"),
        (lambda n: nystrom_attention(**ROWS, landmarks=5, iterations=n // 4), "iterations must be at most 1000"),
        (lambda n: thinformer_attention(**ROWS, oversampling=n // 4), "oversampling must be at most 31"),
        (lambda n: make("gaussian", n // 4, 4, rng=0), "n must fit in"),
        (lambda n: sketch(eps1=5e-324), "eps1 must fit in"),
        (lambda n: sketch(eps2=1e-9), "eps2 must fit in"),
        (lambda n: sketch(d_v=n // 4), "d_v must fit in"),
        (lambda n: make("gaussian", 4, 4, rng=0, std=1e39), "q, k and v must fit in float32: std=1e\\+39"),
        (lambda n: make("gaussian", 4, 4, rng=0, std=1e308, dtype=float), "q, k and v must fit in float64: std="),
        (lambda n: thinformer_attention(**ROWS, oversampling=0, delta=5e-324), "delta must be between 1e-100 and 1"),
        (lambda n: attention(**ROWS, scale=np.longdouble("1e4000")), "scale must fit in a float"),
        (lambda n: BalanceKVCache(4, c=np.longdouble("1e4000")), "c must fit in a float"),
        (lambda n: fed(SinkCache(10**50)), "window must be at most .*, got an integer of 167 bits"),
    ],
)
def test_sizes_that_cannot_be(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call(2**63)


@pytest.mark.parametrize("bad", [np.array(["a"]), ["fused"], {}, len, None])
def test_a_choice_is_a_name(bad: Any) -> None:
    for call, name in (
        (lambda: sketch(variant=bad), "variant"),
        (lambda: state(basis=bad), "basis"),
        (lambda: ReservoirCache(4, bad), "weights"),
        (lambda: SubGenCache(1.0, 2, 2, normaliser=bad), "normaliser"),
        (lambda: SubGenCache(1.0, 2, 2, law=bad), "law"),
        (lambda: hyper_attention(**ROWS, sample_size=5, estimator=bad), "estimator"),
        (lambda: make(bad, 4, 4, rng=0), "name"),
    ):
        with pytest.raises(ValueError, match=f"^{name} must be"):
            call()


@pytest.mark.parametrize("bad", [None, 3, b"x", [], object()])
def test_a_path_is_a_path(bad: Any) -> None:
    cache = fed(SinkCache(4))
    for call in (lambda: cache.save(bad), lambda: SinkCache.load(bad), lambda: Instance.load(bad)):
        with pytest.raises(TypeError, match=f"^path must be a path, got {type(bad).__name__}"):
            call()
    with pytest.raises(ValueError, match="^path must hold no null character"):
        cache.save("x\0y")


def test_a_small_integer_of_numpy_is_an_integer() -> None:
    """Which would overflow in products and negations."""
    for kind in (np.uint64, np.int8):
        same = [
            [performer_attention(**ROWS, features=size, rng=0) for size in (kind(100), 100)],
            [uniform_attention(**ROWS, sample_size=size, rng=0) for size in (kind(5), 5)],
            [hyper_attention(**ROWS, sample_size=size, block_size=4, min_exact=0, rng=0) for size in (kind(5), 5)],
            [make("gaussian", size, size, rng=0).q for size in (kind(100), 100)],
        ]
        for one, two in same:
            np.testing.assert_array_equal(one, two)


def test_a_flag_of_numpy_is_written(tmp_path: Any) -> None:
    fed(BalanceKVCache(4, pairs=np.True_, rng=0)).save(tmp_path / "cache")
    assert BalanceKVCache.load(tmp_path / "cache").pairs is True


def test_a_subclass_is_no_plain_array() -> None:
    class Named(np.ndarray):
        pass

    with pytest.raises(TypeError, match="^v must be a plain array, got a Named$"):
        attention(ROWS["q"], ROWS["k"], ROWS["v"].view(Named))


@pytest.mark.parametrize("bad", [None, [[1.0]], np.ones((20, 4), int), np.ones((20, 4), np.longdouble), "x"])
def test_an_instance_holds_arrays(bad: Any) -> None:
    with pytest.raises(TypeError, match="^k must "):
        Instance(ROWS["q"], bad, ROWS["v"], scale=1.0)
    with pytest.raises((TypeError, ValueError), match="^scale must "):
        Instance(**ROWS, scale="1")


def test_a_partial_merges_with_partials_and_an_instance_has_a_mapping() -> None:
    with pytest.raises(TypeError, match="^other must be a Partial, got NoneType$"):
        partial_attention(**ROWS).merge(None)
    with pytest.raises(TypeError, match="^params must be a mapping, got list$"):
        Instance(**ROWS, scale=1.0, params=[1])


@pytest.mark.parametrize("scale", [1e300, -1e300, 1.7e308])
def test_empty_slots_hide_no_nan(scale: float) -> None:
    with pytest.raises(ValueError, match="must fit in"):
        BalanceKVCache(8, rng=0).update(1e9 * ROWS["k"], ROWS["v"]).attend(1e9 * ROWS["q"], scale=scale)
