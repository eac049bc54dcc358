"""HyperAttention and exact attention through the GPU's kernel, against NumPy's tiles on the same half-precision arrays.

Without a GPU the kernel's source runs as g++ builds it (fixture `kernel_xp`). Draws are the same on both sides, so that
the results differ by rounding alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from sublinattn import attention, hyper_attention, partial_attention
from sublinattn.core import attend
from sublinattn.core.backends import asnumpy

D = 32
HYPER: dict[str, Any] = {"block_size": 40, "sample_size": 50, "min_exact": 64, "rng": 5}
POSITIONS = np.array([[0, 31, 90], [64, 11, 12]])
CALLS: dict[str, Any] = {
    "attention": attention,
    "causal attention": partial(attention, causal=True),
    "hyper_attention": partial(hyper_attention, **HYPER),
    "sinks": partial(hyper_attention, **HYPER, exact_keys=3),
    "all keys sampled": partial(hyper_attention, **{**HYPER, "sample_size": 100}),
    "one block": partial(hyper_attention, **{**HYPER, "min_exact": 400}),
    "causal": partial(hyper_attention, **HYPER, causal=True),
    "causal, sinks": partial(hyper_attention, **HYPER, causal=True, exact_keys=3),
    "positions": partial(hyper_attention, **HYPER, exact_keys=POSITIONS),
    "causal, positions": partial(hyper_attention, **HYPER, causal=True, exact_keys=POSITIONS),
    "own hash": partial(hyper_attention, **HYPER, causal=True, block_by="own-hash"),
    "own hash, sinks": partial(hyper_attention, **HYPER, causal=True, block_by="own-hash", exact_keys=3),
    "own hash, positions": partial(hyper_attention, **HYPER, causal=True, block_by="own-hash", exact_keys=POSITIONS),
}
DTYPES = {"float16": (np.float16, 1e-3), "bfloat16": (ml_dtypes.bfloat16, 8e-3)}


def half(seed: int, n_q: int, n_k: int, dtype: str) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((2, n, D)).astype(DTYPES[dtype][0]) for n in (n_q, n_k, n_k)]


def launches(monkeypatch: pytest.MonkeyPatch, xp: Any) -> list[int]:
    """The groups of every launch of the kernel from here on."""
    seen: list[int] = []
    make = attend.LAUNCHERS[xp.__name__]

    def launcher(dtype: str, d: int) -> Any:
        run = make(dtype, d)
        return run and (lambda groups, t, arguments: (seen.append(groups), run(groups, t, arguments)))

    monkeypatch.setitem(attend.LAUNCHERS, xp.__name__, launcher)
    return seen


def compare(xp: Any, call: Any, arrays: list[np.ndarray], tolerance: float) -> None:
    expected, expected_lse = call(*(x.astype(np.float32) for x in arrays), return_lse=True)
    out, lse = call(*map(xp.asarray, arrays), return_lse=True)
    assert out.dtype == arrays[0].dtype and lse.dtype == np.float32
    error = np.linalg.norm(asnumpy(out).astype(float) - expected) / np.linalg.norm(expected)
    assert error < tolerance
    np.testing.assert_allclose(asnumpy(lse), expected_lse, atol=2e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CALLS)
def test_the_kernel_gives_what_the_tiles_give(
    kernel_xp: Any, monkeypatch: pytest.MonkeyPatch, name: str, dtype: str
) -> None:
    seen = launches(monkeypatch, kernel_xp)
    compare(kernel_xp, CALLS[name], half(1, 210, 210, dtype), DTYPES[dtype][1])
    assert seen


@pytest.mark.parametrize("sizes", [(150, 100), (100, 150)])
@pytest.mark.parametrize(
    "name", ["hyper_attention", "causal", "causal, sinks", "causal, positions", "own hash", "own hash, sinks"]
)
def test_more_queries_or_more_keys(kernel_xp: Any, name: str, sizes: tuple[int, int]) -> None:
    compare(kernel_xp, CALLS[name], half(2, *sizes, "float16"), 1e-3)


def test_few_queries_split_the_keys(kernel_xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two queries of each of two heads over 700 keys: two segments of each head at a time, and no key left over."""
    seen = launches(monkeypatch, kernel_xp)
    compare(kernel_xp, attention, half(3, 2, 701, "float16"), 1e-3)
    assert seen == [2, 4]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [2, 70])
def test_grouped_heads_share_the_keys(kernel_xp: Any, monkeypatch: pytest.MonkeyPatch, n: int, causal: bool) -> None:
    """Six heads of queries on two of keys, few queries and many; partials, too."""
    q, k, v = half(5, n, 701, "float16")
    q = np.concatenate([q, q[:, ::-1], -q])
    exact = attention(q, *(np.repeat(x, 3, axis=0) for x in (k, v)), causal=causal)
    arrays, seen = [kernel_xp.asarray(x) for x in (q, k, v)], launches(monkeypatch, kernel_xp)
    out = attention(*arrays, causal=causal, grouped=True)
    halves = partial_attention(*arrays, causal=causal, grouped=True)
    assert seen
    for got in (out, halves.output()):
        np.testing.assert_allclose(asnumpy(got).astype(float), exact, atol=2e-3)


def test_partials_merge(kernel_xp: Any) -> None:
    q, k, v = map(kernel_xp.asarray, half(4, 80, 90, "float16"))
    whole = partial_attention(q, k[:, :30], v[:, :30]).merge(partial_attention(q, k[:, 30:], v[:, 30:]))
    expected = attention(*(x.astype(np.float64) for x in half(4, 80, 90, "float16")))
    assert whole.o.dtype == np.float32
    np.testing.assert_allclose(asnumpy(whole.output()), expected, atol=2e-3)


@pytest.mark.parametrize("name", ["attention", "hyper_attention", "causal"])
@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bad_numbers_are_refused(kernel_xp: Any, name: str, position: int, value: float) -> None:
    arrays = half(5, 100, 100, "float16")
    arrays[position][1, 7, 3] = value
    with pytest.raises(ValueError, match=f"{'qkv'[position]} must be finite"):
        CALLS[name](*map(kernel_xp.asarray, arrays))


@pytest.mark.parametrize("name", CALLS)
def test_a_scale_past_float32_is_refused(kernel_xp: Any, name: str) -> None:
    with pytest.raises(ValueError, match="scale must fit in float32"):
        CALLS[name](*map(kernel_xp.asarray, half(6, 100, 100, "float16")), scale=-1e300)
