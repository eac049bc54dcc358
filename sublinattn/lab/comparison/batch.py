"""The batch methods that are compared at equal budgets, and what a budget is.

A budget is a number `m` of key columns for each query: `2 n m (d + d_v)` operations for products. A method that touches
no key columns gets as many features or landmarks as make the same number of operations. What comes on top (hashes,
halving, a pseudo-inverse) is counted in `operations`, and not given back.

A new method is one row of `BATCH`: its name, how it is called, its parameters for a budget, and what it costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...core.backends import Array
from ...methods.baselines.kdeformer import kdeformer_attention
from ...methods.baselines.nystrom import nystrom_attention
from ...methods.baselines.performer import performer_attention
from ...methods.baselines.reformer import default_factors, reformer_attention
from ...methods.baselines.thinformer import halving_rounds, thinformer_attention
from ...methods.baselines.uniform import uniform_attention
from ...methods.hyperattention.hyper import hyper_attention
from ...methods.hyperattention.sort_lsh import default_bits

Options = Mapping[str, Any]
ROUNDS = 4
"""Hash rounds of Reformer."""


@dataclass(frozen=True)
class Batch:
    """How a method is called within a budget.

    Attributes
    ----------
    function : callable
        `function(q, k, v, *, scale, rng, **options)`.
    within : function of (m, n) to options, or None
        The parameters for a budget of `m` columns and `n` keys; None where the method has none for it.
    extra : function of (n, d, options) to float
        Operations besides those of the budget.
    causal : bool
        Whether it has a causal form.
    guarantee : str
        What is proved of its error.
    random : bool
        Whether it takes `rng`.
    claim : str
        Id of the claim that says what is proved; empty where the suite has none.
    within_mask : function of (m, n) to options, optional
        The parameters under a causal mask, where those of `within` would read more. A causal budget is the same share:
        `m/2` columns per query on average, as exact causal attention reads `n/2`.
    """

    function: Callable[..., Array]
    within: Callable[[int, int], Options | None]
    extra: Callable[[int, int, Options], float]
    causal: bool
    guarantee: str
    random: bool = True
    claim: str = ""
    within_mask: Callable[[int, int], Options | None] | None = None

    def options(self, budget: int, n: int, *, causal: bool = False) -> Options | None:
        """Its parameters for a budget; None where it has none for it."""
        return (self.within_mask if causal and self.within_mask else self.within)(budget, n)

    def answer(self, q: Array, k: Array, v: Array, *, budget: int, scale: float, rng: Any, causal: bool = False) -> Any:
        """Its output for a budget of key columns per query; None where it has no parameters for it."""
        if (options := self.options(budget, k.shape[-2], causal=causal)) is None:
            return None
        given = {**options, **({"rng": rng} if self.random else {}), **({"causal": True} if causal else {})}
        return self.function(q, k, v, scale=scale, **given)

    def operations(self, budget: int, n: int, d: int) -> float:
        """Multiplications and additions for n queries and keys of width d = d_v; nan where it has no parameters."""
        options = self.within(budget, n)
        return math.nan if options is None else 4.0 * n * budget * d + self.extra(n, d, options)


def _thinned(budget: int, n: int) -> Options | None:
    """The oversampling g for which at most `2^g sqrt(n)` keys are at most the budget; a power of two may be missed."""
    g = math.floor(math.log2(budget / math.sqrt(n)))
    return {"oversampling": g} if g >= 0 else None


def _halved(budget: int, n: int) -> Options | None:
    """The largest block, with as large a sample and leaves of at most two blocks, that keeps a causal budget.

    In the recursion a query reads half of its leaf on average; and in half of the queries, once per level, a block and
    a sample, or all keys of a square that has no more.
    """

    def columns(b: int) -> float:
        levels = max(0, math.ceil(math.log2(n / (2 * b))))
        leaf = math.ceil(n / 2**levels)
        return (leaf + sum(min(2 * b, leaf * 2**level) for level in range(levels))) / 2

    fitting = (b for b in range(budget // 2, 0, -1) if columns(b) <= budget / 2)
    return next(({"block_size": b, "sample_size": b, "min_exact": 2 * b} for b in fitting), None)


def _hash(n: int, d: int, options: Options) -> float:
    return 4.0 * n * d * default_bits(n, options["block_size"])  # queries and keys, by as many hyperplanes


def _halving(n: int, d: int, options: Options) -> float:
    """A kernel matrix of every bucket in each round: n / 2^i keys in buckets of 2^i 4^(g+1), keys and values."""
    return 4.0 * n * d * 4 ** (options["oversampling"] + 1) * halving_rounds(n, options["oversampling"])


BATCH: Mapping[str, Batch] = {
    "uniform": Batch(
        uniform_attention, lambda m, n: {"sample_size": m}, lambda n, d, o: 0.0, True, "unbiased sums",
        claim="ha24.yardstick",
    ),
    "HyperAttention": Batch(
        hyper_attention, lambda m, n: {"block_size": m // 2, "sample_size": m // 2, "min_exact": 0}, _hash, True,
        "HA24, Theorem 1 (its theory variant)", claim="ha24.theorem1-exponents", within_mask=_halved,
    ),
    "KDEformer": Batch(
        kdeformer_attention, lambda m, n: {"block_size": m // 2, "sample_size": m // 2}, _hash, False,
        "KDE23 bounds its theory variant",
    ),
    "KDEformer, KDE": Batch(
        kdeformer_attention,
        lambda m, n: {"block_size": m // 2, "sample_size": m // 4, "kde_queries": m // 4},  # a query asked sees n keys
        _hash, False, "KDE23 bounds its theory variant",
    ),
    "Reformer": Batch(
        reformer_attention, lambda m, n: {"chunk_size": m // (2 * ROUNDS), "rounds": ROUNDS},
        lambda n, d, o: 2.0 * n * d * ROUNDS * sum(default_factors(n, o["chunk_size"])), True, "none",
    ),
    "Performer": Batch(
        performer_attention, lambda m, n: {"features": m // 2}, lambda n, d, o: 0.0, True, "unbiased kernel (Lemma 1)",
        claim="perf21.unbiased",
    ),
    "Nystrom": Batch(
        nystrom_attention, lambda m, n: {"landmarks": m // 2},
        lambda n, d, o: 6 * 8.0 * o["landmarks"] ** 3, False, "none for a finite number of landmarks", random=False,
    ),
    "Thinformer": Batch(thinformer_attention, _thinned, _halving, False, "THIN25 bounds the error's largest entry"),
}  # fmt: skip
"""The methods, in the order of figures."""
