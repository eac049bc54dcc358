"""All batch methods at equal budgets: every method and yardstick is there, and uniform sampling is the unit."""

import numpy as np

from sublinattn.lab.comparison.batch import BATCH
from sublinattn.lab.run import Run
from sublinattn.lab.workloads.inputs import PLANTED
from sublinattn.methods.baselines.studies import equal_budget


def test_every_method_and_yardstick_is_measured_and_drawn():
    rows = equal_budget.measure(Run(backend="numpy"), inputs=(PLANTED,))
    assert set(rows["method"]) == {"exact", "answering zero", *BATCH}
    assert rows.loc[rows["method"] == "exact", "error"].max() < 1e-5
    assert rows["error"].notna().all() and rows.groupby(["method", "budget"]).size().eq(3).all()
    table = equal_budget.compare(rows)
    assert (table.loc["uniform"] == 1).all() and "exact" not in table.index
    assert (table.loc["Reformer"] < 0.6).all()  # its hash finds the pairs
    panel = equal_budget.draw(rows).axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["answering zero", *BATCH]


def test_costs_are_over_those_of_exact_attention():
    costs = equal_budget.costs(Run(backend="numpy"), n=1024, budget=256)
    assert costs.loc["uniform", "operations / exact's"] == 0.25
    assert (costs["operations / exact's"] >= 0.25).all() and not np.isnan(costs["operations / exact's"]).any()
    assert costs.loc["Nystrom", "parameters"] == "landmarks 128"
    assert costs["bytes / of q, k, v"].between(0.3, 100).all()  # the answer is a third; no n x n matrix is held
