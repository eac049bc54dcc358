"""Exact keys of HyperAttention by number and by position, and how the heaviest ones are found."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from references import assert_close, dense_kappa
from threadpoolctl import threadpool_limits

from sublinattn import attention, hardness, heavy_keys, hyper_attention
from sublinattn.core import timing
from sublinattn.core.backends import asnumpy
from sublinattn.lab.workloads import make
from sublinattn.methods.hyperattention.exact_keys import mark
from sublinattn.methods.hyperattention.sort_lsh import default_bits, hyperplanes

ESTIMATORS: tuple[Literal["practical", "theory"], ...] = ("practical", "theory")
both = pytest.mark.parametrize("estimator", ESTIMATORS)
either_mask = pytest.mark.parametrize("causal", [False, True])


def run(xp: Any, arrays: list[np.ndarray], exact_keys: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Output and lse on the host."""
    options = {"block_size": 8, "sample_size": 10, "min_exact": 0, "rng": 0, "return_lse": True} | options
    return references.on(xp, hyper_attention, arrays, exact_keys=exact_keys, **options)


def different(rng: np.random.Generator, n: int, count: int, *lead: int) -> np.ndarray:
    """`count` different positions below n, for each problem, in no order."""
    return rng.permuted(np.broadcast_to(np.arange(n), (*lead, n)), axis=-1)[..., :count]


# ------------------------------------------------------------------------------------------------------ hyper_attention
@both
@either_mask
@pytest.mark.parametrize("exact_keys", [np.arange(4), [3, 0, 2, 1], np.tile(np.arange(4), (2, 1, 1)), [[[0, 1, 2, 3]]]])
def test_the_first_positions_are_the_number(xp: Any, estimator: Any, causal: bool, exact_keys: Any) -> None:
    """To the bit, in any order and of any shape that broadcasts."""
    arrays = references.qkv(1, 90, 90, lead=(2, 1))
    by_number, by_position = (run(xp, arrays, c, estimator=estimator, causal=causal) for c in (4, exact_keys))
    assert_close(by_position, by_number, 0)


@settings(max_examples=40)
@given(
    n_q=st.integers(1, 70), n_k=st.integers(2, 70), block=st.integers(1, 12), causal=st.booleans(), data=st.data(),
    estimator=st.sampled_from(ESTIMATORS), min_exact=st.integers(0, 20),
)  # fmt: skip
def test_every_query_meets_the_positions_exactly(
    xp: Any, small_tiles: None, n_q: int, n_k: int, block: int, causal: bool, data: Any, estimator: Any, min_exact: int
) -> None:
    """Values are 1 at one of the positions each and 0 elsewhere: numerators are then single entries of A."""
    arrays = references.qkv(n_q + 71 * n_k, n_q, n_k, lead=(3,))
    count = data.draw(st.integers(1, n_k))
    positions = different(np.random.default_rng(n_k), n_k, count, 3)
    v = np.zeros((3, n_k, count))
    np.put_along_axis(v, positions[:, :, None], np.eye(count)[None], axis=1)
    q, k, _ = arrays
    out, lse = run(
        xp, [q, k, v], positions, estimator=estimator, causal=causal, block_size=block, min_exact=min_exact,
        sample_size=min(10, n_k),
    )  # fmt: skip
    a = np.exp(q @ k.swapaxes(1, 2) / 2) * (np.tri(n_q, n_k) if causal else 1)
    np.testing.assert_allclose(out * np.exp(lse)[..., None], np.take_along_axis(a, positions[:, None], 2), rtol=1e-8)


@settings(max_examples=30)
@given(n_q=st.integers(1, 60), n_k=st.integers(2, 60), block=st.integers(1, 12), causal=st.booleans(), data=st.data())
def test_all_keys_sampled_is_exact(
    xp: Any, small_tiles: None, n_q: int, n_k: int, block: int, causal: bool, data: Any
) -> None:
    """No key is lost, and none counts twice."""
    arrays = references.qkv(n_q, n_q, n_k, lead=(3,), size=3.0)
    positions = different(np.random.default_rng(n_q), n_k, data.draw(st.integers(0, n_k)), 3)
    pair = run(xp, arrays, positions, block_size=block, sample_size=n_k, causal=causal)
    assert_close(pair, attention(*arrays, causal=causal, return_lse=True))


