"""The trials that read HyperAttention's draws off its outputs: draws that are handed in are what they report."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from sublinattn.methods.hyperattention.claims import draws
from sublinattn.methods.hyperattention.estimators import SharedSample, TheoryDraws, TheorySample

HEADS = 20


def as_table(drawn: np.ndarray) -> np.ndarray:
    return (drawn[:, :, None] == np.arange(draws.N)).any(axis=1)


def handed_in(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return tuple(rng.integers(draws.N, size=(HEADS, draws.M)) for _ in range(3))


def test_shared_sample_is_read_back(xp: Any) -> None:
    rng = np.random.default_rng(0)
    positions = np.stack([rng.permutation(draws.N)[: draws.M] for _ in range(HEADS)])
    seen = draws.shared_keys(rng, xp, HEADS, [0, 0], partial(SharedSample, positions=positions))
    np.testing.assert_array_equal(seen, as_table(positions))


@pytest.mark.parametrize("draw", ["product's keys", "normaliser's keys"])
def test_keys_of_the_theory_are_read_back(xp: Any, draw: str) -> None:
    rng = np.random.default_rng(1)
    queries, uniform, by_norm = handed_in(rng)
    drawn = TheoryDraws(queries, uniform, by_norm, np.full(by_norm.shape, 0.1))
    how = {"product's keys": {"kappa": 1.0, "eps": 1.0}, "normaliser's keys": {"kappa": 1e12, "eps": 1e9}}[draw]
    seen = draws.DRAWS[draw][0](rng, xp, HEADS, [0, 0], partial(TheorySample, draws=drawn, **how))
    np.testing.assert_array_equal(seen, as_table(by_norm if draw == "product's keys" else uniform))


@pytest.mark.parametrize("marked", [[0, 0], [7, 3]])
def test_test_queries_are_read_back(xp: Any, marked: list[int]) -> None:
    rng = np.random.default_rng(2)
    queries, uniform, by_norm = handed_in(rng)
    drawn = TheoryDraws(queries, uniform, by_norm, np.full(by_norm.shape, 0.1))
    seen = draws.tau_queries(rng, xp, HEADS, marked, partial(TheorySample, draws=drawn, kappa=1.0, eps=1e-9))
    expected = as_table(queries)
    for head in range(HEADS):
        assert seen[head, marked[head % 2]] == expected[head, marked[head % 2]]


def test_probability_of_sets() -> None:
    """Against all samples and, with replacement, against a simulation-free enumeration at the claim's sizes."""
    grid = np.stack(np.meshgrid(*[np.arange(draws.N)] * draws.M, indexing="ij")).reshape(draws.M, -1)
    weights = draws.SIZES[::-1] ** 2 / (draws.SIZES**2).sum()  # of odd heads
    probability = weights[grid].prod(axis=0)
    for items in ([0], [2, 3]):
        held = np.all([(grid == item).any(axis=0) for item in items], axis=0)
        assert draws.with_replacement(items, 1, draws.SIZES**2) == pytest.approx(probability[held].sum(), rel=1e-9)
        assert draws.with_replacement(items, 0) == pytest.approx(held.mean(), rel=1e-9)
    assert draws.without_replacement([2, 3], 0) == pytest.approx(4 * 3 / (8 * 7))
