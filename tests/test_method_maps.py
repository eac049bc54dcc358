"""The map in each method's `__init__` names files, functions, claims and notebooks that exist; every claim is on one.

A row says `| in the paper | here | claims | notebook |`: a theorem or algorithm; the file, in the method's folder or
from the package's root, and names in it; ids of claims, where `*` stands for anything; the notebooks that check them.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from fnmatch import fnmatchcase
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import pytest

import sublinattn
from sublinattn.theory import CLAIMS

PACKAGE = Path(sublinattn.__file__).parent
NOTEBOOKS = PACKAGE.parent / "notebooks"
METHODS = sorted(path.parent for path in (PACKAGE / "methods").glob("*/__init__.py"))
HEADER = ["| in the paper | here | claims | notebook |", "|---|---|---|---|"]


class Row(NamedTuple):
    method: Path
    where: str
    here: str
    claims: list[str]
    notebooks: list[str]


def rows(method: Path) -> list[Row]:
    doc = ast.get_docstring(ast.parse((method / "__init__.py").read_text(encoding="utf-8"))) or ""
    table = [line for line in doc.splitlines() if line.startswith("|")]
    assert table[:2] == HEADER and len(table) > 2, f"{method.name} has no map"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    lists = [[[] if cell == "-" else cell.split(", ") for cell in row[2:]] for row in cells]
    return [Row(method, *row[:2], *two) for row, two in zip(cells, lists, strict=True)]


ROWS = [row for method in METHODS for row in rows(method)]
each_row = pytest.mark.parametrize("row", ROWS, ids=[f"{row.method.name}: {row.where}" for row in ROWS])


def matching(row: Row) -> list[str]:
    return [name for name in CLAIMS if any(fnmatchcase(name, pattern) for pattern in row.claims)]


@each_row
def test_files_and_names_exist(row: Row) -> None:
    files = re.findall(r"`([\w/]+)\.py`: ((?:`[\w.]+`(?:, )?)+)", row.here)
    assert len(files) == row.here.count(".py`") > 0, "expected `file.py`: `name`, `name`"
    for file, names in files:
        folder = next(folder for folder in (row.method, PACKAGE) if (folder / f"{file}.py").exists())
        parts = [*folder.relative_to(PACKAGE.parent).parts, *file.split("/")]
        for name in re.findall(r"`([\w.]+)`", names):
            attrgetter(name)(import_module(".".join(parts)))


@each_row
def test_claims_exist_and_are_of_the_method_and_in_the_notebook(row: Row) -> None:
    for pattern in row.claims:
        assert any(fnmatchcase(name, pattern) for name in CLAIMS), f"no claim {pattern}"
    assert row.notebooks, "expected a notebook"
    text = ""
    for notebook in row.notebooks:
        cells = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
        text += "".join(line for cell in cells for line in cell["source"])
    for name in matching(row):
        assert Path(inspect.getfile(CLAIMS[name].trial)).is_relative_to(row.method), f"{name} is of another method"
        assert f'"{name}"' in text, f"{name} is not checked in {row.notebooks}"


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_is_on_one_map_once(name: str) -> None:
    places = [f"{row.method.name}: {row.where}" for row in ROWS if name in matching(row)]
    assert len(places) == 1, places
