"""What the trials of HyperAttention's claims share: small instances with everything known exactly, and batched runs
of the real estimators.

A theorem speaks of a fixed input and random draws, so an instance is made once per case (its own seed) and cached,
with the dense float64
softmax matrix as the reference; a trial redraws only what the algorithm draws.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ..._hyper_estimators import Estimator, Problem, TheorySample, draw_theory, row_norm_law, unmasked_row_sums
from ..._xp import Array, asnumpy, to_device
from ...exact import Partial, needs_shift
from ...hyper import HyperRun, practical_estimator
from ...lab.workloads import make
from ...primitives.lsh import SortedBlocks, buckets, default_bits, hyperplanes, sort_blocks


@dataclass(frozen=True)
class Dense:
    """One problem in float64 with all its entries: q, k (n, d), v (n, d_v)."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    scale: float

    @cached_property
    def logits(self) -> np.ndarray:
        return self.scale * (self.q @ self.k.T)

    @cached_property
    def log_normaliser(self) -> np.ndarray:
        top = self.logits.max(axis=1)
        return top + np.log(np.exp(self.logits - top[:, None]).sum(axis=1))

    @cached_property
    def p(self) -> np.ndarray:
        return np.exp(self.logits - self.log_normaliser[:, None])

    @cached_property
    def pv(self) -> np.ndarray:
        return self.p @ self.v

    @cached_property
    def facts(self) -> dict[str, float]:
        """n, d_v, alpha, srank, `P_norm`, `P_F`, `V_norm`, `V_F`, and `zero`, the error of answering 0."""
        p_norm, p_f = (
            float(row_scaled_norms(self.p, np.ones((1, len(self.p))), rtol=1e-8)[0]),
            float(np.linalg.norm(self.p)),
        )
        return {
            "n": len(self.k),
            "d_v": self.v.shape[1],
            "alpha": float(len(self.k) * (self.p**2).sum(axis=0).max()),
            "srank": (p_f / p_norm) ** 2,
            "P_norm": p_norm,
            "P_F": p_f,
            "V_norm": float(np.linalg.norm(self.v, 2)),
            "V_F": float(np.linalg.norm(self.v)),
            "zero": float(np.linalg.norm(self.pv, 2) / (p_norm * np.linalg.norm(self.v, 2))),
        }


