"""What each assumption is worth: the output's error with it and without it, on the same input at the same budget,
beside the yardsticks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ....core.backends import asnumpy, to_device
from ....core.exact import attention
from ....lab.run import Run
from ....lab.statistics import proportion
from ....lab.workloads.inputs import GAUSSIAN_MEAN, PLANTED, SINKS, Input
from ....lab.workloads.instance import Instance
from ....lab.workloads.reference import Reference
from ...baselines.uniform import uniform_attention
from ..estimators import (
    Estimator,
    Lap,
    MakeEstimator,
    SharedSample,
    draw_shared,
    practical_estimator,
    theory_estimator,
)
from ..hardness import hardness
from ..hyper import Problem
from ..sort_lsh import SortedBlocks, buckets, default_bits, hyperplanes

N, D, BLOCK, SAMPLE = 512, 32, 64, 64
EPS, DELTA = 0.5, 0.1
"""A draw fails if its error exceeds EPS ||P|| ||V||; DELTA is the failure probability that Lemma 2's explicit sample
size promises."""

SPREAD_ROWS = Input("kappa dial = 64, values + 2", "kappa", {"kappa": 64.0}, value_mean=2.0)


class StretchedProblem(Problem):
    """Hyperplanes that are not isotropic: one coordinate of their normals is four times as large."""

    def hash(self, lap: Lap) -> tuple[Any, Any]:
        b, n, d = self.k.shape
        normals = hyperplanes(self.rng, b, d, default_bits(n, self.block_size))
        normals[:, 0] *= 4
        planes = to_device(normals, self.xp)
        return buckets(self.xp, self.q, planes), buckets(self.xp, self.k, planes)


def outside_certain(problem: Problem, blocks: SortedBlocks) -> Estimator:
    """The practical estimator, given at least one sampled key outside every block: drawn again until it is so."""
    p, n = blocks.k_order.shape
    while True:
        positions = draw_shared(problem.rng, p, n, problem.sample_size)
        if np.ptp(positions // blocks.block_size, axis=1).min() > 0:  # not all samples in one block
            return SharedSample(problem, blocks, positions)


@dataclass(frozen=True)
class Variant:
    """One way to run the algorithm."""

    sample_size: int = SAMPLE
    block_size: int = BLOCK
    exact_keys: int = 0
    make_estimator: MakeEstimator = practical_estimator
    problem: type[Problem] = Problem

    def __call__(self, xp: Any, x: Instance, rng: np.random.Generator) -> Any:
        q, k, v = (a[None].astype(np.float32) for a in (x.q, x.k, x.v))
        problem = self.problem(
            xp, q, k, v, scale=x.scale, shift=True, block_size=self.block_size, sample_size=self.sample_size,
            make_estimator=self.make_estimator, rng=rng,
        )  # fmt: skip
        return problem.full(self.exact_keys)[0][0]


@dataclass(frozen=True)
class Drop:
    """An assumption, the input it is tried on, and the two variants; `budget` key columns for uniform sampling."""

    assumption: str
    what: Input
    kept: Variant
    dropped: Variant
    budget: int


def _told(kappa: float) -> MakeEstimator:
    return lambda problem, blocks: theory_estimator(problem, blocks, kappa=kappa, eps=EPS)


def _drops(x_of: Callable[[Input], Instance]) -> list[Drop]:
    """The assumptions of HyperAttention's claims; sizes that depend on the input are computed from it."""
    gaussian, spread = x_of(GAUSSIAN_MEAN), x_of(SPREAD_ROWS)
    srank = float(asnumpy(hardness(gaussian.q, gaussian.k, scale=gaussian.scale).srank))
    kappa = float(asnumpy(hardness(spread.q, spread.k, scale=spread.scale, block_size=2 * BLOCK, rng=0).kappa))
    # Markov's inequality on the sampling's variance, with srank(V) in place of its upper bound d_v.
    v = asnumpy(gaussian.v).astype(np.float64)
    enough = math.ceil(srank * (np.linalg.norm(v) / np.linalg.norm(v, 2)) ** 2 / (EPS**2 * DELTA))
    # Below about n log(n) / (eps^2 b) samples the cap C_i cuts off most entries, whatever kappa is said to be: larger
    # blocks and samples here. The run's mask is not the one that kappa was measured with, hence the 5 percent.
    wide = 2 * BLOCK
    known, unknown = (Variant(wide, wide, make_estimator=_told(told)) for told in (1.05 * kappa, 1.0))
    return [
        Drop("isotropic hyperplanes", PLANTED, Variant(), Variant(problem=StretchedProblem), BLOCK + SAMPLE),
        Drop("sinks in the exact part", SINKS, Variant(SAMPLE - 4, exact_keys=4), Variant(), BLOCK + SAMPLE),
        Drop("kappa is known (told 1 instead)", SPREAD_ROWS, known, unknown, 3 * wide),
        Drop(
            "enough samples (a tenth instead)",
            GAUSSIAN_MEAN,
            Variant(enough, make_estimator=theory_estimator),
            Variant(enough // 10, make_estimator=theory_estimator),
            BLOCK + 2 * enough,
        ),
        Drop(
            "a sampled key outside the block",
            GAUSSIAN_MEAN,
            Variant(2, N // 2, make_estimator=outside_certain),
            Variant(2, N // 2),
            N // 2 + 2,
        ),
    ]


def dropped(run: Run) -> pd.DataFrame:
    """Error of each draw with an assumption, without it, and of the yardsticks.

    Returns
    -------
    DataFrame
        assumption, input, variant ("kept", "dropped", "uniform", "zero", "exact"), replicate (fresh draws on one
        input), budget, error.
    """
    xp = run.xp
    replicates = run.pick(smoke=60, standard=400, full=400)
    instances: dict[str, Instance] = {}

    def x_of(what: Input) -> Instance:
        return instances.setdefault(what.label, what.draw(N, D, run.rng("dropped", what.label), xp))

    rows = []
    for drop in _drops(x_of):
        x = x_of(drop.what)
        y = Reference(x)
        name = (drop.assumption, drop.what.label)
        for variant, call in (("kept", drop.kept), ("dropped", drop.dropped)):
            rng = run.rng(drop.assumption, variant)
            rows += [(*name, variant, i, drop.budget, y.error(call(xp, x, rng))) for i in range(replicates)]
        rng = run.rng(drop.assumption, "uniform")
        for i in range(replicates):
            out = uniform_attention(x.q, x.k, x.v, scale=x.scale, sample_size=min(drop.budget, N), rng=rng)
            rows.append((*name, "uniform", i, drop.budget, y.error(out)))
        rows.append((*name, "zero", 0, 0, y.error(np.zeros_like(y.output))))
        rows.append((*name, "exact", 0, N, y.error(attention(x.q, x.k, x.v, scale=x.scale))))
    return pd.DataFrame(rows, columns=["assumption", "input", "variant", "replicate", "budget", "error"])


def failure_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of the draws with an error above EPS, with exact 99 percent limits: assumption, variant, rate, low, high,
    draws."""
    found = []
    for (assumption, variant), group in rows.groupby(["assumption", "variant"], sort=False):
        misses = int((group["error"] > EPS).sum())
        limits = (
            (float(misses),) * 3 if variant in ("zero", "exact") else proportion(misses, len(group))
        )  # nothing is drawn for these two
        found.append((assumption, variant, *limits, len(group)))
    return pd.DataFrame(found, columns=["assumption", "variant", "rate", "low", "high", "draws"])
