"""ApproxD and the sampled product, line by line against a dense A [HA24, Algorithms 2 and 3]."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import asnumpy, to_device
from ....theory import symbols
from ....theory.claim import Claim, Exact, Sabotage, Trial
from ..estimators import Estimator, TheoryDraws, TheorySample, draw_theory, row_norm_law
from ..hyper import Problem
from ..sort_lsh import SortedBlocks
from ._bench import UnscaledSample


class Uncapped(TheorySample):
    """Sabotage: entries are not capped at C_i."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cap = math.inf


class WholeTau(TheorySample):
    """Sabotage: the floor is tau, not tau/kappa; where kappa is measured, twice the smallest row sum."""

    def __init__(self, *args: Any, kappa: float | None, **kwargs: Any) -> None:
        super().__init__(*args, kappa=kappa, **kwargs)
        self.log_floor += math.log(kappa or 2)


class FirstRows(TheorySample):
    """Sabotage: T is the first m queries in sorted order, whatever was drawn."""

    def __init__(self, problem: Problem, blocks: SortedBlocks, draws: TheoryDraws, **kwargs: Any) -> None:
        p, m = draws.queries.shape
        first = np.broadcast_to(np.arange(m) % blocks.q_order.shape[1], (p, m))
        super().__init__(problem, blocks, TheoryDraws(first, draws.uniform, draws.by_norm, draws.probability), **kwargs)


VARIANTS = {"paper": TheorySample, "no n/m": UnscaledSample, "no cap": Uncapped, "tau": WholeTau, "first": FirstRows}


def printed(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    queries: int,
    block_size: int,
    sample_size: int,
    kappa: float | None,
    eps: float | None,
    exact_keys: int = 0,
    scale: float = 0.7,
    variant: str = "paper",
) -> Trial:
    """Largest deviation of normalisers and products from those of the dense A under the same draws, over D~; two heads.

    `kappa=None` and `eps=None` are what `hyper_attention` uses.
    """
    q, k, v = (rng.standard_normal((2, size, c)) for size, c in ((queries, 4), (n, 4), (n, 3)))
    a = np.exp(scale * (q @ k.swapaxes(1, 2)))
    expected: list[np.ndarray] = []

    def estimator(problem: Problem, blocks: SortedBlocks) -> Estimator:
        law = row_norm_law(problem.xp, problem.rows[2], blocks.k_order)
        draws = draw_theory(problem.rng, blocks, sample_size, law)
        for head in range(2):
            order = asnumpy(blocks.q_order)[head] - head * queries, asnumpy(blocks.k_order)[head] - head * n
            expected.append(_dense(a[head], v[head], blocks, draws, head, order, exact_keys, kappa, eps))
        return VARIANTS[variant](problem, blocks, draws, kappa=kappa, eps=eps)

    sizes: dict[str, Any] = {"block_size": block_size, "sample_size": sample_size, "make_estimator": estimator}
    device = (to_device(x, xp) for x in (q, k, v))
    out, lse = Problem(xp, *device, scale=scale, shift=True, rng=rng, **sizes).full(exact_keys)
    normaliser = np.exp(asnumpy(lse))[..., None]
    found, exact = np.concatenate([normaliser, normaliser * asnumpy(out)], axis=2), np.stack(expected)
    facts = {"n": n, "n_q": queries, "m": sample_size, "b": block_size}
    return Trial(float((abs(found - exact) / exact[..., :1]).max()), 0.0, facts=facts)


def _dense(
    a: np.ndarray,
    v: np.ndarray,
    blocks: SortedBlocks,
    draws: TheoryDraws,
    head: int,
    order: tuple[np.ndarray, np.ndarray],
    exact_keys: int,
    kappa: float | None,
    eps: float | None,
) -> np.ndarray:
    """`D~` and `A S^T S V` of one head as printed, (n_q, 1 + d_v); the sinks count to `M` and to the product."""
    queries, keys = order
    (n_q, _), n, m = a.shape, len(keys), draws.uniform.shape[1]
    log_n = max(math.log(n), 1)
    eps = (log_n / m) ** (1 / 6) if eps is None else eps
    own = np.zeros(a.shape, bool)
    t = math.ceil(blocks.block_size * n_q / n)
    own[np.ix_(queries, keys)] = np.arange(n_q)[:, None] // t == np.arange(n) // blocks.block_size
    own[:, :exact_keys] = True
    rest = np.where(own, 0, a)
    tested = rest[queries[draws.queries[head]]].sum(axis=1)  # <1 - M_i, A_i>, i in T
    floor = tested.min() if kappa is None else tested.max() / kappa
    block = (a * own).sum(axis=1)
    cap = eps**2 * m / (n * log_n) * (block + floor)  # C_i
    d = n / m * np.minimum(rest, cap[:, None])[:, keys[draws.uniform[head]]].sum(axis=1)
    drawn, p = keys[draws.by_norm[head]], (v[keys] ** 2).sum(axis=1) / (v[keys] ** 2).sum()
    product = a[:, drawn] @ (v[drawn] / (m * p[draws.by_norm[head]])[:, None]) + a[:, :exact_keys] @ v[:exact_keys]
    return np.column_stack([block + np.maximum(d, floor), product])


CASES: tuple[dict[str, Any], ...] = (
    {"n": 60, "queries": 60, "block_size": 8, "sample_size": 20, "kappa": None, "eps": None},
    {"n": 61, "queries": 40, "block_size": 7, "sample_size": 20, "kappa": 4.0, "eps": 0.8, "exact_keys": 2},
    {"n": 40, "queries": 61, "block_size": 8, "sample_size": 30, "kappa": None, "eps": 0.5, "exact_keys": 3},
    {"n": 50, "queries": 20, "block_size": 6, "sample_size": 30, "kappa": 2.0, "eps": 3.0, "scale": 1.0},
)
D_TILDE, BLOCK, D_I, TAU = (sp.Symbol(name) for name in (r"\tilde{D}_{ii}", r"\langle M_i, A_i\rangle", "d_i", "tau"))
PRODUCT = sp.Symbol(r"\tilde{D}\,\mathrm{out}")

CLAIMS = (
    Claim(
        id="ha24.approxd",
        paper="HA24",
        source="Algorithm 2, and line 3 of Algorithm 3",
        basis="implementation",
        title="The code's ApproxD and sampled product are those of a dense A, line by line",
        statement=sp.And(
            sp.Eq(D_TILDE, BLOCK + sp.Max(D_I, TAU / symbols.kappa)), sp.Eq(PRODUCT, sp.Symbol(r"AS^{\top}SV"))
        ),
        kind=Exact("==", rtol=1e-9),
        trial=printed,
        cases={"smoke": CASES},
        max_trials={"smoke": 5, "standard": 50},
        sabotages=(
            Sabotage("no n/m weight", "d_i is a sum over the sample, not n/m times it", {"variant": "no n/m"}),
            Sabotage("no cap", "entries are not capped at C_i", {"variant": "no cap"}),
            Sabotage("tau for tau/kappa", "kappa is forgotten", {"variant": "tau"}),
            Sabotage("first queries", "T is the first m queries", {"variant": "first"}),
        ),
        remark=(
            "Under the same draws. C_i with constant 1; without kappa, as hyper_attention calls it, tau/kappa is the "
            "smallest row sum of the test queries. Two heads, sinks, scales other than 1/sqrt(d), sizes that b does "
            "not divide, unequal numbers of queries and keys, more test queries than queries."
        ),
    ),
)
