"""HyperAttention against its definition in dense loops, its exact limits, and what must hold of any run [HA24]."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from references import assert_close
from threadpoolctl import threadpool_limits

from sublinattn import attention, hyper_attention, stage_times
from sublinattn.core import timing
from sublinattn.methods.hyperattention.estimators import draw_theory
from sublinattn.methods.hyperattention.sort_lsh import default_bits, hyperplanes
from sublinattn.primitives.sampling import sample_without_replacement

ESTIMATORS: tuple[Literal["practical", "theory"], ...] = ("practical", "theory")
both = pytest.mark.parametrize("estimator", ESTIMATORS)


def run(xp: Any, arrays: list[np.ndarray], **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Output and lse on the host."""
    options = {"block_size": 8, "sample_size": 10, "min_exact": 0, "rng": 0, "return_lse": True} | options
    return references.on(xp, hyper_attention, arrays, **options)


def exact(arrays: list[np.ndarray], causal: bool = False) -> tuple[np.ndarray, np.ndarray]:
    return attention(*arrays, causal=causal, return_lse=True)


# ------------------------------------------------------------------------------------------------------ the definition
def sorted_by_bucket(x: np.ndarray, planes: np.ndarray) -> list[int]:
    """Rows in the order of their place in the Gray code: bit i of the code is the sign on plane i."""
    place = {p ^ (p >> 1): p for p in range(2 ** planes.shape[1])}
    codes = [sum(1 << i for i, side in enumerate(row @ planes) if side > 0) for row in x]
    return sorted(range(len(x)), key=lambda i: place[codes[i]])


