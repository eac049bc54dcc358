"""What each assumption of HyperAttention's theorems is worth: the output's error with it and without it.

Whether the claims' own trials fail without it is in `lab.comparison.drops_and_sabotages`. Notebook 05.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....core.backends import asnumpy, to_device
from ....core.exact import attention
from ....lab.comparison import drops_and_sabotages
from ....lab.run import Run
from ....lab.statistics import proportion
from ....lab.workloads.inputs import GAUSSIAN_MEAN, PLANTED, SINKS, Input
from ....lab.workloads.instance import Instance
from ....lab.workloads.reference import Reference
from ....plots.layout import finish
from ....plots.panels import grid, lines, theory_line
from ....plots.style import method, paper_style
from ....primitives.sampling import sample_without_replacement
from ...baselines.uniform import uniform_attention
from ..estimators import (
    Estimator,
    Lap,
    MakeEstimator,
    SharedSample,
    practical_estimator,
    theory_estimator,
)
from ..hardness import hardness
from ..hyper import Problem
from ..sort_lsh import SortedBlocks, buckets, default_bits, hyperplanes

N, D, BLOCK, SAMPLE = 512, 32, 64, 64
EPS, DELTA = 0.5, 0.1
"""A draw fails if its error exceeds EPS ||P|| ||V||; DELTA is the failure probability that Lemma 2's explicit sample
size promises.
"""

SPREAD_ROWS = Input("kappa dial = 64, values + 2", "kappa", {"kappa": 64.0}, value_mean=2.0)


class StretchedProblem(Problem):
    """Hyperplanes that are not isotropic: the first coordinate of their normals is four times as large."""

    def hash(self, lap: Lap) -> tuple[Any, Any]:
        b, n, d = self.k.shape
        normals = hyperplanes(self.rng, b, d, default_bits(n, self.block_size))
        normals[:, 0] *= 4
        planes = to_device(normals, self.xp)
        return buckets(self.xp, self.q, planes), buckets(self.xp, self.k, planes)


def outside_certain(problem: Problem, blocks: SortedBlocks) -> Estimator:
    """The practical estimator under the condition that every block has a sampled key outside it: drawn until it has."""
    p, n = blocks.k_order.shape
    while True:
        positions = sample_without_replacement(np, problem.rng, p, n, problem.sample_size)
        if np.ptp(positions // blocks.block_size, axis=1).min() > 0:  # not all samples in one block
            return SharedSample(problem, blocks, positions)


@dataclass(frozen=True)
class Sizes:
    """What the assumptions are tried at; see `sizes`."""

    n: int = N
    d: int = D
    block_size: int = BLOCK
    sample_size: int = SAMPLE
    eps: float = EPS
    delta: float = DELTA


def sizes(run: Run) -> Sizes:
    """The run's parameters of these names, and this file's constants for the others."""
    found = Sizes(**{field.name: run.given(field.name, field.default) for field in fields(Sizes)})
    if 2 * found.block_size > found.n:
        raise ValueError(f"block_size must be at most n / 2 = {found.n // 2}, got {found.block_size}")
    if found.sample_size > found.n:
        raise ValueError(f"sample_size must be at most n = {found.n}, got {found.sample_size}")
    return found


@dataclass(frozen=True)
class Variant:
    """One way to run the algorithm."""

    sample_size: int
    block_size: int
    exact_keys: int = 0
    make_estimator: MakeEstimator = practical_estimator
    problem: type[Problem] = Problem

    def __call__(self, xp: Any, x: Instance, rng: np.random.Generator) -> Any:
        q, k, v = (a[None].astype(np.float32) for a in (x.q, x.k, x.v))
        sizes: dict[str, Any] = {"block_size": self.block_size, "sample_size": self.sample_size}
        common: dict[str, Any] = {"scale": x.scale, "shift": True, "make_estimator": self.make_estimator, "rng": rng}
        problem = self.problem(xp, q, k, v, **sizes, **common)
        return problem.full(self.exact_keys)[0][0]


@dataclass(frozen=True)
class Drop:
    """An assumption, the input it is tried on, the two variants, and the key columns that uniform sampling may read."""

    assumption: str
    what: Input
    kept: Variant
    dropped: Variant
    budget: int


def _given(kappa: float, eps: float) -> MakeEstimator:
    return lambda problem, blocks: theory_estimator(problem, blocks, kappa=kappa, eps=eps)


def _drops(x_of: Callable[[Input], Instance], at: Sizes) -> list[Drop]:
    """The assumptions of HyperAttention's claims; sizes that depend on the input are computed from it."""
    n, block, sample = at.n, at.block_size, at.sample_size
    gaussian, spread = x_of(GAUSSIAN_MEAN), x_of(SPREAD_ROWS)
    srank = float(asnumpy(hardness(gaussian.q, gaussian.k, scale=gaussian.scale).srank))
    kappa = float(asnumpy(hardness(spread.q, spread.k, scale=spread.scale, block_size=2 * block, rng=0).kappa))
    # Markov's inequality on the sampling's variance, with srank(V) in place of its upper bound d_v.
    v = asnumpy(gaussian.v).astype(np.float64)
    enough = math.ceil(srank * (np.linalg.norm(v) / np.linalg.norm(v, 2)) ** 2 / (at.eps**2 * at.delta))
    # With fewer than about n log(n) / (eps^2 b) samples the cap C_i cuts off most entries, whatever kappa it is given:
    # hence larger blocks and samples. The run's mask is not the one that kappa was measured with: hence the 5 percent.
    wide = 2 * block
    known, unknown = (Variant(wide, wide, make_estimator=_given(value, at.eps)) for value in (1.05 * kappa, 1.0))
    usual, both = Variant(sample, block), block + sample
    return [
        Drop("isotropic hyperplanes", PLANTED, usual, replace(usual, problem=StretchedProblem), both),
        Drop("sinks in the exact part", SINKS, Variant(sample - 4, block, exact_keys=4), usual, both),
        Drop("kappa is known (told 1 instead)", SPREAD_ROWS, known, unknown, 3 * wide),
        Drop(
            "enough samples (a tenth instead)",
            GAUSSIAN_MEAN,
            Variant(enough, block, make_estimator=theory_estimator),
            Variant(max(1, enough // 10), block, make_estimator=theory_estimator),
            block + 2 * enough,
        ),
        Drop(
            "a sampled key outside the block",
            GAUSSIAN_MEAN,
            Variant(2, n // 2, make_estimator=outside_certain),
            Variant(2, n // 2),
            n // 2 + 2,
        ),
    ]


def measure(run: Run) -> pd.DataFrame:
    """Measure the output's error with each assumption and without it, on the same input at the same budget.

    Parameters of the run: those of `Sizes`, and replicates.

    Returns
    -------
    DataFrame
        assumption, input, variant ("kept", "dropped", "uniform", "zero", "exact"), replicate (fresh draws on one
        input), budget (key columns per query), error: `||out - P V|| / (||P|| ||V||)`.
    """
    xp, at = run.xp, sizes(run)
    replicates = run.given("replicates", run.pick(smoke=60, standard=400, full=400))
    instances: dict[str, Instance] = {}

    def x_of(what: Input) -> Instance:
        return instances.setdefault(what.label, what.draw(at.n, at.d, run.rng("dropped", what.label), xp))

    rows = []
    for drop in _drops(x_of, at):
        x = x_of(drop.what)
        y = Reference(x)
        name = (drop.assumption, drop.what.label)
        for variant, call in (("kept", drop.kept), ("dropped", drop.dropped)):
            rng = run.rng(drop.assumption, variant)
            rows += [(*name, variant, i, drop.budget, y.error(call(xp, x, rng))) for i in range(replicates)]
        rng = run.rng(drop.assumption, "uniform")
        for i in range(replicates):
            out = uniform_attention(x.q, x.k, x.v, scale=x.scale, sample_size=min(drop.budget, at.n), rng=rng)
            rows.append((*name, "uniform", i, drop.budget, y.error(out)))
        rows.append((*name, "zero", 0, 0, y.error(np.zeros_like(y.output))))
        rows.append((*name, "exact", 0, at.n, y.error(attention(x.q, x.k, x.v, scale=x.scale))))
    return pd.DataFrame(rows, columns=["assumption", "input", "variant", "replicate", "budget", "error"])


def failure_rates(rows: pd.DataFrame, eps: float = EPS) -> pd.DataFrame:
    """Count the draws of `measure` with an error above eps.

    Returns
    -------
    DataFrame
        assumption, variant, rate, low, high (exact 99 percent limits; nothing is drawn for "zero" and "exact"), draws.
    """
    table = []
    for key, group in rows.groupby(["assumption", "variant"], sort=False):
        failures = int((group["error"] > eps).sum())
        drawn = key[1] not in ("zero", "exact")
        table.append((*key, *(proportion(failures, len(group)) if drawn else (float(failures),) * 3), len(group)))
    return pd.DataFrame(table, columns=["assumption", "variant", "rate", "low", "high", "draws"])


# -------------------------------------------------------------------------------------------------------------- figures
VARIANTS = {
    **drops_and_sabotages.VARIANTS,
    "uniform": method("uniform", label="uniform sampling, equal budget"),
    "zero": method("zero"),
    "exact": method("exact", label="exact (rounding)"),
}


def _dots(ax: Axes, rows: pd.DataFrame, x: str, *ends: str) -> None:
    """A line per assumption, the variants one below the other: median and middle 80 percent of x, or x and its ends."""
    names = list(rows["assumption"].unique())
    spread = pd.concat([rows, *(rows.assign(**{x: rows[end]}) for end in ends)])
    for number, (variant, look) in enumerate(VARIANTS.items()):
        part = spread[spread["variant"] == variant]
        if len(part):
            at = part["assumption"].map(names.index) + 0.15 * (number - 2)
            look = {**look, "linestyle": "none"}
            lines(ax, part.assign(at=at), x, "at", look, interval=100 if ends else 80, bars=True, orient="y")


@paper_style()
def draw(rows: pd.DataFrame, rates: pd.DataFrame, eps: float = EPS) -> Figure:
    """Left the errors of `measure`, right their `failure_rates`."""
    inputs = rows.drop_duplicates("assumption").set_index("assumption")["input"]
    at = np.arange(len(inputs))
    fig, (left, right) = grid(2, columns=2, height=0.6 + 0.5 * len(at), sharey=True)
    _dots(left, rows[rows["variant"] != "exact"], "error")
    exact = {**VARIANTS["exact"], "linestyle": "none", "marker": "<"}  # its rounding is far to the left of the axis
    left.plot([0.02] * len(at), at + 0.3, transform=left.get_yaxis_transform(), **exact)
    theory_line(left, eps, [-0.5, len(at) - 0.5], f"failure: above {eps:g}")
    left.set(xscale="log", xlabel=r"$\|\mathrm{out} - PV\|\;/\;(\|P\|\,\|V\|)$", ylim=(len(at) - 0.5, -0.5))
    left.set_yticks(at, [f"{name}\n({what})" for name, what in inputs.items()])
    _dots(right, rates, "rate", "low", "high")
    right.set(xlim=(-0.03, 1.03), xlabel="share of the draws that fail")
    finish(fig)
    return fig
