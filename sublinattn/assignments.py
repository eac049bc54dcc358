"""NAME=VALUE, as the command line has it."""

from __future__ import annotations

import json
from typing import Any


def assignment(option: str, text: str) -> tuple[str, Any]:
    """Name and value, which is JSON or else text; ValueError, which names the option, for anything else."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"{option} takes NAME=VALUE, got {text!r}")
    return name, _json(value)


def assignments(option: str, text: str) -> dict[str, Any]:
    """`name` and its `values`, which are a JSON list, or JSON values or texts with commas between them."""
    name, values = assignment(option, text)
    if isinstance(values, str):
        values = [_json(value) for value in values.split(",")]
    return {"name": name, "values": values if isinstance(values, list) else [values]}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
