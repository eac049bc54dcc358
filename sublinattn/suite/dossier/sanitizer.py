"""Step `sanitizer`: NVIDIA's compute-sanitizer over small cases of the kernel, where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from .device import Device

TOOLS = ("memcheck", "racecheck", "synccheck")
LIMIT = 60.0
"""Seconds for one tool."""
CASES = (sys.executable, "-m", f"{__package__}.steps", "small kernel cases")


def rows(device: Device) -> Iterator[dict[str, Any]]:
    """One row per tool: errors (for racecheck: hazards) that it counted."""
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    for tool in TOOLS:
        if device.rehearsal or program is None:
            yield {"sanitizer": tool, "not_run": "a rehearsal" if device.rehearsal else "it is not installed"}
        else:
            yield _row(program, tool)


def _row(program: str, tool: str) -> dict[str, Any]:
    # Calls that CuPy and PyTorch make to ask whether something is there fail by design: only kernels are judged.
    command = [program, "--tool", tool, "--report-api-errors", "no", "--error-exitcode", "9", *CASES]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"sanitizer": tool, "not_run": f"it took longer than {LIMIT:.0f} s"}
    text = done.stdout + done.stderr
    counted = re.search(r"(?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)", text)
    row = {"sanitizer": tool, "seconds": time.perf_counter() - start, "exit_code": done.returncode}
    if counted:
        row["errors"] = int(counted[1] or counted[2])
    wrong = done.returncode != 0 or row.get("errors") != 0
    first = [line for line in text.splitlines() if line.startswith("=========")][:12] or text.splitlines()[-12:]
    return row | {"ok": not wrong} | ({"output": "\n".join(first)} if wrong else {})
