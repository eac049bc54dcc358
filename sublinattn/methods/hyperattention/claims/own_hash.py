"""The mask in which a query's own hash decides its block (`../own_hash.py`): its recall, and that sums are unbiased."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from ....theory import symbols
from ....theory.claim import Assumption, Claim, Exact, Mean, Sabotage, Trial
from ..sort_lsh import gray_rank
from .algorithm1_mask import CLUSTERS, HELD, held
from .algorithm4_normaliser import AV, D_II, D_TILDE, ENUMERATED, O_TILDE, causal_mean


def own_recall(
    rng: np.random.Generator, xp: Any, *, angle: float, bits: int, blocks: int, heads: int = 150, **how: Any
) -> Trial:
    """Share of heads whose mask holds one planted pair, against its law; `how` as for `held`."""
    law = own_recall_law(angle, bits, blocks)
    share = held(rng, xp, angle=angle, bits=bits, blocks=blocks, heads=heads, **{"block_by": "own-hash", **how}).mean()
    facts = {"theta": angle * math.pi, "r": bits, "random": 1 / blocks, "collision": (1 - angle) ** bits}
    return Trial(float(share), law, scale=math.sqrt(law * (1 - law) / heads), facts=facts)


@lru_cache(maxsize=64)
def own_recall_law(angle: float, bits: int, blocks: int) -> float:
    """The probability that `held` is true where a query's own hash decides its block.

    A query falls into bucket u and its keys into w with probability `2^-r a^h (1 - a)^(r - h)`, h the number of bits in
    which u and w differ, `a = theta/pi`; the other clusters' keys fall into any of the `2^r` buckets. A bucket's
    clusters fill whole blocks. So the query meets its key

    - if `u = w`: in each of the bucket's `E + 1` blocks equally often;
    - if `u < w`: if no cluster lies in u..w - 1, so that the next block is the bucket's first; if u > w: if none lies
      past w, so that the last block is the bucket's last. The key is in that block with probability `1 / (E + 1)`.

    With s buckets that must be empty, the mean of `1 / (E + 1)` over the N other clusters is
    `((1 - s p)^(N+1) - (1 - (s+1) p)^(N+1)) / ((N+1) p)`, `p = 2^-r`.
    """
    pattern = np.arange(2**bits, dtype=np.uint16)
    place = gray_rank(pattern).astype(int)
    differing = np.bitwise_count(pattern[:, None] ^ pattern)
    joint = np.zeros((2**bits, 2**bits))
    joint[np.ix_(place, place)] = 2.0**-bits * angle**differing * (1 - angle) ** (bits - differing)
    u, w = np.indices(joint.shape)
    empty = np.where(u <= w, w - u, 2**bits - 1 - w)
    p = 2.0**-bits
    together = ((1 - empty * p) ** blocks - (1 - (empty + 1) * p) ** blocks) / (blocks * p)
    return float((joint * together).sum())


E_K, CLEAR = sp.Symbol("E_k", nonnegative=True), sp.Symbol("clear", nonnegative=True)

CLAIMS = (
    Claim(
        id="ha24.own-recall",
        paper="HA24",
        source="Algorithm 1 with a mask of our own (block_by='own-hash')",
        basis="derived",
        title="Where a query's own hash decides its block, the mask holds a heavy entry as often as computed",
        statement=sp.Eq(sp.Function(r"\Pr")(HELD), symbols.E(CLEAR / (E_K + 1))),
        kind=Mean(resolution=0.05),
        trial=own_recall,
        cases={"smoke": CLUSTERS},
        max_trials={"smoke": 200, "standard": 2000},
        sabotages=(
            Sabotage("keys not sorted", "the queries are hashed, the keys are not", {"hashing": "keys not sorted"}),
            Sabotage("two hashes", "queries and keys have hyperplanes of their own", {"hashing": "two hashes"}),
        ),
        remark=(
            "The clusters of ha24.mask-recall. E_k: other clusters whose keys share the heavy key's bucket. clear: 1 "
            "if the query falls into that bucket, or into one from which the bucket's block is the next; else 0. Other "
            "queries do not enter. A mask of random blocks of this size holds b/n."
        ),
    ),
    Claim(
        id="ha24.own-unbiased",
        paper="HA24",
        source="Algorithm 4 with a mask of our own (block_by='own-hash')",
        basis="derived",
        title="Where a query's own hash decides its block, normaliser and product stay unbiased",
        statement=sp.And(sp.Eq(symbols.E(D_TILDE), D_II), sp.Eq(symbols.E(O_TILDE), AV)),
        kind=Exact("==", rtol=1e-10),
        trial=causal_mean,
        cases={"smoke": tuple({**case, "recursion": "own hash"} for case in ENUMERATED)},
        max_trials={"smoke": 2},
        assumptions=(Assumption("a sampled key outside the block is certain", symbols.m > symbols.b),),
        sabotages=(
            Sabotage("merging weight 1", "a sampled key weighs 1 in the merged sums", {"variant": "no weight"}),
            Sabotage(
                "own block counted", "sampled keys of the own block count again", {"variant": "own block counted"}
            ),
        ),
        remark="As ha24.causal-unbiased, of the other mask: blocks of b keys, the last one too, for any number of "
        "queries.",
    ),
)
