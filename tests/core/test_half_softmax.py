"""The softmax matrix in half precision, through the kernel: against the dense matrix of the same numbers in float64."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import references

from sublinattn.core import backends
from sublinattn.core.half_softmax import HalfSoftmaxMatrix, softmax_matrix

# Of a dtype: what `P^T P x` may be off, of its length.
DTYPES: dict[str, tuple[Any, float]] = {"float16": (np.float16, 3e-4), "bfloat16": (ml_dtypes.bfloat16, 2e-3)}
SIZES = {"square": (70, 70), "more queries": (90, 40), "more keys": (40, 90)}


def matrix(xp: Any, half: Any, n_q: int, n_k: int, *, causal: bool, size: float = 1.5) -> tuple[Any, list[np.ndarray]]:
    """P of two heads through the kernel, and the dense matrices."""
    q, k, _ = (x.astype(half) for x in references.qkv(n_q, n_q, n_k, d=32, lead=(2,), size=size))
    p = softmax_matrix(xp, xp.asarray(q), xp.asarray(k), scale=0.2, causal=causal)
    assert isinstance(p, HalfSoftmaxMatrix)
    wide = (x.astype(np.float64) for x in (q, k))
    return p, [references.softmax_matrix(a, b, scale=0.2, causal=causal)[0] for a, b in zip(*wide, strict=True)]


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_dense_matrix(
    kernel_xp: Any, monkeypatch: pytest.MonkeyPatch, dtype: str, sizes: str, causal: bool, batches: int
) -> None:
    half, tolerance = DTYPES[dtype]
    n_q, n_k = SIZES[sizes]
    monkeypatch.setattr(backends, "STRIP_BYTES", 2 // batches * 4 * max(n_q, n_k) * 32)
    p, dense = matrix(kernel_xp, half, n_q, n_k, causal=causal)
    assert len(list(p.batches())) == batches
    x = np.random.default_rng(0).standard_normal((2, n_k)) / np.sqrt(n_k)
    square, product = map(backends.asnumpy, p.gram_times(kernel_xp.asarray(x)))
    sums, squares = map(backends.asnumpy, p.column_sums_and_squares)
    norms = backends.asnumpy(p.operator_norm())
    for head, whole in enumerate(dense):
        np.testing.assert_allclose(sums[head], whole.sum(axis=0), rtol=2e-5)
        np.testing.assert_allclose(squares[head], (whole**2).sum(axis=0), rtol=2e-5)
        y = whole @ x[head]
        np.testing.assert_allclose(square[head], y @ y, rtol=2 * tolerance)
        expected = whole.T @ y
        assert np.linalg.norm(product[head] - expected) <= tolerance * np.linalg.norm(expected)
        np.testing.assert_allclose(norms[head], np.linalg.norm(whole, 2), rtol=1e-4 + tolerance)


def test_vectors_lose_nothing(kernel_xp: Any) -> None:
    """A sharp P is the identity, whose entries half precision holds: its product keeps what one column would lose."""
    rng = np.random.default_rng(0)
    q = (8 * rng.standard_normal((1, 64, 32))).astype(np.float16)
    p = softmax_matrix(kernel_xp, kernel_xp.asarray(q), kernel_xp.asarray(q), scale=1.0, causal=False)
    x = rng.standard_normal((1, 64)) / 1000  # as in a vector of 10^6 entries; float16 begins at 6e-8
    np.testing.assert_allclose(backends.asnumpy(p.gram_times(kernel_xp.asarray(x))[1]), x, rtol=1e-5)


def test_launches_depend_on_no_size(emulated: Any) -> None:
    """One call of the kernel for the normalisers, one for each sum over columns, two for a product with P^T P."""
    spent = []
    for n in (40, 100):
        emulated.counts.reset()
        p, _ = matrix(emulated, np.float16, n, n, causal=False)
        p.column_sums_and_squares  # noqa: B018 - computed when it is asked for
        p.gram_times(emulated.asarray(np.full((2, n), n**-0.5)))
        spent.append(emulated.counts.launches)
    assert spent[0] == spent[1] <= 80


def test_other_numbers_take_the_tiles(xp: Any) -> None:
    q = xp.asarray(np.ones((1, 5, 7), np.float16))
    p = softmax_matrix(xp, q, q, scale=1.0, causal=True)
    assert not isinstance(p, HalfSoftmaxMatrix) and p.lse.dtype == np.float32
