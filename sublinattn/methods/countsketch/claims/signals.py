"""What the trials of CountSketch, of the sketched product and of sparse recovery share: signals, sketches of them, and
a sabotaged hash.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.backends import Array, to_device
from ..countsketch import CountSketch
from ..hashing import IndexHash


class Unsigned(IndexHash):
    """Sabotage: all signs are +1."""

    def __call__(self, xp: Any, index: Array, which: Any = slice(None)) -> tuple[Array, Array]:
        bucket, sign = super().__call__(xp, index, which)
        return bucket, xp.ones_like(sign)


def sketched(
    xp: Any,
    coefficients: np.ndarray,
    x: np.ndarray,
    *,
    width: int,
    start: int = 0,
    bit_tables: int = 0,
    signs: bool = True,
) -> CountSketch:
    """The sketch of a host matrix (n, p), its first row of index `start`, under given cubics, one table each; without
    `signs` a sabotaged one.
    """
    hashed = (IndexHash if signs else Unsigned)(coefficients, width)
    sketch = CountSketch(start + len(x), x.shape[1], hashed, bit_tables)
    sketch.allocate(xp, np.float64)
    sketch.add(start, to_device(x, xp))
    return sketch


def by_table(xp: Any, sketch: CountSketch, index: Array) -> Array:
    """Every table's own estimates of the rows `index` (c,) of a sketch with one column, shape (r, c)."""
    bucket, sign = sketch.hash(xp, index[None])
    return xp.take_along_axis(sketch.table[:, :, 0], bucket, axis=1) * sign


def signal(rng: np.random.Generator, family: str, n: int, k: int, eps1: float) -> np.ndarray:
    """A vector of n entries in random order.

    - `power`: `1/i`, all positive.
    - `spikes`: k entries that hold 4/5 of the energy, over noise of one size and random signs.
    - `sparse`: k Gaussian entries, the others 0.
    - `flat`: all ones.
    - `ties`: k entries `1 + 4 eps1`, k entries 1, and n - 2k of random signs that together weigh as much as k ones.
    - `faint`: k entries that together hold a share `2 eps1` of the energy of the others, which are of one size.
    """
    y = np.zeros(n)
    if family == "power":
        y[:] = 1 / np.arange(1, n + 1)
    elif family == "spikes":
        y[:k], y[k:] = np.sqrt(4 * (n - k) / k), 1
        y *= rng.choice((-1, 1), size=n)
    elif family == "sparse":
        y[:k] = rng.standard_normal(k)
    elif family == "flat":
        y[:] = 1
    elif family == "ties":
        y[2 * k :] = np.sqrt(k / (n - 2 * k)) * rng.choice((-1, 1), size=n - 2 * k)
        y[:k], y[k : 2 * k] = 1 + 4 * eps1, 1
    elif family == "faint":
        y[:k], y[k:] = np.sqrt(2 * eps1 * (n - k) / k), 1
        y *= rng.choice((-1, 1), size=n)
    else:
        raise ValueError(f"no family of signals is called {family!r}")
    return rng.permutation(y)


def tail(y: np.ndarray, k: int) -> np.ndarray:
    """`||tail_k||_2` of each column of y (n, ...): the norm of all but its k largest entries."""
    n = len(y)
    return np.sqrt((np.sort(y**2, axis=0)[: n - k]).sum(axis=0))
