"""The stable rank of the softmax matrix against alpha [HA24, Section 2]."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import asnumpy, to_device
from ....lab.workloads import make
from ....theory import symbols
from ....theory.adversary import Arrays, Search
from ....theory.claim import Assumption, Case, Claim, Drop, Exact, Sabotage, Trial
from ..hardness import hardness


def srank_alpha(
    rng: np.random.Generator,
    xp: Any,
    *,
    workload: str,
    n: int,
    d: int = 64,
    knobs: dict[str, Any] | None = None,
    row_sum: float = 1.0,
    over: str = "maximum",
) -> Trial:
    """srank(P) against alpha, both as `hardness` measures them; rows of P sum to `row_sum`."""
    knobs = dict(knobs or {})
    if workload == "real":
        knobs |= {"layer": int(rng.integers(6)), "head": int(rng.integers(12))}
    made = make(workload, n, d, rng=rng, **knobs)
    return rank_over_alpha(xp, made.q, made.k, scale=made.scale, row_sum=row_sum, over=over)


def rank_over_alpha(
    xp: Any, q: np.ndarray, k: np.ndarray, *, scale: float, row_sum: float = 1.0, over: str = "maximum"
) -> Trial:
    """srank(P) against alpha of these queries and keys; what `hardness` draws is not looked at."""
    h = hardness(to_device(q, xp), to_device(k, xp), scale=scale, rng=0)
    srank, alpha = float(asnumpy(h.srank)), float(asnumpy(h.alpha))
    if over == "mean":
        alpha = float(asnumpy(h.column_norms**2).mean())
    facts = {"n": len(k), "row_sum": row_sum, "srank": srank, "alpha": alpha}
    return Trial(srank, alpha * row_sum**2, scale=alpha, facts=facts)


def head_start(rng: np.random.Generator, *, workload: str, dtype: str) -> Arrays:
    """A few tokens of a workload."""
    made = make(workload, 24, 8, rng=rng, scale=1.0, dtype=np.float64)
    return head_kept({"q": made.q, "k": made.k}, workload=workload, dtype=dtype)


def head_kept(arrays: Arrays, *, workload: str, dtype: str) -> Arrays:
    """Rows of norm at most 10: logits up to 100."""
    lengths = {name: np.linalg.norm(a, axis=1, keepdims=True) for name, a in arrays.items()}
    return {name: a * np.minimum(1, 10 / np.maximum(lengths[name], 1e-300)) for name, a in arrays.items()}


def head_measured(xp: Any, arrays: Arrays, *, workload: str, dtype: str) -> Trial:
    return rank_over_alpha(xp, arrays["q"].astype(dtype), arrays["k"].astype(dtype), scale=1.0)


CASES: tuple[Case, ...] = (
    *(
        {"workload": name, "n": 256}
        for name in ("gaussian", "clustered", "planted", "sinks", "alpha", "kappa", "heavy_values")
    ),
    {"workload": "gaussian", "n": 256, "knobs": {"std": 0.0}},
    {"workload": "real", "n": 256, "d": 32},
)

CLAIMS = (
    Claim(
        id="ha24.srank-alpha",
        paper="HA24",
        source="Section 2 (between Lemmas 1 and 2)",
        basis="theorem",
        title="The stable rank of the softmax matrix is at most alpha",
        statement=sp.Le(symbols.srank, symbols.alpha),
        kind=Exact("<=", rtol=1e-3),
        trial=srank_alpha,
        cases={"smoke": CASES},
        max_trials={"smoke": 3, "standard": 20},
        assumptions=(Assumption("rows of P sum to 1", sp.Ge(sp.Symbol("row_sum", positive=True), 1)),),
        drops=(Drop("rows of P sum to 1", ({"workload": "gaussian", "n": 256, "row_sum": 0.1},)),),
        search=Search(
            head_start,
            head_measured,
            head_kept,
            cases=tuple(
                {"workload": workload, "dtype": dtype}
                for workload in ("gaussian", "alpha", "sinks")
                for dtype in ("float32", "float64")
            ),
        ),
        sabotages=(Sabotage("mean column", "alpha with the mean squared column norm, without n", {"over": "mean"}),),
        remark=(
            "||P|| comes from Lanczos' method, from below and to 1e-4, hence the tolerance. Equality at uniform P (std "
            "= 0)."
        ),
    ),
)
