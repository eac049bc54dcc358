"""Rows that are appended to: arrays with room to spare, so that a row costs O(1) copies whenever it comes."""

from __future__ import annotations

import math
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
        count = self._count + len(x)
        self.buffer = with_room(xp, self.buffer[None], self._count, count, x[None])[0]
        self.buffer[self._count : count] = x
        self._count = count
