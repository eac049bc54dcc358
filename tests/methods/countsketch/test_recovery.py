"""Sparse recovery: exactly sparse columns, the two decoders, their promises on any column, and the proven error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from sublinattn.core import backends
from sublinattn.methods.countsketch import recovery
from sublinattn.methods.countsketch.countsketch import CountSketch
from sublinattn.methods.countsketch.recovery import SparseColumns, bit_tables_for, identify, scan, tables_for, width_for
from sublinattn.theory import symbols

DECODERS = {"identify": identify, "scan": scan}


def sketched(xp: Any, x: np.ndarray, *, width: int, tables: int = 9, bit_tables: int = 7, seed: int = 0) -> CountSketch:
    rng = np.random.default_rng(seed)
    sketch = CountSketch.seeded(*x.shape, tables=tables, width=width, rng=rng, bit_tables=bit_tables)
    sketch.allocate(xp, x.dtype)
    sketch.add(0, xp.asarray(x))
    return sketch


def decoded(xp: Any, sketch: CountSketch, decoder: str, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and values on the host; what holds for every result is checked."""
    indices, values = (backends.asnumpy(a) for a in DECODERS[decoder](xp, sketch, k))
    assert indices.shape == values.shape == (sketch.p, k)
    assert indices.dtype == np.int64 and values.dtype == sketch.table.dtype
    assert indices.min() >= 0 and indices.max() < sketch.n
    for row in indices:
        assert len(set(row.tolist())) == k
    assert (np.diff(np.abs(values), axis=1) <= 0).all()
    everywhere = backends.asnumpy(sketch.estimates(xp, xp.arange(sketch.n)))
    np.testing.assert_array_equal(values, everywhere[indices, np.arange(sketch.p)[:, None]])
    return indices, values


def sparse_matrix(rng: np.random.Generator, n: int, p: int, k: int) -> np.ndarray:
    """Different rows in every column, the last row in all of them; magnitudes from 1 to 2, signs random."""
    x = np.zeros((n, p))
    for column in range(p):
        rows = np.append(rng.choice(n - 1, size=k - 1, replace=False), n - 1)
        x[rows, column] = rng.uniform(1, 2, size=k) * rng.choice((-1, 1), size=k)
    return x


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("n", "k"), [(1000, 8), (1024, 1), (2**15 + 3, 5), (17, 4)])
def test_exactly_sparse_columns_come_back_exactly(xp: Any, decoder: str, n: int, k: int) -> None:
    """Past one tile of the scan, too. With the package's sizes: it fails for a seed in a hundred, at most."""
    x = sparse_matrix(np.random.default_rng(n), n, 3, k)
    tables, bit_tables = tables_for(3 * n, 0.25), bit_tables_for(3 * k, 0.25)
    sketch = sketched(xp, x, width=width_for(k, 0.25), tables=tables, bit_tables=bit_tables)
    indices, values = decoded(xp, sketch, decoder, k)
    dense = SparseColumns(xp.asarray(indices), xp.asarray(values), x.shape).todense()
    np.testing.assert_allclose(backends.asnumpy(dense), x, rtol=0, atol=1e-14)


