"""Worst instances for SubGen: the sizes of a known law, and the instances on record against drawn ones."""

import numpy as np
import pytest

from sublinattn.lab.run import Run
from sublinattn.methods.subgen.claims import hard_instances as hard
from sublinattn.methods.subgen.studies import worst_streams
from sublinattn.theory.search import last_miss


def test_last_miss_is_the_largest_size_whose_error_is_too_large():
    assert last_miss(lambda m: 100 / m, start=1000) == pytest.approx(100, rel=0.09)
    assert last_miss(lambda m: 2.0 * (40 <= m <= 60), start=500) == pytest.approx(58, abs=3)  # fewer miss it, too
    assert last_miss(lambda m: 0.5, start=50) == 0


def test_slots_of_a_value_of_one_norm_follow_the_clt():
    # One column of signs, equal logits: z is a mean of s signs, and a tenth of them exceed 1.645 / sqrt(s).
    terms = np.random.default_rng(0).choice([-1.0, 1.0], size=(hard.KEPT, 1))
    size = hard.size_of(lambda z: abs(z[:, 0]), terms, 0.2)
    assert size == pytest.approx((1.645 / 0.2) ** 2, rel=0.25)


def test_instances_on_record_are_harder_than_drawn_ones_and_keep_the_bounds():
    rows = worst_streams.measure(Run(backend="numpy"))
    medians = rows.groupby(["part", "instance"])["ratio"].median()
    assert medians["slots", "adversary"] > 5 > 3 > medians["slots", "drawn"] > 0.3
    assert medians["samples", "adversary"] > 2 * medians["samples", "drawn"]
    assert (rows["ratio"] <= rows["bound"]).all()


@pytest.mark.parametrize("part", hard.RATIOS)
def test_a_climb_does_not_fall(part):
    ratio, start = hard.RATIOS[part]
    first = hard.within(start(np.random.default_rng(4)))
    end = hard.worst(np, part, first, np.random.default_rng(0), steps=10)
    draws = [int(one) for one in np.random.default_rng(0).integers(2**31, size=3)]
    before, after = (min(ratio(np, a, draws=one).ratio for one in draws) for a in (first, end))
    assert after >= before
