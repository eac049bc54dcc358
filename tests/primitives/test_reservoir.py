"""Reservoirs against loops over the items, and against their laws.

Statistical tests are chi-square or z-tests at 1e-7 each, about 90 of them: with other seeds, a false alarm in 1e5 runs.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from sublinattn.primitives.reservoir import GroupSamples, WeightedSlots, next_count, next_total, seed_from, uniforms

LEVEL = 1e-7
Z = stats.norm.isf(LEVEL / 2)
WORD = 2**64


# ------------------------------------------------------------------------------------------------------------- uniforms
def splitmix(seed: int, *counters: int) -> int:
    x = seed
    for counter in counters:
        x = (x + (counter + 1) * 0x9E3779B97F4A7C15) % WORD
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WORD
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WORD
        x ^= x >> 31
    return x


def unmixed(x: int) -> int:
    """The seed of which `splitmix(seed, 0)` is x: each step is undone."""

    def unshifted(x: int, by: int) -> int:
        y = x
        for _ in range(64 // by):
            y = x ^ (y >> by)
        return y

    x = unshifted(x, 31) * pow(0x94D049BB133111EB, -1, WORD) % WORD
    x = unshifted(x, 27) * pow(0xBF58476D1CE4E5B9, -1, WORD) % WORD
    return (unshifted(x, 30) - 0x9E3779B97F4A7C15) % WORD


def test_uniforms_are_splitmix_once_per_counter() -> None:
    counters = [(0,), (2**63 - 1,), (3, 0), (0, 3), (1, 2, 3, 4, 5), (7, 2**62, 0, 1)]
    for seed, counter in itertools.product([0, 1, 2**63 - 1, 12345678901234567], counters):
        assert abs(float(uniforms(seed, *counter)) - splitmix(seed, *counter) / WORD) <= 2.0**-52
    rows, columns = np.arange(5)[:, None], np.array([0, 9, 2**40])
    table = uniforms(3, 1, rows, columns)
    assert table.shape == (5, 3) and table.dtype == np.float64
    for i, j in np.ndindex(5, 3):
        assert table[i, j] == uniforms(3, 1, int(rows[i, 0]), int(columns[j]))


def test_uniforms_are_never_0_or_1() -> None:
    for word, near in ((0, 0.0), (WORD - 1, 1.0)):
        seeds = [unmixed(word ^ low) for low in range(100)]
        assert splitmix(seeds[0], 0) == word
        for seed in seeds:
            u = float(uniforms(seed, 0))
            assert 0 < u < 1 and abs(u - near) < 2.0**-51


def test_uniforms_are_uniform_and_independent() -> None:
    seeds, n = (0, 1, 2**62), 400_000
    item = np.arange(n)
    for seed in seeds:
        u = uniforms(seed, 3, item)
        assert stats.chisquare(np.bincount((u * 1000).astype(int), minlength=1000)).pvalue > LEVEL
        low = u * 1000 % 1  # bits further down
        assert stats.chisquare(np.bincount((low * 1000).astype(int), minlength=1000)).pvalue > LEVEL
        others = {
            "next item": uniforms(seed, 3, item + 1),
            "next stream": uniforms(seed, 4, item),
            "next seed": uniforms(seed + 1, 3, item),
            "one counter more": uniforms(seed, 3, item, 0),
            "order": uniforms(seed, item, 3),
        }
        for name, other in others.items():
            cells = np.bincount((u * 20).astype(int) * 20 + (other * 20).astype(int), minlength=400)
            assert stats.chisquare(cells).pvalue > LEVEL, name
            correlation = 12 * np.mean((u - 0.5) * (other - 0.5)) * math.sqrt(n)
            assert abs(correlation) < Z, name


def test_seeds_come_from_the_callers_generator() -> None:
    assert seed_from(5) == seed_from(5) == seed_from(np.random.default_rng(5)) != seed_from(6)
    rng = np.random.default_rng(5)
    assert seed_from(rng) != seed_from(rng) and seed_from(None) != seed_from(None)
    assert all(0 <= seed_from(i) < 2**63 and type(seed_from(i)) is int for i in range(100))


# -------------------------------------------------------------------------------------------------- when a slot changes
@pytest.mark.parametrize("total", [1, 3, 10])
def test_survival(total: int) -> None:
    """Still the same beyond x with probability total / x: counted over a grid of U, to one point of the grid."""
    grid = (np.arange(100_000) + 0.5) / 100_000
    for x in (total, total + 1, 2 * total, 5 * total + 2):
        for beyond in (next_total(float(total), grid) > x, next_count(total, grid) > x):
            assert abs(beyond.mean() - total / x) <= 1.001e-5


def test_the_next_change_is_later() -> None:
    almost_one = np.nextafter(1, 0)
    for total in (1e-300, 0.1, 1.0, 7e200):
        assert next_total(total, almost_one) > total
    for count in (1, 2, 10**9, 10**15):
        assert next_count(count, almost_one) == count + 1
    assert next_count(10**9, 2.0**-54) > 2**61  # 2^-54 is the least draw


# ------------------------------------------------------------------------------------------------------- weighted slots
def held_by_loop(weights: np.ndarray, size: int, seed: int, stream: int) -> tuple[list[int], float]:
    """Item of each slot, drawn ahead, one item after another."""
    mu, held, due = 0.0, [-1] * size, [0.0] * size
    for j, weight in enumerate(weights.tolist()):
        mu += weight
        for slot in range(size):
            if weight > 0 and mu >= due[slot]:
                held[slot] = j
                due[slot] = max(mu / float(uniforms(seed, stream, slot, j)), math.nextafter(mu, math.inf))
    return held, mu


def held_by_slots(slots: WeightedSlots, weights: np.ndarray, chunk: int) -> np.ndarray:
    held = np.full(slots.size, -1)
    for start in range(0, len(weights), chunk):
        new = slots.absorb(weights[start : start + chunk])
        held = np.where(new >= 0, start + new, held)
    return held


WEIGHTS = {
    "equal": np.ones(300),
    "uneven": np.exp(6 * np.random.default_rng(0).normal(size=300)),
    "zeros between": np.repeat([0.0, 2.0, 0.0, 1.0], 75),
    "growing": 1.5 ** np.arange(300),
    "all but nothing after much": np.concatenate([[1e30], np.ones(50), [1e30]]),
    "tiny": np.full(40, 5e-324),
}


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("name", WEIGHTS)
def test_weighted_slots_equal_the_loop(name: str, chunk: int) -> None:
    weights = WEIGHTS[name]
    slots = WeightedSlots(20, 3, 1)
    held = held_by_slots(slots, weights, chunk)
    expected, mu = held_by_loop(weights, 20, 3, 1)
    assert held.tolist() == expected
    assert slots.mu == mu and slots.seen == len(weights)
    assert np.all(weights[held] > 0) and np.all(slots.thresholds > slots.mu)


@pytest.mark.parametrize("chunk", [1, 5, 12])
def test_law_of_the_slots(chunk: int) -> None:
    """Each holds item j with probability w_j / mu; a zero weight never; two slots are independent."""
    weights = np.array([1.0, 0.0, 1e-3, 5.0, 0.0, 0.5, 20.0, 2.0, 1e-3, 3.0, 0.0, 1.0])
    held = held_by_slots(WeightedSlots(400_000, 8, 3), weights, chunk)
    assert_law(held, weights)
    assert_independent(held[::2], held[1::2], weights)


def assert_law(held: np.ndarray, weights: np.ndarray) -> None:
    """Item j in proportion to its weight. Cells that are expected at least 5 times each; the rest as one cell."""
    expected = len(held) * weights / weights.sum()
    counts = np.bincount(held, minlength=len(weights))
    assert counts[weights == 0].sum() == 0
    often = expected >= 5
    counts, expected = (np.append(x[often], x[~often].sum()) for x in (counts, expected))
    keep = expected > 0
    assert keep.sum() == 1 or stats.chisquare(counts[keep], expected[keep]).pvalue > LEVEL


def assert_independent(one: np.ndarray, other: np.ndarray, weights: np.ndarray, its: np.ndarray | None = None) -> None:
    """The pair has the product of the laws."""
    its = weights if its is None else its
    assert_law(one * len(its) + other, np.outer(weights, its).ravel())


def test_weights_that_are_all_zero() -> None:
    slots = WeightedSlots(5, 0, 1)
    assert (slots.absorb(np.zeros(9)) == -1).all() and slots.mu == 0 and slots.seen == 9
    assert (slots.absorb(np.array([0.0, 1e-200, 0.0])) == 1).all()  # the first weight fills them all


def test_law_after_merging_and_going_on() -> None:
    """Two streams, merged, then a third part: every item in proportion to its weight, whenever it came."""
    size = 400_000
    first, second, third = np.array([3.0, 1.0, 0.0]), np.array([0.5, 6.0]), np.array([2.0, 0.0, 4.0])
    one, other = WeightedSlots(size, 1, 1), WeightedSlots(size, 2, 1)
    mine, its = held_by_slots(one, first, 3), held_by_slots(other, second, 3)
    thresholds = other.thresholds.copy()
    theirs = one.merge(other)
    assert one.mu == 10.5 and one.seen == 5 and (one.thresholds > 10.5).all()
    assert other.mu == 6.5 and other.seen == 2 and np.array_equal(other.thresholds, thresholds)
    held = np.where(theirs, 3 + its, mine)
    new = one.absorb(third)
    held = np.where(new >= 0, 5 + new, held)
    weights = np.concatenate([first, second, third])
    assert_law(held, weights)
    assert_independent(held[::2], held[1::2], weights)


def test_merging_with_nothing() -> None:
    empty, zero, one = WeightedSlots(50, 1, 1), WeightedSlots(50, 2, 1), WeightedSlots(50, 3, 1)
    zero.absorb(np.zeros(3))
    one.absorb(np.ones(3))
    assert not one.merge(empty).any() and not one.merge(zero).any() and one.mu == 3
    assert empty.merge(one).all() and empty.mu == 3
    assert not zero.merge(WeightedSlots(50, 4, 1)).any() and (zero.absorb(np.ones(1)) == 0).all()


# --------------------------------------------------------------------------------------------------- samples of groups
def held_by_samples(samples: GroupSamples, labels: np.ndarray, chunk: int) -> np.ndarray:
    held = np.full((int(labels.max()) + 1, samples.size), -1)
    for start in range(0, len(labels), chunk):
        part = labels[start : start + chunk]
        group, sample, item = samples.absorb(part, int(labels[: start + chunk].max()) + 1)
        assert np.array_equal(part[item], group)
        assert len(set(zip(group.tolist(), sample.tolist(), strict=True))) == len(group)
        held[group, sample] = start + item
    return held


@pytest.mark.parametrize("chunk", [1, 4, 24])
def test_law_of_the_samples(chunk: int) -> None:
    """Uniform over the group's items; two samples, and samples of two groups, are independent."""
    labels = np.array([0, 1, 0, 0, 2, 1, 1, 0, 3, 2, 2, 1, 0, 0, 1, 2, 1, 0, 0, 0, 1, 2, 0, 2])
    held = held_by_samples(GroupSamples(300_000, 6, 0), labels, chunk)
    for group in range(4):
        equal = (labels == group).astype(float)
        assert_law(held[group], equal)
        assert_independent(held[group, ::2], held[group, 1::2], equal)
    assert_independent(held[0], held[1], *((labels == group).astype(float) for group in (0, 1)))


