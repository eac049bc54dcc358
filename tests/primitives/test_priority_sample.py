"""Priority sampling: inclusion probabilities by integration, unbiased sums, the threshold, any chunks, exact merges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from sublinattn.primitives.reservoir import PrioritySample, uniforms

WEIGHTS = np.array([5.0, 1.0, 0.0, 2.0, 0.3])
STREAMS = 6000


def plain(draws: list[tuple[int, int, float]], size: int) -> tuple[list[int], float]:
    """Items kept of (stream, number, weight), and the next smallest priority, by sorting all of them."""
    priorities = [float(uniforms(7, s, j)) / w if w else np.inf for s, j, w in draws]
    order = sorted(range(len(draws)), key=priorities.__getitem__)
    kept = [i for i in order[:size] if priorities[i] < np.inf]
    return sorted(kept), priorities[order[size]] if len(draws) > size else np.inf


def taken(sample: PrioritySample, weights: np.ndarray, cuts: list[int]) -> list[int]:
    """Numbers of the items in the slots after the stream, in chunks that begin at the cuts; -1 where there is none."""
    slots = np.full(sample.size, -1)
    for begin, end in zip([0, *cuts], [*cuts, len(weights)], strict=True):
        items = sample.absorb(weights[begin:end])
        slots = np.where(items >= 0, items + begin, slots)
    return slots.tolist()


def drawn(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which items are stored (STREAMS, 5), and how often each counts."""
    stored, counts = np.zeros((STREAMS, 5), bool), np.zeros((STREAMS, 5))
    for stream in range(STREAMS):
        sample = PrioritySample(size, 3, stream)
        kept = [item for item in taken(sample, WEIGHTS, []) if item >= 0]
        stored[stream, kept] = True
        counts[stream, kept] = np.maximum(1, 1 / (sample.threshold * WEIGHTS[kept]))
    return stored, counts


def included(size: int) -> np.ndarray:
    """Probability that each item is stored: fewer than `size` of the others have a smaller priority."""
    found = np.zeros(5)
    for item in np.flatnonzero(WEIGHTS):
        others = np.delete(WEIGHTS, item)

        def chance(u: float, item: int = item, others: np.ndarray = others) -> float:
            number = np.ones(1)  # law of the number of others below u / w
            for p in np.minimum(others * u / WEIGHTS[item], 1):
                number = np.convolve(number, [1 - p, p])
            return float(number[:size].sum())

        breaks = [w / o for w in (WEIGHTS[item],) for o in others if o and w / o < 1]
        found[item] = integrate.quad(chance, 0, 1, points=breaks or None)[0]
    return found


@pytest.mark.parametrize("size", [1, 2, 3])
def test_items_are_stored_as_often_as_integration_says_and_sums_are_unbiased(size: int) -> None:
    """Five frequencies and two sums, each off by 5.2 of its deviations in 2 of 10^7 runs."""
    stored, counts = drawn(size)
    p = included(size)
    assert p.sum() == pytest.approx(size, abs=1e-6) and p[2] == 0
    deviation = np.sqrt(p * (1 - p) / STREAMS)
    assert (abs(stored.mean(axis=0) - p) <= 5.2 * deviation + 1e-12).all()
    for x in (WEIGHTS, np.array([1.0, -2.0, 9.0, 0.5, 4.0])):
        sums, exact = counts @ x, x[WEIGHTS > 0].sum()
        assert abs(sums.mean() - exact) < 5.2 * sums.std() / np.sqrt(STREAMS)
    assert stats.norm.sf(5.2) < 2e-7


@pytest.mark.parametrize("size", [1, 4, 29, 30, 40])
def test_chunks_change_nothing_and_the_threshold_is_the_next_smallest(size: int) -> None:
    weights = np.random.default_rng(0).lognormal(0, 3, 30)
    weights[[0, 1, 7]] = 0
    kept, threshold = plain([(2, j, w) for j, w in enumerate(weights)], size)
    whole = PrioritySample(size, 7, 2)
    slots = taken(whole, weights, [])
    for cuts in (list(range(1, 30)), [1, 2, 13, 14, 29]):
        sample = PrioritySample(size, 7, 2)
        assert taken(sample, weights, cuts) == slots
        np.testing.assert_array_equal(sample.priorities, whole.priorities)
        assert sample.threshold == whole.threshold == threshold
    assert sorted(item for item in slots if item >= 0) == kept


@pytest.mark.parametrize("cut", [1, 3, 15, 28])
@pytest.mark.parametrize("size", [1, 4, 20])
def test_a_merged_sample_is_that_of_the_union(size: int, cut: int) -> None:
    weights = np.random.default_rng(1).lognormal(0, 2, 30)
    weights[5] = 0
    one, two = PrioritySample(size, 7, 0), PrioritySample(size, 7, 1)
    mine, theirs = taken(one, weights[:cut], []), taken(two, weights[cut:], [])
    came = one.merge(two)
    slots = [theirs[i] + cut if i >= 0 else j for i, j in zip(came.tolist(), mine, strict=True)]
    union = [(0, j, w) for j, w in enumerate(weights[:cut])] + [(1, j, w) for j, w in enumerate(weights[cut:])]
    kept, threshold = plain(union, size)
    assert sorted(item for item in slots if item >= 0) == kept and one.threshold == threshold and one.seen == 30
