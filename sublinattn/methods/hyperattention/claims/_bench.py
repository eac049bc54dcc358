"""What the trials of HyperAttention's claims share: small instances with everything known, batched runs, broken parts.

A theorem speaks of a fixed input and random draws. So an instance is made once per case, with a seed of its own, and
cached with its dense float64 softmax matrix as the reference; a trial redraws only what the algorithm draws.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import Array, asnumpy, to_device
from ....core.exact import Partial, needs_shift
from ....lab.workloads import make
from ....lab.workloads.instance import Instance
from ....lab.workloads.reference import Reference, operator_norms
from ....theory import symbols
from ....theory.claim import Assumption, Trial, Vacuity
from ....theory.search import critical_size
from ..estimators import Estimator, MakeEstimator, TheorySample, draw_theory, row_norm_law, unmasked_row_sums
from ..hyper import Problem
from ..sort_lsh import SortedBlocks, hash_rows, sort_blocks


def dense(
    workload: str, n: int, d: int, *, d_v: int, values: str = "given", knobs: Any = None, seed: int = 0
) -> Reference:
    """The instance of these parameters, cached.

    `values` says what becomes of the workload's V: "given" leaves it; "mean" adds 2 to every entry; "aligned" replaces
    it by `P^T W`, W Gaussian. With independent zero-mean values `||P V||` is far below `||P|| ||V||`, and then
    answering 0 meets every bound relative to the latter.
    """
    return _dense(workload, n, d, d_v, values, json.dumps(knobs or {}, sort_keys=True), seed)


@lru_cache(maxsize=64)
def _dense(workload: str, n: int, d: int, d_v: int, values: str, knobs: str, seed: int) -> Reference:
    made = make(workload, n, d, d_v=d_v, rng=seed, dtype=np.float64, **json.loads(knobs))
    given = Reference(made)
    if values == "given":
        return given
    v = made.v + 2 if values == "mean" else given.p.T @ np.random.default_rng([seed, 1]).standard_normal(made.v.shape)
    return Reference(replace(made, v=v))


def random_dense(rng: np.random.Generator, n: int, d: int, d_v: int) -> Reference:
    """A fresh Gaussian problem, for identities that hold on every input."""
    q, k = rng.standard_normal((n, d)), rng.standard_normal((n, d))
    return Reference(Instance(q, k, rng.standard_normal((n, d_v)), scale=d**-0.5))


# ------------------------------------------------------------------------------------------------- the real estimators
@dataclass(frozen=True)
class Bench:
    """`t` copies of a problem with one fixed sortLSH mask, run at once: independent draws on one instance."""

    problem: Problem
    blocks: SortedBlocks

    def estimate(self, make_estimator: MakeEstimator) -> tuple[np.ndarray, np.ndarray]:
        """Log of the estimated normaliser (t, n), and the output of the estimator (t, n, d_v)."""
        t, n, _ = self.problem.q.shape
        log_d, out = np.empty(t * n), np.empty((t * n, self.problem.v.shape[-1]))

        def deliver(rows: Array, p: Partial) -> None:
            where = asnumpy(rows)
            log_d[where], out[where] = asnumpy(p.lse()), asnumpy(p.output())

        sinks = np.empty((t, 0), np.int64)
        replace(self.problem, make_estimator=make_estimator).estimate(self.blocks, sinks, deliver)
        return log_d.reshape(t, n), out.reshape(t, n, -1)


def bench(
    x: Reference,
    xp: Any,
    rng: np.random.Generator,
    *,
    copies: int,
    block_size: int,
    sample_size: int,
    mask_seed: int = 0,
    dtype: type = np.float32,
) -> Bench:
    """Copies of `x`, in `dtype`, under the mask that `mask_seed` gives."""
    q, k, v = (
        to_device(np.ascontiguousarray(np.broadcast_to(a.astype(dtype), (copies, *a.shape))), xp)
        for a in (x.q, x.k, x.v)
    )
    shift = needs_shift(x.scale, *(float(np.linalg.norm(a, axis=1).max()) for a in (x.q, x.k)))
    one = hash_rows(xp, np.random.default_rng(mask_seed), q[:1], k[:1], block_size=block_size)
    start = np.arange(copies) * len(x.q)
    q_buckets, k_buckets = (xp.broadcast_to(a, (copies, a.shape[1])) for a in one)
    blocks = sort_blocks(xp, q_buckets, k_buckets, block_size=block_size, q_start=start, k_start=start)
    problem = Problem(xp, q, k, v, scale=x.scale, shift=shift, block_size=block_size, sample_size=sample_size, rng=rng)
    return Bench(problem, blocks)


def measured_kappa(b: Bench) -> float:
    """`kappa` of the bench's problem under its mask: the ratio of unmasked row sums."""
    problem, (q, k, _) = b.problem, b.problem.rows
    one = SortedBlocks(b.blocks.q_order[:1], b.blocks.k_order[:1], b.blocks.block_size, b.blocks.q_block_size, [])
    ranks = np.arange(problem.q.shape[1])[None]
    sums = unmasked_row_sums(problem.xp, q, k, one, ranks, scale=problem.scale)
    return float(asnumpy(problem.xp.exp(sums.max() - sums.min())))


def laws(problem: Problem, blocks: SortedBlocks, law: str) -> np.ndarray:
    """Sampling law over each problem's sorted keys: the paper's row norms, or uniform (a sabotage)."""
    norm = row_norm_law(problem.xp, problem.rows[2], blocks.k_order)
    return {"row-norm": norm, "uniform": np.full_like(norm, 1 / norm.shape[1])}[law]


