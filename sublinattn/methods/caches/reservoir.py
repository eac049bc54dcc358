"""The cache that stores a random sample of the tokens: uniform, or in proportion to squared value norms.

Source: the value sample is that of Zandieh, Han, Mirrokni, Karbasi, arXiv 2402.06082 [SG24], Algorithm 1, there for the
numerator alone. Priority sampling: Duffield, Lund, Thorup, *Priority sampling for estimation of arbitrary subset sums*,
J. ACM 54(6), 2007 [DLT07], from memory. See `primitives.reservoir` for the draws.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from ...core import backends, checks
from ...core.backends import Array
from ...primitives.reservoir import PrioritySample, SmallestPriorities, WeightedSlots, seed_from, squared_norms
from .base import MergingCache, softmax_over, softmax_weighted

Weights = Literal["uniform", "value-norm", "priority"]
_SAMPLES: dict[Weights, Any] = {"uniform": SmallestPriorities, "value-norm": WeightedSlots, "priority": PrioritySample}


class ReservoirCache(MergingCache):
    """A random sample of the tokens.

    Parameters
    ----------
    budget : int
        Tokens stored (slots, for "value-norm").
    weights : "uniform", "value-norm" or "priority"
        "uniform": every subset of `budget` tokens is stored with equal probability; the answer is softmax over it.
        "value-norm": each slot holds token j with probability `||v_j||^2 / mu`, `mu = sum_j ||v_j||^2`, independently:
        the value sample of SubGen [SG24], here for the normaliser too.
        "priority": the same weights without replacement [DLT07]: the tokens of smallest `u_j / ||v_j||^2`, u_j uniform.
    rng : Generator, int or None
        Source of the draws. Caches that are to be merged need different ones.

    Notes
    -----
    "uniform" is exact up to `budget` tokens. "value-norm" weighs a slot by `mu / (budget ||v||^2)` in numerator and
    denominator, both then unbiased, unless values are 0: such tokens are never stored, so that the normaliser lacks
    their share and the answer is too large by it; a cache that saw only such tokens answers 0, exactly.

    "priority" is exact up to `budget` tokens, and no token is in two slots. A token counts `max(1, 1 / (T ||v||^2))`
    times, T being the smallest priority that is not stored: both sums are unbiased, with the same exception. It takes
    the bytes of "value-norm". The keys `u^(1/w)` of Efraimidis and Spirakis sample without replacement, too, but
    the chance of a token to be stored, which an unbiased weight needs, has no such simple form.

    The sample is a function of the seed, the head and the token's number: the same for any chunks, to the bit. Merged,
    "uniform" stores the `budget` smallest priorities of the union, each token's that of its own stream; "value-norm"
    takes each slot of `other` with probability `mu_b / (mu_a + mu_b)`; "priority" is as "uniform". All have the law of
    a cache that saw both streams, and refuse caches whose draws come from the same seed.

    `budget (d + d_v)` numbers and 8 bytes per slot. A chunk of c tokens costs `O(c + budget)`, and each token that is
    taken, `O(budget log n)` in all, `O(budget + d + d_v)`.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import ReservoirCache
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 100, 8))
    >>> left, right = (ReservoirCache(32, "uniform", rng=seed) for seed in (0, 1))
    >>> both = left.update(k[:60], v[:60]).merge(right.update(k[60:], v[60:]))
    >>> both.tokens_seen, both.attend(q[:2]).shape
    (100, (2, 8))
    """

    PARAMETERS = ("budget", "weights")

    def __init__(
        self, budget: int, weights: Weights = "uniform", *, rng: np.random.Generator | int | None = None
    ) -> None:
        super().__init__()
        self.budget = checks.integer("budget", budget, minimum=1)
        checks.choice("weights", weights, get_args(Weights))
        self.weights = weights
        self._squared = () if weights == "uniform" else ("v",)
        self._seeds = [seed_from(rng)]
        self._samples: list[Any] = []  # one per problem

    def _begin(self, xp: Any, heads: int) -> None:
        if not self._stored:
            numbers = heads * self.budget * (self._width["k"] + self._width["v"])
            checks.fits_memory("budget", self.budget, numbers * np.dtype(self._row_dtype).itemsize)
            for name, width in (("keys", self._width["k"]), ("values", self._width["v"])):
                self._stored[name] = xp.zeros((heads, self.budget, width), dtype=self._row_dtype)
            self._samples = self._new_samples(heads)

    def _new_samples(self, heads: int) -> list[Any]:
        return [_SAMPLES[self.weights](self.budget, self._seeds[0], head) for head in range(heads)]

    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        self._begin(xp, len(k))
        if self.weights == "uniform":
            source = [sample.absorb(k.shape[1]) for sample in self._samples]
        else:
            source = [sample.absorb(w) for sample, w in zip(self._samples, squared_norms(v), strict=True)]
        self._fill(xp, np.stack(source), {"keys": k, "values": v})

    def _fill(self, xp: Any, source: np.ndarray, rows: dict[str, Array]) -> None:
        """Row `source` (B, budget) of the rows into each slot where it is not -1."""
        head, slot = np.nonzero(source >= 0)
        if head.size:
            head, slot, row = (backends.to_device(x, xp) for x in (head, slot, source[head, slot]))
            for name, x in rows.items():
                self._stored[name][head, slot] = x[head, row]

    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        if self.weights == "uniform":  # every token counts n / budget times: this cancels
            return softmax_over(xp, self._stored, min(self.tokens_seen, self.budget), q, scale).output()
        k, v = self._stored["keys"], self._stored["values"]
        return softmax_weighted(xp, q, k, v, self.log_weights(xp), scale).output()

    def log_weights(self, xp: Any) -> Array:
        """Logarithm of how often the token of each slot counts, (B, budget), in float64; -inf in an empty slot.

        With weights "value-norm" they lack the factor `mu / budget`, which all slots of a problem have in common and
        which cancels in an answer.
        """
        squares = backends.row_squares(xp, self._stored["values"], np.float64)
        bias = -xp.log(xp.where(squares == 0, 1, squares))  # 0 in a head all of whose values so far were 0
        if self.weights == "value-norm":
            return bias
        finite = np.array([[min(x.threshold, np.finfo(float).max)] for x in self._samples])
        empty = np.stack([np.isinf(x.priorities) for x in self._samples])
        log_threshold, empty = (backends.to_device(x, xp) for x in (np.log(finite), empty))
        return xp.where(empty, -np.inf, xp.maximum(bias - log_threshold, 0))

    def log_counts(self) -> Array:
        """Log of how many tokens each slot stands for, (problems, budget); -inf where it stands for none."""
        xp, used = backends.namespace(self._stored["keys"]), min(self.tokens_seen, self.budget)
        if self.weights == "priority":
            return self.log_weights(xp)
        if self.weights == "uniform":
            none, bias = np.arange(self.budget)[None] >= used, np.log(self.tokens_seen / used)
        else:
            mu = np.array([[x.mu] for x in self._samples])
            none, log_mu = mu == 0, np.log(np.where(mu == 0, 1, mu) / self.budget)
            bias = self.log_weights(xp) + backends.to_device(log_mu, xp)
        return xp.where(backends.to_device(np.broadcast_to(none, (len(self._samples), self.budget)), xp), -np.inf, bias)

    def _take(self, xp: Any, other: ReservoirCache, theirs: dict[str, Array]) -> None:
        self._begin(xp, len(other._samples))
        pairs = zip(self._samples, other._samples, strict=True)
        source = np.stack([sample.merge(other_sample) for sample, other_sample in pairs])
        if self.weights == "value-norm":  # tells only which slots take the other's token: that of the same slot
            source = np.where(source, np.arange(self.budget), -1)
        self._fill(xp, source, theirs)

    # ------------------------------------------------------------------------------------------------------- the file
    @property
    def _drawn(self) -> str:
        """Name of the samples' array: it says when a slot takes another token."""
        return "thresholds" if self.weights == "value-norm" else "priorities"

    def contents(self) -> dict[str, Array]:
        """The arrays that `save` writes: keys, values, and when each slot takes another token."""
        drawn = {self._drawn: np.stack([getattr(x, self._drawn) for x in self._samples])} if self._samples else {}
        return {**self._stored, **drawn}

    def _arrays(self) -> list[Array]:
        return list(self.contents().values())

    def _about(self) -> dict[str, Any]:
        state = {"seeds": self._seeds, "mu": [getattr(sample, "mu", None) for sample in self._samples]}
        if self.weights == "priority":  # JSON has no inf
            state["threshold"] = [x.threshold if np.isfinite(x.threshold) else None for x in self._samples]
        return {**super()._about(), "state": state}

    def _restore(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        super()._restore(about, {name: x for name, x in arrays.items() if name != self._drawn})
        self._seeds, mu = about["state"]["seeds"], about["state"]["mu"]
        self._samples = self._new_samples(len(mu))
        for head, sample in enumerate(self._samples):
            sample.seen = self.tokens_seen
            setattr(sample, self._drawn, arrays[self._drawn][head])
            if mu[head] is not None:
                sample.mu = mu[head]
            if self.weights == "priority" and (threshold := about["state"]["threshold"][head]) is not None:
                sample.threshold = threshold
