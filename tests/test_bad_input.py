"""What every public function refuses before any work, by a message that names the argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import references

from sublinattn import attention, hardness, hyper_attention, partial_attention, uniform_attention

GOOD = dict(zip("qkv", references.qkv(0, 20, 20, lead=(2,), dtype=np.float32), strict=True))
FUNCTIONS: dict[str, Any] = {
    "attention": attention,
    "partial_attention": partial_attention,
    "hyper_attention": lambda q, k, v, **options: hyper_attention(q, k, v, **({"sample_size": 5} | options)),
    "uniform_attention": lambda q, k, v, **options: uniform_attention(q, k, v, **({"sample_size": 5} | options)),
    "hardness": hardness,
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
    ({"lsh_bits": 0}, ValueError, "lsh_bits must be at least 1, got 0"),
    ({"lsh_bits": 17}, ValueError, "lsh_bits must be at most 16, got 17"),
    ({"estimator": "best"}, ValueError, "estimator must be 'practical' or 'theory', got 'best'"),
    ({"estimator": "theory", "block_kernel": print}, ValueError, "block_kernel is only for estimator='practical'"),
]
SCALE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"scale": float("nan")}, ValueError, "scale must be finite, got nan"),
    ({"scale": float("inf")}, ValueError, "scale must be finite, got inf"),
    ({"scale": "1"}, TypeError, "scale must be a real number or None, got str"),
]
RNG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"rng": -1}, ValueError, "rng must be a numpy.random.Generator, an int of at least 0 or None, got -1"),
    ({"rng": "seed"}, TypeError, "rng must be .* got 'seed'"),
]
PARAMETERS = [
    *((name, *case) for name in FUNCTIONS for case in SCALE),
    *((name, *case) for name in ("hyper_attention", "uniform_attention", "hardness") for case in RNG),
    *(("hyper_attention", *case) for case in HYPER),
    *(("uniform_attention", *case) for case in HYPER if "sample_size" in case[0]),
    *(("hardness", *case) for case in HYPER if case[0].keys() & {"block_size"}),
    ("hardness", {"exact_keys": -1}, ValueError, "exact_keys must be at least 0, got -1"),
    ("hardness", {"exact_keys": 20}, ValueError, r"exact_keys must be below the number of keys \(20\), got 20"),
]


@pytest.mark.parametrize(("function", "options", "error", "message"), PARAMETERS)
def test_impossible_parameter(function: str, options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        FUNCTIONS[function](**GOOD, **options)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_good_arrays_pass(function: str) -> None:
    FUNCTIONS[function](**GOOD)


@pytest.mark.parametrize("function", ["attention", "uniform_attention"])
def test_the_scan_can_be_skipped(function: str) -> None:
    out = FUNCTIONS[function](**(GOOD | {"v": put(np.nan)(GOOD["v"])}), check_finite=False)
    assert np.isfinite(out[0]).all()


def test_a_norm_that_overflows_is_not_an_infinite_entry() -> None:
    q = np.full((3, 4), 1e30, np.float32)
    out = attention(q, q, GOOD["v"][0, :3], scale=1e-58)
    np.testing.assert_allclose(out, references.attention(q, q, GOOD["v"][0, :3], scale=1e-58)[0], rtol=1e-5)