@both
@either_mask
@pytest.mark.parametrize("left", [0, 1, 8])
def test_nothing_left_to_estimate_is_exact(xp: Any, estimator: Any, causal: bool, left: int) -> None:
    """All keys are exact, or all but a block of them."""
    arrays = references.qkv(2, 90, 90, lead=(2,))
    positions = different(np.random.default_rng(0), 90, 90 - left, 2)
    pair = run(xp, arrays, positions, estimator=estimator, causal=causal)
    assert_close(pair, attention(*arrays, causal=causal, return_lse=True))


@both
def test_without_a_mask_it_does_not_matter_where_the_keys_stand(xp: Any, estimator: Any) -> None:
    """The same keys moved to the front, and given as a number, get the same draws."""
    q, k, v = references.qkv(3, 70, 90, lead=(2,))
    positions = np.sort(different(np.random.default_rng(1), 90, 5, 2))
    order = np.stack([[*p, *np.delete(np.arange(90), p)] for p in positions])[..., None]
    front = [q, *(np.take_along_axis(x, order, axis=1) for x in (k, v))]
    assert_close(run(xp, [q, k, v], positions, estimator=estimator), run(xp, front, 5, estimator=estimator))


@pytest.mark.parametrize("statistic", ["normaliser", "product"])
@either_mask
def test_estimates_are_unbiased(statistic: str, causal: bool) -> None:
    """z-test over 1000 seeds (hash and sample) of a fixed linear functional; |z| <= 4.5: false alarm rate 7e-6 each.

    The sample is larger than a block, so that it always reaches outside.
    """
    arrays = references.qkv(7, 48, 48)
    truth, truth_lse = attention(*arrays, causal=causal, return_lse=True)
    probe = np.random.default_rng(8).standard_normal((48, 3))

    def functional(out: np.ndarray, lse: np.ndarray) -> float:
        product = out * np.exp(lse)[:, None]
        return float((product * probe).sum() if statistic == "product" else (np.exp(lse) * probe[:, 0]).sum())

    runs = (run(np, arrays, [1, 17, 30], rng=seed, causal=causal, block_size=4, sample_size=6) for seed in range(1000))
    estimates = [functional(*pair) for pair in runs]
    assert np.std(estimates) > 0
    assert abs(references.z_score(estimates, functional(truth, truth_lse))) <= 4.5


def test_exact_keys_sort_last_even_behind_the_last_bucket_of_16_bits(xp: Any) -> None:
    """Those at positions from n on are of keys that no query sees; the caller's buckets stay as they are."""
    buckets = xp.asarray(np.array([[7, 65535, 9, 65535], [65535, 65534, 0, 1]], np.uint16))
    marked = asnumpy(mark(xp, buckets, np.array([[0, 1], [3, 4]])))
    assert marked.dtype == np.uint16
    np.testing.assert_array_equal(marked, [[65535, 65535, 9, 65534], [65534, 65534, 0, 65535]])
    assert asnumpy(buckets)[0, 0] == 7


# ---------------------------------------------------------------------------------------------------------- heavy keys
@either_mask
@pytest.mark.parametrize("sizes", [(40, 40), (30, 45), (45, 30)])
def test_heaviest_columns_and_their_masses(xp: Any, sizes: tuple[int, int], causal: bool) -> None:
    q, k, _ = references.qkv(5, *sizes, lead=(2, 2), size=2.0)
    h = hardness(xp.asarray(q), xp.asarray(k), causal=causal, block_size=8, rng=0)
    found = [asnumpy(x) for x in h.heaviest(7)]
    chosen = asnumpy(heavy_keys(xp.asarray(q), xp.asarray(k), 7, causal=causal))
    for at in np.ndindex(2, 2):
        p, _ = references.softmax_matrix(q[at], k[at], scale=0.5, causal=causal)
        alphas = sizes[1] * (p**2).sum(axis=0)
        order = np.argsort(-alphas)
        np.testing.assert_array_equal(found[0][at], order[:7])
        np.testing.assert_array_equal(chosen[at], np.argsort(-p.sum(axis=0))[:7])
        np.testing.assert_allclose(found[1][at], alphas[order[:7]], rtol=1e-9)
        np.testing.assert_allclose(found[2][at], p.mean(axis=0)[order[:7]], rtol=1e-9)
        for count in (0, 1, 16, sizes[1] - 1):
            np.testing.assert_allclose(asnumpy(h.alpha_without(count))[at], alphas[order[count]], rtol=1e-9)
    np.testing.assert_allclose(asnumpy(h.column_masses).sum(axis=-1), 1, rtol=1e-9)
    without = hardness(xp.asarray(q), xp.asarray(k), causal=causal, block_size=8, exact_keys=h.heaviest(7).positions)
    np.testing.assert_allclose(asnumpy(without.alpha_residual), asnumpy(h.alpha_without(7)), rtol=1e-12)


