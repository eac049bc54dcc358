"""Spectral error over the budget: every method is there, and exact attention's error is rounding."""

from sublinattn.lab.run import Run
from sublinattn.lab.workloads.inputs import SINKS
from sublinattn.methods.hyperattention.studies import spectral_error


def test_errors_have_every_yardstick():
    rows = spectral_error.measure(Run(backend="numpy"), inputs=(SINKS,))
    assert set(rows["method"]) == {
        *("exact", "zero", "uniform", "hyper practical", "hyper theory"),
        spectral_error.SINKS_EXACT,
    }
    assert rows.loc[rows["method"] == "exact", "error"].max() < 1e-5
