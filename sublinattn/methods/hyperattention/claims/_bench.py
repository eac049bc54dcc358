"""What the trials of HyperAttention's claims share: small instances with everything known, batched runs, broken parts.

A theorem speaks of a fixed input and random draws. So the instance of a claim with a failure probability is made once
per case and cached, with its dense float64 softmax matrix as the reference; a trial redraws only what the algorithm
draws. A growth needs a fresh instance in every replicate: what is peculiar to one would look like growth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
from ..estimators import (
    Estimator,
    MakeEstimator,
    TheoryDraws,
    TheorySample,
    draw_theory,
    row_norm_law,
    unmasked_row_sums,
)
from ..hyper import Problem
from ..sort_lsh import SortedBlocks, hash_rows, sort_blocks


def fresh(
    workload: str,
    n: int,
    d: int,
    *,
    d_v: int,
    values: str = "given",
    knobs: Mapping[str, Any] | None = None,
    row_sums: float | None = None,
    seed: int = 0,
) -> Reference:
    """The instance of these parameters.

    Parameters
    ----------
    values : str
        What becomes of the workload's V. "given" leaves it; "mean" adds 2 to every entry; "orthonormal" replaces it by
        orthonormal columns, so that srank(V) = d_v, the first of them along `P^T 1`, so that `||P V||` is near
        `||P|| ||V||`. With independent zero-mean values `||P V||` is far below that, and then answering 0 meets every
        bound relative to it.
    row_sums : float, optional
        The ratio kappa of the largest to the smallest row sum of A; their logarithms are spaced evenly, in random
        order. One more coordinate, 1 in every key, shifts the logits of each query; P and alpha stay as they are.
    """
    made = make(workload, n, d, d_v=d_v, rng=seed, dtype=np.float64, **(knobs or {}))
    x, rng = Reference(made), np.random.default_rng([seed, 1])
    if values == "mean":
        made = replace(made, v=made.v + 2)
    elif values == "orthonormal":
        along = x.p.sum(axis=0)[:, None]
        made = replace(made, v=np.linalg.qr(np.hstack([along, rng.standard_normal((n, d_v - 1))]))[0])
    if row_sums is not None:
        wanted = np.log(row_sums) * (rng.permutation(n) / (n - 1) - 0.5)
        shift = (wanted - x.log_normaliser)[:, None] / x.scale
        made = replace(made, q=np.hstack([made.q, shift]), k=np.hstack([made.k, np.ones((n, 1))]))
    return Reference(made)


@lru_cache(maxsize=16)
def _cached(parameters: str) -> Reference:
    return fresh(**json.loads(parameters))


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

    @property
    def mask(self) -> np.ndarray:
        """The sortLSH mask M of the first copy, (n, n) bool."""
        n = self.problem.q.shape[1]
        m = np.zeros((n, n), bool)
        for group in self.blocks.groups:
            for rows, keys, problem in zip(asnumpy(group.q_rows), asnumpy(group.k_rows), group.problem, strict=True):
                if problem == 0:
                    m[np.ix_(rows, keys)] = True
        return m


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
    v: np.ndarray | None = None,
    bits: int | None = None,
) -> Bench:
    """Copies of `x`, in `dtype`, under the mask that `mask_seed` gives; with the values `v` if these are given.

    `bits` is the number of hyperplanes of the hash, by default that of `hyper_attention`.
    """
    q, k, values = (
        to_device(np.ascontiguousarray(np.broadcast_to(a.astype(dtype), (copies, *a.shape))), xp)
        for a in (x.q, x.k, x.v if v is None else v)
    )
    shift = needs_shift(x.scale, *(float(np.linalg.norm(a, axis=1).max()) for a in (x.q, x.k)))
    one = hash_rows(xp, np.random.default_rng(mask_seed), q[:1], k[:1], block_size=block_size, bits=bits)
    start = np.arange(copies) * len(x.q)
    q_buckets, k_buckets = (xp.broadcast_to(a, (copies, a.shape[1])) for a in one)
    blocks = sort_blocks(xp, q_buckets, k_buckets, block_size=block_size, q_start=start, k_start=start)
    problem = Problem(
        xp, q, k, values, scale=x.scale, shift=shift, block_size=block_size, sample_size=sample_size, rng=rng
    )
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


class ConsecutiveSample(TheorySample):
    """Sabotage: `m` consecutive keys of the sorted order (all, if there are fewer) stand for all of them.

    In the normaliser they take the place of `m` uniform keys, in the product that of keys drawn by their values' norms.
    """

    def __init__(self, problem: Problem, blocks: SortedBlocks, draws: TheoryDraws, **kwargs: Any) -> None:
        super().__init__(problem, blocks, draws, **kwargs)
        xp, (_, k, v) = problem.xp, problem.rows
        n = blocks.k_order.shape[1]
        m = min(draws.uniform.shape[1], n)
        window = draws.uniform[:, :1] % (n - m + 1) + np.arange(m)
        self.weight, self.places = n / m, to_device(window, xp)
        rows = xp.take_along_axis(blocks.k_order, self.places, axis=1)
        self.k_uniform = self.k_norm = k[rows]
        self.v_norm = v[rows] * self.weight


THEORY = {"paper": TheorySample, "no n/m weight": UnscaledSample, "consecutive keys": ConsecutiveSample}


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
"""Largest sample size tried: at least 2 n everywhere, and n keys make exact attention."""
M_STAR = sp.Symbol("m^*", positive=True)


def critical_sample(
    rng: np.random.Generator,
    xp: Any,
    error: Callable[[Reference, np.ndarray, np.ndarray], np.ndarray],
    *,
    eps: float,
    blocks: int,
    trials: int = 20,
    told_kappa: float | None = None,
    variant: str = "paper",
    columns: str = "together",
    bits: int | None = None,
    **instance: Any,
) -> Trial:
    """Smallest sample size at which at most a tenth of `trials` draws miss `error <= eps`.

    The papers' constants are hidden, so this size is measured as a function of one variable at a time, and the theory's
    exponent must dominate. Every replicate has an instance and a mask of its own. What is held fixed is among the
    facts: n, d_v, alpha, kappa, the stable ranks of P and V.

    Parameters
    ----------
    error : function of the instance, the estimated log normalisers (t, n) and outputs (t, n, d_v)
        The error of each of t draws, relative to the theorem's norm.
    blocks : int
        Blocks of the mask: its share 1/blocks of the entries stays the same when n grows. A block of fixed size would
        hold a falling share of the row sums, and ApproxD's cap C_i with it.
    told_kappa : float, optional
        ApproxD's input kappa; by default the instance's own.
    variant : str
        A key of `THEORY`.
    columns : str
        "together": one sample for all columns of V; "apart" (a sabotage): each draws its own m/d_v keys.
    bits : int, optional
        Hyperplanes of the hash, by default as in `hyper_attention`.
    **instance
        Arguments of `fresh`.
    """
    x = fresh(seed=int(rng.integers(2**31)), **instance)
    mask: dict[str, Any] = {"block_size": len(x.k) // blocks, "mask_seed": int(rng.integers(2**31)), "bits": bits}
    kappa = measured_kappa(bench(x, xp, rng, copies=1, sample_size=1, **mask))
    given = kappa if told_kappa is None else told_kappa
    make_estimator = theory_maker(kappa=given, eps=eps, variant=variant)
    d_v = x.v.shape[1]
    parts = {"together": [slice(None)], "apart": [slice(c, c + 1) for c in range(d_v)]}[columns]

    def excess(m: int) -> float:
        copies: dict[str, Any] = {"copies": trials, "sample_size": max(1, m // len(parts)), **mask}
        each = [bench(x, xp, rng, v=x.v[:, part], **copies).estimate(make_estimator) for part in parts]
        log_d = each[0][0]  # every part's product D~ out, over one normaliser
        out = np.concatenate([out * np.exp(own - log_d)[..., None] for own, out in each], axis=-1)
        return float(np.quantile(error(x, log_d, out), 1 - MISSES, method="higher") / eps)

    size = critical_size(excess, start=32, cap=CAP, rng=rng)
    v_srank = float((np.linalg.norm(x.v) / x.v_norm) ** 2)
    return Trial(
        size, facts={**x.facts, "varepsilon": eps, "kappa": kappa, "told_kappa": given, "v_srank": v_srank, "cap": CAP}
    )


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
    x = _cached(json.dumps(instance, sort_keys=True))
    size = symbols.amm_sample_size(x.v.shape[1], x.facts["srank"], eps=eps, delta=delta)
    m = max(1, round(size * shrink))
    facts = {**x.facts, "m": m, "varepsilon": eps, "delta": delta, "prescribed": size}
    return x, bench(x, xp, rng, copies=1, block_size=len(x.q) // blocks, sample_size=m), facts
