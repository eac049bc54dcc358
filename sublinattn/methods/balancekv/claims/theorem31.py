"""Buckets of value norms: the error over the batch in Equation 2's unit, and their worth at equal bytes [BKV25]."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import Array, asnumpy, to_device
from ....core.exact import attention
from ....lab.workloads import make
from ....theory import symbols
from ....theory.claim import Claim, Growth, Probability, Quantity, Sabotage, Trial
from ..balancekv import BalanceKVCache
from ..buckets import BucketedBalanceKVCache, MergeAndReduce
from .setting import signs_by_coins

HEADS, QUERIES = 4, 8
D = 16
CLASSES = 4
FOLD = 4
"""Tokens of each class over the batch."""


class Coins(MergeAndReduce):
    """A merge and reduce whose signs are drawn by coins."""

    def _choose(self, xp: Any, k: Array, v: Array, filled: Array, uniform: Array) -> tuple[Array, Array]:
        return signs_by_coins(xp, filled, uniform, self.pairs)


class Bucketed(BucketedBalanceKVCache):
    """The cache; with `coins`, its signs are drawn by coins, and with `one_class` all values are in one."""

    def __init__(self, batch: int, *, coins: bool = False, one_class: bool = False, **parameters: Any) -> None:
        super().__init__(batch, **parameters)
        self._kind = Coins if coins else MergeAndReduce
        self._one_class = one_class

    def _numbers(self, norms: np.ndarray) -> np.ndarray:
        numbers = super()._numbers(norms)
        return np.full_like(numbers, np.frexp(norms.max())[1]) if self._one_class else numbers


def in_unit(q: np.ndarray, k: np.ndarray, v: np.ndarray, out: np.ndarray, scale: float) -> float:
    """Root mean square over queries (..., c, d) of `||out - Attn||_2 / (||softmax(s K q)||_2 ||V||_F)`."""
    exact, lse = attention(q, k, v, scale=scale, return_lse=True)
    twice = attention(q, k, v, scale=2 * scale, return_lse=True)[1]
    unit = np.exp(twice / 2 - lse) * np.linalg.norm(v, axis=(-2, -1))[..., None]
    return float(np.sqrt(np.mean((np.linalg.norm(out - exact, axis=-1) / unit) ** 2)))


def error_over_batch(rng: np.random.Generator, xp: Any, *, variable: str, batch: int, coins: bool = False) -> Trial:
    """t times the error in Equation 2's unit, as `in_unit`, of streams of FOLD t tokens in each of CLASSES classes.

    Keys of length about 1/2 in 3 dimensions, queries of length about 1, scale 1; values of norms 1, 1/4, 1/16, ... in
    turn, in directions that lean towards one.
    """
    batch = 2 * round(batch * 2 ** rng.uniform(-0.1, 0.1) / 2)
    n = FOLD * CLASSES * batch
    k = rng.standard_normal((HEADS, n, 3)) / (2 * np.sqrt(3))
    q = rng.standard_normal((HEADS, QUERIES, 3)) / np.sqrt(3)
    v = rng.standard_normal((HEADS, n, 3)) + 1
    v *= 4.0 ** -(np.arange(n) % CLASSES)[:, None] / np.linalg.norm(v, axis=-1, keepdims=True)
    cache = Bucketed(batch, pairs=True, c=1.0, coins=coins, scale=1.0, rng=rng)
    cache.update(to_device(k, xp), to_device(v, xp))
    out = asnumpy(cache.attend(to_device(q, xp), scale=1.0))
    return Trial(batch * in_unit(q, k, v, out, 1.0), facts={"t": batch, "n": n})


def heavy_values(
    rng: np.random.Generator, xp: Any, *, n: int, batch: int, pairs: bool, one_class: bool = False
) -> Trial:
    """Error with buckets over that of one walk for both sums, whose batch is the largest that takes no more bytes.

    In Equation 2's unit, on the workload "heavy values": a few values are 100 times as long as the others, and their
    keys take half of the attention. Sabotage: all values are in one class.
    """
    x = make("heavy_values", n, D, rng=rng, mass=0.5)
    q, k, v = (a.astype(float) for a in (x.q[:64], x.k, x.v))
    parameters: dict[str, Any] = {"pairs": pairs, "scale": x.scale, "rng": rng}
    bucketed = Bucketed(batch, one_class=one_class, **parameters).update(to_device(k, xp), to_device(v, xp))
    plain = BalanceKVCache(batch_within(bucketed.nbytes // (8 * (2 * D + 1)), n), **parameters)
    plain.update(to_device(k, xp), to_device(v, xp))
    with_buckets, without = (
        in_unit(q, k, v, asnumpy(cache.attend(to_device(q, xp), scale=x.scale)), x.scale) for cache in (bucketed, plain)
    )
    shares = {"bytes": plain.nbytes / bucketed.nbytes, "t_plain": plain.batch}
    facts = {"n": n, "t": batch, **shares, "with_buckets": with_buckets, "without": without}
    return Trial(with_buckets / without, 1.0, facts=facts)


def batch_within(slots: int, n: int) -> int:
    """The largest even batch whose cache of n tokens has at most so many slots."""
    return next(t for t in range(slots // 2 * 2, 0, -2) if t + t // 2 * ((n - 1) // t).bit_length() <= slots)


T = sp.Symbol("t", positive=True)
ERROR = sp.Symbol(
    r"\operatorname{rms}_q\frac{\|z-\mathrm{Attn}\|_2}{\|\mathrm{softmax}(Kq)\|_2 \|V\|_F}", positive=True
)
WITH, WITHOUT = (sp.Symbol(rf"\mathrm{{err}}_{{\mathrm{{{name}}}}}", positive=True) for name in ("buckets", "one walk"))

CLAIMS = (
    Claim(
        id="bkv25.buckets-batch",
        paper="BKV25",
        source="Theorem 3.1, Equation 2, for halves of pairs and a narrow walk",
        basis="property",
        title="With buckets the error over |softmax|_2 |V|_F falls like 1/t, up to a logarithm, where norms differ",
        statement=sp.Eq(ERROR, symbols.O(sp.log(T) / T)),
        kind=Growth({"t": sp.log(T)}, resolution={"t": 0.05}, quantity=Quantity("the error", ERROR.name, shift=1.0)),
        trial=error_over_batch,
        cases={"smoke": tuple({"variable": "t", "batch": batch} for batch in (32, 64, 128, 256, 512))},
        max_trials={"smoke": 16, "standard": 32},
        sabotages=(Sabotage("coins", "signs by coins, without a look at the sum so far", {"coins": True}),),
        remark=(
            "Four classes of norms, 1 to 1/64, of 4 t tokens each, so that each is halved the same number of times at "
            "every t. Pairs with half-width 1, as in bkv25.batch-pairs: no proof covers the clipping. Coins fall like "
            "t^-1/2. With the half-width that the proof needs, 1/2 + log(200 t), batches as short as these are not yet "
            "balanced: then smaller parts fell like t^-0.8, pairs like t^-0.6."
        ),
        restated=(
            "5fcb90f: up to t = 256, where 16 replicates did not see the sabotage (found -0.83 against -0.78). Before "
            "that d6f0678 and 8bc5fda, of smaller parts, and c665ab1, of pairs: all with the proven half-width, and as "
            "an error that falls, which the fit reads towards smaller t, so that it asked for the reverse and coins "
            "passed"
        ),
    ),
    Claim(
        id="bkv25.buckets-heavy",
        paper="BKV25",
        source="Algorithm 1, lines 5 and 6",
        basis="property",
        title="Where a few values are long, buckets have a smaller error than one walk at equal bytes",
        statement=sp.Le(WITH, WITHOUT),
        kind=Probability(p=0.1),
        trial=heavy_values,
        cases={"smoke": tuple({"n": 2048, "batch": 64, "pairs": pairs} for pairs in (False, True))},
        max_trials={"smoke": 60, "standard": 200},
        sabotages=(Sabotage("one class", "all values are in one class", {"one_class": True}),),
        remark=(
            "Errors are in the unit of Equation 2, root mean square of 64 queries; the cache without buckets has the "
            "largest batch that takes no more bytes, about three times as large. Eight of 2048 values are 100 times as "
            "long as the others, and their keys take half of the attention: a class of so few tokens is never halved, "
            "one walk drops long values like short ones. The smaller part, which counts too few tokens, shows in a "
            "normaliser with tokens of its own, and of pairs nothing is lost."
        ),
    ),
)
