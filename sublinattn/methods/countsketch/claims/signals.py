"""What the trials about CountSketch share: vectors with known large entries, sketches of them, a hash without signs.

Also the mean squared error of a product of two sketches.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.random import Generator

from ....core.backends import Array, to_device
from ....theory.claim import Sabotage
from ..countsketch import CountSketch
from ..hashing import IndexHash

NO_SIGNS = Sabotage("signs dropped", "every sign is +1", {"signs": False})


class Unsigned(IndexHash):
    """Sabotage: all signs are +1."""

    def __call__(self, xp: Any, index: Array, which: Any = slice(None)) -> tuple[Array, Array]:
        bucket, sign = super().__call__(xp, index, which)
        return bucket, xp.ones_like(sign)


def sketched(
    xp: Any, coefficients: np.ndarray, x: Array, *, width: int, start: int = 0, bit_tables: int = 0, signs: bool = True
) -> CountSketch:
    """The sketch of a matrix (n, p) whose first row has the index `start`, with one table for each cubic (r, 4).

    Sabotage: without `signs`, all signs are +1.
    """
    hashed = (IndexHash if signs else Unsigned)(coefficients, width)
    sketch = CountSketch(start + len(x), x.shape[1], hashed, bit_tables)
    sketch.allocate(xp, np.float64)
    sketch.add(start, to_device(x, xp))
    return sketch


def expected_square(u: np.ndarray, v: np.ndarray, width: int) -> float:
    """`E ||U^T S^T S V - U^T V||_F^2 = (1/w) sum_{i != j} (|u_i|^2 |v_j|^2 + <u_i, u_j> <v_i, v_j>)`."""
    each_u, each_v = (u**2).sum(axis=1), (v**2).sum(axis=1)
    pairs = each_u.sum() * each_v.sum() + ((u.T @ v) ** 2).sum()
    return float((pairs - 2 * (each_u * each_v).sum()) / width)


def by_table(xp: Any, sketch: CountSketch, index: Array) -> Array:
    """Every table's own estimates `g_j(i) table_j[h_j(i)]` of the rows i in `index` (c,), for one column: (r, c)."""
    bucket, sign = sketch.hash(xp, index[None])
    return xp.take_along_axis(sketch.table[:, :, 0], bucket, axis=1) * sign


def signals(rng: Generator, family: str, n: int, k: int, *, eps1: float = 1.0, columns: int = 2) -> np.ndarray:
    """Columns (n, columns) of one family, or of several in turn ("sinks and spikes"), each in random order but `sinks`.

    - `power`: `1/i`, all positive.
    - `spikes`: k entries that hold 4/5 of the energy, over noise of one size and random signs.
    - `positive spikes`: the same without signs.
    - `dominant`: k entries of 1000 over ones, random signs.
    - `sparse`: k Gaussian entries, the others 0.
    - `sinks`: the same, and they are the first k.
    - `flat`: all ones.
    - `ties`: k entries `1 + 4 eps1`, k entries 1, and n - 2k of random signs that together weigh as much as k ones.
    """
    families = itertools.cycle(family.split(" and "))
    ordered = ((one, _ordered(rng, one, n, k, eps1)) for one in itertools.islice(families, columns))
    return np.stack([y if one == "sinks" else rng.permutation(y) for one, y in ordered], axis=1)


def _ordered(rng: Generator, family: str, n: int, k: int, eps1: float) -> np.ndarray:
    """One signal, its large entries first."""
    y = np.ones(n)
    if family == "power":
        y /= np.arange(1, n + 1)
    elif family in ("spikes", "positive spikes"):
        y[:k] = np.sqrt(4 * (n - k) / k)
        y *= rng.choice((-1, 1), size=n) if family == "spikes" else 1
    elif family == "dominant":
        y[:k] = 1000
        y *= rng.choice((-1, 1), size=n)
    elif family in ("sparse", "sinks"):
        y[:k], y[k:] = rng.standard_normal(k), 0
    elif family == "ties":
        y[:k] = 1 + 4 * eps1
        y[2 * k :] = np.sqrt(k / (n - 2 * k)) * rng.choice((-1, 1), size=n - 2 * k)
    elif family != "flat":
        raise ValueError(f"no family of signals is called {family!r}")
    return y


def tail(y: np.ndarray, k: int) -> np.ndarray:
    """`||tail_k||_2` of each column of y (n, ...): the norm of all but its k largest entries."""
    n = len(y)
    return np.sqrt((np.sort(y**2, axis=0)[: n - k]).sum(axis=0))
