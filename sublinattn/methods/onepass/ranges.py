"""Which indices of a stream have been read: disjoint half-open ranges, in order, as few as there can be."""

from __future__ import annotations

Ranges = list[tuple[int, int]]


def with_range(ranges: Ranges, start: int, stop: int, *, name: str, n: int) -> Ranges:
    """`ranges` and [start, stop); ValueError if it leaves [0, n) or has been read before."""
    if stop > n:
        raise ValueError(f"{name} must have its rows below n = {n}, got rows {start} to {stop - 1}")
    for a, b in ranges:
        if a < stop and start < b:
            raise ValueError(f"{name} must bring each index once, got rows {start} to {stop - 1} after {a} to {b - 1}")
    out: Ranges = []
    for a, b in sorted([*ranges, (start, stop)]):
        if out and out[-1][1] == a:
            out[-1] = (out[-1][0], b)
        else:
            out.append((a, b))
    return out


def union(first: Ranges, second: Ranges, *, name: str, n: int) -> Ranges:
    """All indices of two disjoint sets of ranges; ValueError if they overlap."""
    for a, b in second:
        first = with_range(first, a, b, name=name, n=n)
    return first


def size(ranges: Ranges) -> int:
    """Number of indices."""
    return sum(b - a for a, b in ranges)
