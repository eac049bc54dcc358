"""Parameters of the notebooks: what is taken and what is refused, and that cells, page and table agree."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import papermill
import pytest
import toys
from matplotlib.figure import Figure
from papermill.exceptions import PapermillExecutionError

from sublinattn.lab import parameters
from sublinattn.lab.comparison import error_over_bytes
from sublinattn.lab.comparison.batch import BATCH
from sublinattn.lab.parameter_table import NOTEBOOKS
from sublinattn.lab.run import Run
from sublinattn.lab.shared_parameters import COMMON, INPUTS, METHODS, STREAMS, Parameter
from sublinattn.lab.workloads import inputs

ROOT = Path(__file__).parents[2]
STEM = "03-spectral-error"
PAGE = "see docs/parameters.md"
"""Where a choice is too long for a line."""
N = Parameter("n", int, "tokens", 16, 64)
EPS = Parameter("eps", float, "largest error", 0.1, 0.9)
GRID = N.but(several=True)
WORDS = Parameter("words", str, "some words", choices=("one", "two, three", "four"), several=True)


@pytest.mark.parametrize(
    ("parameter", "given", "value"),
    [
        (N, None, None),
        (N, 32, 32),
        (N, 16.0, 16),
        (N, "64", 64),
        (EPS, 0.5, 0.5),
        (EPS.but(least=0, most=None), 7, 7.0),
        (GRID, 16, (16,)),
        (GRID, "16, 32", (16, 32)),
        (GRID, [64, 16], (64, 16)),
        (WORDS, "two, three", ("two, three",)),
        (WORDS, "four,one", ("four", "one")),
    ],
)
def test_what_a_parameter_takes(parameter, given, value):
    read = parameters.read(parameter, given)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("parameter", "given", "words"),
    [
        (N, 15, "n (tokens) takes a whole number from 16 to 64, got 15"),
        (N, 65, "got 65"),
        (N, 16.5, "got 16.5"),
        (N, True, "got True"),
        (N, "many", "got 'many'"),
        (N, [16, 32], "got [16, 32]"),
        (N.but(default=16), None, "got None"),
        (EPS, float("nan"), "eps (largest error) takes a number from 0.1 to 0.9, got nan"),
        (GRID, [16, 16], "takes one or several whole numbers from 16 to 64, got a value twice in [16, 16]"),
        (GRID, [], "got nothing"),
        (GRID, "16,x", "got '16,x'"),
        (WORDS, "for", "words (some words) takes any of one, two, three, four, got 'for'; did you mean 'four'?"),
        (Parameter("text", str, "a file"), 3, "text (a file) takes a text, got 3"),
    ],
)
def test_what_it_refuses_and_says(parameter, given, words):
    with pytest.raises(ValueError) as refused:
        parameters.read(parameter, given)
    assert str(refused.value).endswith(words)


def test_cells_and_page_are_those_of_the_table():
    done = subprocess.run([sys.executable, ROOT / "scripts" / "parameters", "--check"], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == NOTEBOOKS.keys()


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_papermill_shows_name_type_default_and_comment_of_every_parameter(stem):
    shown = papermill.inspect_notebook(ROOT / "notebooks" / f"{stem}.ipynb")
    known = {each.name: each for each in (*COMMON, *NOTEBOOKS[stem])}
    assert list(shown) == list(known)
    for name, parameter in known.items():
        assert shown[name]["inferred_type_name"] == parameters.annotation(parameter)
        assert shown[name]["default"].strip('"') == str(parameter.default)
        assert shown[name]["help"].endswith((parameter.meaning, parameters.takes(parameter), PAGE))


def test_a_command_says_again_what_was_given_and_no_defaults():
    given = {"effort": "smoke", "n": 512, "inputs": ["sinks", "real"], "d": None}
    assert parameters.options("02-hardness", given) == """ --param n=512 --param 'inputs=["sinks", "real"]'"""
    assert parameters.options(None, given) == ""


def test_choices_are_what_there_is():
    assert set(INPUTS.choices) == inputs.INPUTS.keys()
    assert tuple(error_over_bytes.STREAMS) == STREAMS
    assert {"uniform", *METHODS.choices} == {name.split(",")[0] for name in BATCH}


# ------------------------------------------------------------------------------------------------------------ in a run
def test_a_run_has_what_is_given_and_else_the_default(tmp_path):
    run = Run(notebook=STEM, knobs={"n": 128, "budgets": "32,64", "own": [1]})
    assert run.given("n", 7) == 128 and run.given("budgets", ()) == (32, 64)
    assert run.given("d", 7) == Run().given("d", 7) == 7 and run.knobs["own"] == [1]
    with pytest.raises(ValueError, match=r"n \(tokens\) takes a whole number from 64 to 16384, got 'x'"):
        Run(notebook=STEM, knobs={"n": "x"})


def test_the_cell_of_a_notebook_makes_its_run():
    names: dict = {}
    exec(parameters.cell(STEM), names)
    run = Run.of(STEM, {**names, "n": 256, "seed": 3, "rows": "of another cell"})
    assert (run.seed, run.notebook, run.knobs["n"], run.knobs["d"]) == (3, STEM, 256, None)
    with pytest.raises(ValueError, match="seed .* takes a whole number from 0 on, got -1"):
        Run.of(STEM, {**names, "seed": -1})
    with pytest.raises(ValueError, match="backend .* got 'cup'; did you mean 'cupy'"):
        Run.of(STEM, {**names, "backend": "cup"})
    with pytest.raises(ValueError, match="sets no 'budgets', as it should: budgets: list"):
        Run.of(STEM, {name: value for name, value in names.items() if name != "budgets"})
    with pytest.raises(ValueError, match="no notebook is named '03-spectral'; did you mean '03-spectral-error'"):
        Run.of("03-spectral", names)


def test_figure_and_rows_carry_what_was_given_and_nothing_else(tmp_path):
    run = Run(backend="numpy", out=tmp_path, notebook=STEM, knobs={"n": 128, "d": None, "budgets": [32, 64]})
    run.publish(Figure(), "one", pd.DataFrame({"n": [100], "error": [1.0]}), caption="c", measured="error", by=("n",))
    sidecar = json.loads((tmp_path / "figures" / "one.json").read_text())
    assert sidecar["params"] == {"effort": "smoke", "notebook": STEM, "n": 128, "budgets": [32, 64]}
    assert sidecar["swept"] == ["error", "n"]
    rows = pd.read_parquet(tmp_path / "rows" / "one.parquet")
    assert rows.to_dict("list") == {"n": [100], "error": [1.0], "budgets": ["32, 64"]}


def test_a_default_adds_no_column(tmp_path):
    run = Run(backend="numpy", out=tmp_path, notebook="22-your-own-claim", knobs={"n": 256, "d": 8})
    run.publish(Figure(), "one", pd.DataFrame({"x": [1]}), caption="c")
    assert list(pd.read_parquet(tmp_path / "rows" / "one.parquet")) == ["x", "d"]


@pytest.fixture
def notebook(tmp_path):
    """A notebook of the name and with the parameters of a real one, which measures nothing."""
    path = toys.notebook(
        tmp_path / f"{STEM}.ipynb",
        f"from sublinattn.lab.run import Run\nrun = Run.of({STEM!r}, globals())",
        "print('measured with', {name: value for name, value in run.knobs.items() if value is not None})",
        parameters="\n".join(map(parameters.line, NOTEBOOKS[STEM])),
    )
    return lambda **given: papermill.execute_notebook(path, None, given, kernel_name="python3", progress_bar=False)


def test_plain_papermill_sets_parameters(notebook):
    printed = notebook(n=4096, budgets="64,128").cells[-1].outputs[0].text
    assert printed == "measured with {'n': 4096, 'budgets': (64, 128)}\n"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"nn": 4096}, "notebook 03-spectral-error has no parameter 'nn'; did you mean 'n'?; it has"),
        ({"n": 4}, "n (tokens) takes a whole number from 64 to 16384, got 4"),
    ],
)
def test_plain_papermill_stops_at_a_wrong_one_before_anything_is_measured(notebook, given, words):
    with pytest.raises(PapermillExecutionError) as stopped:
        notebook(**given)
    assert words in stopped.value.evalue
    assert stopped.value.exec_count == 3  # the cell after the parameters, and those that papermill adds


@dataclass
class Shell:
    """What is read of IPython's shell."""

    user_ns: dict = field(default_factory=dict)


def test_a_cell_run_by_hand_is_no_cell_of_papermill(monkeypatch):
    shell = Shell({"In": ["", "effort = 'smoke'\nmine = 3", "# Parameters\nn = 64\nseed = 1\n"]})
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    Run(notebook=STEM, knobs={"n": 64})
    shell.user_ns["In"].append("# Parameters\nsede = 1\n")
    with pytest.raises(ValueError, match="no parameter 'sede'; did you mean 'seed'"):
        Run(notebook=STEM, knobs={"n": 64})
