"""The trials on the causal normaliser: broken recursions show, and the squares that are noted cover the triangle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sublinattn.methods.hyperattention.claims.algorithm4_normaliser import NOTING, causal_error, causal_mean
from sublinattn.methods.hyperattention.estimators import practical_estimator

SIZES: dict[str, Any] = {"n": 13, "block_size": 2, "sample_size": 3}


@pytest.mark.parametrize("change", [{"variant": "no weight"}, {"variant": "own block counted"}])
def test_bias_shows(xp: Any, change: dict[str, str]) -> None:
    assert causal_mean(np.random.default_rng(0), xp, **SIZES, exact_keys=1).measured < 1e-12
    assert causal_mean(np.random.default_rng(0), xp, **SIZES, exact_keys=1, **change).measured > 0.1


def test_every_row_of_every_square_is_noted_once() -> None:
    """16 rows, leaves of 2, three levels: half of the rows at each, in each of two heads."""
    q, k, v = np.random.default_rng(1).standard_normal((3, 2, 16, 4))
    sizes: dict[str, Any] = {"block_size": 2, "sample_size": 3, "make_estimator": practical_estimator}
    problem = NOTING["paper"](np, q, k, v, scale=1.0, shift=False, rng=np.random.default_rng(0), **sizes)
    problem.causal(0)
    assert sum(map(len, problem.errors)) == 2 * 3 * 8


@pytest.mark.parametrize("recursion", ["top left out", "square added twice"])
@pytest.mark.parametrize("estimator", ["practical", "theory"])
def test_broken_recursions_exceed_their_squares(xp: Any, estimator: str, recursion: str) -> None:
    sizes: dict[str, Any] = {"n": 70, "block_size": 4, "sample_size": 20, "estimator": estimator}
    sound = causal_error(np.random.default_rng(2), xp, **sizes)
    broken = causal_error(np.random.default_rng(2), xp, **sizes, recursion=recursion)
    assert sound.measured <= sound.bound and broken.measured > broken.bound
