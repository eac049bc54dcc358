"""The sortLSH mask: how often it holds a planted heavy entry, and how many entries it has [HA24, Algorithm 1]."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import Array, asnumpy, to_device
from ....core.exact import Partial, Softmax
from ....theory import symbols
from ....theory.claim import Claim, Exact, Mean, Sabotage, Trial
from ..estimators import Block, Lap
from ..hyper import Problem
from ..sort_lsh import BlockGroup, SortedBlocks, gray_rank, hash_rows


# ------------------------------------------------------------------------------------------------- the mask of a call
class _Silent:
    """An estimator that computes nothing: the mask alone is wanted."""

    def absorb(self, tile: Softmax, p: Partial, block: Block, lap: Lap) -> None:
        p.l[...] = 1


class GivenOrder(Problem):
    """Sabotage: the keys are not sorted, only the queries are."""

    def hash(self, lap: Lap) -> tuple[Array, Array]:
        q, k = super().hash(lap)
        return q, self.xp.zeros_like(k)


class TwoHashes(Problem):
    """Sabotage: queries and keys are hashed with hyperplanes of their own."""

    def hash(self, lap: Lap) -> tuple[Array, Array]:
        q, _ = super().hash(lap)
        _, k = hash_rows(self.xp, self.rng, self.q, self.k, block_size=self.block_size, bits=self.lsh_bits)
        return q, k


HASHES = {"paper": Problem, "keys not sorted": GivenOrder, "two hashes": TwoHashes}


def mask(
    rng: np.random.Generator,
    xp: Any,
    q: np.ndarray,
    k: np.ndarray,
    *,
    block_size: int,
    bits: int | None = None,
    exact_keys: int = 0,
    hashing: str = "paper",
    cut: str = "paper",
    block_by: str = "rank",
) -> np.ndarray:
    """How often HyperAttention's `M` (heads, n_q, n_k) has each entry, for queries (heads, n_q, d) and keys.

    With `block_by="own-hash"` it is that of a square of the causal recursion.
    """
    (heads, n_q, _), n_k = q.shape, k.shape[1]
    counts = np.zeros((heads * n_q + 1, n_k), int)  # the last row is nobody's: see `own_hash.py`

    def note(problem: Problem, blocks: SortedBlocks) -> _Silent:
        for group in CUTS[cut](blocks.groups):
            keys = asnumpy(group.k_rows) - group.problem[:, None] * n_k
            np.add.at(counts, (asnumpy(group.q_rows)[:, :, None], keys[:, None]), 1)
        return _Silent()

    q, k = (to_device(x, xp) for x in (q, k))
    sizes: dict[str, Any] = {"block_size": block_size, "sample_size": 1, "lsh_bits": bits, "make_estimator": note}
    HASHES[hashing](xp, q, k, k, scale=1.0, shift=True, rng=rng, block_by=block_by, **sizes).full(exact_keys)
    return counts[:-1].reshape(heads, n_q, n_k)


# --------------------------------------------------------------------------------------------------- planted clusters
def recall(
    rng: np.random.Generator, xp: Any, *, angle: float, bits: int, blocks: int, heads: int = 150, **how: Any
) -> Trial:
    """Share of heads whose mask holds one planted pair, against its law; `how` as for `held`."""
    law = recall_law(angle, bits, blocks)
    return Trial(
        float(held(rng, xp, angle=angle, bits=bits, blocks=blocks, heads=heads, **how).mean()),
        law,
        scale=math.sqrt(law * (1 - law) / heads),
        facts={"theta": angle * math.pi, "r": bits, "random": 1 / blocks, "collision": (1 - angle) ** bits},
    )


def held(
    rng: np.random.Generator,
    xp: Any,
    *,
    angle: float,
    bits: int,
    blocks: int,
    heads: int,
    block_size: int,
    queries: int,
    **how: Any,
) -> np.ndarray:
    """Whether each head's mask holds one planted pair: a query at `angle * pi` to its key, in random places.

    Each head has `blocks` clusters of `block_size` equal keys and `queries` equal queries, each cluster in a plane of
    its own, all of random lengths. `how` as for `mask`.
    """
    cluster = np.repeat(np.arange(blocks), queries), np.repeat(np.arange(blocks), block_size)
    q_axes, k_axes = (np.zeros((blocks, 2 * blocks)) for _ in range(2))
    k_axes[np.arange(blocks), 2 * np.arange(blocks)] = 1
    q_axes[np.arange(blocks), 2 * np.arange(blocks)] = math.cos(angle * math.pi)
    q_axes[np.arange(blocks), 2 * np.arange(blocks) + 1] = math.sin(angle * math.pi)
    # places[0][h, i]: which query of the sorted list of clusters stands at place i of head h.
    places = [rng.permuted(np.tile(np.arange(len(c)), (heads, 1)), axis=1) for c in cluster]
    q, k = (
        axes[c[p]] * rng.uniform(0.5, 2, (*p.shape, 1))
        for axes, c, p in zip((q_axes, k_axes), cluster, places, strict=True)
    )
    counts = mask(rng, xp, q, k, block_size=block_size, bits=bits, **how)
    q_place, k_place = (np.argmin(p, axis=1) for p in places)  # where the first query and key of cluster 0 stand
    return counts[np.arange(heads), q_place, k_place] > 0


ORDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "paper": gray_rank,
    "released": lambda pattern: pattern ^ (pattern >> 1),
    "binary": lambda pattern: pattern,
}
"""The place of each pattern of sign bits: in the Gray code; the Gray code of it (the released code); the pattern."""


@lru_cache(maxsize=64)
def recall_law(angle: float, bits: int, blocks: int, order: str = "paper") -> float:
    """The probability that `held` is true, if buckets come in the order that `ORDERS` names.

    A cluster's queries and keys fall into buckets (u, w) with probability `2^-r a^h (1 - a)^(r - h)`, h the number of
    bits in which u and w differ, `a = theta/pi`; the clusters do so independently. Given L_q clusters whose queries lie
    in lower buckets than u and E_q that share u, the query is in each of the blocks L_q .. L_q + E_q equally often;
    likewise the key, independently. So they share a block with probability `overlap / ((E_q + 1) (E_k + 1))`, averaged
    over (u, w) and, cluster by cluster, over (L_q, E_q, L_k, E_k).
    """
    pattern = np.arange(2**bits, dtype=np.uint16)
    place = ORDERS[order](pattern).astype(int)
    differing = np.bitwise_count(pattern[:, None] ^ pattern)
    joint = np.zeros((2**bits, 2**bits))
    joint[np.ix_(place, place)] = 2.0**-bits * angle**differing * (1 - angle) ** (bits - differing)
    lower_q, equal_q, lower_k, equal_k = np.indices((blocks,) * 4)
    overlap = np.minimum(lower_q + equal_q, lower_k + equal_k) - np.maximum(lower_q, lower_k) + 1
    together = np.maximum(overlap, 0) / ((equal_q + 1) * (equal_k + 1))
    total = 0.0
    for u, w in np.argwhere(joint > 0):
        # Another cluster's queries are in a lower bucket than u (step 1, 0), in u (0, 1) or higher (0, 0); so its keys.
        parts = [[(slice(x), (1, 0)), (slice(x, x + 1), (0, 1)), (slice(x + 1, None), (0, 0))] for x in (u, w)]
        counts = np.zeros((blocks,) * 4)
        counts[0, 0, 0, 0] = 1
        for _ in range(blocks - 1):
            counts = sum(
                joint[rows, columns].sum() * _moved(counts, (*q_step, *k_step))
                for rows, q_step in parts[0]
                for columns, k_step in parts[1]
            )
        total += joint[u, w] * float((counts * together).sum())
    return total


def _moved(counts: np.ndarray, step: Sequence[int]) -> np.ndarray:
    moved = np.zeros_like(counts)
    moved[tuple(slice(s, None) for s in step)] = counts[tuple(slice(len(counts) - s) for s in step)]
    return moved


# ------------------------------------------------------------------------------------------------- number of entries
def _no_short_block(groups: list[BlockGroup]) -> list[BlockGroup]:
    return groups[:1]


def _overlapping(groups: list[BlockGroup]) -> list[BlockGroup]:
    """Each full block's queries meet the next block's keys, too."""
    full = groups[0]
    first = np.flatnonzero(full.problem[1:] == full.problem[:-1])  # but for each head's last
    following = BlockGroup(full.q_rows[first], full.k_rows[first + 1], full.problem[first], full.block[first + 1])
    return [*groups, following]


CUTS: dict[str, Callable[[list[BlockGroup]], list[BlockGroup]]] = {
    "paper": list,
    "no short block": _no_short_block,
    "overlapping": _overlapping,
}


def entries(
    rng: np.random.Generator, xp: Any, *, n_q: int, n_k: int, block_size: int, heads: int, exact_keys: int = 0,
    cut: str = "paper",
) -> Trial:  # fmt: skip
    """Number of entries of the mask, all heads together; infinite if it has one twice, or a query meets more than b."""
    q, k = (rng.standard_normal((heads, n, 8)) for n in (n_q, n_k))
    m = mask(rng, xp, q, k, block_size=block_size, exact_keys=exact_keys, cut=cut)
    n = n_k - exact_keys
    t = -(-block_size * n_q // n)
    full = min(n_q // t, n // block_size)
    law = heads * (full * t * block_size + (n_q - full * t) * min(block_size, n - full * block_size))
    sound = m.max() <= 1 and m.sum(axis=2).max() <= block_size
    facts = {"n_q": n_q, "n": n_k, "b": block_size, "share": law / (heads * n_q * n_k)}
    return Trial(float(m.sum()) if sound else math.inf, law, scale=law, facts=facts)


CLUSTERS = (
    {"angle": 0.0, "bits": 3, "blocks": 8, "block_size": 4, "queries": 4},
    {"angle": 0.05, "bits": 3, "blocks": 8, "block_size": 3, "queries": 3},
    {"angle": 0.05, "bits": 2, "blocks": 4, "block_size": 4, "queries": 2},
    {"angle": 0.1, "bits": 4, "blocks": 6, "block_size": 2, "queries": 4},
)
SHAPES = (
    {"n_q": 64, "n_k": 64, "block_size": 8, "heads": 2},
    {"n_q": 61, "n_k": 61, "block_size": 8, "heads": 3},
    {"n_q": 40, "n_k": 61, "block_size": 7, "heads": 2},
    {"n_q": 61, "n_k": 40, "block_size": 7, "heads": 1},
    {"n_q": 50, "n_k": 53, "block_size": 6, "heads": 2, "exact_keys": 4},
)
E_q, E_k, OVERLAP = sp.symbols("E_q E_k overlap", nonnegative=True)
HELD, NNZ, T, N_Q = sp.Symbol("M_{ij} = 1"), sp.Symbol(r"\mathrm{nnz}(M)"), sp.Symbol("t"), sp.Symbol("n_q")
FULL = sp.Symbol("f", integer=True)

CLAIMS = (
    Claim(
        id="ha24.mask-recall",
        paper="HA24",
        source="Algorithm 1 (what its sorting is for)",
        basis="derived",
        title="Among planted clusters the mask holds a heavy entry with exactly the probability of the blocks' overlap",
        statement=sp.Eq(sp.Function(r"\Pr")(HELD), symbols.E(OVERLAP / ((E_q + 1) * (E_k + 1)))),
        kind=Mean(resolution=0.05),
        trial=recall,
        cases={"smoke": CLUSTERS},
        max_trials={"smoke": 200, "standard": 2000},
        sabotages=(
            Sabotage("keys not sorted", "the queries are sorted, the keys are not", {"hashing": "keys not sorted"}),
            Sabotage("two hashes", "queries and keys have hyperplanes of their own", {"hashing": "two hashes"}),
        ),
        remark=(
            "n/b clusters of b equal keys, each in a plane of its own, each with queries at angle theta to its keys; "
            "random places and lengths. (L_q, E_q): clusters whose queries fall into lower buckets, and into the same. "
            "The law is computed by running over all buckets. A common bucket, probability (1 - theta/pi)^r, is not "
            "enough: where clusters share a bucket it spans several blocks, and a cluster whose queries and keys are "
            "split moves all the others' ranks. A mask of random blocks of this size holds b/n."
        ),
    ),
    Claim(
        id="ha24.mask-entries",
        paper="HA24",
        source="Definition 1 and Algorithm 1",
        basis="theorem",
        title="The mask has n b entries but for a short last block: each query meets the b keys of one block",
        statement=sp.And(
            sp.Eq(NNZ, FULL * T * symbols.b + (N_Q - FULL * T) * sp.Min(symbols.b, symbols.n - FULL * symbols.b)),
            sp.Le(NNZ, N_Q * symbols.b),
        ),
        kind=Exact("==", rtol=0.0),
        trial=entries,
        cases={"smoke": SHAPES},
        max_trials={"smoke": 5},
        sabotages=(
            Sabotage("short block left out", "the rows behind the last full block", {"cut": "no short block"}),
            Sabotage("overlapping", "a query meets the keys of the next block, too", {"cut": "overlapping"}),
        ),
        remark=(
            "f full blocks of b keys and t = ceil(b n_q / n) queries; sizes that b does not divide, unequal numbers of "
            "queries and keys, several heads, and sinks, which are in no block."
        ),
    ),
)