class UnscaledSample(TheorySample):
    """Sabotage: ApproxD without the weight `n/m` of its sampled entries."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight = 1.0


THEORY = {"paper": TheorySample, "no n/m weight": UnscaledSample}


def theory_maker(*, kappa: float, eps: float | None, law: str = "row-norm", variant: str = "paper") -> MakeEstimator:
    """ApproxD and the product's sample with the paper's inputs `kappa` and `eps`, or a sabotaged variant."""

    def make_estimator(problem: Problem, blocks: SortedBlocks) -> Estimator:
        draws = draw_theory(problem.rng, blocks, problem.sample_size, laws(problem, blocks, law))
        return THEORY[variant](problem, blocks, draws, kappa=kappa, eps=eps)

    return make_estimator


# ------------------------------------------------------------------------------------------------- critical sample size
MISSES = 0.1
"""Failure probability that defines the critical sample size m*."""
CAP = 2048
"""Largest sample size tried by default: 2.6 n or more everywhere, and n keys make exact attention."""
BASE = {"n": 256, "d": 16, "d_v": 4, "eps": 0.5, "block_size": 16}
EPSILONS = (0.7, 0.5, 0.36, 0.25)
M_STAR = sp.Symbol("m^*", positive=True)


def critical_sample(
    rng: np.random.Generator,
    xp: Any,
    error: Callable[[Reference, np.ndarray, np.ndarray], np.ndarray],
    *,
    eps: float,
    block_size: int,
    trials: int = 20,
    told_kappa: float | None = None,
    allowed: float | None = None,
    cap: int = CAP,
    variant: str = "paper",
    **instance: Any,
) -> Trial:
    """Smallest sample size at which at most a tenth of `trials` draws miss `error <= allowed`.

    The papers' constants are hidden, so this size is measured as a function of one variable at a time, and the theory's
    exponent must dominate. Every replicate has an instance and a mask of its own.

    Parameters
    ----------
    error : function of the instance, the estimated log normalisers (t, n) and outputs (t, n, d_v)
        The error of each of t draws, relative to the theorem's norm.
    told_kappa : float, optional
        ApproxD's input kappa; by default the instance's own.
    allowed : float, optional
        Error that a draw must meet; by default eps.
    cap : int
        Largest size tried.
    variant : str
        A key of `THEORY`.
    **instance
        Arguments of `dense`.
    """
    x = dense(seed=int(rng.integers(2**31)), **instance)
    mask: dict[str, Any] = {"block_size": block_size, "mask_seed": int(rng.integers(2**31))}
    kappa = measured_kappa(bench(x, xp, rng, copies=1, sample_size=1, **mask))
    given = kappa if told_kappa is None else told_kappa

    def excess(m: int) -> float:
        b = bench(x, xp, rng, copies=trials, sample_size=m, **mask)
        errors = error(x, *b.estimate(theory_maker(kappa=given, eps=eps, variant=variant)))
        return float(np.quantile(errors, 1 - MISSES, method="higher") / (allowed or eps))

    size = critical_size(excess, start=32, cap=cap, rng=rng)
    return Trial(size, facts={**x.facts, "varepsilon": eps, "kappa": kappa, "told_kappa": given, "cap": cap})


def output_errors(x: Reference, out: np.ndarray) -> np.ndarray:
    """`||out - P V|| / (||P|| ||V||)` of each output (t, n, d_v), operator norms."""
    return operator_norms(out - x.output) / (x.p_norm * x.v_norm)


# ----------------------------------------------------------------------------------------------- the prescribed samples
FIXED = {"n": 1024, "d": 16, "d_v": 4, "eps": 0.5, "delta": 0.1}
EXPLICIT: tuple[dict[str, Any], ...] = (
    {"workload": "gaussian", "values": "mean", **FIXED},
    {"workload": "gaussian", **FIXED},
    {"workload": "sinks", "values": "mean", **FIXED},
    {"workload": "heavy_values", **FIXED, "knobs": {"rows": 1, "mass": 0.5}},
    {"workload": "real", **FIXED, "n": 512, "d": 32, "d_v": 32, "knobs": {"layer": 2, "head": 3}},
)
ENOUGH = Assumption("enough samples", symbols.m >= symbols.AMM_SIZE)
AMM_VACUITY = Vacuity(sp.Or(symbols.m >= symbols.n, symbols.eps >= symbols.ZERO), onset=symbols.AMM_SIZE)
NORM_P, NORM_V = symbols.norm("P"), symbols.norm("V")


def prescribed(
    rng: np.random.Generator, xp: Any, *, eps: float, delta: float, shrink: float, blocks: int, **instance: Any
) -> tuple[Reference, Bench, dict[str, float]]:
    """The instance, one copy of it under a mask of `blocks` blocks, and its measurements.

    The copy samples as many keys as Lemma 2 asks for, times `shrink`.
    """
    x = dense(**instance)
    size = symbols.amm_sample_size(x.v.shape[1], x.facts["srank"], eps=eps, delta=delta)
    m = max(1, round(size * shrink))
    facts = {**x.facts, "m": m, "varepsilon": eps, "delta": delta, "prescribed": size}
    return x, bench(x, xp, rng, copies=1, block_size=len(x.q) // blocks, sample_size=m), facts
