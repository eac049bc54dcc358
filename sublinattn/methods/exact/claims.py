"""Partials of exact attention merge to the whole [RS21]."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ...core.backends import asnumpy, to_device
from ...core.exact import Partial, partial_attention
from ...theory.claim import Claim, Exact, Sabotage, Trial


def merged(rng: Generator, xp: Any, *, n: int, parts: int, size: float, shift: bool = True) -> Trial:
    """Largest distance between dense attention and the merge of partials over a random split of the keys.

    Logits are of order `size`; partials merge in random order. Sabotage: without `shift` the partials' reference
    logits are forgotten.
    """
    q, k, v = (rng.standard_normal((n, 8)) for _ in range(3))
    q *= size / np.sqrt(8)
    owner = rng.integers(parts, size=n)
    total = Partial.empty(xp, (n,), 8, np.float64)
    for part in rng.permutation(parts):
        mine = owner == part
        if mine.any():
            partial = partial_attention(*(to_device(x, xp) for x in (q, k[mine], v[mine])), scale=1.0)
            if not shift:
                partial.m[...] = 0
            total.merge(partial)
    logits = q @ k.T
    a = np.exp(logits - logits.max(axis=1, keepdims=True))
    exact = a @ v / a.sum(axis=1, keepdims=True)
    return Trial(float(abs(asnumpy(total.output()) - exact).max()), 0.0, facts={"n": n, "parts": parts})


FORGOTTEN = Sabotage(
    "references forgotten", "partials are added as if their reference logits were equal", {"shift": False}
)

CLAIMS = (
    Claim(
        id="rs21.merge",
        paper="RS21",
        source="Section 2 (lazy softmax), as a monoid",
        basis="theorem",
        title="Partials over any split of the keys merge, in any order, to exact attention",
        statement=sp.Eq(
            sp.Symbol(r"\mathrm{out}\left(\bigoplus_S (m_S, l_S, o_S)\right)"),
            sp.Symbol(r"\mathrm{softmax}(QK^{\top})V"),
        ),
        kind=Exact("==", rtol=1e-9),
        trial=merged,
        cases={
            "smoke": tuple(
                {"n": 97, "parts": parts, "size": size} for parts in (1, 3, 40) for size in (1.0, 30.0, 1000.0)
            )
        },
        max_trials={"smoke": 3, "standard": 20},
        sabotages=(FORGOTTEN,),
        remark="float64, logits up to several thousand, empty parts left out.",
    ),
)
