"""What the trials of SubGen's claims and the study of its laws share: caches of which one part may be broken, streams
cut into chunks, tokens that carry their number, and one query over a stream with both of its sums known exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np

from ....core.backends import Array, asnumpy, cut, to_device
from ....lab.workloads import make
from ....lab.workloads.instance import Instance
from ..head import Head
from ..subgen import SubGenCache
from ._broken import BROKEN


class Cache(SubGenCache):
    """A SubGenCache; `broken` names what is broken in it, a key of `BROKEN`."""

    def __init__(self, *args: Any, broken: str = "nothing", **parameters: Any) -> None:
        super().__init__(*args, **parameters)
        self.breaking(broken)

    def breaking(self, broken: str) -> Self:
        """Break it, before the first token; returns self."""
        self._parts = BROKEN[broken]
        return self

    @property
    def head(self) -> Head:
        """The state of the only problem, or of the last one."""
        return self.heads[-1]


def fed(cache: Cache, xp: Any, k: np.ndarray, v: np.ndarray, cuts: Iterable[slice]) -> Cache:
    """The cache after the chunks `cuts` of keys and values (..., n, d) that are on the host."""
    k, v = to_device(k, xp), to_device(v, xp)
    for chunk in cuts:
        cache.update(k[..., chunk, :], v[..., chunk, :])
    return cache


# ------------------------------------------------------------------------------------------------- streams and chunks
def chunks(n: int, rows: int) -> list[slice]:
    """Chunks of `rows` rows; the last one takes what is left."""
    return cut(n, rows)


def random_chunks(rng: np.random.Generator, n: int, count: int) -> Iterator[slice]:
    """`count` chunks, cut at random places."""
    ends = [0, *sorted(rng.choice(np.arange(1, n), count - 1, replace=False).tolist()), n]
    return (slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True))


def stream(rng: np.random.Generator, n: int, d: int, *, workload: str = "clusterable", **knobs: Any) -> Instance:
    """A stream in float64 with scale 1."""
    return make(workload, n, d, rng=rng, dtype=np.float64, scale=1.0, **knobs)


def several(rng: np.random.Generator, heads: int, n: int, d: int, **knobs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Keys (heads, n, d) and values (heads, n, d_v) of as many streams; of a single one (n, d) and (n, d_v)."""
    made = [stream(rng, n, d, **knobs) for _ in range(heads)]
    k, v = np.stack([x.k for x in made]), np.stack([x.v for x in made])
    return (k, v) if heads > 1 else (k[0], v[0])


def members(k: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances of keys (n, d) to centers (m, d), shape (n, m), and the number of the nearest center of each key."""
    distance = np.sqrt(((k[:, None] - centers[None]) ** 2).sum(axis=-1))
    return distance, distance.argmin(axis=1)


def numbered(rng: np.random.Generator, n: int, d_v: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys (n, 1) that are the tokens' numbers, and values (n, d_v) of norms between 1/2 and 2."""
    v = rng.standard_normal((n, d_v))
    v *= (2 ** rng.uniform(-1, 1, n) / np.linalg.norm(v, axis=1))[:, None]
    return np.arange(n, dtype=float)[:, None], v


def numbers(keys: Array) -> np.ndarray:
    """The tokens' numbers, read from keys (..., 1) of `numbered`."""
    return asnumpy(keys)[..., 0].astype(np.int64)


# ------------------------------------------------------------------------------------------------- the two estimates
class Tokens:
    """One query over a stream, scale 1, in float64, with both sums that SubGen estimates.

    Parameters
    ----------
    q, k, v : arrays, shapes (1, d), (n, d), (n, d_v)
    top : float
        Subtracted from all logits.

    Attributes
    ----------
    e : array, shape (n,)
        `exp(<q, k_j> - top)`.
    squares, law : array, shape (n,)
        `||v_j||^2`, and over `mu = ||V||_F^2` the probability that a slot holds token j.
    numerator : array, shape (d_v,)
        `sum_j e_j v_j`, which `z` estimates.
    normaliser : float
        `sum_j e_j`, which `tau` estimates.
    """

    def __init__(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, *, top: float = 0.0) -> None:
        self.q, self.k, self.v = q, k, v
        self.e = np.exp(k @ q[0] - top)
        self.squares = (v**2).sum(axis=1)
        self.law = self.squares / self.squares.sum()
        self.numerator = self.e @ v
        self.normaliser = float(self.e.sum())

    @property
    def variance(self) -> float:
        """`E ||z - E z||^2` with one slot, the sum over j of `law_j ||e_j v_j / law_j - numerator||^2`."""
        return float(self.squares.sum() * (self.e**2).sum() - (self.numerator**2).sum())


def sums(part: Callable[..., Any], xp: Any, heads: Sequence[Head], q: np.ndarray) -> np.ndarray:
    """`numerators` or `normalisers` of the heads for queries (c, d) at scale 1: shape (h, c, d_v) or (h, c, 1)."""
    m, o = part(xp, heads, xp.broadcast_to(to_device(q, xp), (len(heads), *q.shape)), 1.0)
    return np.exp(asnumpy(m))[..., None] * asnumpy(o)