def test_a_few_queries_find_what_all_find(xp: Any, small_tiles: None) -> None:
    """Ten queries of 300; evenly spaced ones see all keys but the last 29 under a causal mask."""
    at = [100, 3, 250]
    x = make("sinks", 300, 16, rng=0, sinks=3, sink_positions=at, mass=0.8)
    q, k = (xp.asarray(np.stack([a, a[::-1]])) for a in (x.q, x.k))
    for causal in (False, True):
        found = asnumpy(heavy_keys(q, k, 3, causal=causal, queries=10))
        assert found.dtype == np.int64
        assert set(found[0]) == set(at)
        assert set(found[1]) == {299 - place for place in at}


def test_memory_is_that_of_a_tile() -> None:
    """Never the 16 MiB of 256 x 16384 float32 entries: a tile of them, and what is made of it."""
    q, k, _ = references.qkv(5, 16384, 16384, d=8, dtype=np.float32)
    with threadpool_limits(1, user_api="blas"):  # each thread has a tile of its own
        assert timing.peak_bytes(np, lambda: heavy_keys(q, k, 4, causal=True)) < 14 * 2**20


def test_queries_that_look_at_one_key_alone_do_not_decide(xp: Any) -> None:
    """Half of the queries that are asked have a key of their own, with all of their attention; key 50 has a quarter of
    that of the others. By column norms over these 20 queries, 1 and 0.6, the keys of their own would come first."""
    own, d = np.arange(9, 200, 20), 20
    q, k = np.zeros((200, d)), np.zeros((200, d))
    q[:, 0], k[50, 0] = 1, math.log(200 / 3)
    for axis, at in enumerate(own, start=1):
        q[at, axis], k[at, axis] = 20, 20
    assert asnumpy(heavy_keys(xp.asarray(q), xp.asarray(k), 1, scale=1.0, queries=20)) == [50]


def test_the_chosen_keys_may_stay_on_the_device(xp: Any) -> None:
    arrays = references.qkv(6, 80, 80, lead=(2,), size=2.0)
    q, k, v = (xp.asarray(x) for x in arrays)
    chosen = heavy_keys(q, k, 5)
    out = hyper_attention(q, k, v, exact_keys=chosen, block_size=8, sample_size=8, min_exact=0, rng=0)
    on_host = run(np, arrays, asnumpy(chosen), sample_size=8, return_lse=False)
    np.testing.assert_allclose(asnumpy(out), on_host, rtol=1e-9)


@pytest.mark.parametrize("kind", ["torch", "jax.numpy"])
def test_positions_of_other_libraries(kind: str) -> None:
    library = pytest.importorskip(kind)
    arrays = references.qkv(6, 80, 80, dtype=np.float32)
    out = hyper_attention(*map(library.asarray, arrays), exact_keys=library.asarray([5, 70]), rng=0, min_exact=0)
    # JAX puts its arrays on a GPU where there is one: equal to the rounding then.
    assert_close([out], [hyper_attention(*arrays, exact_keys=[5, 70], rng=0, min_exact=0)], 1e-5)


