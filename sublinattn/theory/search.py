"""The sample size at which an error falls to its target."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def critical_size(excess: Callable[[int], float], *, start: float, cap: int, rng: np.random.Generator) -> float:
    """Smallest sample size m at which `excess(m)`, the error over its target, is at most 1; inf if none is up to `cap`.

    Doubles m until the excess is at most 1, or halves m until it is above, from a first size between `start` and twice
    that (log-uniform). Between the last two sizes the log of the excess is interpolated linearly in log m, so that the
    answer is not rounded to a power of two. How far off this is depends on where those sizes fall; as the first is
    random, it differs between replicates, and counts as noise.
    """
    m = max(1, round(start * 2 ** rng.uniform()))
    current = excess(m)
    if current <= 1:
        while m > 1:
            lower = excess(m // 2)
            if lower > 1:
                return _crossing(m // 2, lower, m, current)
            m, current = m // 2, lower
        return 1.0
    while m < cap:
        upper = excess(2 * m)
        if upper <= 1:
            return _crossing(m, current, 2 * m, upper)
        m, current = 2 * m, upper
    return np.inf


def _crossing(low: int, above: float, high: int, below: float) -> float:
    """Where the line through (log low, log above) and (log high, log below) is 0; `high` if the error is 0 or inf."""
    if not (np.isfinite(above) and below > 0):
        return float(high)
    share = np.log(above) / np.log(above / below)
    return float(low * (high / low) ** share)


def last_miss(excess: Callable[[int], float], *, start: float) -> float:
    """Largest size up to `start`, on a grid with steps of 8 percent, at which `excess` is above 1; 0 if there is none.

    For errors that do not fall all the way: where something rare decides, few samples miss it and are off by little.
    """
    size = max(1, round(start))
    while size >= 1:
        if excess(size) > 1:
            return float(size)
        size = min(size - 1, round(size / 1.08))
    return 0.0
