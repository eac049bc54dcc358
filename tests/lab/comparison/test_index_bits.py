"""Bits told from a cache: what is known counts, guesses do not, and bits alone reach the counting bound."""

import numpy as np
import pytest
from toy_comparison import RUN, small

from sublinattn.lab.comparison import index_bits
from sublinattn.lab.comparison.registry import REGISTRY
from sublinattn.lab.workloads import bits, make
from sublinattn.theory import CLAIMS, verify

CLAIM = CLAIMS["ho25.counting"]


def test_bits_of_answers_of_known_quality():
    x = make("index", 64, 32, rng=0, d_v=2)
    assert bits.decoded(x, x.v) == (1.0, 128.0)
    assert bits.decoded(x, -x.v) == (0.0, 0.0)  # always wrong is no worse than a coin
    half = x.v.copy()
    half[:32] = -half[:32]
    assert bits.decoded(x, half) == (0.5, 0.0)
    few = x.v.copy()
    few[:16, 0] = -few[:16, 0]
    entropy = -(1 / 8) * np.log2(1 / 8) - (7 / 8) * np.log2(7 / 8)
    assert bits.decoded(x, few) == pytest.approx((7 / 8, 128 * (1 - entropy)))
    assert bits.decoded(x, 0 * x.v)[0] == (x.v > 0).mean()  # 0 counts as 1


def test_the_bits_alone_fill_their_bytes():
    x = make("index", 64, 32, rng=0, d_v=2)
    np.testing.assert_array_equal(bits.packed(x, 16), x.v)
    part = bits.packed(x, 5)
    np.testing.assert_array_equal(part.ravel()[:40], x.v.ravel()[:40])
    assert (part.ravel()[40:] == 1).all()


def test_every_cache_is_measured_and_none_beats_the_bound(monkeypatch):
    small(monkeypatch, **{"1024": 512, "3": 2})
    rows = index_bits.over_bytes(RUN)
    caches = [name for name, contender in REGISTRY.items() if not contender.hindsight]
    assert set(rows["method"]) == {"exact", "zero", bits.PACKED, *caches}
    assert (rows["bits"] <= 8 * rows["nbytes"] + 1 + np.log2(1e6)).all()
    assert ((rows["nbytes"] > 0) == (rows["method"] != "zero")).all()
    told = rows.groupby("method")[["right", "bits"]].min()
    assert told.loc["exact"].tolist() == told.loc[bits.PACKED].tolist() == [1, 512]
    half = rows[(rows["method"] == "uniform") & (rows["share"] == 1 / 2)]
    assert half["right"].between(0.6, 0.9).all()  # half of the tokens known, a coin for the others
    factors = index_bits.from_the_bound(rows)
    assert factors.loc[bits.PACKED].dropna().tolist() == [1]
    assert factors.loc["exact"].dropna().iloc[0] >= 8 * 65 * 4
    assert len(index_bits.draw(rows).axes) == 2


def test_the_claim_stands_and_catches_what_peeks():
    verdict = verify(CLAIM, rng=3)
    assert verdict.outcome == "supported" and all(sabotage.caught for sabotage in verdict.sabotages)
