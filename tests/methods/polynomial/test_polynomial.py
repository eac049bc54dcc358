"""The polynomial method against dense references: the same polynomial entry by entry, and exact attention."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import references
from threadpoolctl import threadpool_limits

from sublinattn import PolynomialState, polynomial_attention
from sublinattn.core import backends
from sublinattn.methods.polynomial.approximants import BASES, approximant, minimal_degree
from sublinattn.methods.polynomial.polynomial import rounded_up

TAYLOR = [1, 1, 1 / 2, 1 / 6, 1 / 24]
TOLERANCE = {np.float16: 2e-3, np.float32: 2e-5, np.float64: 1e-12}
SIZES = [(200, 200), (43, 150), (150, 43), (1, 9), (9, 1)]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 3 rows: 200 rows are 14 lanes of 5 chunks, and every loop turns."""
    monkeypatch.setattr(backends, "feature_rows", lambda xp, features, dtype: 3)


def call(xp: Any, arrays: Any, **options: Any) -> np.ndarray:
    return references.on(xp, polynomial_attention, arrays, **options)


def coefficients(basis: str, degree: int, q: np.ndarray, k: np.ndarray, scale: float | None = None) -> Any:
    """Those that `polynomial_attention` takes, found on its own radius."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    largest = abs(scale) * np.linalg.norm(q, axis=-1).max() * np.linalg.norm(k, axis=-1).max()
    return approximant(basis, degree, rounded_up(largest)).coefficients


# ------------------------------------------------------------------------------------------------- polynomial_attention
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_equals_the_polynomial_entry_by_entry(
    xp: Any, small_chunks: None, sizes: tuple[int, int], causal: bool, dtype: Any
) -> None:
    arrays = references.qkv(0, *sizes, lead=(2,), size=0.7, dtype=dtype)
    out = call(xp, arrays, degree=4, causal=causal)
    expected = references.polynomial_attention(TAYLOR, *arrays, causal=causal)
    assert out.dtype == dtype and out.shape == expected.shape
    np.testing.assert_allclose(out, expected, rtol=0, atol=TOLERANCE[dtype] * abs(arrays[2]).max())


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lead", [(), (2, 3)])
@pytest.mark.parametrize("scale", [None, 0.9, -0.4])
def test_bases_batches_and_scales(
    xp: Any, small_chunks: None, basis: str, causal: bool, lead: tuple[int, ...], scale: float | None
) -> None:
    q, k, v = references.qkv(1, 40, 40, lead=lead, size=0.5)
    out = call(xp, (q, k, v), degree=6, basis=basis, causal=causal, scale=scale)
    expected = references.polynomial_attention(coefficients(basis, 6, q, k, scale), q, k, v, scale=scale, causal=causal)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("causal", [False, True])
def test_natural_chunks_too(causal: bool) -> None:
    arrays = references.qkv(2, 1300, 1100, d=3, size=0.6)
    expected = references.polynomial_attention([1, 1, 1 / 2], *arrays, causal=causal)
    np.testing.assert_allclose(call(np, arrays, degree=2, causal=causal), expected, atol=1e-12)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("eps", [0.3, 1e-2, 1e-5])
@pytest.mark.parametrize("causal", [False, True])
def test_error_is_at_most_twice_eps(xp: Any, basis: str, eps: float, causal: bool) -> None:
    arrays = references.qkv(3, 30, 40, lead=(2,), d=3, size=0.8)
    exact, _ = references.attention(*arrays, causal=causal)
    error = abs(call(xp, arrays, eps=eps, basis=basis, causal=causal) - exact)
    assert error.max() <= 2 * eps * abs(arrays[2]).max()
    assert error.max() > 0  # it is not exact attention that runs


@pytest.mark.parametrize("basis", BASES)
def test_eps_takes_the_smallest_degree(basis: str) -> None:
    q, k, v = references.qkv(4, 30, 40, size=0.8)
    radius = np.linalg.norm(q, axis=1).max() * np.linalg.norm(k, axis=1).max() / 2
    for eps in (None, 0.2, 1e-3):
        degree = minimal_degree(basis, 1 / 40 if eps is None else eps, rounded_up(radius))
        out = polynomial_attention(q, k, v, eps=eps, basis=basis)
        np.testing.assert_array_equal(out, polynomial_attention(q, k, v, degree=degree, basis=basis))
    degree = minimal_degree(basis, 0.1, rounded_up(radius))  # few keys: 0.1
    few = polynomial_attention(q, k[:5], v[:5], basis=basis, scale=0.5)
    assert approximant(basis, degree, radius).error <= 0.1
    assert abs(few - references.attention(q, k[:5], v[:5])[0]).max() <= 0.2 * abs(v).max()


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_a_scale_counts_like_longer_queries(basis: str, scale: float) -> None:
    """To the radius and to the degree, too."""
    q, k, v = references.qkv(14, 30, 40, size=0.5)
    found, expected = (
        polynomial_attention(scale * q, k, v, eps=1e-3, basis=basis, scale=1.0),
        polynomial_attention(q, k, v, eps=1e-3, basis=basis, scale=scale),
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_sums_over_keys_are_kept_in_float64(small_chunks: None) -> None:
    """One value of 2^25 and, in chunks of 3, values of 1: in float32 each chunk after it would count 4."""
    v = np.ones((48000, 1), np.float32)
    v[0] = 2**25
    k = np.zeros((48000, 1), np.float32)
    state = PolynomialState(1, 1, degree=0).update(k, v)
    np.testing.assert_allclose(state.attend(k[0]), v.mean(dtype=np.float64), rtol=1e-6)


def test_radius_is_rounded_up() -> None:
    rng = np.random.default_rng(5)
    assert rounded_up(0.0) == 0
    for radius in [*10 ** rng.uniform(-300, 300, 200), 1.0, 0.3, 99.9, 1e-320, 5e-324]:
        assert radius <= rounded_up(radius) <= radius * (1 + 2**-9)
    assert len({rounded_up(x) for x in rng.uniform(1, 2, 5000)}) <= 513  # so few polynomials are made


def test_zero_logits_average_the_values(xp: Any) -> None:
    q, k, v = references.qkv(6, 5, 8)
    mean = np.broadcast_to(v.mean(axis=0), (5, 3))
    for basis in BASES:
        np.testing.assert_allclose(call(xp, (0 * q, k, v), basis=basis), mean, rtol=1e-12)
    np.testing.assert_allclose(call(xp, (q, k, v), degree=2, scale=0.0), mean, rtol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_the_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch, causal: bool) -> None:
    monkeypatch.setattr(backends, "feature_rows", lambda xp, features, dtype: 100)
    arrays = references.qkv(7, 3000, 3000)  # in float32, sums in float64 would be exact in any order
    outputs = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            outputs.append(polynomial_attention(*arrays, degree=4, causal=causal))
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_torch_tensors_come_back_as_they_came(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    q, k, v = (torch.from_numpy(x).to(getattr(torch, dtype)) for x in references.qkv(8, 20, 20, size=0.7))
    state = PolynomialState(4, 3, degree=4).update(k, v)
    wide = [x.double().numpy() for x in (q, k, v)]
    expected = references.polynomial_attention(TAYLOR, *wide)
    radius = np.linalg.norm(wide[0], axis=1).max() * np.linalg.norm(wide[1], axis=1).max() / 2
    rounding = np.exp(2 * radius) * max(torch.finfo(q.dtype).eps, 1e-13)  # as documented
    for out in (polynomial_attention(q, k, v, degree=4), state.attend(q)):
        assert isinstance(out, torch.Tensor) and out.dtype == q.dtype and out.shape == (20, 3)
        np.testing.assert_allclose(out.double().numpy(), expected, rtol=0, atol=rounding)


def test_polynomials_that_are_not_positive(xp: Any) -> None:
    q, k, v = np.array([[3.0]]), np.array([[-1.0]]), np.array([[1.0]])
    message = "degree must be high enough that the polynomial's row sums are positive, got 1 and a row sum of -2"
    for causal in (False, True):
        with pytest.raises(ValueError, match=f"^{message}"):
            call(xp, (q, k, v), degree=1, causal=causal)
    with pytest.raises(ValueError, match=f"^{message}"):
        PolynomialState(1, 1, degree=1).update(xp.asarray(k), xp.asarray(v)).attend(xp.asarray(q))
    assert call(xp, (q, k, v), degree=2) == 1


def test_rounding_that_exceeds_eps() -> None:
    q, k, v = references.qkv(9, 20, 20, size=1.4, dtype=np.float32)
    with pytest.raises(ValueError, match=r"^eps must be at least .* in float32 with logits up to .*; got 0.001: use"):
        polynomial_attention(q, k, v, eps=1e-3)
    with pytest.raises(ValueError, match=r"^eps must be at least .* in float32"):
        polynomial_attention(*(x.astype(np.float16) for x in (q, k, v)), eps=1e-3)
    polynomial_attention(*(x.astype(np.float64) for x in (q, k, v)), eps=1e-3)
    polynomial_attention(q, k, v, degree=20)
    tiny = 1e-2 * q
    with pytest.raises(ValueError, match=r"^eps must be at least 1.\de-07"):
        polynomial_attention(tiny, tiny, v, eps=1e-8)


def test_features_that_would_overflow() -> None:
    q, k, v = references.qkv(10, 20, 20, dtype=np.float32)
    message = (
        r"must have rows whose norm to the power of the degree \(4\) is below 3.4e\+38, the largest float32, got a"
    )
    for large, small, name in ((1e12, 1e-12, "q"), (1e-12, 1e12, "k")):
        arrays = (np.float32(large) * q, np.float32(small) * k, v)
        for causal in (False, True):
            with pytest.raises(ValueError, match=f"^{name} {message}"):
                polynomial_attention(*arrays, degree=4, causal=causal)
        out = polynomial_attention(*(x.astype(np.float64) for x in arrays), degree=4)
        np.testing.assert_allclose(out, references.polynomial_attention(TAYLOR, *arrays), rtol=0, atol=1e-9)
    one = whole(np, k, v)
    with pytest.raises(ValueError, match=f"^k {message}"):
        one.update(np.float32(1e12) * k, v)
    with pytest.raises(ValueError, match=f"^q {message}"):
        one.attend(np.float32(1e12) * q)
    assert one.tokens_seen == 20 and np.isfinite(one.attend(q)).all()
    with pytest.raises(ValueError, match=f"^q {message}"):
        polynomial_attention(np.float32(1e30) * q, k, v, degree=4)  # float32 holds 1e30, not its square


# ----------------------------------------------------------------------------------------------------- PolynomialState
def state(**options: Any) -> PolynomialState:
    return PolynomialState(4, 3, **({"degree": 4} | options))


def whole(xp: Any, k: np.ndarray, v: np.ndarray, **options: Any) -> PolynomialState:
    return state(**options).update(xp.asarray(k), xp.asarray(v))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rows_chunks_and_one_call_agree(xp: Any, small_chunks: None, dtype: Any) -> None:
    q, k, v = references.qkv(11, 30, 50, size=0.7, dtype=dtype)
    chunks, rows = state(), state()
    for start in range(0, 50, 7):
        assert chunks.update(xp.asarray(k[start : start + 7]), xp.asarray(v[start : start + 7])) is chunks
    for one in range(50):
        rows.update(xp.asarray(k[one]), xp.asarray(v[one]))
        assert rows.tokens_seen == one + 1
    expected = references.polynomial_attention(TAYLOR, q, k, v)
    for each in (chunks, rows, whole(xp, k, v)):
        assert each.tokens_seen == 50
        found = each.attend(xp.asarray(q))
        assert found.dtype == dtype and found.shape == (30, 3)
        np.testing.assert_allclose(backends.asnumpy(found), expected, rtol=0, atol=TOLERANCE[dtype] * abs(v).max())
        one = each.attend(xp.asarray(q[3]))
        assert one.dtype == dtype and one.shape == (3,)
        np.testing.assert_allclose(backends.asnumpy(one), expected[3], rtol=0, atol=TOLERANCE[dtype] * abs(v).max())


@pytest.mark.parametrize(("basis", "radius"), [("taylor", None), ("chebyshev", np.float32(3)), ("minimax", 3)])
def test_states_of_every_basis(xp: Any, basis: str, radius: Any) -> None:
    q, k, v = references.qkv(12, 20, 30, size=0.5)
    one = whole(xp, k, v, basis=basis, radius=radius, scale=0.8, degree=5)
    polynomial = approximant(basis, 5, 0.0 if radius is None else float(radius))
    expected = references.polynomial_attention(polynomial.coefficients, q, k, v, scale=0.8)
    np.testing.assert_allclose(backends.asnumpy(one.attend(xp.asarray(q))), expected, atol=1e-12)


def test_merging(xp: Any) -> None:
    q, k, v = references.qkv(13, 20, 60, size=0.7)
    first, second, third = (whole(xp, k[a:b], v[a:b]) for a, b in itertools.pairwise((0, 25, 26, 60)))
    merged = state().merge(second.merge(third)).merge(first).merge(state())
    assert merged.tokens_seen == 60 and third.tokens_seen == 34
    expected = backends.asnumpy(whole(xp, k, v).attend(xp.asarray(q)))
    np.testing.assert_allclose(backends.asnumpy(merged.attend(xp.asarray(q))), expected, rtol=0, atol=1e-13)


def test_nbytes_are_five_numbers_for_each_monomial(xp: Any) -> None:
    """Moments with the values and with 1, and the weights."""
    _, k, v = references.qkv(15, 1, 500, dtype=np.float32)
    assert state().rank == math.comb(8, 4)
    assert state().nbytes == whole(xp, k, v).nbytes == 8 * math.comb(8, 4) * (3 + 1 + 1)
