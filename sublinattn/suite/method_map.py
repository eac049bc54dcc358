"""The map from each paper to the code, which stands in the `__init__` of each method's folder."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = Path(__file__).resolve().parents[1]
HEADER = ["| in the paper | here | claims | notebook |", "|---|---|---|---|"]


class Row(NamedTuple):
    """A theorem or algorithm: the code that implements it, patterns of claims' ids, notebooks that check these."""

    method: Path
    where: str
    here: str
    claims: list[str]
    notebooks: list[str]

    def places(self) -> list[tuple[str, str, Any]]:
        """Module, name in it, and the object itself, of everything under "here".

        The file is in the method's folder or from the package's root; ValueError if it is in neither.
        """
        found = []
        for file, names in re.findall(r"`([\w/]+)\.py`: ((?:`[\w.]+`(?:, )?)+)", self.here):
            folder = next((folder for folder in (self.method, PACKAGE) if (folder / f"{file}.py").exists()), None)
            if folder is None:
                raise ValueError(f"the map of {self.method.name} names {file}.py, which is not there")
            module = ".".join([*folder.relative_to(PACKAGE.parent).parts, *file.split("/")])
            for name in re.findall(r"`([\w.]+)`", names):
                found.append((module, name, attrgetter(name)(import_module(module))))
        return found

    def matching(self, claims: Iterable[str]) -> list[str]:
        """Those of these ids that the row names."""
        return [name for name in claims if any(fnmatchcase(name, pattern) for pattern in self.claims)]


@cache
def maps() -> dict[str, tuple[Row, ...]]:
    """Each method's rows, by the name of its folder; ValueError if a method has no map."""
    return {path.parent.name: _rows(path.parent) for path in sorted((PACKAGE / "methods").glob("*/__init__.py"))}


def _rows(method: Path) -> tuple[Row, ...]:
    doc = ast.get_docstring(ast.parse((method / "__init__.py").read_text(encoding="utf-8"))) or ""
    table = [line for line in doc.splitlines() if line.startswith("|")]
    if table[:2] != HEADER or len(table) < 3:
        raise ValueError(f"{method.name} has no map with the header {HEADER[0]}")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    lists = [[[] if cell == "-" else cell.split(", ") for cell in row[2:]] for row in cells]
    return tuple(Row(method, row[0], row[1], *two) for row, two in zip(cells, lists, strict=True))


def line_of(thing: Any) -> tuple[Path, int]:
    """File and first line of a class, function, method or property; TypeError for anything else."""
    thing = inspect.unwrap(getattr(thing, "fget", None) or getattr(thing, "func", None) or thing)
    return Path(inspect.getfile(thing)), inspect.getsourcelines(thing)[1]