def test_law_of_regrouping_and_going_on() -> None:
    """Pieces 0, 2, 4 and 1, 3 join; then items come in: uniform over all of a group's items, samples independent."""
    size, counts, into = 300_000, np.array([1, 4, 2, 3, 6]), np.array([0, 1, 0, 1, 0])
    samples = GroupSamples(size, 9, 4)
    samples.absorb(np.repeat(np.arange(5), counts), 5)
    piece = samples.regroup(counts, into, 2)
    assert piece.shape == (2, size) and np.array_equal(samples.counts, [9, 7]) and samples.turns == 1
    assert (samples.due > samples.counts[:, None]).all()
    for group, members in enumerate(([0, 2, 4], [1, 3])):
        assert_law(piece[group], np.where(np.isin(np.arange(5), members), counts, 0.0))
    group, sample, item = samples.absorb(np.array([0, 1, 0, 1, 1]), 2)
    held = piece.copy()
    held[group, sample] = 5 + item
    weights = np.concatenate([counts, np.ones(5)])
    laws = [np.where(np.isin(np.arange(10), members), weights, 0) for members in ([0, 2, 4, 5, 7], [1, 3, 6, 8, 9])]
    for its, law in zip(held, laws, strict=True):
        assert_law(its, law)
        assert_independent(its[::2], its[1::2], law)
    assert_independent(*held, *laws)
    again = samples.regroup(samples.counts, np.array([0, 0]), 1)[0]  # its draws are new ones
    assert_independent(held[0], again, laws[0], np.array([11.0, 10.0]))
    assert_independent(piece[1], again, np.where(np.isin(np.arange(5), [1, 3]), counts, 0), np.array([11.0, 10.0]))


def test_regrouping_nothing() -> None:
    samples = GroupSamples(3, 0, 0)
    assert samples.regroup(np.zeros(0, np.int64), np.zeros(0, np.int64), 0).shape == (0, 3)
    assert samples.counts.shape == (0,) and samples.due.shape == (0, 3)
    group, _, item = samples.absorb(np.array([0, 0]), 1)
    assert (group == 0).all() and len(item) == 3
