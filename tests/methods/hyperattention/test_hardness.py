"""Hardness parameters against dense matrices in float64 [HA24]."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from sublinattn import Hardness, hardness
from sublinattn.core import backends, softmax_matrix, timing
from sublinattn.core.softmax_matrix import SoftmaxMatrix
from sublinattn.methods.hyperattention.estimators import unmasked_row_sums
from sublinattn.methods.hyperattention.hardness import unmasked_by_kernel
from sublinattn.methods.hyperattention.sort_lsh import default_bits, hyperplanes, sort_blocks

FIELDS = tuple(name for name in Hardness.__dataclass_fields__ if name != "keys")


def measure(xp: Any, arrays: list[np.ndarray], **options: Any) -> dict[str, np.ndarray]:
    measured = hardness(*(xp.asarray(x) for x in arrays), **({"rng": 0} | options))
    return {name: backends.asnumpy(getattr(measured, name)) for name in FIELDS}


@settings(max_examples=25)
@given(
    n_q=st.integers(1, 30), n_k=st.integers(2, 30), lead=st.sampled_from([(), (2,), (2, 2)]), causal=st.booleans(),
    size=st.sampled_from([0.5, 2.0, 20.0]), block=st.integers(1, 10), data=st.data(),
)  # fmt: skip
def test_equals_the_dense_computation(
    xp: Any, small_tiles: None, n_q: int, n_k: int, lead: Any, causal: bool, size: float, block: int, data: Any
) -> None:
    arrays = references.qkv(n_q + 31 * n_k, n_q, n_k, lead=lead, size=size)
    q, k, v = arrays
    sinks = data.draw(st.integers(0, n_k - 1))
    measured = measure(xp, arrays, causal=causal, block_size=block, exact_keys=sinks, rng=5)
    q_kappa, k_kappa = (q[..., n_k // 2 :, :], k[..., : max(n_k // 2, 1), :]) if causal else (q, k)
    k_kappa = k_kappa[..., sinks:, :]
    has_kappa = k_kappa.shape[-2] > block and q_kappa.shape[-2] > 0
    if has_kappa:
        batch = int(np.prod(lead))
        planes = hyperplanes(np.random.default_rng(5), batch, 4, default_bits(k_kappa.shape[-2], block)).astype(float)
    for number, at in enumerate(np.ndindex(lead)):
        p, _ = references.softmax_matrix(q[at], k[at], scale=0.5, causal=causal)
        squares = (p**2).sum(axis=0)
        norm = np.linalg.norm(p, 2)
        found = {name: values[at] for name, values in measured.items()}
        # Lanczos' method stops, from below, when a step gains less than 1e-4
        assert norm * 0.99 <= found["spectral_norm"] <= norm * (1 + 1e-9)
        kappa = references.dense_kappa(q_kappa[at], k_kappa[at], planes[number], block) if has_kappa else np.nan
        expected = {
            "alpha": n_k * squares.max(), "kappa": kappa, "srank": (p**2).sum() / found["spectral_norm"] ** 2,
            "entry_bound": max(abs(x[at]).max() for x in arrays),
            "query_norm_max": np.linalg.norm(q[at], axis=1).max(), "key_norm_max": np.linalg.norm(k[at], axis=1).max(),
        }  # fmt: skip
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(found["alpha_residual"], n_k * squares[sinks:].max(), rtol=1e-9, atol=1e-300)
        np.testing.assert_allclose(found["column_norms"], np.sqrt(squares), rtol=1e-9, atol=1e-150)


def test_lanczos_ends_where_the_space_is_invariant(xp: Any) -> None:
    """One query that sees one key: P has one row, (1, 0, ..., 0). After two steps rounding alone is left."""
    for n_k in range(1, 40):
        arrays = references.qkv(n_k, 1, n_k, lead=(2,), size=0.5)
        np.testing.assert_allclose(measure(xp, arrays, causal=True)["spectral_norm"], 1, rtol=1e-9)


@pytest.mark.parametrize("causal", [False, True])
def test_natural_tiles_and_threads(causal: bool) -> None:
    """Past the tile of the CPU: equals the dense matrix, and 1 or 2 threads give the same bits."""
    arrays = references.qkv(1, 1100, 1100, d=8, size=1.5)
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            results.append(measure(np, arrays, causal=causal))
    for name in FIELDS:
        np.testing.assert_array_equal(results[0][name], results[1][name])
    q, k, _ = arrays
    weights = np.exp(q @ k.T / np.sqrt(8)) * (np.tri(1100) if causal else 1)
    p = weights / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(results[0]["alpha"], 1100 * (p**2).sum(axis=0).max(), rtol=1e-9)
    np.testing.assert_allclose(results[0]["spectral_norm"], np.linalg.norm(p, 2), rtol=2e-3)


def test_operator_norm_converges(xp: Any) -> None:
    q, k, _ = references.qkv(2, 40, 40, lead=(2,), size=3.0)
    matrix = SoftmaxMatrix(xp, xp.asarray(q), xp.asarray(k), scale=0.5, causal=False)
    dense = [np.linalg.norm(references.softmax_matrix(a, b, scale=0.5)[0], 2) for a, b in zip(q, k, strict=True)]
    np.testing.assert_allclose(backends.asnumpy(matrix.operator_norm(rtol=1e-13, max_steps=2000)), dense, rtol=1e-9)


def test_the_norm_is_right_where_its_estimate_only_rests(xp: Any) -> None:
    """Some heads have two nearby singular values: there the estimate grows by less than 1e-4 in a step of Lanczos'
    method, and by 0.1 percent in the next ones. One head at a time, since those of a call wait for each other."""
    rng = np.random.default_rng(1)
    q, k = (2.0 * rng.standard_normal((60, n, 8)) for n in (61, 97))
    found = [
        float(backends.asnumpy(hardness(xp.asarray(a), xp.asarray(b), scale=1.0, rng=0).spectral_norm))
        for a, b in zip(q, k, strict=True)
    ]
    exact = [np.linalg.norm(references.softmax_matrix(a, b, scale=1.0)[0], 2) for a, b in zip(q, k, strict=True)]
    np.testing.assert_allclose(found, exact, rtol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_more_strips_of_rows_than_groups(xp: Any, monkeypatch: pytest.MonkeyPatch, causal: bool) -> None:
    """Every group sums up several strips: `P^T P x` is that of the dense matrix."""
    monkeypatch.setattr(softmax_matrix, "STRIP", 2)
    q, k, _ = references.qkv(3, 70, 60, lead=(2,))
    x = np.random.default_rng(3).standard_normal((2, 60))
    matrix = SoftmaxMatrix(xp, xp.asarray(q), xp.asarray(k), scale=0.5, causal=causal)
    square, product = map(backends.asnumpy, matrix.gram_times(xp.asarray(x)))
    for head in range(2):
        p, _ = references.softmax_matrix(q[head], k[head], scale=0.5, causal=causal)
        y = p @ x[head]
        np.testing.assert_allclose(square[head], y @ y, rtol=1e-12)
        np.testing.assert_allclose(product[head], p.T @ y, rtol=1e-12, atol=1e-14)


def test_kappa_past_the_largest_float_is_infinite(xp: Any) -> None:
    assert measure(xp, references.qkv(4, 64, 64, size=100.0), block_size=8)["kappa"] == np.inf


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("maximum", [2, 1000])
def test_half_precision_through_the_kernel(
    kernel_xp: Any, monkeypatch: pytest.MonkeyPatch, dtype: Any, causal: bool, maximum: int
) -> None:
    """No tile is made, and all equals the hardness of the same numbers in float64; several calls make one kappa."""
    arrays = [x.astype(dtype) for x in references.qkv(7, 150, 150, lead=(2,), d=32, size=1.5)]
    expected = measure(np, [x.astype(np.float64) for x in arrays], causal=causal, block_size=20, exact_keys=3)

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a tile is made")

    monkeypatch.setattr(backends, "strip_shape", refuse)
    n_k = 75 - 3 if causal else 150 - 3
    monkeypatch.setattr(backends, "STRIP_BYTES", 4 * n_k * maximum)  # so many blocks per call, or all of both heads
    measured = measure(kernel_xp, arrays, causal=causal, block_size=20, exact_keys=3)
    for name in FIELDS:
        precise = name not in ("spectral_norm", "srank")
        rtol = 1e-5 if precise else 1e-3 if dtype == np.float16 else 4e-3
        np.testing.assert_allclose(measured[name], expected[name], rtol=rtol, err_msg=name)


@pytest.mark.parametrize("maximum", [2, 1000])
def test_row_sums_outside_the_blocks_by_the_kernel(
    kernel_xp: Any, monkeypatch: pytest.MonkeyPatch, maximum: int
) -> None:
    """Those of every query equal those by tiles, also of the short last block."""
    q, k, _ = (x.astype(np.float16) for x in references.qkv(8, 100, 70, lead=(2,), d=32, size=1.5))
    marks = np.random.default_rng(0).integers(16, size=(2, 170)).astype(np.uint16)
    expected, found = (
        sort_blocks(
            xp, *map(xp.asarray, (marks[:, :100], marks[:, 100:])), block_size=20,
            q_start=np.array([0, 100]), k_start=np.array([0, 70]),
        ) for xp in (np, kernel_xp)
    )  # fmt: skip
    flat = [x.reshape(-1, 32) for x in (q, k)]
    ranks = np.broadcast_to(np.arange(100), (2, 100))
    by_tiles = unmasked_row_sums(np, *(x.astype(float) for x in flat), expected, ranks, scale=0.2)
    monkeypatch.setattr(backends, "STRIP_BYTES", 4 * 70 * maximum)
    by_kernel = unmasked_by_kernel(kernel_xp, *map(kernel_xp.asarray, flat), found, 0.2)
    np.testing.assert_allclose(backends.asnumpy(by_kernel).ravel()[expected.q_order], by_tiles, rtol=1e-5)


def test_memory_is_linear() -> None:
    """Never the 64 MiB of 4096 x 4096 float32 entries."""
    q, k, _ = references.qkv(5, 4096, 4096, d=8, dtype=np.float32)
    with threadpool_limits(1, user_api="blas"):  # each thread has a tile of its own
        assert timing.peak_bytes(np, lambda: hardness(q, k, rng=0)) < 16 * 2**20


def test_cluster_counts_and_radii_of_every_head(xp: Any) -> None:
    rng = np.random.default_rng(0)
    k = rng.standard_normal((2, 3, 60, 4))
    measured = hardness(xp.asarray(k), xp.asarray(k), rng=0)
    for delta in (0.0, 1.0, 2.0, 10.0):
        counts = backends.asnumpy(measured.cluster_count(delta))
        assert counts.shape == (2, 3) and counts.dtype.kind == "i"
        for head in np.ndindex(2, 3):
            centers: list[np.ndarray] = []
            for x in k[head]:
                if all(np.linalg.norm(x - c) > delta for c in centers):
                    centers.append(x)
            assert counts[head] == len(centers)
    for m in (1, 5, 60):
        radii = backends.asnumpy(measured.cluster_radius(m))
        for head in np.ndindex(2, 3):
            assert abs(radii[head] - references.greedy_k_center(k[head], m)[1][-1]) <= 1e-6


@pytest.mark.parametrize(
    "call", [lambda h: h.cluster_count(-1.0), lambda h: h.cluster_radius(0), lambda h: h.cluster_radius(11)]
)
def test_clusters_refuse_what_makes_none(call: Any) -> None:
    x = np.random.default_rng(0).standard_normal((10, 3))
    with pytest.raises(ValueError, match="delta must|m must"):
        call(hardness(x, x, rng=0))
