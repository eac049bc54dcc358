"""Every writer where the disk ends: an error that names the path, no part of a file, what was there before still there.

A limit on the size of files stands in for the end of the disk.
"""

from __future__ import annotations

import os
import resource
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sublinattn import ExactCache, OnePassSketch, PolynomialState, SubGenCache
from sublinattn.core import files
from sublinattn.lab.workloads.instance import Instance
from sublinattn.plots.save import save

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


WRITERS = {
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


@contextmanager
def no_file_larger_than(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path: Path, name: str, share: float) -> None:
    folder = {".parquet": "rows"}.get(Path(name).suffix, "figures")
    path = tmp_path / folder / name
    WRITERS[name](path)
    whole = {file: file.read_bytes() for file in path.parent.iterdir()}
    with no_file_larger_than(int(share * len(whole[path]))), pytest.raises(OSError, match=str(path.parent)):
        WRITERS[name](path)
    plt.close("all")
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == whole
    held = [os.path.realpath(link) for link in Path("/proc/self/fd").glob("*")]  # a file held is room that is not free
    assert not any(str(tmp_path) in file for file in held)
