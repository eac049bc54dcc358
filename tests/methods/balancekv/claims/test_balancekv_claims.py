"""The trials of BalanceKV's claims measure what they say, and what is broken shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sublinattn.methods.balancekv.claims import algorithm2_bias, setting, theorem31, theorem33, theorem34


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


def test_errors_are_in_the_unit_of_equation_2() -> None:
    """Two tokens, one query at equal logits: softmax (1/2, 1/2), of norm 2^-1/2, and ||V||_F = 5."""
    q, k, v = np.zeros((1, 2)), np.zeros((2, 2)), np.array([[3.0, 0.0], [0.0, 4.0]])
    found = theorem31.in_unit(q, k, v, np.array([[1.5, 3.0]]), 1.0)
    assert found == pytest.approx(1 / (np.sqrt(0.5) * 5))


def test_the_batch_without_buckets_is_the_largest_that_fits() -> None:
    for slots, n in ((60, 100), (333, 2048), (1000, 64)):
        batch = theorem31.batch_within(slots, n)
        used = [setting.Cache(t).update(*np.zeros((2, n, 1))).nbytes // 24 for t in (batch, batch + 2)]
        assert used[0] <= slots < used[1]


def test_long_values_are_lost_without_classes(xp: Any) -> None:
    case = {"n": 512, "batch": 16, "pairs": True}
    trials = {one: [theorem31.heavy_values(rng(i), xp, **case, one_class=one) for i in range(5)] for one in (0, 1)}
    assert np.median([x.measured for x in trials[0]]) < np.median([x.measured for x in trials[1]])
    assert all(0.9 < x.facts["bytes"] <= 1 for x in trials[0])


def test_coins_fall_more_slowly(xp: Any) -> None:
    error = {
        (coins, t): np.mean([theorem31.error_over_batch(rng(i), xp, variable="t", batch=t, coins=coins).measured
                             for i in range(4)])
        for coins in (False, True) for t in (16, 128)
    }  # fmt: skip
    assert error[True, 128] / error[True, 16] > 1.5 * error[False, 128] / error[False, 16]
