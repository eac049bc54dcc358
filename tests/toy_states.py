"""Every streaming state at a small size, fed from one stream: for the tests of what they share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import references
from toy_caches import CACHES

from sublinattn.core.state import StreamingState
from sublinattn.methods.onepass.onepass import OnePassSketch
from sublinattn.methods.polynomial.polynomial import PolynomialState
from sublinattn.methods.subgen.subgen import SubGenCache

N, D, D_V = 60, 4, 3


class Toy(StreamingState):
    """Any arrays, and anything beside them."""

    PARAMETERS = ("name",)

    def __init__(self, name: str, numbers: Any = None, arrays: dict[str, np.ndarray] | None = None) -> None:
        super().__init__()
        self.name, self.numbers, self._stored = name, numbers, arrays or {}

    def _about(self) -> dict[str, Any]:
        return {"name": self.name, "numbers": self.numbers}

    def _restore(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.numbers, self._stored = about["numbers"], arrays


def polynomial(rng: Any = 0, **options: Any) -> PolynomialState:
    return PolynomialState(**({"d": D, "d_v": D_V, "degree": 4, "scale": 0.5} | options))


def sketch(variant: str) -> Callable[..., OnePassSketch]:
    sizes = {"n": N, "d": D, "d_v": D_V, "degree": 3, "sparsity": 3, "eps1": 0.8, "eps2": 0.5, "variant": variant}
    return lambda rng=0, **options: OnePassSketch(**(sizes | options), rng=rng)


def subgen(rng: Any = 0, **options: Any) -> SubGenCache:
    return SubGenCache(**({"delta": 1.0, "cluster_samples": 3, "value_samples": 4} | options), rng=rng)


def slots(rng: Any = 0, **options: Any) -> SubGenCache:
    return SubGenCache(value_samples=4, normaliser="slots", **options, rng=rng)


STATES: dict[str, Callable[..., Any]] = {
    "polynomial": polynomial,
    "minimax": lambda rng=0: polynomial(degree=5, basis="minimax", radius=np.float32(3), scale=0.8),
    "paper": sketch("paper"),
    "fused": sketch("fused"),
    **{name: lambda rng=0, make=make: make(rng=rng) for name, make in CACHES.items()},
    "subgen": subgen,
    "subgen with a window": lambda rng=0: subgen(rng, recent=9),
    "subgen that doubles": lambda rng=0: subgen(rng, delta=0.01, max_clusters=5, recent=4),
    "subgen, uniform slots": lambda rng=0: subgen(rng, law="uniform"),
    "subgen, slots alone": lambda rng=0: slots(rng, law="norm"),
    "subgen, slots far from the mean": lambda rng=0: slots(rng, law="distance", recent=9),
}
KEEP = [name for name in STATES if name != "zero"]  # the others store something
MERGE = [name for name in STATES if hasattr(STATES[name](), "merge")]


def stream(seed: int = 0, *, lead: tuple[int, ...] = (), dtype: Any = np.float64) -> list[np.ndarray]:
    """N queries, keys and values."""
    return references.qkv(seed, N, N, lead=lead, d=D, d_v=D_V, size=0.7, dtype=dtype)


def add_keys(state: Any, k: Any, v: Any, **options: Any) -> Any:
    return getattr(state, "absorb_keys" if isinstance(state, OnePassSketch) else "update")(k, v, **options)


def ask(state: Any, q: Any) -> Any:
    return getattr(state, "absorb_queries" if isinstance(state, OnePassSketch) else "attend")(q)


def feed(state: Any, rows: list[Any], start: int = 0, stop: int = 2 * N) -> Any:
    """The part from `start` to `stop` of N keys and then N queries."""
    q, k, v = rows
    if start < min(stop, N):
        add_keys(state, k[..., start : min(stop, N), :], v[..., start : min(stop, N), :])
    if stop > max(start, N):
        ask(state, q[..., max(start - N, 0) : stop - N, :])
    return state


def contents(state: Any, folder: Path) -> bytes:
    """All that the state's file says."""
    state.save(folder / "contents")
    return (folder / "contents").read_bytes()
