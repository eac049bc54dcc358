"""The laws of SubGen's samples: a slot by squared value norms, a cluster's samples uniform over its members [SG24]."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import sympy as sp

from ....theory.claim import Claim, Mean, Sabotage, Trial
from .setting import Cache, fed, numbered, numbers, random_chunks

TOKENS = 40
SLOTS = 4000


def slot_law(
    rng: np.random.Generator, xp: Any, *, chunks: int, heads: int = 1, recent: int = 0, broken: str = "nothing"
) -> Trial:
    """Pearson's statistic of the tokens that the slots of the last head store; the window's tokens are not among them.

    Each head has values of its own.
    """
    k, v = _numbered(rng, heads, TOKENS)
    cache = Cache(1000.0, 1, SLOTS, recent=recent, broken=broken, rng=rng)
    stored = numbers(fed(cache, xp, k, v, random_chunks(rng, TOKENS, chunks)).head.slot_keys)
    return _tested(stored, norm_law(v[-1, : TOKENS - recent]))


def pair_law(
    rng: np.random.Generator, xp: Any, *, tokens: int, chunks: int, of: str = "slots", broken: str = "nothing"
) -> Trial:
    """Pearson's statistic of the pairs of tokens that two parts of a state store.

    `of`: neighbouring "slots"; the same "slots of heads"; neighbouring "samples" of a cluster; the same "samples of
    heads"; the same "samples of clusters", whose tokens alternate; a "slot and sample" of the same number.
    """
    heads, groups = (2 if "heads" in of else 1), (2 if "clusters" in of else 1)
    k, v = _numbered(rng, heads, groups * tokens)
    group, k = k % groups, k // groups
    t, s = SLOTS if "sample" in of else 1, SLOTS if "slot" in of else 1
    cache = Cache(500.0, t, s, broken=broken, rng=rng)
    fed(cache, xp, k + 1000 * group, v, random_chunks(rng, groups * tokens, chunks))
    slots, sampled = (numbers(x) % 1000 for x in (cache.head.slot_keys, cache.head.sampled.rows))
    first, second = {
        "slots": (slots[::2], slots[1::2]),
        "slots of heads": (numbers(cache.heads[0].slot_keys), slots),
        "samples": (sampled[0, ::2], sampled[0, 1::2]),
        "samples of heads": (numbers(cache.heads[0].sampled.rows)[0], sampled[0]),
        "samples of clusters": (sampled[0], sampled[-1]),
        "slot and sample": (slots, sampled[0]),
    }[of]
    by_norm, uniform = norm_law(v[-1]), np.full(tokens, 1 / tokens)
    laws = {
        "slots": (by_norm, by_norm),
        "slots of heads": (norm_law(v[0]), by_norm),
        "slot and sample": (by_norm, uniform),
    }
    return _tested(tokens * first + second, np.outer(*laws.get(of, (uniform, uniform))).ravel())


def sample_law(
    rng: np.random.Generator,
    xp: Any,
    *,
    samples: int,
    chunks: int,
    coarsen: bool = False,
    heads: int = 1,
    recent: int = 0,
    broken: str = "nothing",
) -> Trial:
    """The same of a cluster's samples: of two clusters whose tokens alternate at random, or of the one they become."""
    k, v = _numbered(rng, heads, TOKENS)
    group = rng.permuted(np.broadcast_to(np.arange(TOKENS) % 3 == 0, (heads, TOKENS)), axis=1)  # a third of the tokens
    k[group] += 1000
    cache = Cache(500.0, samples, 1, recent=recent, broken=broken, rng=rng)
    head = fed(cache, xp, k, v, random_chunks(rng, TOKENS, chunks)).head
    if coarsen:
        head.coarsen(xp, 5000.0)
    left = np.arange(TOKENS) < TOKENS - recent  # the window, which is the end of the stream
    counts = np.bincount(numbers(head.sampled.rows).ravel() % 1000, minlength=TOKENS)
    parts = [left] if coarsen else [left & group[-1], left & ~group[-1]]
    if counts[~left].any():
        return Trial(float(counts.sum()), 1.0)  # the law gives these no probability
    tested = [pearson(counts[part], np.full(part.sum(), 1 / part.sum())) for part in parts]
    # the clusters' statistics are independent: their sum, its mean, and its variance
    statistic, mean, variance = (sum(x) for x in zip(*((a, b, c**2) for a, b, c in tested), strict=True))
    return Trial(statistic, mean, scale=float(np.sqrt(variance)), facts={"draws": int(counts.sum())})


