"""Every name that the source takes from the array namespace exists in CuPy, with the keywords used: no GPU needed."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sublinattn

cupy = pytest.importorskip("cupy", reason="CuPy is not installed (extra sublinattn[dev] on Linux)")

PACKAGE = Path(sublinattn.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
UFUNC_KEYWORDS = {"out", "dtype", "casting", "where"}


def chain(node: ast.AST) -> str | None:
    """`linalg.norm` for `xp.linalg.norm` or `self.xp.linalg.norm`; None for what does not begin with xp."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        if node.attr == "xp":
            return ".".join(reversed(names)) or None
        names.append(node.attr)
        node = node.value
    return ".".join(reversed(names)) or None if isinstance(node, ast.Name) and node.id == "xp" else None


def uses(tree: ast.AST) -> Iterator[tuple[str, int, list[str], int]]:
    """Longest chains on xp: name, number of positional arguments (-1 if not called or starred), keywords, line."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner or not (name := chain(node)):
            continue
        call = called.get(id(node))
        keywords = [keyword.arg for keyword in call.keywords if keyword.arg] if call else []
        starred = call is None or any(isinstance(argument, ast.Starred) for argument in call.args)
        yield name, -1 if starred else len(call.args), keywords, node.lineno  # type: ignore[union-attr]


def resolve(name: str) -> Any:
    """The object of that name in CuPy; stops at the result of a call or at an attribute of a class."""
    found: Any = cupy
    for part in name.split("."):
        found = getattr(found, part)
    return found


def complaint(name: str, positional: int, keywords: list[str]) -> str | None:
    if name == "__name__":
        return None
    try:
        found = resolve(name)
    except AttributeError:
        return f"CuPy has no {name}"
    if isinstance(found, cupy.ufunc):
        lacking = set(keywords) - UFUNC_KEYWORDS
        return f"cupy.{name} takes no {sorted(lacking)}" if lacking else None
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # Cython functions and types
        return None
    try:
        arguments = [None] * max(positional, 0)
        bind = signature.bind if positional >= 0 and not keywords else signature.bind_partial
        bind(*arguments, **dict.fromkeys(keywords))
    except TypeError as error:
        return f"cupy.{name}: {error}"
    return None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_exist_in_cupy(path: Path) -> None:
    complaints = [
        f"line {line}: {problem}"
        for name, positional, keywords, line in uses(ast.parse(path.read_text()))
        if (problem := complaint(name, positional, keywords))
    ]
    assert not complaints


def test_the_walk_finds_the_names() -> None:
    found = {name for path in SOURCES for name, *_ in uses(ast.parse(path.read_text()))}
    assert {"matmul", "exp", "take_along_axis", "cuda.get_current_stream", "argsort"} <= found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("xp.nditer(x)", "CuPy has no nditer"),
        ("self.xp.linalg.no_such_norm(x)", "CuPy has no linalg.no_such_norm"),
        ("xp.take(x, i, axis=0, mode='clip')", "cupy.take: got an unexpected keyword argument 'mode'"),
        ("xp.exp(x, subok=True)", "cupy.exp takes no ['subok']"),
        ("xp.take_along_axis(x)", "cupy.take_along_axis: missing a required argument: 'indices'"),
        ("xp.argsort(x, axis=-1, kind='stable')", None),
        ("xp.maximum(a, b, out=c).max(axis=1)", None),
        ("np.nditer(x)", None),
    ],
)
def test_the_check_can_fail(source: str, expected: str | None) -> None:
    problems = [complaint(name, positional, keywords) for name, positional, keywords, _ in uses(ast.parse(source))]
    assert [problem for problem in problems if problem] == ([expected] if expected else [])
