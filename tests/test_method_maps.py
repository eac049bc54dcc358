"""The map in each method's `__init__` names files, functions, claims and notebooks that exist; every claim is on one.

A row says `| in the paper | here | claims | notebook |`: a theorem or algorithm; the file, in the method's folder or
from the package's root, and names in it; ids of claims, where `*` stands for anything; the notebooks that check them.
"""

from __future__ import annotations

import inspect
import json
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from sublinattn.suite.method_map import PACKAGE, Row, line_of, maps
from sublinattn.theory import CLAIMS

NOTEBOOKS = PACKAGE.parent / "notebooks"
ROWS = [row for rows in maps().values() for row in rows]
each_row = pytest.mark.parametrize("row", ROWS, ids=[f"{row.method.name}: {row.where}" for row in ROWS])


@each_row
def test_files_and_names_exist(row: Row) -> None:
    places = row.places()  # raises where a file or a name is not there
    assert len({module for module, _, _ in places}) == row.here.count(".py`") > 0, "expected `file.py`: `name`, `name`"
    for _, _, thing in places:
        file, line = line_of(thing)
        assert file.is_relative_to(PACKAGE) and line > 0


@each_row
def test_claims_exist_and_are_of_the_method_and_in_the_notebook(row: Row) -> None:
    for pattern in row.claims:
        assert any(fnmatchcase(name, pattern) for name in CLAIMS), f"no claim {pattern}"
    assert row.notebooks, "expected a notebook"
    text = ""
    for notebook in row.notebooks:
        cells = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
        text += "".join(line for cell in cells for line in cell["source"])
    for name in row.matching(CLAIMS):
        assert Path(inspect.getfile(CLAIMS[name].trial)).is_relative_to(row.method), f"{name} is of another method"
        assert f'"{name}"' in text, f"{name} is not checked in {row.notebooks}"


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_is_on_one_map_once(name: str) -> None:
    places = [f"{row.method.name}: {row.where}" for row in ROWS if name in row.matching(CLAIMS)]
    assert len(places) == 1, places
