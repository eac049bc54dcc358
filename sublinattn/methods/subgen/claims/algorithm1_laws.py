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


def slot_law(rng: np.random.Generator, xp: Any, *, chunks: int, broken: str = "nothing") -> Trial:
    """Pearson's statistic of the tokens that the slots store."""
    k, v = numbered(rng, TOKENS, 3)
    return _tested(_slots(rng, xp, k, v, chunks, broken), _norm_law(v))


def pair_law(rng: np.random.Generator, xp: Any, *, tokens: int, chunks: int, broken: str = "nothing") -> Trial:
    """Pearson's statistic of the pairs of tokens that neighbouring slots store."""
    k, v = numbered(rng, tokens, 3)
    stored = _slots(rng, xp, k, v, chunks, broken)
    return _tested(tokens * stored[::2] + stored[1::2], np.outer(_norm_law(v), _norm_law(v)).ravel())


def sample_law(
    rng: np.random.Generator, xp: Any, *, samples: int, chunks: int, coarsen: bool = False, broken: str = "nothing"
) -> Trial:
    """The same of a cluster's samples: of two clusters whose tokens alternate at random, or of the one they become."""
    k, v = numbered(rng, TOKENS, 1)
    group = rng.permutation(TOKENS) % 3 == 0  # a third of the tokens
    k[group] += 1000
    head = fed(Cache(500.0, samples, 1, broken=broken, rng=rng), xp, k, v, random_chunks(rng, TOKENS, chunks)).head
    if coarsen:
        head.coarsen(xp, 5000.0)
    counts = np.bincount(numbers(head.sampled.rows).ravel() % 1000, minlength=TOKENS)
    parts = [np.full(TOKENS, True)] if coarsen else [group, ~group]
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
        return _tested(numbers(head.slot_keys), _norm_law(v))
    return _tested(numbers(head.sampled.rows).ravel(), np.full(TOKENS, 1 / TOKENS))


def _slots(rng: np.random.Generator, xp: Any, k: np.ndarray, v: np.ndarray, chunks: int, broken: str) -> np.ndarray:
    """Numbers of the tokens that SLOTS slots store after the stream, cut into `chunks` chunks at random."""
    cache = Cache(1000.0, 1, SLOTS, broken=broken, rng=rng)
    return numbers(fed(cache, xp, k, v, random_chunks(rng, len(k), chunks)).head.slot_keys)


def _norm_law(v: np.ndarray) -> np.ndarray:
    """`||v_j||^2 / ||V||_F^2`."""
    return (v**2).sum(axis=1) / (v**2).sum()


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
HOW = tuple({"chunks": chunks} for chunks in (1, 5, 40))
ALIKE = "clusters that become one give equally many samples, whatever their counts"

law_claim = partial(Claim, paper="SG24", kind=Mean(resolution=0.1), max_trials={"smoke": 200, "standard": 2000})

CLAIMS = (
    law_claim(
        id="sg24.slot-law",
        source="Algorithm 1 (the sampled values)",
        basis="theorem",
        title="A slot holds token j with probability |v_j|^2 / |V|_F^2, whatever the chunks",
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
        title="Neighbouring slots are independent",
        statement=PAIR_LAW,
        trial=pair_law,
        cases={"smoke": tuple({"tokens": 12, "chunks": chunks} for chunks in (1, 4))},
        sabotages=(Sabotage("twins", "every other slot makes its neighbour's draws", {"broken": "twin slots"}),),
        remark=PEARSON.format("2000 pairs of neighbouring slots", 12),
    ),
    law_claim(
        id="sg24.sample-law",
        source="Algorithm 1 (the samples of a cluster)",
        basis="theorem",
        title="Each sample of a cluster is uniform over its members, whatever the chunks",
        statement=SAMPLE_LAW,
        trial=sample_law,
        cases={"smoke": (*({"samples": 3000, **how} for how in HOW), {"samples": 3000, "chunks": 5, "coarsen": True})},
        sabotages=(
            Sabotage("off by one", "replaced with probability 1/(count - 1)", {"broken": "eager samples"}),
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
