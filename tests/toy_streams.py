"""Streams for the tests: toy states that keep what they are given, sources of every kind, the real states by name."""

import hashlib
from functools import partial

import numpy as np
import safetensors.numpy
import toy_states

from sublinattn.core import backends
from sublinattn.core.state import StreamingState

N, D, D_V, ROWS = 150, 3, 2, 32
CUTS = [32, 32, 32, 32, 22]


class Recorder(StreamingState):
    """Keeps what it is given, and a digest that depends on where the chunks were cut."""

    def __init__(self):
        super().__init__()
        self.chunks, self.tokens_seen, self.digest = [], 0, "00"

    def update(self, k, v):
        assert len(k) == len(v)
        k, v = np.array(backends.asnumpy(k)), np.array(backends.asnumpy(v))
        if not (np.isfinite(k).all() and np.isfinite(v).all()):
            raise ValueError("k must be finite")
        self.chunks.append((k, v))
        self.tokens_seen += len(k)
        self._mix(k, v)
        return self

    def _mix(self, *arrays):
        data = bytes.fromhex(self.digest) + b"".join(x.astype(np.float64).tobytes() for x in arrays)
        self.digest = hashlib.sha256(data).hexdigest()

    def _about(self):
        return {"digest": self.digest, "tokens_seen": self.tokens_seen}

    def _restore(self, about, arrays):
        vars(self).update(about)


class TwoPhases(Recorder):
    """Keys, then queries, n of each."""

    PARAMETERS = ("n",)

    def __init__(self, n=N):
        super().__init__()
        self.n, self.queries, self.queries_seen = n, [], 0

    keys_seen = property(lambda self: self.tokens_seen)

    def absorb_keys(self, k, v, *, start):
        assert start == self.keys_seen and not self.queries_seen
        return self.update(k, v)

    def absorb_queries(self, q, *, start):
        assert start == self.queries_seen and self.keys_seen == self.n
        self.queries.append(np.array(q))
        self.queries_seen += len(q)
        self._mix(q)
        return self

    def _about(self):
        return {**super()._about(), "n": self.n, "queries_seen": self.queries_seen}


class Reads:
    """An array that counts how often each of its rows is read."""

    def __init__(self, x):
        self._x, self.shape, self.dtype, self.counts = x, x.shape, x.dtype, np.zeros(len(x), dtype=int)

    def __getitem__(self, rows):
        assert rows.stop <= len(self._x)
        self.counts[rows] += 1
        return self._x[rows]

    def chunks(self, size):
        for start in range(0, len(self._x), size):
            yield self[start : min(start + size, len(self._x))]


def data(dtype=np.float32, n=N):
    rng = np.random.default_rng(5)
    return tuple((rng.normal(size=(n, width)) / 2).astype(dtype) for width in (D, D_V, D))


def as_iter(x):
    """The rows in chunks of ten."""
    return (x[i : i + 10] for i in range(0, len(x), 10))


def one_buffer(x):
    """A reader that fills the same buffer again and again."""
    buffer = np.empty((20, x.shape[1]), dtype=x.dtype)
    for start in range(0, len(x), 20):
        chunk = x[start : start + 20]
        buffer[: len(chunk)] = chunk
        yield buffer[: len(chunk)]


def mapped(x, folder, name):
    np.save(folder / f"{name}.npy", x)
    return np.load(folder / f"{name}.npy", mmap_mode="r")


def npy(x, folder, name):
    np.save(folder / f"{name}.npy", x)
    return folder / f"{name}.npy"


def in_safetensors(x, folder, name):
    safetensors.numpy.save_file({"other": np.ones(7), name: x}, folder / f"{name}.safetensors")
    return str(folder / f"{name}.safetensors"), name


SOURCES = {
    "array": lambda x, folder, name: x,
    "memory map": mapped,
    "npy": npy,
    "npy as str": lambda x, folder, name: str(npy(x, folder, name)),
    "npy, Fortran order": lambda x, folder, name: npy(np.asfortranarray(x), folder, name),
    "safetensors": in_safetensors,
    "small chunks": lambda x, folder, name: (x[i : i + 7] for i in range(0, N, 7)),
    "large chunks": lambda x, folder, name: [x[:3], x[3:3], x[3:140], x[140:]],
    "chunks of its own rows": lambda x, folder, name: (x[i : i + ROWS] for i in range(0, N, ROWS)),
    "rows": lambda x, folder, name: iter(x),
    "one buffer": lambda x, folder, name: one_buffer(x),
}


def assert_all_rows(state, k, v):
    assert [len(chunk) for chunk, _ in state.chunks] == CUTS
    for i, x in enumerate((k, v)):
        got = np.concatenate([chunk[i] for chunk in state.chunks])
        assert got.dtype == x.dtype
        np.testing.assert_array_equal(got, x)


STATES = {
    "two phases": TwoPhases,
    "recorder": lambda n=N: Recorder(),
    "polynomial": lambda n=N: toy_states.polynomial(d=D, d_v=D_V),
    "subgen that doubles": lambda n=N: toy_states.STATES["subgen that doubles"](),
    **{name: partial(toy_states.sketch(name), n=N, d=D, d_v=D_V) for name in ("fused", "paper")},
}
