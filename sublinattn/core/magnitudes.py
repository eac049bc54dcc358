"""Powers of two that keep finite input finite: logits and weighted sums stay within the range of their dtype.

A product with a power of two rounds nothing: an answer is right where a number on the way to it would have been past
the largest float, although the answer is not.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from .backends import Array

_EXP_BITS = 58  # of exp(logit) where no maximum is subtracted: see `exact.SAFE_LOGIT`
_SPARE_BITS = 20  # a sum may become so many times larger, as a power of two, when others are merged into it


def moderate(scale: float) -> bool:
    """Whether a scale is so near 1 that its products with ordinary numbers neither overflow nor underflow."""
    return 2.0**-60 < abs(scale) < 2.0**60


def fit_logits(xp: Any, q: Array, k: Array, scale: float, q_norm: float, k_norm: float) -> tuple[Array, Array, float]:
    """Queries, keys and a scale with the same logits, none of which overflows on the way; norms are the largest rows'.

    ValueError where the logits themselves may be past the largest float (Cauchy-Schwarz).
    """
    if not (math.isfinite(q_norm) and math.isfinite(k_norm)) or not (scale and q_norm and k_norm):
        return q, k, scale  # unchecked input, or logits that are all 0
    most = np.finfo(q.dtype).maxexp - 2
    factor, rows, columns = (math.log2(abs(x)) for x in (scale, q_norm, k_norm))
    if factor + rows + columns > most:
        raise ValueError(
            f"logits must fit in {q.dtype}, got scale = {scale:.3g} for q and k whose largest rows have norms "
            f"{q_norm:.3g} and {k_norm:.3g}"
        )
    if abs(factor) < most / 2 and abs(factor + rows) < most / 2:
        return q, k, scale
    up, down = (math.frexp(norm)[1] for norm in (q_norm, k_norm))
    return times_power(xp, q, -up), times_power(xp, k, -down), math.ldexp(scale, up + down)


def excess(v: Array, v_norm: float, *, shift: bool) -> int:
    """By which power of two the values, whose largest row has this norm, are too large for their weighted sums; or 0.

    With `shift` no weight is above 1.
    """
    if not (v_norm and math.isfinite(v_norm)):
        return 0
    bits = math.log2(v_norm) + math.log2(v.shape[-2]) + _SPARE_BITS + (0 if shift else _EXP_BITS)
    return max(0, math.ceil(bits - np.finfo(v.dtype).maxexp))


def fit_values(xp: Any, v: Array, v_norm: float, *, shift: bool) -> tuple[Array, int]:
    """Values of which weighted sums and squares are finite, and the power of two that they were divided by."""
    square = min(v_norm * max(v_norm, 1.0), sys.float_info.max)
    power = math.frexp(v_norm)[1] if excess(v, square, shift=shift) else 0
    return times_power(xp, v, -power), power


def times_power(xp: Any, x: Array, exponent: int) -> Array:
    """`2^exponent x`, in the dtype of `x`."""
    with np.errstate(over="ignore"):  # infinite, which is looked for in an answer
        return xp.ldexp(x, np.int32(exponent)) if exponent else x
