"""The steps of the dossier, in order of value, and the process that runs one: `steps NAME FILE [--rehearse]`.

The process appends one JSON line per row to FILE as soon as it is measured, so that what a step has found stays when it
is stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ...core.plain import plain
from .device import Device


@dataclass(frozen=True)
class Step:
    """One step of the dossier.

    Attributes
    ----------
    module : str
        Its file in this folder, or `file:function` where that is not `rows`.
    seconds : float
        About how long it takes on an H100: with less time left than that, it is not started.
    limit : float
        When it is stopped.
    """

    module: str
    seconds: float
    limit: float


STEPS = {
    "environment": Step("environment", 7, 40),
    "probes": Step("probes", 13, 60),
    "kernel": Step("kernel_cases", 10, 60),
    "attention": Step("bench_attention", 40, 90),
    "decoding": Step("bench_decoding", 20, 60),
    "streams": Step("bench_streams", 20, 60),
    "profile": Step("profiling", 15, 40),
    "ceilings": Step("ceilings", 8, 30),
    "tests": Step("package_tests", 70, 165),
    "sanitizer": Step("sanitizer", 60, 190),
}
_PARTS = {"small kernel cases": "kernel_cases:sanitized"}
"""Parts of steps that run in processes of their own."""


def rows(name: str, device: Device) -> Iterator[dict[str, Any]]:
    """Rows of a step, or of a part of one."""
    module, _, function = (_PARTS.get(name) or STEPS[name].module).partition(":")
    measure: Callable[[Device], Iterator[dict[str, Any]]]
    measure = getattr(import_module(f".{module}", __package__), function or "rows")
    return measure(device)


def main(arguments: list[str]) -> None:
    name, *more = arguments
    path = more[0] if more and not more[0].startswith("--") else None
    wrong = False
    for row in rows(name, Device("--rehearse" in more)):
        line = json.dumps(plain(row, digits=5), default=str)
        wrong |= row.get("ok") is False
        if path is None:
            print(line, flush=True)
        else:
            with open(path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
