"""Step `tests`: the package's own tests on CuPy, in several processes where pytest-xdist is installed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...core.threads import cpu_count
from .device import ROOT, Device

LIMIT = 150.0
FIRST = ("tests/core", "tests/methods", "tests/primitives", "tests/test_")
"""Where the tests that tell most are: these run first."""


def files_that_take_xp() -> list[str]:
    """Every test file with a test or fixture that takes the array namespace `xp`, the most telling first."""
    found = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py") if _takes_xp(path)]
    return sorted(found, key=lambda name: ("claims" in name, not name.startswith(FIRST), name))


def _takes_xp(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and (node.name.startswith("test_") or node.decorator_list):
            arguments = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
            if arguments & {"xp", "kernel_xp"}:  # the latter: arrays on which the kernel runs
                return True
    return False


def rows(device: Device) -> Iterator[dict[str, Any]]:
    """One row: counts by outcome, the names of failed tests, and the end of pytest's output if some failed."""
    if find_spec("pytest") is None:
        yield {"not_run": "pytest is not installed"}
        return
    files = ["tests/methods/baselines/test_uniform.py"] if device.rehearsal else files_that_take_xp()
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider"]
    command += ["--continue-on-collection-errors"]  # a file may need a module that is not there
    if find_spec("xdist") and not device.rehearsal:
        command += ["-n", str(min(12, cpu_count()))]
    if find_spec("pytest_timeout"):
        command += ["--timeout", "60"]
    environment = os.environ | {"SUBLINATTN_TEST_BACKEND": device.pick("cupy", "fake_device")}
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # JAX would take three quarters of the GPU's memory
    start, late = time.perf_counter(), False
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([*command, *files], cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            late = True
            process.terminate()
            process.wait(10)
        output.seek(0)
        text = output.read()
    yield {"files": len(files), "seconds": time.perf_counter() - start, **outcomes(text, process.returncode, late)}


def outcomes(text: str, code: int, late: bool) -> dict[str, Any]:
    """What `pytest -v` printed, counted; `late`: it was stopped before it was done."""
    # "tests/a.py::test_b[c] PASSED [ 10%]", or with xdist "[gw0] [ 10%] PASSED tests/a.py::test_b[c]".
    word = r"(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)"
    lines = re.findall(rf"^(?:\[gw\d+\] \[ *\d+%\] {word} (.+?) *$|(tests/\S+::.*?) {word}\b)", text, re.MULTILINE)
    counts = Counter((first or last).lower() for first, _, _, last in lines)
    failed = sorted({name or other for first, name, other, last in lines if (first or last) in ("FAILED", "ERROR")})
    # A file that needs a package which is not on this machine says nothing about the GPU.
    unread = sorted(set(re.findall(r"^ERROR (tests/[^\s:]+)(?: |$)", text, re.MULTILINE)))
    lacking = sorted(
        set(re.findall(r"^E +ModuleNotFoundError: No module named '(?!sublinattn)(.+)'", text, re.MULTILINE))
    )
    row: dict[str, Any] = {"counts": dict(counts), "failed": failed, "stopped": late, "exit_code": code}
    row |= {"unread": unread, "lacking": lacking} if unread else {}
    explained = code == 0 or late or (unread and lacking)
    wrong = failed or not explained or not counts["passed"]
    return row | {"ok": not wrong} | ({"output": text[-6000:]} if wrong else {})
