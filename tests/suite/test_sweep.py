"""A sweep: a run per value, one figure and one table over all; without kernels."""

import json
from pathlib import Path

import pandas as pd
import pytest
import toys
from matplotlib.figure import Figure

from sublinattn.core import files
from sublinattn.lab import parameters
from sublinattn.lab.parameter_table import NOTEBOOKS
from sublinattn.lab.run import Run
from sublinattn.suite import sweep
from sublinattn.suite.notebook import Outcome
from sublinattn.suite.progress import Progress

STEM = "03-spectral-error"


class Fake(Progress):
    """Runs no kernel: publishes what a notebook would, an error that is 1/n at budget 32, and 2/n at 64."""

    def __init__(self):
        super().__init__()
        self.ran = []

    def execute(self, job, turns):
        self.ran.append((job.name, job.parameters.get("n"), job.parameters.get("methods")))
        files.write_text(job.output, job.path.read_text())
        given = {name: job.parameters.get(name) for name in ("n", "methods")}
        run = Run(out=job.parameters["out"], backend="numpy", notebook=job.name, knobs=given)
        size = run.given("n", 100)
        rows = [
            (kind, source, 512 if source == "real" else size, method, budget, budget / 32 / size)
            for kind, source in (("a", "synthetic"), ("b", "real"))
            for method in ("uniform", "zero")
            for budget in ((32, 64) if size == 100 else (32, 128))
            for _ in range(3)
        ]
        rows = pd.DataFrame(rows, columns=["input", "source", "n", "method", "budget", "error"])
        run.publish(Figure(), "shown", rows, caption="c", measured="error", by=("method", "input", "budget"))
        run.publish(Figure(), "not-shown", rows, caption="c")
        return Outcome(job.name, "completed", 1.0)


@pytest.fixture
def go(tmp_path, monkeypatch):
    """Sweep over toy notebooks; one has the name and parameters of a real notebook, one has no parameter."""
    monkeypatch.chdir(tmp_path)
    toys.notebook(Path(f"notebooks/{STEM}.ipynb"), parameters="\n".join(map(parameters.line, NOTEBOOKS[STEM])))
    toys.notebook(Path("notebooks/other.ipynb"), parameters="m = 1")

    def go(**options):
        fake = Fake()
        return fake.ran, sweep.run(progress=fake, **options)

    return go


def test_one_run_per_value_of_the_notebooks_that_have_it_and_one_figure_over_all(go):
    ran, result = go(name="n", values=[100, 200, 400])
    assert ran == [(STEM, n, None) for n in (100, 200, 400)]
    assert list(result.results) == ["n=100", "n=200", "n=400"] and result.exit_code == 0
    assert all(Path(f"out/sweep/n={n}/ledger.json").exists() for n in (100, 200, 400))
    assert [path.as_posix() for path in result.figures] == ["out/sweep/figures/sweep-n-shown.png"]
    sidecar = json.loads(Path("out/sweep/figures/sweep-n-shown.json").read_text())
    assert sidecar["params"] == {"notebook": STEM, "n": [100, 200, 400]}
    assert "n (tokens)" in sidecar["caption"] and "budget 32" in sidecar["caption"]
    table = pd.read_csv(result.table)
    assert list(table) == ["figure", "measured", "n", "panel", "line", "median", "10 %", "90 %", "rows"]
    assert set(table["panel"]) == {"a"}  # the other input has its own n, whatever is swept
    assert table.groupby("n")["median"].unique().map(list).to_dict() == {100: [0.01], 200: [0.005], 400: [0.0025]}
    assert (table["rows"] == 3).all()


def test_a_sweep_is_resumed(go):
    go(name="n", values=[100, 200])
    assert go(name="n", values=[100, 200], resume=True)[0] == []
    assert go(name="n", values=[100, 200, 400], resume=True)[0] == [(STEM, 400, None)]


def test_texts_are_swept_too(go):
    ran, result = go(name="methods", values=["Performer", "Nystrom"])
    assert [methods for _, _, methods in ran] == [["Performer"], ["Nystrom"]]
    assert set(pd.read_csv(result.table)["methods"]) == {"Performer", "Nystrom"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "n", "values": [100]}, "two or more values, each once, got n=100"),
        ({"name": "n", "values": [100, 100]}, "each once"),
        ({"name": "n", "values": [100, 3]}, r"n \(tokens\) takes a whole number from 64 to 16384, got 3"),
        ({"name": "n", "values": [100, 200], "parameters": {"n": 3}}, "'n' is swept, so it cannot be set"),
        ({"name": "mm", "values": [1, 2]}, "no selected notebook has a parameter 'mm'; did you mean 'm'"),
        ({"name": "m", "values": [1, 2], "only": "03*"}, "no selected notebook has a parameter 'm'"),
        ({"name": "n", "values": [100, 200], "seeds": 2}, "a sweep runs one seed, got seeds = 2"),
        ({"name": "seed", "values": [1, 2]}, "--seed"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(go, options, words):
    with pytest.raises(ValueError, match=words):
        go(**options)
    assert not Path("out").exists()
