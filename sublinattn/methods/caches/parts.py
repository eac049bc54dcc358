"""What the caches of `caches` are put together from: parameters, softmax over what is held, merging."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from ...core import backends, checks
from ...core.backends import Array
from ...core.exact import partial_attention
from .base import KVCache


def budget_and_recent(budget: Any, recent: Any) -> tuple[int, int]:
    """Both as integers, the recent tokens within the budget."""
    budget = checks.integer("budget", budget, minimum=1)
    recent = checks.integer("recent", recent, minimum=0)
    if recent > budget:
        raise ValueError(f"recent must be at most budget ({budget}), got {recent}")
    return budget, recent


def joined(xp: Any, held: dict[str, Array], **rows: Array) -> dict[str, Array]:
    """The rows (B, c, ...) after those held under the same names; copies."""
    return {name: xp.concatenate([held[name], x], axis=1) if held else x.copy() for name, x in rows.items()}


def picked(xp: Any, held: dict[str, Array], index: Array) -> dict[str, Array]:
    """Of each problem the tokens `index` (B, m)."""
    deep = index[:, :, None]
    return {name: xp.take_along_axis(x, index if x.ndim == 2 else deep, axis=1) for name, x in held.items()}


def softmax_over(held: dict[str, Array], used: int, q: Array, scale: float) -> Array:
    """Exact attention over the first `used` tokens held."""
    k, v = (held[name][:, :used] for name in ("keys", "values"))
    return partial_attention(q, k, v, scale=scale, check_finite=False).output()


class MergingCache(KVCache):
    """A cache that takes over what another one holds; a subclass implements `_take`, and says what it then is."""

    def __init__(self) -> None:
        super().__init__()
        self._seeds: list[int] = []  # of its draws: its own, then those of the caches merged into it

    def merge(self, other: Self) -> Self:
        """Add the tokens of `other`, which saw a stream of its own, as if they came after this one's; returns self.

        The class says what a merged cache is. `other` is left as it was.

        Raises
        ------
        TypeError, ValueError
            Another class; other parameters, leading axes, widths or dtype; draws in common.
        """
        self._check_mergeable(other)
        if not other.tokens_seen:
            return self
        xp = next(
            (backends.namespace(x) for x in (*self._arrays(), *other._arrays()) if not isinstance(x, np.ndarray)), np
        )
        self._follow(xp, "other")
        if not self.tokens_seen:
            self._lead, self._width, self._dtype = other._lead, other._width, other._dtype
        self._take(xp, other, {name: backends.to_device(x, xp) for name, x in other._held.items()})
        self._seeds += other._seeds
        self.tokens_seen += other.tokens_seen
        return self

    def _check_mergeable(self, other: Any) -> None:
        super()._check_mergeable(other)
        if self._about() != other._about():
            raise ValueError(f"other must have this cache's parameters {self._about()}, got {other._about()}")
        if set(self._seeds) & set(other._seeds):
            raise ValueError("other must have draws of its own: make the caches with different rng")

    def _take(self, xp: Any, other: Any, theirs: dict[str, Array]) -> None:
        """Take over from `other`, which has tokens; `theirs` is its `_held`, on this cache's device."""
        raise NotImplementedError
