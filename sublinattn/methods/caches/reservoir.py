"""The cache that holds a random sample of the tokens; see `caches`."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np

from ...core import backends, checks
from ...core.backends import Array
from ...core.checks import check_squares
from ...core.exact import partial_attention
from ...primitives.reservoir import WeightedSlots, seed_from, squared_norms, uniforms
from .parts import MergingCache, softmax_over

Weights = Literal["uniform", "value-norm"]


class SmallestPriorities:
    """A sample without replacement: the `size` items of smallest priority, item j's a uniform number of its own.

    Parameters
    ----------
    size : int
    seed, stream : int
        As `primitives.reservoir.WeightedSlots`.

    Attributes
    ----------
    priorities : numpy array, shape (size,)
        Of the item in each slot; inf where there is none yet. Empty slots are filled in order.
    seen : int
        Items so far.
    """

    def __init__(self, size: int, seed: int, stream: int) -> None:
        self.size, self.seed, self.stream = size, seed, stream
        self.priorities, self.seen = np.full(size, math.inf), 0

    def absorb(self, count: int) -> np.ndarray:
        """Take a chunk of `count` items; `O(count + size)` and O(size) more for each that is taken.

        Returns
        -------
        numpy array of int64, shape (size,)
            Which item of the chunk each slot holds now; -1 where it holds what it held.
        """
        draws = uniforms(self.seed, self.stream, self.seen + np.arange(count))
        self.seen += count
        return self._offer(draws)

    def merge(self, other: SmallestPriorities) -> np.ndarray:
        """Make this the sample of both streams, exactly: which of `other`'s slots each slot holds now, or -1."""
        self.seen += other.seen
        return self._offer(other.priorities[: other.seen])

    def _offer(self, draws: np.ndarray) -> np.ndarray:
        """Item after item, as if each came alone: one below the largest priority held takes that one's slot."""
        held = np.full(self.size, -1)
        free = np.flatnonzero(np.isinf(self.priorities))[: len(draws)]
        held[free] = np.arange(len(free))
        self.priorities[free] = draws[: len(free)]
        slot = int(self.priorities.argmax())
        largest = float(self.priorities[slot])
        items = len(free) + np.flatnonzero(draws[len(free) :] < largest)
        for item, priority in zip(items.tolist(), draws[items].tolist(), strict=True):
            if priority < largest:
                held[slot], self.priorities[slot] = item, priority
                slot = int(self.priorities.argmax())
                largest = float(self.priorities[slot])
        return held


