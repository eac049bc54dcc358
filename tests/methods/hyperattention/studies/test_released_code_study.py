"""The comparison with the released estimators: same inputs, yardsticks, and the biases that the claims say."""

from __future__ import annotations

import pytest

from sublinattn.lab.run import Run
from sublinattn.methods.hyperattention.studies import released_code


def test_errors_have_the_yardsticks_and_the_known_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "pick", lambda self, **sizes: (256, 2))
    rows = released_code.errors(Run(backend="numpy"))
    assert rows.groupby(["input", "mask", "budget"])["method"].nunique().eq(7).all()
    table = released_code.summary(rows)
    assert table.xs("exact", level="method")["error"].max() < 1e-5
    assert table.xs("hyper practical", level="method")["relative"].eq(1).all()
    normaliser = table["normaliser"].unstack("method")
    assert normaliser[["exact", "uniform", "zero"]].isna().all(axis=None)
    assert (
        (normaliser["sampled, kernel"] > 1.02).loc[["no mask", "causal"], "clustered"].all()
    )  # the block counts twice
    assert normaliser.loc[("no mask", "Gaussian, values + 2"), "first keys"] < 0.8  # weight 1 outside the block
    assert len(released_code.draw(rows).axes) == 6
