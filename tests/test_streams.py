"""Checkpoints and progress: a stream that was killed continues to the same bits, and shows how far it is."""

import io
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import rich.console
from toy_streams import ROWS, STATES, N, Recorder, TwoPhases, as_iter, data

from sublinattn import streams
from sublinattn.streams import absorb


# --------------------------------------------------------------------------------------------------------- checkpoints
def test_a_refused_chunk_leaves_the_checkpoint_before_it(tmp_path):
    k, v, _ = data()
    k[70, 1] = np.nan
    with pytest.raises(ValueError, match="k must be finite") as caught:
        absorb(Recorder(), keys=k, values=v, rows=ROWS, checkpoint=tmp_path / "x", every=0)
    assert caught.value.__notes__ == ["in rows 64 to 95 of keys and values"]
    state = Recorder.load(tmp_path / "x")
    assert state.tokens_seen == 64
    k[70, 1] = 0
    whole = absorb(Recorder(), keys=k, values=v, rows=ROWS)
    assert absorb(state, keys=k, values=v, rows=ROWS).digest == whole.digest


def test_checkpoints_are_written_when_due(tmp_path, monkeypatch):
    """A chunk takes 10 s on this clock, a save 1 s; every 25 s, at the end of the keys, at the end."""
    k, v, q = data()
    now, saved = 0.0, []

    class Timed(TwoPhases):
        def _mix(self, *arrays):
            nonlocal now
            now += 10
            super()._mix(*arrays)

        def save(self, path):
            nonlocal now
            now += 1
            saved.append((self.keys_seen, self.queries_seen))

    monkeypatch.setattr(streams.time, "monotonic", lambda: now)
    monkeypatch.setattr(streams, "Progress", MagicMock())  # rich reads the clock too
    absorb(Timed(), keys=k, values=v, queries=q, rows=ROWS, checkpoint=tmp_path / "x", every=25)
    assert saved == [(96, 0), (N, 0), (N, 96), (N, N)]
    saved.clear()
    absorb(Timed(), keys=k, values=v, queries=q, rows=ROWS, checkpoint=tmp_path / "x", every=float("inf"))
    assert saved == [(N, 0), (N, N)]
    saved.clear()
    absorb(Timed(), keys=k, values=v, rows=ROWS)
    assert saved == []


def every_checkpoint(state, folder, **call):
    """Absorb; paths of all checkpoints on the way."""
    paths, save = [], state.save

    def save_and_keep(path):
        save(path)
        paths.append(folder / f"{len(paths)}.ckpt")
        paths[-1].write_bytes(Path(path).read_bytes())

    state.save = save_and_keep
    absorb(state, **call, checkpoint=folder / "x.ckpt", every=0)
    return paths


@pytest.mark.parametrize("iterables", [False, True])
@pytest.mark.parametrize("kind", STATES)
def test_resuming_anywhere_ends_in_the_same_bytes(tmp_path, kind, iterables):
    def call():
        sources = dict(zip(("keys", "values", "queries"), data(), strict=True))
        if not hasattr(STATES[kind](), "absorb_keys"):
            del sources["queries"]
        return {name: as_iter(x) if iterables else x for name, x in sources.items()} | {"rows": ROWS}

    state = STATES[kind]()
    load = type(state).load
    paths = every_checkpoint(state, tmp_path, **call())
    assert len(paths) == (10 if "queries" in call() else 5)
    whole = paths[-1].read_bytes()
    for path in paths:
        again = absorb(load(path), **call(), checkpoint=tmp_path / "again.ckpt")
        again.save(tmp_path / "y.ckpt")
        assert (tmp_path / "y.ckpt").read_bytes() == (tmp_path / "again.ckpt").read_bytes() == whole


@pytest.mark.parametrize("seen", range(1, N, 29))
def test_after_a_start_elsewhere_the_cuts_are_the_same(seen):
    k, v, _ = data()
    state = absorb(Recorder(), keys=k[:seen], values=v[:seen], rows=ROWS)
    for keys, values in ((k, v), (as_iter(k), as_iter(v))):
        rest = Recorder()
        rest.tokens_seen = state.tokens_seen
        absorb(rest, keys=keys, values=values, rows=ROWS)
        starts = seen + np.cumsum([0] + [len(chunk) for chunk, _ in rest.chunks])
        assert starts.tolist() == sorted({seen, N} | {cut for cut in range(0, N, ROWS) if cut > seen})
        np.testing.assert_array_equal(np.concatenate([chunk for chunk, _ in rest.chunks]), k[seen:])


