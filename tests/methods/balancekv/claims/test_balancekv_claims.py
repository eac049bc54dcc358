"""The trials of BalanceKV's claims measure what they say, and what is broken shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sublinattn.methods.balancekv.claims import algorithm2_bias, setting, theorem33, theorem34


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_probabilities_of_all_sequences_sum_to_one_and_are_those_of_drawn_walks(xp: Any) -> None:
    """Frequencies of 20000 drawn walks beside the enumerated probabilities, at 5 standard deviations."""
    x, n, draws = setting.Batch(rng(), 4, spread=0.5), 4, 20000
    probability, uniform = setting.sequences(x.kernel, 1.3, "nothing")
    assert probability.sum() == pytest.approx(1)
    every = setting.taken(xp, x.kernel, uniform, 1.3, "nothing")
    drawn = setting.taken(xp, x.kernel, rng(1).uniform(size=(draws, n)), 1.3, "nothing")
    for signs, p in zip(every, probability, strict=True):
        assert abs((drawn == signs).all(axis=1).mean() - p) <= 5 * np.sqrt(p * (1 - p) / draws) + 1e-12


@pytest.mark.parametrize("broken", ["nothing", "coins", "reversed", "first sign", "floor"])
def test_a_wrong_walk_takes_the_signs_of_its_own_chances(xp: Any, broken: str) -> None:
    x = setting.Batch(rng(2), 5, spread=1.0)
    probability, uniform = setting.sequences(x.kernel, 2.0, broken)
    signs = setting.taken(xp, x.kernel, uniform, 2.0, broken)
    certain = probability > 0
    assert len(np.unique(signs[certain], axis=0)) == certain.sum() and probability.sum() == pytest.approx(1)


def test_bias_shows(xp: Any) -> None:
    case = {"n": 8, "c": 2.0, "spread": 0.5}
    for broken in ("first sign", "floor"):
        trial = algorithm2_bias.mean_signed_sums(rng(), xp, **case, broken=broken)
        assert trial.measured > 1e-6 * trial.scale
    paper = algorithm2_bias.mean_of_the_part(rng(), xp, **case, pairs=False)
    assert paper.measured > 1e-2 * paper.scale and paper.facts["normaliser"] < 0.95
    assert algorithm2_bias.mean_of_the_part(rng(), xp, **case).measured < 1e-12 * paper.scale


def test_sub_gaussian_moment_is_that_of_two_tokens_by_hand(xp: Any) -> None:
    """Two equal tokens, c = 2: the signs differ with probability 3/4, so that w is 0, and else twice f."""
    trial = theorem33.exponential_moment(rng(), xp, n=2, spread=0.0, size=0.7)
    f = 0.7 / (2 / np.sqrt(3))  # <f, u> where sigma |u| = 0.7
    assert trial.measured == pytest.approx(np.log(0.75 + 0.25 * np.cosh(2 * f)) / (0.7**2 / 2))


def test_walks_that_do_not_look_leave(xp: Any) -> None:
    far = [theorem33.farthest(rng(i), xp, n=512, spread=0.0, paper=False, broken="coins").measured for i in range(5)]
    near = [theorem33.farthest(rng(i), xp, n=512, spread=0.0, paper=False).measured for i in range(5)]
    assert np.median(far) > 1 > max(near)


def test_lost_tokens_show_where_pairs_are_kept(xp: Any) -> None:
    case = {"n": 300, "batch": 8, "caches": 2, "pairs": True}
    assert theorem34.counted(rng(), xp, **case).measured == pytest.approx(1)
    assert max(theorem34.counted(rng(i), xp, **case, lost=True).measured for i in range(5)) > 1 + 1e-6


def test_coins_need_larger_batches(xp: Any) -> None:
    case = {"variable": "varepsilon", "eps": 0.06, "pairs": False}
    walk, coins = (
        np.median([theorem34.critical_batch(rng(i), xp, **case, coins=coins).measured for i in range(3)])
        for coins in (False, True)
    )
    assert 1.5 * walk < coins < 20 * walk
