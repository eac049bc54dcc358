"""Imports run one way: what papers share lies below what one paper says, and no step reaches back.

A file may import from its own room and from every room that stands lower in `ORDER`: arrays and shared primitives, the
algorithms of the methods, then the engine (`theory`), the decoder (`lm`) and the figures' kit (`plots`), other people's
models (`interop`), the kit of claims and studies (`lab`), the claims, the studies, the jobs (`suite`) and the commands.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sublinattn

PACKAGE = Path(sublinattn.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
ORDER = {
    "core": 0,
    "primitives": 1,
    "algorithms": 2,
    "public": 3,
    "theory": 4,
    "lm": 4,
    "plots": 4,
    "interop": 5,
    "lab": 6,
    "claims": 7,
    "studies": 8,
    "suite": 9,
    "commands": 10,
}
"""Height of each room. Rooms of one height do not import each other."""
STUDIES_OUTSIDE = {"lab/comparison/error_over_bytes.py", "lab/comparison/drops_and_sabotages.py"}
"""Studies that no single paper owns."""


def room(name: str) -> str:
    """The room of a file, given as its path inside the package."""
    parts = Path(name).parts
    if name in STUDIES_OUTSIDE:
        return "studies"
    if parts[0] == "methods":
        inside = {part.removesuffix(".py") for part in parts[1:]}
        return "claims" if "claims" in inside else "studies" if "studies" in inside else "algorithms"
    if len(parts) == 1:
        return "public" if name in ("__init__.py", "api.py", "streams.py") else "commands"
    return parts[0]


def imports(path: Path) -> Iterator[tuple[int, Path, str]]:
    """Line, file and name of everything that a file of the package imports from the package."""
    folder = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = PACKAGE.joinpath(*folder[: len(folder) - node.level + 1], *(node.module or "").split("."))
        for alias in node.names:
            for candidate in (base / f"{alias.name}.py", base / alias.name / "__init__.py"):
                if candidate.exists():
                    yield node.lineno, candidate, alias.name
                    break
            else:
                yield (
                    node.lineno,
                    base.with_suffix(".py") if base.with_suffix(".py").exists() else base / "__init__.py",
                    alias.name,
                )


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def violations() -> list[str]:
    """Imports that run upwards, or sideways between rooms of one height."""
    wrong = []
    for path in FILES:
        here = room(relative(path))
        for line, target, name in imports(path):
            there = room(relative(target))
            if here != there and ORDER[there] >= ORDER[here]:
                wrong.append(f"{relative(path)}:{line} ({here}) imports {name} of {relative(target)} ({there})")
    return wrong


def method_of(name: str) -> str:
    parts = Path(name).parts
    return parts[1] if parts[0] == "methods" and len(parts) > 2 else ""


def test_imports_run_one_way():
    assert violations() == []


def test_a_method_imports_no_claims_or_studies_of_another():
    shared = {"methods/countsketch/claims/signals.py"}  # one pass tests its sketches on the same signals
    wrong = []
    for path in FILES:
        here = method_of(relative(path))
        for line, target, name in imports(path):
            there = method_of(relative(target))
            above = room(relative(target)) in ("claims", "studies") and relative(target) not in shared
            if above and here and there and here != there:
                wrong.append(f"{relative(path)}:{line} imports {name} of {relative(target)}")
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_an_underscore_is_not_imported_from_outside_its_folder(path):
    wrong = [
        f"line {line}: {name} of {relative(target)}"
        for line, target, name in imports(path)
        if target.parent != path.parent
        and (name.startswith("_") or target.stem.startswith("_") and target.stem != "__init__")
    ]
    assert wrong == []


def test_tests_reach_no_private_name():
    """An attribute, an import or a patched name with an underscore; a subclass may call its base's own."""
    wrong = []
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls", "os", "super()"):
                names = [node.attr]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sublinattn"):
                names = [*node.module.split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".setattr"):
                names = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            if any(name.startswith("_") and not name.startswith("__") for name in names):
                wrong.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    assert wrong == []
