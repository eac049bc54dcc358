"""Theorem 1.4's assumption on trained models: how the largest entry of Q, K, V grows with n [AS23]."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ....lab.models import open_model
from ....lab.workloads import real
from ....lm.attend import per_query_head
from ....theory import symbols
from ....theory.claim import Claim, Growth, Sabotage, Trial
from ....theory.cost import over
from .corollary2_2_constants import lower_degree
from .theorem1_4_phase import log_rank

PASSAGES, LONGEST = 2, 512  # of the decoder's text: a pass of the model is the dear part, so few are made, and kept


@cache
def decoder_heads(model: str, number: int) -> tuple[np.ndarray, ...]:
    """q, k, v (heads, LONGEST, d) of a decoder on a passage of its own for each number."""
    opened = open_model(model)
    q, k, v = opened.qkv(opened.passage(np.random.default_rng(number), LONGEST))
    return tuple(per_query_head(np, q, x).reshape(-1, *x.shape[-2:]) for x in (q, k, v))


def trained_heads(rng: Generator, model: str, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """q, k, v (heads, n, d) of a third or half of a model's heads, n tokens of its text, and their scale.

    Of the "encoder" any stretch of its text; of a decoder, which is causal, the first tokens of a passage.
    """
    if model == "encoder":
        every = real()
        arrays = [x.reshape(-1, *x.shape[-2:]) for x in (every.q, every.k, every.v)]
        chosen, start = rng.choice(len(arrays[0]), 24, replace=False), int(rng.integers(arrays[0].shape[1] - n + 1))
    else:
        arrays = list(decoder_heads(model, int(rng.integers(PASSAGES))))
        chosen, start = rng.choice(len(arrays[0]), len(arrays[0]) // 2, replace=False), 0
    q, k, v = (x[chosen, start : start + n].astype(np.float64) for x in arrays)
    return q, k, v, q.shape[-1] ** -0.5


def largest_entry(
    rng: Generator, xp: Any, *, variable: str, n: int, model: str = "tiny", norm: str = "largest entry"
) -> Trial:
    """`B`, the largest entry of Q, K and V, geometric mean over heads.

    In the paper's units: the factors of q and k, alike, that make the logits `<q, k>/d`. Sabotage: a matrix is measured
    by its Frobenius `norm`.
    """
    q, k, v, scale = trained_heads(rng, model, n)
    d = q.shape[-1]

    def size(x: np.ndarray) -> np.ndarray:
        return np.abs(x).max(axis=(1, 2)) if norm == "largest entry" else np.linalg.norm(x, axis=(1, 2))

    entries = np.maximum(np.sqrt(scale * d * size(q) * size(k)), size(v))
    logits = np.array([np.abs(scale * one @ other.T).max() for one, other in zip(q, k, strict=True)])
    # What accuracy 1/n takes at least: rank C(d+g, g) for the degree g below which no polynomial does, a median head.
    log_t = float(np.median([log_rank(d, max(lower_degree(math.log(n), float(r)), 0.0)) for r in logits]))
    facts = {"n": n, "share": float(np.median(entries)) / math.sqrt(math.log(n)), "log10_t": log_t / math.log(10)}
    return Trial(float(np.exp(np.log(entries).mean())), facts={**facts, "R": float(np.median(logits))})


ENTRIES = Claim(
    id="as23.entries-encoder",
    paper="AS23",
    source="Theorem 1.4 (its assumption B = o(sqrt(log n)))",
    basis="property",
    title="The largest entries of a trained encoder's Q, K, V grow no faster than sqrt(log n)",
    statement=sp.Eq(sp.Function("B")(symbols.n), symbols.O(sp.sqrt(symbols.LOG_N)), evaluate=False),
    kind=Growth(variables={"n": sp.sqrt(symbols.LOG_N)}),
    trial=largest_entry,
    cases={"smoke": over("n", (32, 64, 128, 256, 512), model="encoder")},
    max_trials={"smoke": 12},
    sabotages=(Sabotage("another norm", "a matrix is measured by its Frobenius norm", {"norm": "Frobenius"}),),
    remark=(
        "Random stretches of one text, 24 random heads, in the paper's scale 1/d. The theorem needs o(sqrt(log n)); a "
        "growth over one decade is no limit. `share` is B over sqrt(log n), R the largest logit, t the rank that any "
        "polynomial accurate to 1/n on [-R, R] has at least (as23.degree-lower), as `log10_t`; all of a median head."
    ),
)

CLAIMS = (
    ENTRIES,
    replace(
        ENTRIES,
        id="as23.entries-decoder",
        title="The largest entries of a trained decoder's Q, K, V grow no faster than sqrt(log n) (tiny)",
        model="tiny",
        restated="62bce33: the model stood in the cases, by another name; the heads drawn are a half, 8 as before",
        cases={"smoke": over("n", (64, 128, 256, 512))},
        remark=ENTRIES.remark.replace(
            "Random stretches of one text, 24 random heads,",
            "Two passages, a random half of the heads, the first n tokens,",
        ),
    ),
)
