"""Runs the dossier: each step in a process of its own and within its time limit, and writes the record after each.

The command line is `scripts/check_gpu`. Exit codes: 0 nothing wrong, 1 something is, 2 there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...core import backends
from ...core.files import read_json
from . import page
from . import record as records
from .device import ROOT
from .steps import STEPS, Step

SECONDS = 520.0
"""Time that a whole run may take, if nothing else is said: under 9 minutes."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/check_gpu",
        description="Check and measure the package on this machine's GPU, and keep the record in figures/gpu.",
        epilog="example: scripts/check_gpu --only kernel,attention --out record.json --seconds 300",
    )
    parser.add_argument("--only", default=",".join(STEPS), help=f"steps, by commas, of {', '.join(STEPS)}")
    parser.add_argument("--out", type=Path, help="where to write the record, in place of figures/gpu and the README")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time that the whole run may take")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU: NumPy stands in; needs --out")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="run nothing: put a record from --out in its place")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    if unknown := set(names) - set(STEPS):
        parser.error(f"--only takes {', '.join(STEPS)}, got {', '.join(sorted(unknown))}")
    if options.keep:
        return _keep(read_json(options.keep))
    if options.rehearse and not options.out:
        parser.error("--rehearse needs --out: a rehearsal is not kept in figures/gpu")
    if not options.rehearse and not backends.gpu_available():
        print("no GPU: nothing was run (see --rehearse)")
        return 2
    started = datetime.now(UTC)
    record: dict[str, Any] = {
        "started": started.isoformat(timespec="seconds"),
        "rehearsal": options.rehearse,
        "seconds_allowed": options.seconds,
        "steps": {},
    }
    out = options.out or records.FOLDER / f"{started:%Y-%m-%d}-unfinished.json"
    record = run(record, [name for name in STEPS if name in names], out, options.seconds)
    if not options.out:
        out.unlink()
        _keep(record)
    wrong = [name for name, step in record["steps"].items() if step["outcome"] == "wrong"]
    print(
        f"{len(record['steps'])} steps, {record['seconds']:.0f} s: {'wrong: ' + ', '.join(wrong) if wrong else 'right'}"
    )
    return 1 if wrong else 0


def run(record: dict[str, Any], names: list[str], out: Path, seconds: float) -> dict[str, Any]:
    """Run the steps in turn and write the record after each; a step that would not fit is recorded as not run."""
    start = time.perf_counter()
    with installed() as environment:
        for name in names:
            step, left = STEPS[name], seconds - (time.perf_counter() - start)
            if left < step.seconds:
                record["steps"][name] = {"outcome": "not run: no time left", "rows": []}
            else:
                record["steps"][name] = perform(name, step, min(step.limit, left), record["rehearsal"], environment)
            record["seconds"] = round(time.perf_counter() - start, 1)
            records.write(out, record)
            print(f"{name:12} {record['steps'][name]['outcome']}", flush=True)
    return records.without_folders(record)


def perform(name: str, step: Step, limit: float, rehearsal: bool, environment: dict[str, str]) -> dict[str, Any]:
    """Outcome (`right`, `wrong` or `stopped`), seconds and rows of a step, which runs in a process of its own."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        path = Path(folder) / "rows.jsonl"
        path.touch()
        command = [
            sys.executable,
            "-m",
            f"{__package__}.steps",
            name,
            str(path),
            *(["--rehearse"] if rehearsal else []),
        ]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            outcome = "right" if process.wait(limit) == 0 else "wrong"
        except subprocess.TimeoutExpired:
            outcome = f"stopped after {limit:.0f} s"
        finally:
            if process.poll() is None:  # with all of its own processes, after an interruption too
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        log.seek(0)
        said = log.read()[-3000:]
    if any(row.get("ok") is False for row in rows):
        outcome = "wrong"
    result = {"outcome": outcome, "seconds": round(time.perf_counter() - start, 1), "rows": rows}
    return result | ({} if outcome == "right" else {"log": said})


@contextmanager
def installed() -> Iterator[dict[str, str]]:
    """Environment in which Python finds this checkout and, if it is not installed, its name, version and dependencies.

    `importlib.metadata` reads these from a folder that an installation makes; without one, a temporary folder has it.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            importlib.metadata.version("sublinattn")
        except importlib.metadata.PackageNotFoundError:
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            info = Path(folder) / f"sublinattn-{project['version']}.dist-info"
            info.mkdir()
            wanted = [
                *project["dependencies"],
                *(line for e in project["optional-dependencies"].values() for line in e),
            ]
            lines = ["Metadata-Version: 2.1", "Name: sublinattn", f"Version: {project['version']}"]
            (info / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {line}" for line in wanted)]) + "\n")
            paths.insert(0, folder)
        yield os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


def _keep(record: dict[str, Any]) -> int:
    """Put a record in its place in `figures/gpu`, and its table into the README."""
    if record["rehearsal"]:
        print("a rehearsal is not kept: no GPU was measured")
        return 1
    path = records.place(record)
    records.write(path, record)
    page.write_pages()
    print(f"kept as {path.relative_to(ROOT)}")
    return 0
