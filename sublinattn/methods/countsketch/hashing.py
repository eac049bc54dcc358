"""Seeded hashing of indices: the implicit rows of a sketching matrix.

Source: Carter and Wegman's polynomials over a prime field. A random cubic modulo `p = 2^31 - 1` sends distinct indices
below `p` to values in `[0, p)` that are uniform and 4-wise independent. The low bit is the sign, the others give the
bucket: buckets and signs are 4-wise independent, jointly, and their laws are within `(width + 1) / 2^30` of uniform.

Cost: about 20 operations per index and cubic, in 64-bit unsigned integers, exact and the same on every device.

Differs from the papers in: [CCF02] asks for pairwise independent buckets and signs, drawn apart (3-wise where one value
gives both, as here). The variance of the matrix product [ALSY23] needs four signs at a time: hence cubics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core import backends
from ...core.backends import Array

PRIME = 2**31 - 1
MAX_INDEX = PRIME
"""Indices lie below this."""


def cubics(rng: np.random.Generator, count: int) -> np.ndarray:
    """Coefficients of random cubics, highest power first, shape (count, 4), uint64 on the host."""
    return rng.integers(PRIME, size=(count, 4), dtype=np.uint64)


@dataclass(frozen=True, eq=False)
class IndexHash:
    """Bucket and sign of every index, `len(coefficients)` times independently."""

    coefficients: np.ndarray  # the cubics, (r, 4) uint64, highest power first
    width: int  # number of buckets, below 2^30

    def __call__(self, xp: Any, index: Array, which: Any = slice(None)) -> tuple[Array, Array]:
        """Buckets (int64, in [0, width)) and signs (int8, +-1), shape (r', ...), under the cubics of slice `which`.

        `index` has shape (1, ...), the same indices for all of them, or (r', ...).
        """
        value = self._values(xp, index, which)
        width, one, shift = (np.uint64(x) for x in (self.width, 1, 30))
        bucket = ((value >> one) * width) >> shift  # value // 2 lies below 2^30
        return bucket.astype(np.int64), (1 - 2 * (value & one).astype(np.int8)).astype(np.int8)

    def _values(self, xp: Any, index: Array, which: slice) -> Array:
        """The cubics at `index`, modulo PRIME: Horner's rule; a Mersenne prime is divided by with a shift."""
        coefficients = backends.to_device(self.coefficients[which], xp)
        coefficients = coefficients.reshape(coefficients.shape + (1,) * (index.ndim - 1))
        prime, shift = (np.uint64(x) for x in (PRIME, 31))
        x = index.astype(np.uint64)
        value = coefficients[:, 0]
        for power in (1, 2, 3):
            value = value * x + coefficients[:, power]  # below 2^62, 2^63 and 3 * 2^62, and 2^31 more
            value = (value & prime) + (value >> shift)  # congruent, and below 2^32, 3 * 2^31 and 2^33
        value = (value & prime) + (value >> shift)
        return xp.where(value >= prime, value - prime, value)
