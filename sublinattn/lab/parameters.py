"""The parameters of the notebooks: what each one is, and what it takes.

`NOTEBOOKS` says which notebook has which. `cell` makes a notebook's first cell of code from it, `checked` reads what a
user gives, and `scripts/parameters` writes the cells and the page `docs/parameters.md`. So the comments that
`papermill --help-notebook` shows, what is accepted, and what an error says agree.

A parameter whose default is None leaves the choice to the effort: a study reads it by `run.given(name, default)`.
"""

from __future__ import annotations

import ast
import json
import math
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core.names import suggestion
from .parameter_table import NOTEBOOKS
from .shared_parameters import COMMON, Parameter

_INJECTED = "# Parameters\n"
"""How papermill begins the cell that it puts below the parameters."""

_LONGEST_LINE = 120


def of(notebook: str | None) -> dict[str, Parameter]:
    """A notebook's parameters by name, besides those that all notebooks have; none of a notebook that is not ours."""
    return {parameter.name: parameter for parameter in NOTEBOOKS.get(notebook or "", ())}


def cell(notebook: str) -> str:
    """Source of the notebook's cell of parameters."""
    return "\n".join(line(parameter) for parameter in (*COMMON, *NOTEBOOKS[notebook]))


def line(parameter: Parameter) -> str:
    """One line of that cell: name, type, default, and a comment on what it is and takes.

    papermill reads no definition of several lines, so where both are too long the comment says what it takes, or if
    that is too long by itself, where to read it.
    """
    written = f'"{parameter.default}"' if isinstance(parameter.default, str) else repr(parameter.default)
    free = parameter.kind is str and not parameter.choices
    comments = [parameter.meaning] if free else [f"{parameter.meaning}: {takes(parameter)}", takes(parameter)]
    code = f"{parameter.name}: {annotation(parameter)} = {written}  # "
    fitting = [comment for comment in comments if len(code + comment) <= _LONGEST_LINE]
    return code + next(iter(fitting), f"{parameter.meaning}: see docs/parameters.md")


def annotation(parameter: Parameter) -> str:
    """The type, as Python writes it."""
    return f"list[{parameter.kind.__name__}]" if parameter.several else parameter.kind.__name__


def takes(parameter: Parameter) -> str:
    """What a parameter takes, in words."""
    if parameter.choices:
        return f"{'any' if parameter.several else 'one'} of {', '.join(map(str, parameter.choices))}"
    if parameter.kind is str:
        return "one or several texts" if parameter.several else "a text"
    noun = "whole number" if parameter.kind is int else "number"
    many = f"one or several {noun}s" if parameter.several else f"a {noun}"
    if parameter.most is None:
        return many if parameter.least is None else f"{many} from {parameter.least:g} on"
    return f"{many} from {parameter.least:g} to {parameter.most}"


def read(parameter: Parameter, given: Any) -> Any:
    """The value that a user has given, checked: a tuple where a parameter takes several.

    Several may come as a list, or as text with commas. ValueError names the parameter, what it takes, and what it got.
    """
    if given is None and parameter.default is None:
        return None
    if not parameter.several:
        return _single(parameter, given, given)
    parts = given.split(",") if isinstance(given, str) and given not in parameter.choices else given
    values = tuple(
        _single(parameter, part.strip() if isinstance(part, str) else part, given)
        for part in ([parts] if isinstance(parts, str) or not isinstance(parts, Sequence) else parts)
    )
    if not values or len(set(values)) < len(values):
        raise _wrong(parameter, given, "nothing" if not values else "a value twice")
    return values


def _single(parameter: Parameter, value: Any, given: Any) -> Any:
    if parameter.kind is str:
        if not isinstance(value, str):
            raise _wrong(parameter, given)
    else:
        value = _number(parameter, value, given)
        least, most = (
            bound if bound is not None else end
            for bound, end in ((parameter.least, -math.inf), (parameter.most, math.inf))
        )
        if not least <= value <= most:
            raise _wrong(parameter, given)
    if parameter.choices and value not in parameter.choices:
        raise _wrong(parameter, given, hint=suggestion(str(value), map(str, parameter.choices)))
    return value


def _number(parameter: Parameter, value: Any, given: Any) -> Any:
    """`value` as the parameter's kind of number; text, as a command line gives it, counts as the number it spells."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(parameter, given) from None
    if isinstance(value, bool) or not math.isfinite(number) or (parameter.kind is int and not number.is_integer()):
        raise _wrong(parameter, given)
    return parameter.kind(number)


def _wrong(parameter: Parameter, given: Any, got: str = "", hint: str = "") -> ValueError:
    got = f"{got} in {given!r}" if got and got != "nothing" else got or repr(given)
    return ValueError(f"{parameter.name} ({parameter.meaning}) takes {takes(parameter)}, got {got}{hint}")


def checked(notebook: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, each value of a known parameter read by `read`; others are the notebook's own, and stay."""
    known = of(notebook)
    return {name: read(known[name], value) if name in known else value for name, value in given.items()}


def changed(notebook: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Of these values those that are not the defaults of the notebook's parameters."""
    known = of(notebook)
    return {name: value for name, value in given.items() if name in known and value != known[name].default}


def options(notebook: str | None, given: Mapping[str, Any]) -> str:
    """What to add to `sublinattn run` to give a notebook these values, defaults left out."""
    texts = (
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in changed(notebook, given).items()
    )
    return "".join(f" --param {shlex.quote(text)}" for text in texts)


def from_cell(notebook: str, names: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of all notebooks, and those of this one, as its cell of parameters has set them in `names`."""
    if notebook not in NOTEBOOKS:
        raise ValueError(f"no notebook is named {notebook!r}{suggestion(notebook, NOTEBOOKS)}")
    for parameter in (*COMMON, *NOTEBOOKS[notebook]):
        if parameter.name not in names:
            raise ValueError(f"the cell of parameters sets no {parameter.name!r}, as it should: {line(parameter)}")
    common = {parameter.name: read(parameter, names[parameter.name]) for parameter in COMMON}
    return common, checked(notebook, {name: names[name] for name in of(notebook)})


def refuse_unknown(notebook: str, known: Iterable[str]) -> None:
    """ValueError if papermill was given a parameter that is not one of these: papermill itself only warns of it."""
    known = [*(parameter.name for parameter in COMMON), *known]
    for name in _injected():
        if name not in known:
            raise ValueError(f"notebook {notebook} has no parameter {name!r}{suggestion(name, known)}; it has {known}")


def _injected() -> list[str]:
    """Names that papermill has set in this kernel, by a cell of its own."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    cells = shell.user_ns.get("In", []) if shell else []
    trees = [ast.parse(cell) for cell in cells if cell.startswith(_INJECTED)]
    nodes = [target for tree in trees for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return [node.id for node in nodes if isinstance(node, ast.Name)]
