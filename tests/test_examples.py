"""What the documentation describes as public has an example, and every example runs and prints what is shown."""

from __future__ import annotations

import doctest
import inspect
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs/_ext"))
from generate import public  # noqa: E402

NAMES = [name for names in public().values() for name in names]
RESULTS = ("Partial", "Hardness", "SparseColumns", "Verdict", "Instance", "Model")  # shown where they are given back
PARTS = ("Trial", "Probability", "Exact", "Mean", "Growth", "Assumption", "Drop", "Sabotage", "Vacuity", "Search")
"""Shown in the example of a `Claim`, which they are parts of."""


@pytest.mark.parametrize("name", NAMES)
def test_examples_print_what_is_shown(name, tmp_path, monkeypatch):
    if "transformers" in name:
        pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    module, _, last = name.rpartition(".")
    thing = getattr(import_module(module), last)
    tests = doctest.DocTestFinder(recurse=False).find(inspect.unwrap(thing), name, globs={})
    examples = [example for test in tests for example in test.examples]
    assert bool(examples) != (last in RESULTS + PARTS)
    reported: list[str] = []
    runner = doctest.DocTestRunner()
    for test in tests:
        runner.run(test, out=reported.append)
    assert not runner.failures, "".join(reported)