class ReservoirCache(MergingCache):
    """A random sample of the tokens.

    Parameters
    ----------
    budget : int
        Tokens held (slots, for "value-norm").
    weights : "uniform" or "value-norm"
        "uniform": every subset of `budget` tokens is equally likely to be the one held; the answer is softmax over it.
        "value-norm": each slot holds token j with probability `||v_j||^2 / mu`, `mu = sum_j ||v_j||^2`, independently:
        the value sample of SubGen [SG24], here for the normaliser too.
    rng : Generator, int or None
        Source of the draws. Caches that are to be merged need different ones.

    Attributes
    ----------
    tokens_seen, nbytes : int

    Raises
    ------
    TypeError, ValueError
        Impossible parameters.

    Notes
    -----
    "uniform" is exact up to `budget` tokens. "value-norm" weighs a slot by `mu / (budget ||v||^2)` in numerator and
    denominator, both then unbiased, unless values are 0: such tokens are never held, so that the normaliser lacks their
    share and the answer is too large by it; a cache that saw only such tokens answers 0, exactly.

    The sample is a function of the seed, the head and the token's number: the same for any chunks, to the bit. Merged,
    "uniform" holds the `budget` smallest priorities of the union, each token's that of its own stream; "value-norm"
    takes each slot of `other` with probability `mu_b / (mu_a + mu_b)`: both have the law of a cache that saw both
    streams, and both refuse caches whose draws come from the same seed.

    `budget (d + d_v)` numbers and 8 bytes per slot. A chunk of c tokens costs `O(c + budget)`, and each token that is
    taken, `O(budget log n)` in all, `O(budget + d + d_v)`.
    """

    def __init__(
        self, budget: int, weights: Weights = "uniform", *, rng: np.random.Generator | int | None = None
    ) -> None:
        super().__init__()
        self.budget = checks.integer("budget", budget, minimum=1)
        if weights not in get_args(Weights):
            raise ValueError(f"weights must be one of {get_args(Weights)}, got {weights!r}")
        self.weights = weights
        self._seeds = [seed_from(rng)]
        self._samples: list[Any] = []  # one per head: SmallestPriorities or WeightedSlots

    # ------------------------------------------------------------------------------------------------------ the stream
    def _check_rows(self, xp: Any, check_finite: bool, k: Array, v: Array) -> None:
        _, norm = checks.largest_norms(xp, check_finite, k=k, v=v)
        if self.weights == "value-norm":
            check_squares("v", v, norm)

    def _begin(self, xp: Any, heads: int) -> None:
        if not self._held:
            for name, width in (("keys", self._width["k"]), ("values", self._width["v"])):
                self._held[name] = xp.zeros((heads, self.budget, width), dtype=self._dtype)
            kind = SmallestPriorities if self.weights == "uniform" else WeightedSlots
            self._samples = [kind(self.budget, self._seeds[0], head) for head in range(heads)]

    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        self._begin(xp, len(k))
        if self.weights == "uniform":
            held = [sample.absorb(k.shape[1]) for sample in self._samples]
        else:
            held = [sample.absorb(w) for sample, w in zip(self._samples, squared_norms(v), strict=True)]
        self._fill(xp, np.stack(held), {"keys": k, "values": v})

    def _fill(self, xp: Any, source: np.ndarray, rows: dict[str, Array]) -> None:
        """Row `source` (B, budget) of the rows into each slot where it is not -1."""
        head, slot = np.nonzero(source >= 0)
        if head.size:
            head, slot, row = (backends.to_device(x, xp) for x in (head, slot, source[head, slot]))
            for name, x in rows.items():
                self._held[name][head, slot] = x[head, row]

    # ------------------------------------------------------------------------------------------------------- the answer
    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        if self.weights == "uniform":  # the weight n / budget cancels
            return softmax_over(self._held, min(self.tokens_seen, self.budget), q, scale)
        # A token's weight is one more coordinate, of which every query has 1: a logit is safe where a factor overflows.
        k, v = self._held["keys"], self._held["values"].astype(np.float64)
        squares = (v * v).sum(axis=-1)
        bias = -xp.log(xp.where(squares == 0, 1, squares))  # 0 only in a head all of whose values so far were 0
        bias = (bias - bias.mean(axis=-1)[:, None]).astype(q.dtype)
        q = xp.concatenate([scale * q, xp.ones((*q.shape[:2], 1), dtype=q.dtype)], axis=-1)
        k = xp.concatenate([k, bias[:, :, None]], axis=-1)
        return partial_attention(q, k, self._held["values"], scale=1.0, check_finite=False).output()

    # --------------------------------------------------------------------------------------------------------- merging
    def _take(self, xp: Any, other: ReservoirCache, theirs: dict[str, Array]) -> None:
        self._begin(xp, len(other._samples))
        source = np.stack([mine.merge(its) for mine, its in zip(self._samples, other._samples, strict=True)])
        if self.weights == "value-norm":  # which says only where: slot by slot
            source = np.where(source, np.arange(self.budget), -1)
        self._fill(xp, source, theirs)

    # --------------------------------------------------------------------------------------------- what it consists of
    @property
    def _drawn(self) -> str:
        return "priorities" if self.weights == "uniform" else "thresholds"

    def _arrays(self) -> list[Array]:
        return [*self._held.values(), *(getattr(sample, self._drawn) for sample in self._samples)]

    def _about(self) -> dict[str, Any]:
        return {"budget": self.budget, "weights": self.weights}

    def _state(self) -> dict[str, Any]:
        return {"seeds": self._seeds, "mu": [getattr(sample, "mu", None) for sample in self._samples]}

    def _saved(self) -> dict[str, Array]:
        drawn = {self._drawn: np.stack([getattr(x, self._drawn) for x in self._samples])} if self._samples else {}
        return {**self._held, **drawn}

    def _restore(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self._seeds = state["seeds"]
        if state["mu"]:
            self._begin(np, len(state["mu"]))
            for sample, mu, drawn in zip(self._samples, state["mu"], arrays.pop(self._drawn), strict=True):
                sample.seen = self.tokens_seen
                setattr(sample, self._drawn, drawn)
                if mu is not None:
                    sample.mu = mu
        self._held = arrays