CHILD = """
import sys, time
sys.path.insert(0, {tests!r})
import numpy as np
from pathlib import Path
from test_streams import STATES, absorb, slowly
folder, kind = Path(sys.argv[1]), sys.argv[2]
state, path = STATES[kind](n=640), folder / "x.ckpt"
if path.exists():
    state = type(state).load(path)
(folder / "started").touch()
absorb(state, **slowly(folder, state), rows=32, checkpoint=path, every=0)
"""


def slowly(folder, state, pause=0.01, at_the_end=60.0):
    """Sources that take a while for each chunk, and for ever for the last; keys and values are cut differently."""
    last = "q" if hasattr(state, "absorb_keys") else "v"

    def chunks(name, size):
        x = np.load(folder / f"{name}.npy", mmap_mode="r")
        for start in range(0, len(x), size):
            time.sleep(at_the_end if name == last and start + size >= len(x) else pause)
            yield x[start : start + size]

    return {"keys": chunks("k", 32), "values": chunks("v", 50)} | ({"queries": chunks("q", 64)} if last == "q" else {})


@pytest.mark.parametrize("kind", ["two phases", "polynomial", "fused", "subgen that doubles"])
def test_kill_9_at_random_moments(tmp_path, kind):
    """A process that saves at every cut is killed three times, anywhere; the next continues to the same bytes."""
    path = tmp_path / "x.ckpt"
    for name, x in zip("kvq", data(n=640), strict=True):
        np.save(tmp_path / f"{name}.npy", x)
    rng, before = np.random.default_rng(sum(map(ord, kind))), (0, 0)
    load = type(STATES[kind]()).load
    for sign in ("x.ckpt", "started", "started"):
        (tmp_path / "started").unlink(missing_ok=True)
        script = CHILD.format(tests=str(Path(__file__).parent))
        child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), kind])
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / sign).exists() and child.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(rng.uniform(0.0, 0.6))
        finally:
            child.kill()
        assert child.wait() == -signal.SIGKILL  # neither an error nor the end came first
        visible = [entry.name for entry in tmp_path.iterdir() if not entry.name.startswith(".")]
        assert set(visible) <= {"k.npy", "v.npy", "q.npy", "started", "x.ckpt"}
        seen = progress(load(path))
        assert seen >= before and seen > (0, 0) and all(rows % 32 == 0 for rows in seen)
        before = seen
    state = absorb(load(path), **slowly(tmp_path, load(path), pause=0, at_the_end=0), rows=32, checkpoint=path)
    k, v, q = data(n=640)
    whole = STATES[kind](n=640)
    absorb(whole, keys=k, values=v, **({"queries": q} if hasattr(whole, "absorb_keys") else {}), rows=32)
    whole.save(tmp_path / "whole.ckpt")
    assert progress(state) == progress(whole) and progress(whole)[0] == 640
    assert path.read_bytes() == (tmp_path / "whole.ckpt").read_bytes()


def progress(state):
    if hasattr(state, "absorb_keys"):
        return state.keys_seen, state.queries_seen
    return state.tokens_seen, 0


# -------------------------------------------------------------------------------------------------------- progress bar
def shown(monkeypatch, *, terminal, state=None, **call):
    file = io.StringIO()
    monkeypatch.setattr(
        streams, "Console", lambda **_: rich.console.Console(file=file, force_terminal=terminal, width=120)
    )
    absorb(state or TwoPhases(), rows=ROWS, **call)
    return file.getvalue()


def test_progress_bar(monkeypatch):
    k, v, q = data()
    text = shown(monkeypatch, terminal=True, keys=k, values=v, queries=q)
    assert "keys and values" in text and "queries" in text
    assert text.count("150/150") >= 2 and "rows/s" in text and "0:00:00" in text
    text = shown(monkeypatch, terminal=True, state=Recorder(), keys=as_iter(k), values=as_iter(v))
    assert "0/?" in text and "150/150" in text  # an iterable's end is known when it comes
    resumed = Recorder().update(k[:64], v[:64])
    assert "64/150" in shown(monkeypatch, terminal=True, state=resumed, keys=k, values=v)
    assert shown(monkeypatch, terminal=False, keys=k, values=v) == ""
    assert shown(monkeypatch, terminal=True, progress=False, keys=k, values=v) == ""


def test_silent_without_a_terminal(capfd):
    k, v, _ = data()
    absorb(Recorder(), keys=k, values=chain([v]))
    assert capfd.readouterr() == ("", "")