def test_scan_takes_the_largest_estimates_whatever_its_tiles(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(4).standard_normal((500, 3))
    sketch = sketched(xp, x, width=40)
    estimates = np.abs(backends.asnumpy(sketch.estimates(xp, xp.arange(500))))
    for rows in (500, 100, 7):
        monkeypatch.setattr(recovery, "SCAN_ROWS", rows)
        monkeypatch.setattr(CountSketch, "pairs_on_device", rows * len(sketch.table))
        for k in (1, 5, 20):
            _, values = decoded(xp, sketch, "scan", k)
            np.testing.assert_array_equal(np.abs(values), -np.sort(-estimates, axis=0)[:k].T)


def spelled(sketch: CountSketch, column: int) -> set[int]:
    """Indices that the buckets spell out, bit by bit, and that hash back to where they were read."""
    indices = set()
    for j in range(sketch.bit_tables):
        for b in range(sketch.hash.width):
            whole, ones = sketch.table[j, b, column], sketch.bits[j, b, :, column]
            index = sum(1 << bit for bit, one in enumerate(ones) if abs(one) > abs(whole - one))
            bucket, _ = sketch.hash(np, np.array([[index]]), slice(j, j + 1))
            if index < sketch.n and bucket[0, 0] == b:
                indices.add(index)
    return indices


@pytest.mark.parametrize(("bit_tables", "k"), [(1, 12), (5, 6)])
def test_identify_takes_the_largest_of_what_the_buckets_spell(xp: Any, bit_tables: int, k: int) -> None:
    """Nothing dominates much here, n is no power of two: many candidates are false or out of range.

    With bit counters in one table no candidate comes twice, and most of them are among the k.
    """
    x = np.random.default_rng(5).standard_normal((300, 3)) ** 3
    reference, sketch = (sketched(space, x, width=24, tables=9, bit_tables=bit_tables) for space in (np, xp))
    estimates = backends.asnumpy(sketch.estimates(xp, xp.arange(300)))
    indices, _ = decoded(xp, sketch, "identify", k)
    for column in range(3):
        candidates = np.array(sorted(spelled(reference, column) | set(range(k))))
        order = np.argsort(-np.abs(estimates[candidates, column]), kind="stable")[:k]
        np.testing.assert_array_equal(indices[column], candidates[order])


@pytest.mark.parametrize("decoder", DECODERS)
def test_nothing_heavy_still_gives_k_different_rows(xp: Any, decoder: str) -> None:
    """Zeros (every bucket spells 0), ones, few buckets."""
    for x in (np.zeros((50, 2)), np.ones((50, 2)), np.random.default_rng(0).standard_normal((50, 2))):
        for width in (1, 2, 30):
            decoded(xp, sketched(xp, x, width=width), decoder, 12)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("n", [1, 2, 9])
def test_every_row_is_kept(xp: Any, decoder: str, n: int) -> None:
    """k = n: all rows come back, and exactly, since most tables have no collision (fixed seed)."""
    x = np.random.default_rng(n).standard_normal((n, 2))
    indices, values = decoded(xp, sketched(xp, x, width=500), decoder, n)
    np.testing.assert_array_equal(np.sort(indices, axis=1), np.tile(np.arange(n), (2, 1)))
    np.testing.assert_allclose(values, np.take_along_axis(x, indices.T, axis=0).T, atol=1e-15)


def at_least_half(r: int, f: float) -> float:
    """Probability that at least half of r independent events of probability f happen."""
    return float(binom.sf((r + 1) // 2 - 1, r, f))


def test_sizes() -> None:
    assert [width_for(k, eps1) for k, eps1 in ((1, 1.0), (8, 0.5), (3, 0.7))] == [4, 64, 18]
    for entries, eps1 in ((1, 1.0), (1000, 0.5), (2**20, 1.0), (2**20, 0.5), (2**20, 0.05)):
        r = tables_for(entries, eps1)
        b = bit_tables_for(entries, eps1)
        assert r % 2 == 1 and r >= b
        assert entries * at_least_half(r, eps1 / 4) <= 0.0025
        assert r <= b + 1 or entries * at_least_half(r - 2, eps1 / 4) > 0.0025
        assert entries * (eps1 / 4) ** b <= 0.0025 and (b == 7 or entries * (eps1 / 4) ** (b - 1) > 0.0025)


# ---------------------------------------------------------------------------------------------------- what is proven
def test_error_is_at_most_what_follows_from_the_estimates(xp: Any) -> None:
    """`symbols.recovery_factor` with the true largest error of an estimate: holds always, no probability in it."""
    rng = np.random.default_rng(8)
    tightest = {True: 0.0, False: 0.0}
    for trial in range(40):
        n, k = int(rng.integers(20, 300)), int(rng.integers(1, 6))
        x = rng.standard_normal((n, 1)) * (np.arange(1, n + 1) ** -rng.uniform(0, 1.5))[:, None]
        if trial % 2:  # near-ties
            x[: 2 * k, 0] = 1 + 0.2 * (np.arange(2 * k) < k)
        sketch = sketched(xp, x, width=int(rng.integers(2, 12)) * k, tables=3, seed=trial)
        e = float(np.abs(backends.asnumpy(sketch.estimates(xp, xp.arange(n))) - x).max())
        tail = math.sqrt(float((np.sort(x[:, 0] ** 2)[: n - k]).sum()))
        for twice in (False, True):
            indices, values = decoded(xp, sketch, "scan", 2 * k if twice else k)
            error = x[:, 0].copy()
            error[indices[0]] -= values[0]
            bound = symbols.recovery_factor(k * e**2 / tail**2, twice=twice) * tail
            assert np.linalg.norm(error) <= bound * (1 + 1e-12)
            tightest[twice] = max(tightest[twice], float(np.linalg.norm(error)) / bound)
    assert min(tightest.values()) > 0.5  # the bound is not idle


def worst_excess(k: int, e: float, *, twice: bool) -> float:
    """Largest `(||T - y||^2 - t^2) / (t^2 c)` found by choosing magnitudes and estimates against the decoder."""
    kept = 2 * k if twice else k
    false = kept  # all kept are false: no head is
    worst = 0.0
    for low in np.linspace(0, 1, 200):
        high, tail2 = low + 2 * e, false * low**2 + 1.0  # the rest of the tail weighs 1
        square = kept * e**2 + k * high**2 + 1.0
        worst = max(worst, square / tail2 / symbols.recovery_factor(k * e**2 / tail2, twice=twice) ** 2)
    return worst


@pytest.mark.parametrize("twice", [False, True])
def test_the_worst_case_of_the_proof(twice: bool) -> None:
    """Every head 2e above every false one, all estimates wrong by e: within the factor, and near it."""
    ratios = [worst_excess(k, e, twice=twice) for k in (1, 4) for e in (0.003, 0.03, 0.3)]
    assert max(ratios) <= 1 + 1e-12
    assert max(ratios) > 0.9


@pytest.mark.parametrize("tables", [1, 4, 21])
def test_spread_of_the_estimates(tables: int) -> None:
    """The proven `a` is the least: the binomial tail at `k/w + 1/a`, times the entries, is the failure probability."""
    k, width, entries, failure = 4, 1000, 200, 0.1
    a = symbols.estimate_spread(k, width=width, tables=tables, entries=entries, failure=failure)
    if tables == 1:  # f = failure / entries is below k / width
        assert a == math.inf
        return
    f = k / width + 1 / a
    assert entries * at_least_half(tables, f) == pytest.approx(failure, rel=1e-9)