def definition(arrays: list[np.ndarray], *, block: int, m: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """*practical* by its definition: own block exactly, the sampled keys outside it at weight (n - |B|) / u."""
    q, k, v = arrays
    (b, n_q, d), n_k = q.shape, k.shape[1]
    rng = np.random.default_rng(seed)
    planes = hyperplanes(rng, b, d, default_bits(n_k, block)).astype(q.dtype)
    positions = sample_without_replacement(np, rng, b, n_k, m)
    out, lse = np.zeros((b, n_q, v.shape[-1])), np.zeros((b, n_q))
    for p in range(b):
        q_order, k_order = sorted_by_bucket(q[p], planes[p]), sorted_by_bucket(k[p], planes[p])
        per_block = math.ceil(block * n_q / n_k)
        for rank, i in enumerate(q_order):
            own = range(rank // per_block * block, min((rank // per_block + 1) * block, n_k))
            others = [j for j in positions[p] if j not in own]
            weights = dict.fromkeys(own, 1.0) | dict.fromkeys(others, (n_k - len(own)) / max(len(others), 1))
            total, product = 0.0, np.zeros(v.shape[-1])
            for position, weight in weights.items():
                j = k_order[position]
                e = weight * math.exp(q[p, i] @ k[p, j] / math.sqrt(d))
                total += e
                product += e * v[p, j]
            out[p, i], lse[p, i] = product / total, math.log(total)
    return out, lse


@pytest.mark.parametrize("sizes", [(40, 40), (37, 41), (13, 60), (60, 13), (1, 30)])
@pytest.mark.parametrize("block", [1, 7, 8])
def test_practical_is_its_definition(xp: Any, sizes: tuple[int, int], block: int) -> None:
    arrays = references.qkv(1, *sizes, lead=(3,), size=1.5)
    m = min(10, sizes[1])
    assert_close(run(xp, arrays, block_size=block, sample_size=m, rng=4), definition(arrays, block=block, m=m, seed=4))


def theory_definition(arrays: list[np.ndarray], *, block: int, m: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """*theory* by Algorithms 2 and 3: tau/kappa and capped entries for the normaliser, row norms for the product."""
    q, k, v = (x[0] for x in arrays)
    (n_q, d), n_k = q.shape, len(k)
    rng = np.random.default_rng(seed)
    planes = hyperplanes(rng, 1, d, default_bits(n_k, block))[0].astype(q.dtype)
    q_order, k_order = sorted_by_bucket(q, planes), sorted_by_bucket(k, planes)
    p = np.array([v[j] @ v[j] for j in k_order]) / (v * v).sum()
    orders = SimpleNamespace(testable=n_q, k_order=np.array([k_order]))
    draws = draw_theory(rng, orders, m, p[None])
    per_block = math.ceil(block * n_q / n_k)
    e = np.array([[math.exp(q[i] @ k[j] / math.sqrt(d)) for j in k_order] for i in q_order])
    own = np.array([[rank // per_block == position // block for position in range(n_k)] for rank in range(n_q)])
    floor = min((e[rank] * ~own[rank]).sum() for rank in draws.queries[0])  # tau/kappa, both measured on these
    eps = (max(math.log(n_k), 1) / m) ** (1 / 6)
    out, lse = np.zeros((1, n_q, v.shape[-1])), np.zeros((1, n_q))
    for rank, i in enumerate(q_order):
        inside = (e[rank] * own[rank]).sum()
        cap = eps**2 * m / (n_k * max(math.log(n_k), 1)) * (inside + floor)
        outside = n_k / m * sum(min(e[rank, j], cap) for j in draws.uniform[0] if not own[rank, j])
        normaliser = inside + max(outside, floor)
        out[0, i] = sum(e[rank, j] * v[k_order[j]] / (m * p[j]) for j in draws.by_norm[0]) / normaliser
        lse[0, i] = math.log(normaliser)
    return out, lse


@pytest.mark.parametrize("sizes", [(40, 40), (37, 41), (13, 60), (60, 13), (1, 30)])
@pytest.mark.parametrize(("block", "size"), [(1, 0.5), (7, 1.5), (8, 4.0)])
def test_theory_is_its_definition(xp: Any, sizes: tuple[int, int], block: int, size: float) -> None:
    arrays = references.qkv(1, *sizes, lead=(1,), size=size)
    pair = run(xp, arrays, estimator="theory", block_size=block, sample_size=10, rng=4)
    assert_close(pair, theory_definition(arrays, block=block, m=10, seed=4), 1e-9)


# -------------------------------------------------------------------------------------------------------- exact limits
@settings(max_examples=30)
@given(
    n_q=st.integers(1, 40), n_k=st.integers(2, 40), lead=st.sampled_from([(), (2,), (2, 1)]), block=st.integers(1, 12),
    causal=st.booleans(), large=st.booleans(), data=st.data(),
)  # fmt: skip
def test_all_keys_sampled_is_exact(
    xp: Any, small_tiles: None, n_q: int, n_k: int, lead: Any, block: int, causal: bool, large: bool, data: Any
) -> None:
    arrays = references.qkv(n_q, n_q, n_k, lead=lead, size=30.0 if large else 1.0)
    sinks = data.draw(st.integers(0, n_k))
    pair = run(xp, arrays, block_size=block, sample_size=n_k, exact_keys=sinks, causal=causal)
    assert_close(pair, exact(arrays, causal))


@both
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n_q", [30, 33])
@pytest.mark.parametrize("option", [{"block_size": 33}, {"block_size": 500}, {"min_exact": 33}, {"exact_keys": 33}])
def test_nothing_left_to_estimate_is_exact(xp: Any, estimator: Any, causal: bool, n_q: int, option: Any) -> None:
    """One block holds all keys, the problem is small, or all keys are sinks."""
    arrays = references.qkv(2, n_q, 33, lead=(2,))
    assert_close(run(xp, arrays, estimator=estimator, causal=causal, **option), exact(arrays, causal))


# ----------------------------------------------------------------------------------------------------------- any run
@settings(max_examples=30)
@given(
    n_q=st.integers(1, 70), n_k=st.integers(12, 70), lead=st.sampled_from([(), (3,), (2, 2)]), block=st.integers(1, 30),
    estimator=st.sampled_from(ESTIMATORS), causal=st.booleans(), size=st.sampled_from([0.5, 10.0, 50.0]),
    sinks=st.integers(0, 5), dtype=st.sampled_from([np.float16, np.float32, np.float64]), lead_exact=st.integers(0, 20),
)  # fmt: skip
def test_any_shape_gives_finite_rows_of_the_callers_dtype(
    xp: Any, small_tiles: None, n_q: int, n_k: int, lead: Any, block: int, estimator: Any, causal: bool, size: float,
    sinks: int, dtype: Any, lead_exact: int,
) -> None:  # fmt: skip
    arrays = references.qkv(n_k, n_q, n_k, lead=lead, size=size, dtype=dtype)
    out, lse = run(
        xp, arrays, estimator=estimator, causal=causal, block_size=block, exact_keys=sinks, min_exact=lead_exact
    )
    assert out.shape == (*lead, n_q, 3) and lse.shape == (*lead, n_q)
    assert (out.dtype, lse.dtype) == (dtype, np.promote_types(dtype, np.float32))
    assert np.isfinite(lse).all() and not np.isnan(out).any()
    if estimator == "practical":  # a convex combination of values
        v = arrays[2].astype(float)
        slack = 4 * float(np.finfo(dtype).eps) * abs(v).max() if dtype is np.float16 else 1e-4
        assert (out <= v.max(axis=-2, keepdims=True) + slack).all() and (
            out >= v.min(axis=-2, keepdims=True) - slack
        ).all()


@both
@pytest.mark.parametrize("size", [1.0, 10.0])
def test_later_keys_and_values_change_nothing(xp: Any, estimator: Any, size: float) -> None:
    arrays = references.qkv(4, 61, 61, lead=(2,), size=size)
    out, lse = run(xp, arrays, estimator=estimator, causal=True)
    for cut in (1, 17, 40, 60):
        q, k, v = (x.copy() for x in arrays)
        k[:, cut:] *= -0.9
        v[:, cut:] += 7
        again, lse_again = run(xp, [q, k, v], estimator=estimator, causal=True)
        assert_close((again[:, :cut], lse_again[:, :cut]), (out[:, :cut], lse[:, :cut]))
        assert cut == 60 or abs(again[:, cut:] - out[:, cut:]).max() > 0.1  # one key may weigh nothing


@pytest.mark.parametrize("sizes", [(50, 31), (31, 50)])
def test_causal_mask_is_aligned_at_the_top_left(xp: Any, sizes: tuple[int, int]) -> None:
    """Rows 0..30 of both are the square problem's; later queries see all keys, no query sees later keys."""
    arrays = references.qkv(5, *sizes)
    square = [x[:31] for x in arrays]
    out, lse = run(xp, arrays, causal=True)
    assert_close((out[:31], lse[:31]), run(xp, square, causal=True))
    everything = run(xp, arrays, causal=True, sample_size=sizes[1])
    assert_close(everything, references.attention(*arrays, causal=True))


# --------------------------------------------------------------------------------------------------------- unbiasedness
@pytest.mark.parametrize(
    ("estimator", "statistic"), [("practical", "normaliser"), ("practical", "product"), ("theory", "product")]
)
def test_estimates_are_unbiased(estimator: Any, statistic: str) -> None:
    """z-test over 1500 seeds (hash and sample) of a fixed linear functional; |z| <= 4.5: false alarm rate 7e-6 each.

    The sample is larger than a block, so that it always reaches outside. ApproxD's normaliser is capped: not unbiased.
    """
    arrays = references.qkv(7, 48, 48)
    truth, truth_lse = exact(arrays)
    probe = np.random.default_rng(8).standard_normal((48, 3))

    def functional(out: np.ndarray, lse: np.ndarray) -> float:
        product = out * np.exp(lse)[:, None]
        return float((product * probe).sum() if statistic == "product" else (np.exp(lse) * probe[:, 0]).sum())

    estimates = [functional(*run(np, arrays, rng=seed, estimator=estimator)) for seed in range(1500)]
    assert abs(references.z_score(estimates, functional(truth, truth_lse))) <= 4.5


# ---------------------------------------------------------------------------------------------- seeds, threads, stages
@both
@pytest.mark.parametrize("causal", [False, True])
def test_seed_decides_and_threads_do_not(estimator: Any, causal: bool) -> None:
    """To the bit, at the natural tiles."""
    arrays = references.qkv(9, 1500, 1500, lead=(2,), d=16, dtype=np.float32)
    options = {"estimator": estimator, "causal": causal, "block_size": 64, "sample_size": 64}
    results = []
    for threads in (1, 2, 2):
        with threadpool_limits(threads, user_api="blas"):
            results.append(run(np, arrays, **options))
    for again in results[1:]:
        assert_close(again, results[0], 0)
    other, _ = run(np, arrays, **options, rng=1)
    assert abs(other - results[0][0]).max() > 1e-3


def test_generator_is_consumed_and_none_draws_afresh() -> None:
    arrays = references.qkv(10, 64, 64)
    generator = np.random.default_rng(0)
    first, second = (run(np, arrays, rng=generator)[0] for _ in range(2))
    np.testing.assert_array_equal(first, run(np, arrays, rng=0)[0])
    assert abs(first - second).max() > 0
    assert abs(run(np, arrays, rng=None)[0] - run(np, arrays, rng=None)[0]).max() > 0


def test_default_sample_is_capped_at_the_number_of_keys(xp: Any) -> None:
    arrays = references.qkv(11, 64, 64)
    assert_close(run(xp, arrays, sample_size=None), exact(arrays))


@both
def test_stages_are_timed(xp: Any, estimator: Any) -> None:
    arrays = references.qkv(12, 300, 300)
    with stage_times() as seconds:
        run(xp, arrays, estimator=estimator)
    assert set(seconds) == {"hash", "sort", "gather", "block", "sample", "merge"}
    assert all(value > 0 for value in seconds.values())
    with stage_times() as causal_seconds:
        run(xp, arrays, estimator=estimator, causal=True)
    assert set(causal_seconds) == {"hash", "sort", "gather", "block", "sample", "merge", "exact"}
    booked = dict(seconds), dict(causal_seconds)
    run(xp, arrays, estimator=estimator)
    assert (seconds, causal_seconds) == booked  # a closed clock stands still


@both
@pytest.mark.parametrize("causal", [False, True])
def test_memory_is_linear(estimator: Any, causal: bool) -> None:
    """16384 rows more cost at most 500 bytes each (result, orders, buckets, laws); n^2 float32 would be 3 GiB more."""

    def peak(n: int) -> int:
        arrays = references.qkv(13, n, n, d=8, d_v=8, dtype=np.float32)
        return timing.peak_bytes(np, lambda: hyper_attention(*arrays, estimator=estimator, causal=causal, rng=0))

    with threadpool_limits(1, user_api="blas"):
        small, large = peak(16384), peak(32768)
    assert large - small < 500 * 16384
    assert large < 60 * 2**20
