"""Every writer where the disk ends, at many sizes. A limit on the size of files stands in for the end of the disk."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from sublinattn import ExactCache, OnePassSketch, PolynomialState, SubGenCache
from sublinattn.core import files
from sublinattn.lab.workloads.instance import Instance
from sublinattn.plots.save import save

from .table import HANG, WRONG, Table, ended

RNG = np.random.default_rng(0)
Q, K, V = (RNG.standard_normal((600, 16)).astype(np.float32) for _ in range(3))
TABLE = pd.DataFrame({"x": RNG.standard_normal(9000)})


def figure(path: Path) -> None:
    """The PDF, with its fonts, is the largest file."""
    fig = plt.figure(figsize=(0.4, 0.4))
    fig.text(0, 0, "abcdefghijklmnopqrstuvwxyz" if path.suffix == ".pdf" else "a")
    about = {"claim": None, "params": {}, "seed": 0, "caption": "Letters.", "backend": "numpy"}
    save(fig, "x", out=path.parents[1], data=TABLE[:2], **about)
    plt.close(fig)


def sketch(path: Path) -> None:
    parameters = {"degree": 2, "sparsity": 3, "eps1": 0.5, "eps2": 0.5}
    OnePassSketch(600, 16, 16, rng=0, **parameters).absorb_keys(K, V).save(path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "x": lambda path: files.write_json(path, list(range(9000))),
    "x.parquet": lambda path: files.write_rows(TABLE, "x", out=path.parents[1]),
    "x.svg": figure,
    "x.png": figure,
    "x.pdf": figure,
    "exact": lambda path: ExactCache().update(K, V).save(path),
    "subgen": lambda path: SubGenCache(1.0, 2, 4, rng=0).update(K, V).save(path),
    "polynomial": lambda path: PolynomialState(16, 16, degree=2).update(K, V).save(path),
    "sketch": sketch,
    "instance": lambda path: Instance(Q, K, V, scale=1.0).save(path),
}
COMMANDS = {
    "capture": (("capture", "-n", "256", "--out", "qkv.safetensors"), "qkv.safetensors"),
    "audit": (("audit", "qkv.safetensors", "--share", "1/4", "--out", "audit"), "audit"),
    "report": (("report", "out"), "out/report"),
    "run": (("run", "--notebooks", "nb", "--jobs", "1", "--out", "out"), "out/ledger.json"),
}
"""Commands, and what they write."""


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def full(folder: Path, name: str, share: float) -> str:
    """One writer over what it wrote before, where files may have this share of its size: what becomes of that."""
    path = folder / {".parquet": "rows"}.get(Path(name).suffix, "figures") / name
    WRITERS[name](path)
    whole = {file: file.read_bytes() for file in path.parent.iterdir()}
    try:
        with no_file_larger_than(int(share * len(whole[path]))):
            WRITERS[name](path)
        return f"{WRONG}it was written"
    except OSError as error:
        if str(path.parent) not in str(error):
            return f"{WRONG}no path in {error}"
    finally:
        plt.close("all")
    if {file: file.read_bytes() for file in path.parent.iterdir()} != whole:
        return f"{WRONG}another file is there than before"
    held = [os.path.realpath(link) for link in Path("/proc/self/fd").glob("*")]  # a file held is room that is not free
    return f"{WRONG}a file is held" if any(str(folder) in file for file in held) else GOOD


GOOD = "an error with the path, and what was there before"


def run(sizes: int, folder: Path, *, commands: bool = True) -> Table:
    """Every writer at so many sizes; each command, in a folder that `kills.make` has filled, at a quarter of them."""
    table = Table()
    for name in WRITERS:
        for share in np.linspace(0, 0.99, sizes):
            table[f"disk full, {name}", full(folder / "writers", name, share)] += 1
    for command in COMMANDS if commands else ():
        for share in np.linspace(0, 0.95, max(1, sizes // 4)):
            table[f"disk full, command {command}", of_command(folder, command, share)] += 1
    return table


def of_command(folder: Path, command: str, share: float) -> str:
    """A command where files may have this share of the size of the largest one that it wrote before."""
    arguments, written = COMMANDS[command]
    before, left = _bytes(folder / written), _drafts(folder)
    limit = int(share * max(map(len, before.values())))
    process = subprocess.Popen(
        [sys.executable, "-m", "sublinattn", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    output = ended(process, 6 * HANG)
    if output is None:
        return f"{WRONG}still there after {6 * HANG:.0f} s"
    said = " ".join(output.split())
    if process.returncode not in (1, 2) or "Traceback" in said:
        return f"{WRONG}exit code {process.returncode}: {said[-300:]}"
    if _drafts(folder) - left:  # what a killed process left is still there
        return f"{WRONG}something is left"
    after = _bytes(folder / written)
    whole = all(after.get(name) in (content, None) or _rewritten(name) for name, content in before.items())
    return GOOD if whole and before.keys() <= after.keys() else f"{WRONG}what was there before is lost"


def _drafts(folder: Path) -> set[Path]:
    return set(folder.rglob(".writing-*"))


def _rewritten(name: str) -> bool:
    """Small files, which the disk has room for, are written anew."""
    return not name.endswith(".safetensors")


def _bytes(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()}
