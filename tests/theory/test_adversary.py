"""The adversary on toy claims: it finds a planted counterexample and none to a truth, and repeats itself exactly."""

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import sympy
import toys

from sublinattn.theory import adversary, verify
from sublinattn.theory.adversary import Search
from sublinattn.theory.claim import Assumption, Exact, Probability, Trial

N = 12
NORM = sympy.Symbol("norm", positive=True)


def softmax_start(rng, **case):
    return {"q": rng.standard_normal((N, 3)), "k": 2 * rng.standard_normal((N, 3))}


def stable_rank(xp, arrays, *, share=1.0):
    """srank(P) against a share of alpha: true for the share 1, with equality at uniform P."""
    p = np.exp(arrays["q"] @ arrays["k"].T)
    p /= p.sum(axis=1, keepdims=True)
    alpha = N * (p**2).sum(axis=0).max()
    srank = (p**2).sum() / np.linalg.norm(p, 2) ** 2
    return Trial(float(srank), float(share * alpha), scale=float(alpha), facts={"norm": np.linalg.norm(arrays["k"])})


def draw(rng, xp, *, share=1.0):
    return stable_rank(xp, softmax_start(rng), share=share)


def bounded(arrays, **case):
    return {name: np.clip(a, -3, 3) for name, a in arrays.items()}


SEARCH = Search(softmax_start, stable_rank, bounded, steps={"smoke": 1000})
TRUE = toys.claim("true", Exact("<="), draw, [{}], 5, sabotages=toys.broken(share=0.01), search=SEARCH)
FALSE = replace(
    TRUE, id="toy.false", cases={"smoke": ({"share": 0.5},)}, search=replace(SEARCH, cases=({"share": 0.5},))
)


@pytest.fixture(autouse=True)
def record(tmp_path, monkeypatch):
    """Instances on record stand elsewhere than beside this file."""
    monkeypatch.setattr(adversary, "place", lambda claim: tmp_path / f"{claim.id}.npz")


def test_a_planted_counterexample_is_found_where_no_trial_sees_it():
    verdict = verify(FALSE)
    assert [case.outcome for case in verdict.cases] == ["supported"]
    assert verdict.outcome == "refuted"
    assert verdict.search.counterexample and verdict.search.ratio > 1
    assert "Search found a counterexample" in verdict.reason
    assert verdict.search.steps < 1000


def test_no_counterexample_to_a_truth_and_its_equality_is_nearly_reached():
    verdict = verify(TRUE)
    assert verdict.outcome == "supported"
    assert 0.9 < verdict.search.ratio <= 1 + 1e-9
    assert verdict.search.instances == 5 and 990 <= verdict.search.steps <= 1000
    assert verdict.reason.startswith("No counterexample in 5 instances and ")
    assert f"(closest: ratio {verdict.search.ratio:.4g})" in verdict.reason
    assert json.loads(json.dumps(verdict.to_dict()))["search"]["counterexample"] is False


def test_without_a_search_the_reason_speaks_of_the_instances():
    assert verify(replace(TRUE, search=None)).reason == "No counterexample in 5 instances."


def test_climbs_depend_on_the_seed_alone():
    one = adversary.seek(TRUE, steps=60, seed=3)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        many = adversary.seek(TRUE, steps=60, seed=3, executor=executor)
    assert one.worst.ratio == many.worst.ratio and one.steps == many.steps
    assert all(np.array_equal(a, many.worst.arrays[name]) for name, a in one.worst.arrays.items())
    assert adversary.seek(TRUE, steps=60, seed=4).worst.ratio != one.worst.ratio


def test_the_search_begins_with_the_instance_on_record():
    long = adversary.seek(TRUE, steps=2000, seed=0).worst
    assert adversary.seek(TRUE, steps=20, seed=1).worst.ratio < long.ratio
    path = adversary.store(TRUE, long)
    written = path.read_bytes()
    again = adversary.stored(TRUE)
    assert adversary.measured(TRUE, again.arrays, again.case).ratio == again.ratio == long.ratio
    assert adversary.seek(TRUE, steps=20, seed=1).worst.ratio >= long.ratio
    adversary.store(TRUE, long)
    assert path.read_bytes() == written


def test_instances_outside_the_assumptions_do_not_count():
    small = Assumption("small keys", NORM <= 6.5)
    claim = replace(TRUE, assumptions=(small,))
    worst = adversary.seek(claim, steps=200, seed=0).worst
    assert worst.ratio > 0 and np.linalg.norm(worst.arrays["k"]) <= 6.5
    away = {"q": np.ones((N, 3)), "k": 9 * np.ones((N, 3))}
    assert adversary.measured(claim, away, {}).ratio == -np.inf


def nothing_is_a_number(xp, arrays, **case):
    return Trial(float("nan"), 1.0)


def test_a_nan_is_a_counterexample_and_an_infinite_instance_is_none():
    claim = replace(TRUE, search=replace(SEARCH, measure=nothing_is_a_number))
    assert adversary.measured(claim, softmax_start(np.random.default_rng(0)), {}).counterexample
    assert not adversary.measured(claim, {"q": np.full((2, 2), np.inf)}, {}).counterexample


def test_only_inequalities_without_exception_are_searched():
    for kind in (Exact("=="), Probability(0.1)):
        with pytest.raises(ValueError, match="inequality without exception"):
            adversary.seek(replace(TRUE, kind=kind), steps=10, seed=0)


@pytest.mark.parametrize("move", adversary.MOVES)
def test_every_move_changes_numbers_and_spares_the_original(move):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((6, 2))
    kept = a.copy()
    moved = [move(rng, a, 0.3) for _ in range(20)]
    assert np.array_equal(a, kept)
    assert all(b.shape == a.shape and np.isfinite(b).all() for b in moved)
    assert any(not np.array_equal(a, b) for b in moved)
