"""The notebooks as files: parameters, thinness, each claim checked exactly once, beside a figure that exists."""

import ast
import importlib
import inspect
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import papermill
import pytest

import sublinattn
from sublinattn.core.backends import asnumpy
from sublinattn.suite.notebook import marks_of
from sublinattn.theory import CLAIMS
from sublinattn.theory.claim import Trial

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
OWN = "22-your-own-claim"  # it states a claim, and measures it
CONTRACT = {"effort": '"smoke"', "seed": "0", "backend": '"auto"', "out": '"out/by-hand"'}

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(path: Path) -> list[ast.Module]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [ast.parse("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]


def calls(path: Path, name: str) -> list[ast.Call]:
    """Calls of a function of this name, bare or as an attribute."""
    found = [node for tree in code(path) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in found if getattr(call.func, "attr", getattr(call.func, "id", None)) == name]


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((word.value for word in call.keywords if word.arg == name), None)


def checked(path: Path) -> list[str]:
    given = [claim for call in calls(path, "check") for claim in call.args]
    return [ast.literal_eval(claim) for claim in given if path.stem != OWN or not isinstance(claim, ast.Name)]


def published(path: Path) -> list[str]:
    return [ast.literal_eval(call.args[1]) for call in calls(path, "publish")]


def test_each_claim_is_checked_and_each_figure_published_exactly_once():
    claims, figures = (Counter(name for path in NOTEBOOKS for name in names(path)) for names in (checked, published))
    assert len(NOTEBOOKS) > 20 and set(claims) == set(CLAIMS)
    assert {name: times for name, times in (claims + figures).items() if times > 1} == {}


@each_notebook
def test_notebook_is_thin_and_takes_the_parameters_of_all(path):
    parameters = papermill.inspect_notebook(path)
    assert {name: parameters[name]["default"] for name in CONTRACT if name in parameters} == CONTRACT
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.For | ast.While
    nodes = [node for tree in code(path) for node in ast.walk(tree)]
    trial = ["FunctionDef"] if path.stem == OWN else []
    assert [type(node).__name__ for node in nodes if isinstance(node, definitions)] == trial


@each_notebook
def test_functions_of_the_package_take_what_a_notebook_calls_them_with(path):
    nodes = [node for tree in code(path) for node in ast.walk(tree)]
    modules = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("sublinattn"):
            for its in node.names:
                with suppress(ModuleNotFoundError):  # a function, not a module
                    modules[its.asname or its.name] = importlib.import_module(f"{node.module}.{its.name}")
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            module = modules.get(getattr(node.func.value, "id", None))
            unpacked = any(isinstance(x, ast.Starred) for x in node.args) or any(not x.arg for x in node.keywords)
            if module and not unpacked:
                called = inspect.signature(getattr(module, node.func.attr))
                called.bind(*node.args, **{word.arg: word.value for word in node.keywords})


@each_notebook
def test_notebook_passes_its_parameters_on(path):
    if path.stem != OWN:  # whose reader adds parameters of his own
        (made,) = calls(path, "of")
        assert ast.unparse(made) == f"Run.of({path.stem!r}, globals())"
        return
    (run,) = calls(path, "Run")
    assert [ast.unparse(given) for given in run.args] == [*CONTRACT, repr(path.stem)]
    knobs = keyword(run, "knobs")
    passed = {key.value: value.id for key, value in zip(knobs.keys, knobs.values, strict=True)}
    assert passed == {name: name for name in papermill.inspect_notebook(path) if name not in CONTRACT}


@each_notebook
def test_figures_have_captions_rows_and_their_claims_exist(path):
    assert published(path) and len(set(published(path))) == len(published(path))
    for call in calls(path, "publish"):
        assert keyword(call, "caption") is not None and keyword(call, "rows") is not None
        claims = keyword(call, "claim")
        if isinstance(claims, ast.Constant | ast.List):
            named = ast.literal_eval(claims)
            assert ({named} if isinstance(named, str) else set(named)) <= set(CLAIMS)


@each_notebook
def test_notebook_opens_with_what_is_asked(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    opening = "".join(cells[0]["source"])
    assert cells[0]["cell_type"] == "markdown" and opening.startswith("# ") and len(opening) > 300


@each_notebook
def test_symbols_are_named_and_before_each_figure_stands_what_to_see(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    opening, prose = "".join(cells[0]["source"]), ""
    assert "\nSymbols: " in opening or "\n- $" in opening or path.stem == "21-line-retrieval"  # which has none
    for cell in cells:
        prose = "".join(cell["source"]) if cell["cell_type"] == "markdown" else prose
        if cell["cell_type"] == "code" and "run.publish(" in "".join(cell["source"]):
            assert "hat you should see" in prose, prose


def test_only_notebooks_that_read_the_verdicts_of_others_are_last():
    readers = ("drops_and_sabotages.check_missing", "questions.verdicts")
    read = [path.stem for path in NOTEBOOKS if any(reader in path.read_text() for reader in readers)]
    assert [path.stem for path in NOTEBOOKS if marks_of(path)["last"]] == read


def test_the_trial_of_the_own_claim_runs_on_every_array_library_and_meets_its_bound(xp):
    path = next(path for path in NOTEBOOKS if path.stem == OWN)
    (trial,) = (tree for tree in code(path) if any(isinstance(node, ast.FunctionDef) for node in tree.body))
    names = {"np": np, "asnumpy": asnumpy, "hardness": sublinattn.hardness, "Trial": Trial}
    exec(compile(trial, path.name, "exec"), names)
    made = names["alpha_of_logits"](np.random.default_rng(0), xp, n=64, d=4, spread=0.0, sink=2.0)
    assert made.facts == {"n": 64, "R": 2.0}  # a sink without noise, of which the bound is the exact value
    assert made.measured == pytest.approx((64 / (1 + 63 * np.exp(-4))) ** 2) == pytest.approx(made.bound)
