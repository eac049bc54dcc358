"""What the papers' caches keep and answer [SINK24] [H2O23] [GON85], and the laws of the random ones [VIT85] [SG24]."""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ....core.backends import Array, asnumpy, to_device
from ....theory import symbols
from ....theory.claim import Claim, Exact, Mean, Sabotage, Trial
from ..base import KVCache, softmax_over
from ..heavy_hitter import HeavyHitterCache
from ..k_center import KCenterCache
from ..reservoir import ReservoirCache
from ..sink import SinkCache

HEADS = 2
D = 4
SCALE = 0.7


def tokens(rng: Generator, n: int, heads: int = HEADS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, keys and values (heads, n, d) in float64; keys of different lengths, so that some are heavy."""
    q, k, v = (rng.standard_normal((heads, n, D)) for _ in range(3))
    return 2 * q, k * rng.uniform(0.3, 2, (heads, n, 1)), v * rng.uniform(0.3, 2, (heads, n, 1))


def cuts(rng: Generator, n: int, count: int) -> list[slice]:
    """Chunks of a stream, cut at random places."""
    edges = [0, *sorted(rng.choice(np.arange(1, n), count - 1, replace=False).tolist()), n]
    return [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def fed(cache: KVCache, xp: Any, k: np.ndarray, v: np.ndarray, chunks: list[slice]) -> KVCache:
    for chunk in chunks:
        cache.update(to_device(k[:, chunk], xp), to_device(v[:, chunk], xp))
    return cache


def softmax(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Weights (c, m) of the queries (c, d) over the keys (m, d)."""
    logits = SCALE * (q @ k.T)
    a = np.exp(logits - logits.max(axis=1, keepdims=True))
    return a / a.sum(axis=1, keepdims=True)


def apart(answers: Array, expected: list[np.ndarray]) -> float:
    """Largest difference of the heads' answers to the expected ones."""
    return float(abs(asnumpy(answers) - np.stack(expected)).max())


# --------------------------------------------------------------------------------------------------- what they answer
def sink_answer(
    rng: Generator, xp: Any, *, n: int, window: int, sinks: int, chunks: int, keep_sinks: bool = True
) -> Trial:
    """Distance to attention over the first and the last tokens. Sabotage: only last ones are kept, as many."""
    q, k, v = tokens(rng, n)
    cache = SinkCache(window, sinks) if keep_sinks else SinkCache(window + sinks, 0)
    answers = fed(cache, xp, k, v, cuts(rng, n, chunks)).attend(to_device(q[:, :5], xp), scale=SCALE)
    kept = [i for i in range(n) if i < sinks or i >= n - window]
    expected = [softmax(q[h, :5], k[h, kept]) @ v[h, kept] for h in range(HEADS)]
    return Trial(apart(answers, expected), 0.0, facts={"n": n})


class LatestScores(HeavyHitterCache):
    """Scores are the weights of the latest queries, not accumulated ones."""

    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        self._stored["scores"][...] = 0
        return super()._attend(xp, q, scale)


def heavy_hitters(
    rng: Generator, xp: Any, *, n: int, budget: int, recent: int, chunks: int, accumulate: bool = True
) -> Trial:
    """Distance to the answers of [H2O23]'s Algorithm 1, token by token. Sabotage: scores do not accumulate."""
    q, k, v = tokens(rng, n)
    cache = HeavyHitterCache(budget, recent) if accumulate else LatestScores(budget, recent)
    kept: list[list[int]] = [[] for _ in range(HEADS)]
    scores = np.zeros((HEADS, n))
    worst = 0.0
    for chunk in cuts(rng, n, chunks):
        answers = fed(cache, xp, k, v, [chunk]).attend(to_device(q[:, chunk], xp), scale=SCALE)
        expected = []
        for h in range(HEADS):
            for token in range(chunk.start, chunk.stop):
                kept[h].append(token)
                if len(kept[h]) > budget:  # the least accumulated score outside the window goes
                    kept[h].remove(min(kept[h][: len(kept[h]) - recent], key=scores[h].__getitem__))
            weights = softmax(q[h, chunk], k[h, kept[h]])
            scores[h, kept[h]] += weights.sum(axis=0)
            expected.append(weights @ v[h, kept[h]])
        worst = max(worst, apart(answers, expected))
    return Trial(worst, 0.0, facts={"n": n})


def greedy(k: np.ndarray, m: int) -> list[int]:
    """[GON85]: the first key, then always the one farthest from those chosen; fewer where keys repeat."""
    chosen = [0]
    while len(chosen) < m:
        distance = np.linalg.norm(k[:, None] - k[chosen], axis=-1).min(axis=1)
        if not distance.max() > 0:
            break
        chosen.append(int(distance.argmax()))
    return chosen


def k_center_answer(
    rng: Generator, xp: Any, *, n: int, budget: int, recent: int, different: int, farthest: bool = True
) -> Trial:
    """Distance to attention over greedy centers, the last tokens, and the newest others if there is room.

    There are `different` keys outside the window. Sabotage: unless `farthest`, the newest tokens are kept.
    """
    q, k, v = tokens(rng, n)
    k[:, : n - recent] = k[:, np.arange(n - recent) % different]
    cache = KCenterCache(budget, recent if farthest else budget)
    answers = fed(cache, xp, k, v, [slice(0, n)]).attend(to_device(q[:, :5], xp), scale=SCALE)
    expected = []
    for h in range(HEADS):
        kept = greedy(k[h, : n - recent], budget - recent)
        others = [i for i in range(n - recent) if i not in kept]
        kept += others[len(others) - (budget - recent - len(kept)) :] + list(range(n - recent, n))
        expected.append(softmax(q[h, :5], k[h, kept]) @ v[h, kept])
    return Trial(apart(answers, expected), 0.0, facts={"n": n})


# ------------------------------------------------------------------------------------------------------- random caches
class OneDraw(ReservoirCache):
    """All heads make the draws of the first."""

    def _new_samples(self, heads: int) -> list[Any]:
        return [super(OneDraw, self)._new_samples(1)[0] for _ in range(heads)]


def uniform_law(
    rng: Generator, xp: Any, *, law: str, n: int, budget: int, heads: int, chunks: int, apart_heads: bool = True
) -> Trial:
    """Mean over the heads of a count that is hypergeometric if every subset of tokens is as likely as every other.

    "token" counts the stored tokens of the last quarter; "pair" squares that count's deviation from its mean; "heads"
    counts the tokens that neighbouring heads have in common. Sabotage: unless `apart_heads`, heads share their draws.
    """
    k = np.broadcast_to(np.arange(n, dtype=float)[:, None], (heads, n, 1)).copy()
    cache = (ReservoirCache if apart_heads else OneDraw)(budget, rng=rng)
    stored = asnumpy(fed(cache, xp, k, k, cuts(rng, n, chunks)).contents()["keys"])[..., 0]
    if law == "heads":
        counts = np.array([np.intersect1d(*pair).size for pair in stored.reshape(heads // 2, 2, budget)], dtype=float)
        mean, variance, fourth = hypergeometric(n, budget, budget)
    else:
        counts = (stored >= n - n // 4).sum(axis=1).astype(float)
        mean, variance, fourth = hypergeometric(n, n // 4, budget)
    if law == "pair":
        counts, mean, variance = (counts - mean) ** 2, variance, fourth - variance**2
    return Trial(float(counts.mean()), mean, scale=(variance / len(counts)) ** 0.5, facts={"n": n, "m": budget})


def hypergeometric(n: int, marked: int, drawn: int) -> tuple[float, float, float]:
    """Mean, variance and fourth central moment of the marked ones among `drawn` of n."""
    x = np.arange(max(0, drawn - n + marked), min(marked, drawn) + 1)
    law = np.array([comb(marked, i) * comb(n - marked, drawn - i) / comb(n, drawn) for i in x.tolist()])
    mean = float(law @ x)
    return mean, float(law @ (x - mean) ** 2), float(law @ (x - mean) ** 4)


class AlikeSlots(ReservoirCache):
    """Slots of a value-norm sample count alike."""

    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        return softmax_over(xp, self._stored, self.budget, q, scale).output()


def value_norm_answer(rng: Generator, xp: Any, *, n: int, budget: int, weighted: bool = True) -> Trial:
    """Distance to the slots' weighted sums, each slot at `1/||v||^2`. Sabotage: slots count alike."""
    q, k, v = tokens(rng, n)
    cache = (ReservoirCache if weighted else AlikeSlots)(budget, "value-norm", rng=rng)
    fed(cache, xp, k, v, cuts(rng, n, 4))
    expected = []
    for keys, values, queries in zip(*map(asnumpy, map(cache.contents().get, ("keys", "values"))), q, strict=True):
        a = np.exp(SCALE * (queries[:5] @ keys.T)) / (values**2).sum(axis=1)
        expected.append(a @ values / a.sum(axis=1, keepdims=True))
    return Trial(apart(cache.attend(to_device(q[:, :5], xp), scale=SCALE), expected), 0.0, facts={"n": n})


CLAIMS = (
    Claim(
        id="sink24.answer",
        paper="SINK24",
        source="Section 3.2",
        basis="reading",
        title="The sink cache answers with attention over the first and the last tokens",
        statement=sp.Eq(
            sp.Symbol(r"\mathrm{out}"), sp.Symbol(r"\mathrm{Attn}(q, K_S, V_S),\; S = \{j < c\} \cup \{j \ge n - w\}")
        ),
        kind=Exact("==", rtol=1e-11),
        trial=sink_answer,
        cases={
            "smoke": tuple(
                {"n": 60, "window": window, "sinks": sinks, "chunks": chunks}
                for window, sinks in ((7, 4), (8, 3), (50, 4), (70, 4))
                for chunks in (2, 20)
            )
        },
        max_trials={"smoke": 3, "standard": 20},
        sabotages=(Sabotage("no sinks", "the last tokens are kept in the sinks' place", {"keep_sinks": False}),),
        remark="Positions are the tokens' own, not their places in the cache as in the paper.",
    ),
    Claim(
        id="h2o23.eviction",
        paper="H2O23",
        source="Algorithm 1",
        basis="reading",
        title="The heavy-hitter cache evicts token by token the one with the least accumulated attention",
        statement=sp.Eq(sp.Symbol(r"\mathrm{out}_i"), sp.Symbol(r"\mathrm{Attn}(q_i, K_{S_i}, V_{S_i})")),
        kind=Exact("==", rtol=1e-11),
        trial=heavy_hitters,
        cases={
            "smoke": tuple(
                {"n": 50, "budget": 12, "recent": recent, "chunks": chunks} for recent in (0, 6) for chunks in (12, 50)
            )
        },
        max_trials={"smoke": 3, "standard": 20},
        sabotages=(
            Sabotage("scores not accumulated", "scores are the latest queries' weights", {"accumulate": False}),
        ),
        remark="A token is evicted when the next one comes, before the queries of that one, so that the budget holds.",
    ),
    Claim(
        id="gon85.answer",
        paper="GON85",
        source="the greedy algorithm, on keys as [SG24] ran it",
        basis="reading",
        title="The k-center cache answers with attention over greedy centers and the last tokens",
        statement=sp.Eq(sp.Symbol(r"\mathrm{out}"), sp.Symbol(r"\mathrm{Attn}(q, K_S, V_S)")),
        kind=Exact("==", rtol=1e-11),
        trial=k_center_answer,
        cases={
            "smoke": tuple(
                {"n": 60, "budget": 16, "recent": recent, "different": different}
                for recent in (0, 5)
                for different in (60, 7)
            )
        },
        max_trials={"smoke": 3, "standard": 20},
        sabotages=(Sabotage("newest tokens", "the newest tokens are kept, not the farthest", {"farthest": False}),),
        remark="Where keys repeat, and centers are fewer than there is room for, the newest other tokens are kept.",
    ),
    Claim(
        id="vit85.subsets",
        paper="VIT85",
        source="Section 2 (the property of a reservoir)",
        basis="theorem",
        source_checked=False,
        title="The uniform reservoir stores every set of tokens with equal probability, apart for each head",
        statement=sp.Eq(sp.Symbol(r"\Pr[S]"), 1 / sp.binomial(symbols.n, symbols.m)),
        kind=Mean(resolution=0.1),
        trial=uniform_law,
        cases={
            "smoke": tuple(
                {"law": law, "n": 80, "budget": 20, "heads": 64, "chunks": 3} for law in ("token", "pair", "heads")
            )
        },
        max_trials={"smoke": 400, "standard": 2000},
        sabotages=(Sabotage("one draw", "all heads make the same draws", {"apart_heads": False}),),
        remark="Counts in the last quarter of the stream, their spread, and what two heads have in common.",
        restated="f55379f: ruling out 0.05 took 250 trials, ten seconds; the bugs it is for are far larger",
    ),
    Claim(
        id="sg24.value-norm-cache",
        paper="SG24",
        source="Algorithm 1: the slots, for numerator and normaliser",
        basis="derived",
        title="The value-norm reservoir answers with its slots weighted by one over the squared value norm",
        statement=sp.Eq(
            sp.Symbol(r"\mathrm{out}"),
            sp.Symbol(r"\sum_i e^{s\langle q, k_i\rangle} v_i / \|v_i\|^2")
            / sp.Symbol(r"\sum_i e^{s\langle q, k_i\rangle} / \|v_i\|^2"),
        ),
        kind=Exact("==", rtol=1e-11),
        trial=value_norm_answer,
        cases={"smoke": ({"n": 60, "budget": 16}, {"n": 60, "budget": 3})},
        max_trials={"smoke": 3, "standard": 20},
        sabotages=(Sabotage("slots count alike", "the weights are left out", {"weighted": False}),),
        remark="The law of the slots is that of sg24.slot-law.",
    ),
)
