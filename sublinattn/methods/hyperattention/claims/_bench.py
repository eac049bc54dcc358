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
from functools import lru_cache
from typing import Any

import numpy as np

from ....core.backends import Array, asnumpy, to_device
from ....core.exact import Partial, needs_shift
from ....lab.workloads import make
from ....lab.workloads.reference import Dense
from ..estimators import Estimator, Problem, TheorySample, draw_theory, row_norm_law, unmasked_row_sums
from ..hyper import HyperRun, practical_estimator
from ..sort_lsh import SortedBlocks, buckets, default_bits, hyperplanes, sort_blocks


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
