"""What the verdicts' rows say of dropped assumptions and sabotages: read, not measured again."""

from dataclasses import replace

import pandas as pd
import pytest

from sublinattn.lab.comparison import drops_and_sabotages
from sublinattn.lab.run import Run
from sublinattn.theory import CLAIMS
from sublinattn.theory.claim import Exact, Mean, Probability

CHECKED = ("ha24.lsh-collision", "ha24.gray-adjacency", "ha24.lemma2")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose folder holds verdicts on an expectation, an identity and a growth."""
    run = Run(backend="numpy", out=tmp_path_factory.mktemp("dropped"))
    run.check(*CHECKED)
    return run


def trials(*lines):
    return pd.DataFrame(lines, columns=["measured", "bound", "scale"])


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (Exact("==", rtol=0.1), (1.9, 2.0, 1.1), (2.2, 2.0, 1.0)),
        (Exact("<=", rtol=0.0), (1.0, 2.0, 1.0), (2.1, 2.0, 1.0)),
        (Mean(0.1), (0.75, 0.5, 0.1), (0.76, 0.5, 0.1)),  # 2.576 standard deviations hold 99 percent
        (Probability(0.1), (2.0, 2.0, 1.0), (2.1, 2.0, 1.0)),
    ],
)
def test_a_trial_fails_where_the_claim_does_not_allow_it(kind, inside, outside):
    changed = replace(CLAIMS["ha24.lsh-collision"], kind=kind)
    assert drops_and_sabotages.failing(changed, trials(inside, outside)).tolist() == [False, True]
    assert drops_and_sabotages.failing(changed, trials((float("nan"), 2.0, 1.0))).all()


def test_rates_are_those_of_the_verdicts_rows_on_otherwise_equal_cases(run):
    rates = drops_and_sabotages.dropped(run).set_index(["claim", "variant"])
    assert set(rates.index) == {(claim, v) for claim in CHECKED[:2] for v in ("kept", "dropped")}
    (drop,) = CLAIMS["ha24.lsh-collision"].drops
    own = CLAIMS["ha24.lsh-collision"].cases["smoke"]
    rows = run.rows("ha24.lsh-collision")
    twin = next(i for i, case in enumerate(own) if case.items() <= drop.cases[0].items())
    kept = rows[(rows["role"] == "claim") & (rows["case"] == twin)]
    assert rates["trials"]["ha24.lsh-collision", "kept"] == len(kept)
    assert rates["rate"]["ha24.lsh-collision", "kept"] < 0.1 < 0.9 < rates["rate"]["ha24.lsh-collision", "dropped"]
    exact = rates.loc["ha24.gray-adjacency"]
    assert (exact["low"] == exact["high"]).all() and exact["rate"].tolist() == [0, 1]


def test_sabotages_come_with_their_trials(run):
    rows = drops_and_sabotages.sabotaged(run).set_index("claim")
    assert set(rows.index) == set(CHECKED) and rows["caught"].all()
    assert rows["kind"].to_dict() == dict(zip(CHECKED, ("mean", "exact", "growth"), strict=True))
    for claim in CHECKED:
        roles = run.rows(claim)["role"]
        assert rows["trials"][claim] == roles.str.startswith("sabotage").sum()
    assert rows["failing"].isna().to_dict() == {claim: claim == "ha24.lemma2" for claim in CHECKED}


def test_places_are_short():
    assert drops_and_sabotages.place(CLAIMS["ha24.amm-explicit"]) == "HA24 Lemma 2"
    assert drops_and_sabotages.place(CLAIMS["ha24.lemma1"]) == "HA24 Lemma 1"
    assert drops_and_sabotages.place(CLAIMS["ha24.yardstick"]) == "HA24 as used here"


def test_only_what_has_no_verdict_is_verified(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Run, "check", lambda self, *claims: asked.extend(claims))
    known = ["ha24.amm-explicit", *(claim for claim in CLAIMS if claim.startswith("rs21."))]
    monkeypatch.setattr(Run, "checked", lambda self: known)
    table = drops_and_sabotages.check_missing(Run(out=tmp_path), "HA24")
    assert {"ha24.lsh-collision", "ha24.unbiased-practical"} < set(asked) and "ha24.amm-explicit" not in asked
    assert all(claim.startswith("ha24.") and CLAIMS[claim].drops for claim in asked)
    assert table["missing"]["RS21"] == "" and "ccf02.variance" in table["missing"]["CCF02"]
    assert table["verdicts"].sum() == len(known) and table["claims"].sum() == len(CLAIMS)