@settings(max_examples=25)
@given(
    n_q=st.integers(1, 30), n_k=st.integers(4, 30), causal=st.booleans(), block=st.integers(1, 10), data=st.data(),
)  # fmt: skip
def test_kappa_and_alpha_without_each_problems_own_keys(
    xp: Any, small_tiles: None, n_q: int, n_k: int, causal: bool, block: int, data: Any
) -> None:
    """Those of a problem whose exact keys are deleted: with one hash for each number of keys that are left."""
    q, k, _ = references.qkv(n_q + 31 * n_k, n_q, n_k, lead=(3,))
    positions = different(np.random.default_rng(n_q), n_k, data.draw(st.integers(1, n_k - 1)), 3)
    h = hardness(xp.asarray(q), xp.asarray(k), causal=causal, block_size=block, exact_keys=positions, rng=5)
    late, early = (q[:, n_k // 2 :], k[:, : n_k // 2]) if causal else (q, k)
    rng, left = np.random.default_rng(5), [np.setdiff1d(np.arange(early.shape[1]), own) for own in positions]
    for size in sorted({len(keys) for keys in left}, reverse=True):
        heads = [head for head in range(3) if len(left[head]) == size]
        if size > block and late.shape[1]:
            planes = hyperplanes(rng, len(heads), 4, default_bits(size, block)).astype(float)
            expected = [dense_kappa(late[i], early[i, left[i]], planes[at], block) for at, i in enumerate(heads)]
        else:
            expected = [np.nan] * len(heads)
        np.testing.assert_allclose(asnumpy(h.kappa)[heads], expected, rtol=1e-9)
    for head, own in enumerate(positions):
        p, _ = references.softmax_matrix(q[head], k[head], scale=0.5, causal=causal)
        largest = n_k * (np.delete(p, own, axis=1) ** 2).sum(axis=0).max()
        np.testing.assert_allclose(asnumpy(h.alpha_residual)[head], largest, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q: heavy_keys(q, q, 0), "count must be at least 1, got 0"),
        (lambda q: heavy_keys(q, q, 11), r"count must be at most the number of keys \(10\), got 11"),
        (lambda q: heavy_keys(q, q, 1, queries=0), "queries must be at least 1, got 0"),
        (lambda q: hardness(q, q).heaviest(11), r"count must be at most the number of keys \(10\), got 11"),
        (lambda q: hardness(q, q).alpha_without(10), r"count must be below the number of keys \(10\), got 10"),
        (lambda q: heavy_keys(q * np.nan, q, 1), "q must be finite"),
    ],
)
def test_what_cannot_be_chosen(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call(np.random.default_rng(0).standard_normal((10, 3)))


# ------------------------------------------------------------------------------------------------------- planted sinks
SINKS, MASS, N = 4, 0.8, 512


def planted(seed: int) -> tuple[Any, np.ndarray, Any]:
    """An input with sinks at random positions; these; the same input without them."""
    at = np.random.default_rng(seed).permutation(N)[:SINKS]
    x = make("sinks", N, 32, rng=seed, sinks=SINKS, mass=MASS, sink_positions=at.tolist())
    return x, at, [np.delete(a, at, axis=0) for a in (x.k, x.v)]


@pytest.mark.parametrize("seed", range(4))
def test_alpha_without_the_planted_sinks_is_that_of_the_plain_input(xp: Any, seed: int) -> None:
    """The rows of the plain input are normalised by their own keys: what is left of each row is `1 - MASS` of that,
    up to the deviation of its normaliser, 0.02 of it. So alpha falls from quadratic in n to a constant."""
    x, at, (k, _) = planted(seed)
    q = xp.asarray(x.q)
    h = hardness(q, xp.asarray(x.k), exact_keys=at, rng=0)
    plain = float(asnumpy(hardness(q, xp.asarray(k), rng=0).alpha))
    assert set(asnumpy(h.heaviest(SINKS).positions)) == set(at)
    np.testing.assert_allclose(asnumpy(h.heaviest(SINKS).masses), MASS / SINKS, rtol=0.05)
    np.testing.assert_allclose(float(asnumpy(h.alpha)), (N * MASS / SINKS) ** 2, rtol=0.05)
    np.testing.assert_allclose(float(asnumpy(h.alpha_residual)), plain * (1 - MASS) ** 2 * N / (N - SINKS), rtol=0.1)
    assert float(asnumpy(h.alpha_residual)) == pytest.approx(float(asnumpy(h.alpha_without(SINKS))), rel=1e-12)


@either_mask
def test_the_error_falls_with_the_positions_and_not_with_as_many_first_keys(causal: bool) -> None:
    """Over 10 seeds the error falls every time: were the positions of no use, one chance in 1024. With as many first
    keys it falls in none by half as much."""
    errors = np.zeros((10, 3))
    for seed in range(10):
        x, at, _ = planted(seed)
        truth = attention(x.q, x.k, x.v, causal=causal)
        for column, exact_keys in enumerate((0, SINKS, at)):
            out, _ = run(
                np, [x.q, x.k, x.v], exact_keys, causal=causal, block_size=32, sample_size=32, rng=seed, min_exact=64
            )
            errors[seed, column] = np.linalg.norm(out - truth) / np.linalg.norm(truth)
    none, first, positions = errors.T
    assert (positions < none).all()
    assert (positions < first).all()
    assert math.exp(np.log(positions / none).mean()) < 0.6
