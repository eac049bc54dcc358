"""The sample size at which an error falls to its target."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def critical_size(excess: Callable[[int], float], *, start: int, cap: int) -> float:
    """Sample size at which `excess(m)` (a quantile of the error over its target) falls to 1; inf if it is above 1 up
    to `cap`.

    Doubles from `start` until it is at most 1 (or halves until it is above), then interpolates between the two sizes,
    both on log scales.
    """
    m, here = start, excess(start)
    if here <= 1:
        while m > 1:
            lower = excess(m // 2)
            if lower > 1:
                return _crossing(m // 2, lower, m, here)
            m, here = m // 2, lower
        return 1.0
    while m < cap:
        upper = excess(2 * m)
        if upper <= 1:
            return _crossing(m, here, 2 * m, upper)
        m, here = 2 * m, upper
    return np.inf


def _crossing(low: int, above: float, high: int, below: float) -> float:
    """Where the line through (log low, log above) and (log high, log below) is 0; at `high` where the error vanishes
    or overflowed.
    """
    if not (np.isfinite(above) and below > 0):
        return float(high)
    share = np.log(above) / np.log(above / below)
    return float(low * (high / low) ** share)
