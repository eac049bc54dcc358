"""A million tokens from two files into a SubGenCache, killed twice on the way: the end is that of a run left alone."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from sublinattn.lab.workloads import make
from sublinattn.methods.subgen.subgen import SubGenCache
from sublinattn.streams import absorb

N, D, ROWS = 2**20, 16, 4096
CACHE = {"delta": 1.0, "cluster_samples": 4, "value_samples": 32, "recent": 50, "max_clusters": 60, "rng": 7}

CHILD = f"""
import sys, time
from pathlib import Path
from sublinattn.streams import absorb
from sublinattn import SubGenCache

folder, hold = Path(sys.argv[1]), int(sys.argv[2])
path = folder / "x.ckpt"
cache = SubGenCache.load(path) if path.exists() else SubGenCache(**{CACHE})
save = cache.save


def save_and_hold(path):
    save(path)
    while cache.tokens_seen >= hold:  # the kill comes at any moment before, or here, but never too late
        time.sleep(60)


cache.save = save_and_hold
absorb(cache, keys=folder / "k.npy", values=folder / "v.npy", rows={ROWS}, checkpoint=path, every=0.02)
"""


@pytest.fixture(scope="module", params=["clusterable", "drifting"])
def folder(request, tmp_path_factory):
    """Two streams of 40 clusters; one drifts, so that delta has to double on the way."""
    folder = tmp_path_factory.mktemp(request.param)
    x = make(request.param, N, D, rng=0, d_v=8, clusters=40, **({"speed": 16.0} if request.param == "drifting" else {}))
    for name in "kv":
        file = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, getattr(x, name).shape)
        file[:] = getattr(x, name)
        file.flush()
    return folder


def test_a_million_tokens_killed_twice(folder):
    path, before, rng = folder / "x.ckpt", 0, np.random.default_rng(0)
    for hold in (3 * N // 8, 6 * N // 8):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder), str(hold)])
        try:
            deadline = time.monotonic() + 60
            while seen(path) <= before and child.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 0.2))
        finally:
            child.kill()
        assert child.wait() == -signal.SIGKILL  # neither an error nor the end came first
        assert before < seen(path) < N and seen(path) % ROWS == 0
        before = seen(path)

    sources = {"keys": folder / "k.npy", "values": folder / "v.npy"}
    resumed = absorb(SubGenCache.load(path), **sources, rows=ROWS, checkpoint=path)
    whole = absorb(SubGenCache(**CACHE), **sources)  # in other chunks besides
    whole.save(folder / "whole.ckpt")
    assert path.read_bytes() == (folder / "whole.ckpt").read_bytes()
    assert resumed.tokens_seen == N and resumed.counts.sum() == N - 50
    if "clusterable" in folder.name:
        assert len(resumed.centers) == 40 and resumed.radius == 1
    else:
        assert len(resumed.centers) <= 60 and resumed.radius > 1
    q = make("clusterable", 64, D, rng=1).q
    np.testing.assert_array_equal(resumed.attend(q), whole.attend(q))


def seen(path):
    """Tokens in the checkpoint."""
    return SubGenCache.load(path).tokens_seen if path.exists() else 0
