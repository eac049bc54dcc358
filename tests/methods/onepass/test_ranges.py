"""Ranges of indices against plain sets of indices."""

from __future__ import annotations

import numpy as np
import pytest
from sublinattn.methods.onepass.ranges import Ranges, size, union, with_range

N = 12


def indices(ranges: Ranges) -> set[int]:
    return {i for a, b in ranges for i in range(a, b)}


def assert_canonical(ranges: Ranges) -> None:
    """In order, none empty, no two that touch."""
    edges = [edge for pair in ranges for edge in pair]
    assert edges == sorted(set(edges))


@pytest.mark.parametrize("seed", range(60))
def test_ranges_are_the_set_of_the_indices_read(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranges: Ranges = []
    read: set[int] = set()
    for _ in range(40):
        start = int(rng.integers(N))
        stop = start + int(rng.integers(1, 5))
        new, before = set(range(start, stop)), list(ranges)
        if stop > N:
            with pytest.raises(ValueError, match=rf"k must have its rows below n = 12, got rows {start} to {stop - 1}"):
                with_range(ranges, start, stop, name="k", n=N)
        elif new & read:
            with pytest.raises(
                ValueError, match=rf"k must bring each index once, got rows {start} to {stop - 1} after"
            ):
                with_range(ranges, start, stop, name="k", n=N)
        else:
            ranges, read = with_range(ranges, start, stop, name="k", n=N), read | new
            if before:
                assert indices(before) == read - new  # the argument is as it was
        assert indices(ranges) == read and size(ranges) == len(read)
        assert_canonical(ranges)
    assert len(read) > N // 2


@pytest.mark.parametrize("seed", range(60))
def test_union(seed: int) -> None:
    rng = np.random.default_rng(seed)
    owner = rng.integers(3, size=N)  # of every index: the first, the second, nobody
    parts: list[Ranges] = [[], []]
    for i in rng.permutation(N).tolist():
        if owner[i] < 2:
            parts[owner[i]] = with_range(parts[owner[i]], i, i + 1, name="q", n=N)
    both = union(*parts, name="q", n=N)
    assert indices(both) == set(np.flatnonzero(owner < 2).tolist())
    assert both == union(*reversed(parts), name="q", n=N)
    assert_canonical(both)
    assert union(parts[0], [], name="q", n=N) == parts[0] and union([], parts[1], name="q", n=N) == parts[1]
    if parts[1]:
        with pytest.raises(ValueError, match="q must bring each index once"):
            union(both, parts[1], name="q", n=N)


def test_a_full_range() -> None:
    assert with_range([(0, 3), (5, 12)], 3, 5, name="k", n=N) == [(0, 12)]
    assert size([(0, 12)]) == 12 and size([]) == 0
