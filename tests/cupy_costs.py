"""What a call costs in CuPy 14, read from its source: launches, host syncs, and the operands that `matmul` copies.

A launch is one call of the array library that starts at least one kernel; how many kernels it starts inside is CuPy's
affair, except where that grows with the number of arrays. A view, an uninitialised array and an empty result launch
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Counts:
    """What was spent since the last `reset`."""

    launches: int = 0
    syncs: int = 0
    """Waits for the device: transfers to the host, and functions that must know a size or a value on the host."""
    copies: int = 0
    """Operands and results of `matmul` that are copied, because their layout or dtype is none of cuBLAS'."""
    uploads: int = 0
    """Bytes moved from the host to the device."""

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]


HIDDEN_SYNCS = {
    "argpartition": 2,  # it ends with unravel_index
    "argwhere": 1,  # the number of rows of the result
    "bincount": 2,  # whether an entry is negative, and the largest, `minlength` or not
    "compress": 1,
    "extract": 1,
    "flatnonzero": 1,
    "nonzero": 1,
    "unique": 1,
    "unravel_index": 2,  # whether an entry is out of range, on either side
}
"""Waits of functions whatever their arguments. More: `where` of one argument, `repeat` by an array, boolean masks."""
NOT_COUNTED = frozenset(
    ("average", "delete", "histogram", "histogram2d", "histogramdd", "ix_", "mask_indices", "nanmax", "nanmin", "place")
    + ("ravel_multi_index", "real_if_close")
)
"""Functions that may wait for the device, as CuPy's documentation says, and that the package does without."""
_SINGLE_KERNEL, _SMALL = 8, 2 * 1024 * 1024  # `_concatenate`: more arrays, and these on average smaller, are one kernel


def syncs(name: str, operands: tuple[Any, ...]) -> int:
    """Waits inside a call of a function or method; `operands` are its positional arguments."""
    if not any(isinstance(x, np.ndarray) and x.size for x in operands):
        return 0
    if name == "where":
        return 1 if len(operands) == 1 else 0
    if name == "repeat":  # the total, and whether a count is negative
        return 2 if len(operands) > 1 and isinstance(operands[1], np.ndarray) else 0
    return HIDDEN_SYNCS.get(name, 0)


def masks(key: Any) -> int:
    """Waits for the number of rows that boolean masks in an index pick."""
    parts = key if isinstance(key, tuple) else (key,)
    return sum(isinstance(part, np.ndarray) and part.dtype == bool for part in parts)


def launches(name: str, arrays: list[np.ndarray], results: list[Any], out: Any) -> int:
    """Launches of a call that made `results` (None for a method in place) of `arrays`."""
    made = [x for x in results if isinstance(x, np.ndarray)]
    if name.startswith("empty") or not any(x is None or (isinstance(x, np.ndarray) and x.size) for x in results):
        return 0
    if out is None and made and all(any(np.may_share_memory(x, y) for y in arrays) for x in made):
        return 0  # a view
    if name in ("concatenate", "stack") and len(arrays) > 1:
        one = len(arrays) > _SINGLE_KERNEL and len({x.dtype for x in arrays}) == 1
        one = one and sum(x.nbytes for x in arrays) < _SMALL * len(arrays)
        return 1 if one else len(arrays)
    return 1


def matmul_copies(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> int:
    """Operands and results of `matmul(a, b, out=out)` that CuPy copies.

    Two dimensions at most: cuBLAS takes C and Fortran order of the result's dtype, float16 and bfloat16 too; a slice of
    columns is copied. More: it takes C order alone, and float32 in place of float16.
    """
    if not a.size or not b.size:
        return 0
    dtype = np.promote_types(a.dtype, b.dtype)
    flat = max(a.ndim, b.ndim) <= 2
    inside = np.dtype(np.float32) if dtype == np.float16 and not flat else dtype
    fits = [x.dtype == inside and (x.flags.c_contiguous or (flat and x.flags.f_contiguous)) for x in (a, b)]
    if out is None:
        return 2 - sum(fits) + (inside != dtype)
    return 3 - sum(fits) - (out.dtype == inside and out.flags.c_contiguous)