def merged_law(rng: np.random.Generator, xp: Any, *, share: float, of: str, broken: str = "nothing") -> Trial:
    """The same of the slots, or of one cluster's samples, of a cache that was merged with another and then went on.

    It saw the share `share` of the first 30 tokens, the other one the rest of these; the last 10 came after merging.
    """
    k, v = numbered(rng, TOKENS, 3)
    ends = (0, round(share * 30), 30, TOKENS)
    first, second, third = (slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True))
    sizes = {"slots": (1, SLOTS), "samples": (SLOTS, 1)}[of]
    one, two = (fed(Cache(1000.0, *sizes, broken=broken, rng=rng), xp, k, v, [part]) for part in (first, second))
    head = fed(one.merge(two), xp, k, v, [third]).head
    if of == "slots":
        return _tested(numbers(head.slot_keys), norm_law(v))
    return _tested(numbers(head.sampled.rows).ravel(), np.full(TOKENS, 1 / TOKENS))


def norm_law(v: np.ndarray) -> np.ndarray:
    """`||v_j||^2 / ||V||_F^2`."""
    return (v**2).sum(axis=1) / (v**2).sum()


def _numbered(rng: np.random.Generator, heads: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """`numbered` of several heads, whose values differ: (heads, tokens, 1) and (heads, tokens, 3)."""
    k, v = zip(*(numbered(rng, tokens, 3) for _ in range(heads)), strict=True)
    return np.stack(k), np.stack(v)


def _tested(stored: np.ndarray, law: np.ndarray) -> Trial:
    statistic, mean, deviation = pearson(np.bincount(stored, minlength=len(law)), law)
    return Trial(statistic, mean, scale=deviation, facts={"draws": len(stored)})


def pearson(counts: np.ndarray, law: np.ndarray) -> tuple[float, float, float]:
    """Pearson's statistic of independent draws that fell `counts` times into each cell; its mean and deviation.

    Both are exact for any number N of draws under `law`: the mean is `cells - 1`, the variance
    `2 (cells - 1) + (sum 1/p - cells^2 - 2 cells + 2) / N`.
    """
    total, cells = counts.sum(), len(law)
    statistic = float(((counts - total * law) ** 2 / (total * law)).sum())
    variance = 2 * (cells - 1) + ((1 / law).sum() - cells**2 - 2 * cells + 2) / total
    return statistic, cells - 1.0, float(np.sqrt(variance))


P = sp.Function(r"\Pr")
SLOT, OTHER, SAMPLE = sp.Symbol(r"\mathrm{slot}_a"), sp.Symbol(r"\mathrm{slot}_b"), sp.Symbol(r"\mathrm{sample}")
J, L, MU, COUNT = sp.Symbol("j"), sp.Symbol("l"), sp.Symbol("mu", positive=True), sp.Symbol("n_x", positive=True)
V_J, V_L = (sp.Symbol(rf"\|v_{i}\|_2", positive=True) for i in "jl")
SLOT_LAW, SAMPLE_LAW = sp.Eq(P(sp.Eq(SLOT, J)), V_J**2 / MU), sp.Eq(P(sp.Eq(SAMPLE, J)), 1 / COUNT)
PAIR_LAW = sp.Eq(P(sp.And(sp.Eq(SLOT, J), sp.Eq(OTHER, L))), V_J**2 * V_L**2 / MU**2)
PEARSON = (
    "Pearson's statistic of the {} of one stream of {} tokens: its mean and variance are known exactly under the law, "
    "at any number of draws."
)
HOW = (*({"chunks": chunks} for chunks in (1, 5, 40)), {"chunks": 5, "heads": 3, "recent": 7})
PAIRS = tuple(
    {"tokens": 12, "chunks": chunks, "of": of}
    for chunks, of in (
        *((chunks, "slots") for chunks in (1, 4)),
        *(
            (4, of)
            for of in ("slots of heads", "samples", "samples of heads", "samples of clusters", "slot and sample")
        ),
    )
)
HEADS = "f3b104c: one head and no recent window were all that was tried"
ALIKE = "clusters that become one give equally many samples, whatever their counts"

law_claim = partial(Claim, paper="SG24", kind=Mean(resolution=0.1), max_trials={"smoke": 300, "standard": 2000})

CLAIMS = (
    law_claim(
        id="sg24.slot-law",
        source="Algorithm 1 (the sampled values)",
        basis="theorem",
        restated=HEADS,
        title="A slot holds token j with probability |v_j|^2 / |V|_F^2, whatever the chunks, in every head",
        statement=SLOT_LAW,
        trial=slot_law,
        cases={"smoke": HOW},
        sabotages=(
            Sabotage(
                "off by one", "replaced with probability w/mu, mu without the token itself", {"broken": "eager slots"}
            ),
            Sabotage("uniform", "all tokens are alike", {"broken": "uniform slots"}),
        ),
        remark=PEARSON.format("4000 slots", TOKENS),
    ),
    law_claim(
        id="sg24.slot-independence",
        source="Algorithm 1 (the sampled values)",
        basis="theorem",
        restated="f3b104c: only pairs of slots of one head were tried",
        title="Slots are independent of each other, of those of other heads, and of the samples, and so are samples",
        statement=PAIR_LAW,
        trial=pair_law,
        cases={"smoke": PAIRS},
        sabotages=(
            Sabotage("twins", "every other slot makes its neighbour's draws", {"broken": "twin slots"}),
            Sabotage("heads alike", "the slots of all heads make the same draws", {"broken": "shared slots"}),
            Sabotage("clusters alike", "the samples of all clusters make the same draws", {"broken": "shared samples"}),
        ),
        remark=PEARSON.format("2000 or 4000 pairs", 12) + " For samples, the law is 1/n_x in place of |v|^2 / mu.",
    ),
    law_claim(
        id="sg24.sample-law",
        source="Algorithm 1 (the samples of a cluster)",
        basis="theorem",
        restated=HEADS,
        title="Each sample of a cluster is uniform over its members, whatever the chunks, in every head",
        statement=SAMPLE_LAW,
        trial=sample_law,
        cases={"smoke": (*({"samples": 3000, **how} for how in HOW), {"samples": 3000, "chunks": 5, "coarsen": True})},
        sabotages=(
            Sabotage("off by one", "replaced with probability 1/(count - 1)", {"broken": "eager samples"}),
            Sabotage(
                "stale count",
                "all tokens of a chunk replace with probability 1/(count + 1), the count before it",
                {"broken": "stale samples"},
            ),
            Sabotage("clusters alike", ALIKE, {"broken": "coin samples", "coarsen": True}),
        ),
        remark=PEARSON.format(
            "3000 samples of each of two clusters, or of the one they become when delta grows,", TOKENS
        ),
    ),
    law_claim(
        id="sg24.merge-law",
        source="derived here from Algorithm 1",
        basis="derived",
        title="Merged caches, and what they take in later: slots and samples have the law of one cache that saw it all",
        statement=sp.And(SLOT_LAW, SAMPLE_LAW, evaluate=False),
        trial=merged_law,
        cases={"smoke": tuple({"of": of, "share": share} for of in ("slots", "samples") for share in (0.1, 0.7))},
        sabotages=(
            Sabotage("slots in turn", "every other slot takes the other one's token", {"broken": "coin slots"}),
            Sabotage("clusters alike", ALIKE, {"broken": "coin samples"}),
        ),
        remark=PEARSON.format("4000 slots, or samples of one cluster,", TOKENS),
    ),
)
