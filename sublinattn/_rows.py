"""Rows that are appended to: one array with room to spare, so that a row costs O(1) copies whenever it comes."""

from __future__ import annotations

from typing import Any

from ._xp import Array


class GrowingRows:
    """Rows of one shape and dtype, appended chunk by chunk; the room grows by an eighth of what there is.

    Parameters
    ----------
    rows : array, shape (m, ...)
        The first rows, none perhaps; kept, not copied.

    Attributes
    ----------
    buffer : array, shape (room, ...)
        All that is held.
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
        if len(self.buffer) < count:
            buffer = xp.empty((max(count, self._count + self._count // 8), *x.shape[1:]), dtype=x.dtype)
            buffer[: self._count] = self.rows
            self.buffer = buffer
        self.buffer[self._count : count] = x
        self._count = count
