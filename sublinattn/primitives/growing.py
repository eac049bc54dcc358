"""Rows that are appended to: arrays with room to spare, so that a row costs O(1) copies whenever it comes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..core.backends import Array


def with_room(xp: Any, stored: Array | None, used: int, need: int, like: Array, maximum: float = math.inf) -> Array:
    """`stored` (B, room, ...) if `need` rows fit; else a larger array with its first `used` rows, zeros after them.

    The room grows by an eighth, up to `maximum` rows: O(1) copies of a row, and at most an eighth more than is used.
    """
    if stored is not None and stored.shape[1] >= need:
        return stored
    room = int(min(maximum, max(need, used + used // 8)))
    out = xp.zeros((len(like), room, *like.shape[2:]), dtype=like.dtype)
    if stored is not None:
        out[:, :used] = stored[:, :used]
    return out


class GrowingRows:
    """Rows of one shape and dtype, appended chunk by chunk; `buffer` (room, ...) has the rows, and room for more.

    The array of the first rows, perhaps none, is taken over, not copied.
    """

    def __init__(self, rows: Array) -> None:
        self.buffer, self._count = rows, len(rows)

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> Array:
        """The rows, a view."""
        return self.buffer[: self._count]

    def append(self, xp: Any, x: Array) -> None:
        """Copy the rows `x` (c, ...) in at the end."""
        self.extend(xp, len(x))[:] = x

    def extend(self, xp: Any, count: int) -> Array:
        """Add so many rows at the end, of any content; returns them, a view."""
        start, self._count = self._count, self._count + count
        self.buffer = with_room(xp, self.buffer[None], start, self._count, self.buffer[None])[0]
        return self.buffer[start : self._count]


def stacked(xp: Any, arrays: Sequence[Array]) -> Array:
    """Arrays (m_i, ...) as one, each filled up with its first row, or 0 without one. A view of a single one."""
    if len(arrays) == 1:
        return arrays[0][None]
    most, parts = max(map(len, arrays)), []
    for x in arrays:
        parts.append(x)
        if len(x) < most:
            first = x[:1] if len(x) else xp.zeros((1, *x.shape[1:]), x.dtype)
            parts.append(xp.broadcast_to(first, (most - len(x), *x.shape[1:])))
    return xp.concatenate(parts).reshape(len(arrays), most, *arrays[0].shape[1:])