def dense(
    workload: str,
    n: int,
    d: int,
    *,
    d_v: int,
    values: str = "given",
    knobs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Dense:
    """The instance of these parameters, cached.

    `values` says what becomes of the workload's V: "given" leaves it; "mean" adds 2 to every entry; "aligned"
    replaces it by `P^T W`, W Gaussian. With
    independent zero-mean values `||P V||` is far below `||P|| ||V||`, and then answering 0 meets every bound relative
    to the latter.
    """
    return _dense(workload, n, d, d_v, values, json.dumps(knobs or {}, sort_keys=True), seed)


@lru_cache(maxsize=64)
def _dense(workload: str, n: int, d: int, d_v: int, values: str, knobs: str, seed: int) -> Dense:
    made = make(workload, n, d, d_v=d_v, rng=seed, dtype=np.float64, **json.loads(knobs))
    given = Dense(made.q, made.k, made.v, made.scale)
    if values == "given":
        return given
    v = given.v + 2 if values == "mean" else given.p.T @ np.random.default_rng([seed, 1]).standard_normal(given.v.shape)
    return Dense(given.q, given.k, v, given.scale)


def random_dense(rng: np.random.Generator, n: int, d: int, d_v: int) -> Dense:
    """A fresh Gaussian problem, for identities that hold on every input."""
    q, k = rng.standard_normal((n, d)), rng.standard_normal((n, d))
    return Dense(q, k, rng.standard_normal((n, d_v)), d**-0.5)


# ------------------------------------------------------------------------------------------------- the real estimators
@dataclass(frozen=True)
class Bench:
    """`t` copies of a problem with one fixed sortLSH mask, run at once: independent draws on one instance."""

    run: HyperRun
    blocks: SortedBlocks

    def estimate(self, make_estimator: Callable[[Problem, SortedBlocks], Estimator]) -> tuple[np.ndarray, np.ndarray]:
        """Log of the estimated normaliser (t, n), and the output of the estimator (t, n, d_v)."""
        run = self.run
        t, n, _ = run.q.shape
        log_d, out = np.empty(t * n), np.empty((t * n, run.v.shape[-1]))

        def deliver(rows: Array, p: Partial) -> None:
            where = asnumpy(rows)
            log_d[where], out[where] = asnumpy(p.lse()), asnumpy(p.output())

        sinks = np.empty((t, 0), np.int64)
        replace(run, make=make_estimator).estimate(self.blocks, sinks, deliver)
        return log_d.reshape(t, n), out.reshape(t, n, -1)


def bench(
    x: Dense,
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
    n, d = x.q.shape
    q, k, v = (
        to_device(np.ascontiguousarray(np.broadcast_to(a.astype(dtype), (copies, *a.shape))), xp)
        for a in (x.q, x.k, x.v)
    )
    shift = needs_shift(x.scale, *(float(np.linalg.norm(a, axis=1).max()) for a in (x.q, x.k)))
    planes = to_device(hyperplanes(np.random.default_rng(mask_seed), 1, d, default_bits(n, block_size)), xp)
    q_buckets, k_buckets = (xp.broadcast_to(buckets(xp, a[:1], planes), (copies, n)) for a in (q, k))
    start = np.arange(copies) * n
    blocks = sort_blocks(xp, q_buckets, k_buckets, block_size=block_size, q_start=start, k_start=start)
    run = HyperRun(
        xp,
        q,
        k,
        v,
        scale=x.scale,
        shift=shift,
        block_size=block_size,
        sample_size=sample_size,
        lsh_bits=None,
        min_exact=0,
        make=practical_estimator,
        rng=rng,
    )
    return Bench(run, blocks)


def measured_kappa(b: Bench) -> float:
    """`kappa` of the bench's problem under its mask: the ratio of unmasked row sums."""
    run = b.run
    n, d = run.q.shape[1:]
    one = SortedBlocks(b.blocks.q_order[:1], b.blocks.k_order[:1], b.blocks.block_size, b.blocks.q_block_size, [])
    sums = unmasked_row_sums(
        run.xp, run.q.reshape(-1, d), run.k.reshape(-1, d), one, np.arange(n)[None], scale=run.scale
    )
    return float(asnumpy(run.xp.exp(sums.max() - sums.min())))


def laws(run: HyperRun, blocks: SortedBlocks, law: str) -> np.ndarray:
    """Sampling law over each problem's sorted keys: the paper's row norms, or uniform (a sabotage)."""
    v = run.v.reshape(-1, run.v.shape[-1])
    norm = row_norm_law(run.xp, v, blocks.k_order)
    return {"row-norm": norm, "uniform": np.full_like(norm, 1 / norm.shape[1])}[law]


class UnscaledSample(TheorySample):
    """Sabotage: ApproxD without the weight `n/m` of its sampled entries."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight = 1.0


THEORY = {"paper": TheorySample, "no n/m weight": UnscaledSample}


def theory_maker(
    run: HyperRun, *, kappa: float, eps: float | None, law: str = "row-norm", variant: str = "paper"
) -> Callable[[Problem, SortedBlocks], Estimator]:
    """ApproxD and the product's sample with the paper's inputs `kappa` and `eps`, or a sabotaged variant."""

    def make_estimator(problem: Problem, blocks: SortedBlocks) -> Estimator:
        draws = draw_theory(problem.rng, blocks, problem.sample_size, laws(run, blocks, law))
        return THEORY[variant](problem, blocks, draws, kappa=kappa, eps=eps)

    return make_estimator


# -------------------------------------------------------------------------------------------------------------- norms
def operator_norms(x: np.ndarray) -> np.ndarray:
    """Operator norm of each tall matrix (t, n, c), by its c x c Gram matrix."""
    return np.sqrt(np.maximum(np.linalg.eigvalsh(x.swapaxes(-1, -2) @ x)[:, -1], 0))


def row_scaled_norms(p: np.ndarray, r: np.ndarray, *, rtol: float = 1e-3, steps: int = 100) -> np.ndarray:
    """`||diag(r_t) P||` for each row `r_t` of r (t, n), by block power iteration from a fixed start near the constant
    (from below).
    """
    x = 1 + 0.1 * np.random.default_rng(0).standard_normal((p.shape[1], len(r)))
    norm = np.zeros(len(r))
    for _ in range(steps):
        x /= np.linalg.norm(x, axis=0)
        y = (p @ x) * r.T
        grown = np.linalg.norm(y, axis=0)
        if np.all(grown - norm <= rtol * grown):
            return np.maximum(grown, norm)
        norm = grown
        x = p.T @ (y * r.T)
        x[:, norm == 0] = 1
    return norm


def critical_size(excess: Callable[[int], float], *, start: int, cap: int) -> float:
    """Sample size at which `excess(m)` (a quantile of the error over its target) falls to 1; inf if it is above 1 up
    to `cap`.

    Doubles from `start` until it is at most 1 (or halves until it is above), then interpolates between the two sizes,
    both on log scales.
    """
    m, here = start, excess(start)
    if here <= 1:
        while m > 1:
            lower = excess(m // 2)
            if lower > 1:
                return _crossing(m // 2, lower, m, here)
            m, here = m // 2, lower
        return 1.0
    while m < cap:
        upper = excess(2 * m)
        if upper <= 1:
            return _crossing(m, here, 2 * m, upper)
        m, here = 2 * m, upper
    return np.inf


def _crossing(low: int, above: float, high: int, below: float) -> float:
    """Where the line through (log low, log above) and (log high, log below) is 0; at `high` where the error vanishes
    or overflowed.
    """
    if not (np.isfinite(above) and below > 0):
        return float(high)
    share = np.log(above) / np.log(above / below)
    return float(low * (high / low) ** share)
