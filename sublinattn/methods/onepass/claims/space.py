"""What the one-pass algorithm stores: its numbers, and from which n on keys and values are more [ALSY23]."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

from ...countsketch.countsketch import bit_length
from ...countsketch.recovery import bit_tables_for, tables_for, width_for
from ..onepass import OnePassSketch
from ..variants import product_width


# --------------------------------------------------------------------------------------------------- numbers, and n of
def held(sketch: OnePassSketch) -> int:
    """Numbers in the arrays of a sketch: sums, tables, bit counters, hashes."""
    return sum(int(x.size) for x in sketch.contents().values())


def numbers(
    n: int, d: int, d_v: int, *, degree: int, sparsity: int, eps1: float, eps2: float = 1.0, variant: str
) -> int:
    """`held` of a sketch that has read all rows, from its parameters: exact at any size, nothing is allocated."""
    t, tables = math.comb(d + degree, degree), tables_for(n * d_v, eps1)
    buckets = tables + bit_tables_for(sparsity * d_v, eps1) * bit_length(n)
    phi = width_for(sparsity, eps1) * buckets  # for one column; and 4 coefficients of each table's cubic
    if variant == "fused":
        return phi * d_v + 4 * tables + t * (d_v + 1)
    return phi * t + 4 * tables + product_width(eps2) * (t + d_v) + 4 + t


def crossing(numbers_at: Callable[[int], int], per_token: int, *, longest: int = 2**30) -> int:
    """The n from which on `numbers_at(n)` are fewer than `per_token` n.

    Numbers never fall as n grows: from `f(n) = numbers(n) // per_token + 1` on there are more than are held at n.

    Raises
    ------
    ValueError
        `longest` tokens are not enough.
    """
    n = longest
    if numbers_at(n) >= per_token * n:
        raise ValueError(f"longest must be past the crossing, got {n}, where no fewer than {per_token} n are held")
    while (below := numbers_at(n - 1) // per_token + 1) < n:
        n = below
    return n


@cache
def smallest_n(d: int, d_v: int, **parameters: Any) -> int:
    """The n from which on a sketch holds fewer numbers than keys and values."""
    return crossing(lambda n: numbers(n, d, d_v, **parameters), d + d_v)
