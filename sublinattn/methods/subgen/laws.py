"""Laws of the value slots: what a token weighs when it comes. A slot holds each token in proportion to its weight.

"norm" is the paper's, `||v||^2` [SG24, Algorithm 1]: it gives the least bound on the variance of `z` over all attention
weights P of one norm `||P||_2`. The others are meant for an answer whose numerator and normaliser come from the same
slots. Its variance, to first order, is `sum_j P_j^2 ||v_j - o||^2 / (s p_j)`, o being exact attention
(`claims/self_normalised.py`): what counts is how far a value is from the answer, not how large it is. Nobody knows the
answer when the token comes; the mean of the values before it stands in for o in "centred", `||v - mean||^2`, and in
"distance", `||v - mean||`. By Cauchy and Schwarz the sum of `a_j / p_j` is least for p in proportion to `sqrt(a_j)`: so
"distance" is the best law where attention weights do not depend on the values, if o is near the mean. "uniform" looks
at nothing.

Until a value has differed from the mean of those before it there is nothing to measure by, and tokens weigh 1. The
first distance that is not 0 is the unit of all later ones, so that the law does not change when a vector is added to
all values, or all are multiplied. A difference below `SAME` times the value's norm counts as none: rounding makes some.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Law = Literal["norm", "centred", "distance", "uniform"]
SAME = 1e-6


class FromMean:
    """Weights by how far a value is from the mean of those before it, of one problem; and of the tokens in its slots.

    Parameters
    ----------
    law : "centred" or "distance"
    size, d_v : int
        Slots; width of the values.

    Attributes
    ----------
    total : array (d_v,)
        Sum of all values so far, in float64, one added after another: rounded alike in any chunks.
    unit : float
        What distances are measured in; 0 before the first.
    stored : array (size,)
        Weights of the tokens in the slots.
    """

    def __init__(self, law: Law, size: int, d_v: int) -> None:
        self.law, self.unit = law, 0.0
        self.total, self.stored = np.zeros(d_v), np.ones(size)

    def weigh(self, v: np.ndarray, seen: int) -> np.ndarray:
        """Weights (c,) of the values (c, d_v) that come after `seen` others."""
        v = v.astype(np.float64)
        sums = np.cumsum(np.concatenate([self.total[None], v]), axis=0)
        self.total = sums[-1]
        before = np.maximum(seen + np.arange(len(v)), 1)
        squares = ((v - sums[:-1] / before[:, None]) ** 2).sum(axis=1)
        far = squares if self.law == "centred" else np.sqrt(squares)
        known = np.full(len(v), self.unit > 0)
        if not self.unit:
            differs = squares > SAME**2 * (v**2).sum(axis=1)
            differs[: max(0, 1 - seen)] = False  # of the first value
            first = int(differs.argmax())
            known[first:] = differs[first]
            self.unit = float(far[first]) if differs[first] else 0.0
        return np.where(known, far / (self.unit or 1.0), 1.0)

    def factor(self, other: FromMean) -> float:
        """What `other`'s weights are multiplied by to be weights of this stream."""
        return other.unit / self.unit if self.unit and other.unit else 1.0

    def merge(self, other: FromMean, theirs: np.ndarray) -> None:
        """Go on as one of both streams; the slots `theirs` (size,) hold `other`'s tokens from now on."""
        self.stored = np.where(theirs, self.factor(other) * other.stored, self.stored)
        self.total, self.unit = self.total + other.total, self.unit or other.unit
