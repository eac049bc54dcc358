"""Worst instances on record: within their limits, harder than workloads, and what is measured on them."""

import numpy as np
import pytest

from sublinattn.lab.run import Run
from sublinattn.methods.hyperattention.claims import hard_instances as hard
from sublinattn.methods.hyperattention.studies import worst_instances


@pytest.mark.parametrize(("kappa", "alpha"), worst_instances.LIMITS)
def test_instances_on_record_keep_their_limits(kappa, alpha):
    x = hard.reference(worst_instances.record()[f"approxd {kappa} {alpha}"])
    assert 0.9 * alpha < x.facts["alpha"] <= alpha
    assert 0.9 * kappa < hard.kappa_of(np, x) <= kappa


def test_they_need_more_samples_than_workloads_and_less_growth_than_the_lemma_allows():
    rows = worst_instances.approxd(Run(backend="numpy"))
    medians = rows.groupby(["instance", "limit_kappa", "limit_alpha"])["size"].median()
    assert (medians["adversary"] > 2.5 * medians["workload"]).all()
    fitted = worst_instances.exponents(rows)
    assert (fitted["exponent"] > 0.4).all() and (fitted["exponent"] < fitted["theory"]).all()


def test_exponents_are_those_of_a_power_law():
    rows = worst_instances.approxd(Run(backend="numpy"))
    rows["size"] = rows["limit_kappa"] ** 3.0 * rows["limit_alpha"] ** 0.5
    rows[["kappa", "alpha"]] = rows[["limit_kappa", "limit_alpha"]]
    fitted = worst_instances.exponents(rows)["exponent"]
    assert fitted.to_dict() == pytest.approx({"kappa": 3.0, "alpha": 0.5})


def test_the_product_comes_near_markovs_inequality():
    ratios = worst_instances.product(Run(backend="numpy"))["ratio"]
    assert ratios["adversary"] > 4 > 2.5 > ratios["Gaussian"] > 0.3
    assert ratios["adversary"] <= 10


def test_a_climb_reaches_more_and_stays_within_the_limits():
    start = hard.hidden(np.random.default_rng(0), 3.9, 7.8)
    end = hard.worst_for_approxd(np, start, np.random.default_rng(1), steps=12, kappa=4, alpha=8)
    before, after = (
        hard.approxd_size(np, a, kappa=4, alpha=8, draws=0, trials=10).ratio for a in (hard.within(start), end)
    )
    assert after > 0.7 * before > 0
    assert hard.approxd_size(np, end, kappa=1.1, alpha=8, draws=0, trials=10).ratio < -1


def test_what_is_kept_is_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(worst_instances, "RECORD", tmp_path / "record.npz")
    arrays = hard.within({"q": np.ones((3, 2)) / 3, "k": np.eye(3)})
    worst_instances.keep({"approxd 4 16": arrays})
    worst_instances.record.cache_clear()
    found = worst_instances.record()["approxd 4 16"]
    worst_instances.record.cache_clear()
    assert all(np.array_equal(arrays[name], found[name]) for name in arrays)
