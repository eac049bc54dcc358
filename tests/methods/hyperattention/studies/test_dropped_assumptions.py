"""What each assumption is worth: both variants and every yardstick are there, on the same input at the same budget."""

import pytest

from sublinattn.lab.run import Run
from sublinattn.methods.hyperattention.studies import dropped_assumptions


@pytest.fixture(scope="module")
def rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "pick", lambda self, **_: 8)
        return dropped_assumptions.measure(Run(backend="numpy"))


def test_every_assumption_is_tried_with_every_yardstick(rows):
    counts = rows.groupby(["assumption", "variant"]).size().unstack("variant")
    assert len(counts) == 5 and (counts[["kept", "dropped", "uniform"]] == 8).all(axis=None)
    assert (counts[["zero", "exact"]] == 1).all(axis=None)
    assert rows.loc[rows["variant"] == "exact", "error"].max() < 1e-5
    equal = rows[~rows["variant"].isin(["zero", "exact"])].groupby("assumption")[["input", "budget"]].nunique()
    assert (equal == 1).all(axis=None)


def test_a_lost_assumption_costs_and_failures_are_counted(rows):
    errors = rows.groupby(["assumption", "variant"])["error"].median().unstack("variant")
    for assumption in (
        "sinks in the exact part",
        "kappa is known (told 1 instead)",
        "enough samples (a tenth instead)",
    ):
        assert errors["dropped"][assumption] > 2 * errors["kept"][assumption]
    rates = dropped_assumptions.failure_rates(rows).set_index(["assumption", "variant"])
    unknown = rates.loc["kappa is known (told 1 instead)"]
    assert unknown["rate"].drop("uniform").to_dict() == {"kept": 0, "dropped": 1, "zero": 1, "exact": 0}
    assert unknown["low"]["dropped"] < 1 == unknown["high"]["dropped"] and unknown["low"]["zero"] == 1
