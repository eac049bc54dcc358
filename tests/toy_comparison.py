"""Small streams and runs for the tests of the comparison of caches and of SubGen's ablation."""

from __future__ import annotations

import numpy as np

from sublinattn.lab.comparison import error_over_bytes, registry
from sublinattn.lab.run import Run

RUN = Run(backend="numpy")
N = 256


def stream() -> registry.Stream:
    return registry.drawn(error_over_bytes.CLUSTERS_MEAN, N, 0, RUN)[0]


def small(monkeypatch, **sizes) -> None:
    """Wherever a run picks by effort, it gets the entry of `sizes` for what smoke has."""
    monkeypatch.setattr(Run, "pick", lambda self, *, smoke, **_: sizes.get(str(smoke), smoke))


def softmax(stream) -> np.ndarray:
    q, k = (a.astype(np.float64) for a in (stream.late, stream.x.k))
    e = np.exp(stream.x.scale * q @ k.T)
    return e / e.sum(axis=1, keepdims=True)
