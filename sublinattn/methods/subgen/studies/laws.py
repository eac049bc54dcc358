"""Laws of SubGen's samples and estimates [SG24]. Notebook 13.

Do slots and samples obey their laws; errors of both estimates over s and t; the bound on the variance of tau; the bias
of the ratio z / tau.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....core.backends import asnumpy, to_device
from ....lab.run import Run
from ....lab.statistics import Z
from ....lab.workloads import real
from ....plots.layout import ticks
from ....plots.panels import facets, finish, grid, theory_line
from ....plots.style import LOOKS, METHODS, paper_style, series
from ....primitives.clustering import OnlineClusters
from ....primitives.kcenter import greedy_radii
from ..claims.setting import Cache, Tokens, members, sums
from ..claims.theorem1_estimators import ordered_tokens
from ..head import Head, normalisers, numerators
from .clusterability import PART, longest_queries, stacks

LAWS = {
    "sg24.slot-law": "slots",
    "sg24.merge-law": "merged caches",
    "sg24.slot-independence": "pairs",
    "sg24.sample-law": "samples of a cluster",
}
"""Claims about what slots and samples hold."""
FAILURE = 0.1
"""Failure probability at which Chebyshev's bound is drawn."""
N = 60
BIASED: dict[str, Any] = {"clusters": 3, "query_norm": 4.0}
"""Parameters of the stream on which the ratio is biased: few clusters, and logits that differ within them."""
SLOTS_OVER, SAMPLES_OVER = (8, 32, 128, 512), (1, 4, 16, 64)
BIAS_SLOTS, BIAS_SAMPLES = (4, 16, 64, 256), (1, 2, 4, 8, 16)


# --------------------------------------------------------------------------------------------- what slots, samples hold
def pearson(run: Run) -> pd.DataFrame:
    """Pearson's statistics of the trials of the claims LAWS, over their expected value under the law.

    Returns
    -------
    DataFrame
        claim, law (what it is about), variant ("as claimed", or the sabotage), what (both), ratio.
    """
    rows = pd.concat([run.rows(claim) for claim in LAWS], ignore_index=True)
    law = rows["claim"].map(LAWS)
    variant = rows["role"].str.removeprefix("sabotage:").replace("claim", "as claimed")
    named = rows[["claim"]].assign(law=law, variant=variant, what=law + ", " + variant)
    return named.assign(ratio=rows["measured"] / rows["bound"])


# ------------------------------------------------------------------------------------------------- errors over s and t
def states(rng: np.random.Generator, xp: Any, x: Tokens, copies: int, *, t: int = 1, s: int = 1) -> list[Head]:
    """States of independent caches that read the same tokens, at delta = 1."""
    cache = Cache(1.0, t, s, rng=rng)
    k, v = (to_device(np.broadcast_to(a, (copies, *a.shape)), xp) for a in (x.k, x.v))
    return cache.update(k, v).heads


def groups(x: Tokens, head: Head) -> list[np.ndarray]:
    """`exp(<q, k>)` of the members of each cluster."""
    _, label = members(x.k, asnumpy(head.clusters.centers.rows))
    return [x.e[label == i] for i in range(len(head.clusters.centers))]


def errors(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Squared errors of z over s and of tau over t, on one stream, in the order of its logits.

    The unit is `(||exp(Kq)||_2 ||V||)^2` for z, and `(1^T exp(Kq))^2` for tau. Beside them is the exact mean for the
    same sums estimated from uniformly drawn tokens: as many as there are slots, or samples in all clusters.

    Parameters of the run: n, slots, samples, copies.

    Returns
    -------
    rows : DataFrame
        estimate ("z", "tau"), size (s or t), copy, square.
    laws : DataFrame
        estimate, size, exact (the mean), bound (on the mean), level (Chebyshev: exceeded with probability at most 0.1),
        uniform (mean with uniform sampling), zero (answering 0).
    """
    copies = run.given("copies", run.pick(smoke=150, standard=2000, full=10_000))
    n = run.given("n", N)
    x = ordered_tokens(run.rng("errors"), n)
    unit = float((x.e**2).sum()) * float(np.linalg.norm(x.v, 2)) ** 2
    zero = float((x.numerator**2).sum())
    uniform_z = n * float((x.e**2 * x.squares).sum()) - zero
    uniform_tau = n * float((x.e**2).sum()) / x.normaliser**2 - 1
    rows, laws = [], []
    slots, samples = run.given("slots", SLOTS_OVER), run.given("samples", SAMPLES_OVER)
    for s, squares in zip(slots, run.map(_z, [(x, copies, s) for s in slots]), strict=True):
        rows += [("z", s, i, square / unit) for i, square in enumerate(squares)]
        bound = float(x.squares.sum() * (x.e**2).sum()) / s / unit
        laws.append(("z", s, x.variance / s / unit, bound, bound / FAILURE, uniform_z / s / unit, zero / unit))
    for t, (squares, parts) in zip(samples, run.map(_tau, [(x, copies, t) for t in samples]), strict=True):
        rows += [("tau", t, i, square) for i, square in enumerate(squares)]
        exact = sum(len(e) ** 2 * e.var() for e in parts) / x.normaliser**2 / t
        bound = float(np.sinh(np.linalg.norm(x.q)) ** 2) / t
        laws.append(("tau", t, exact, bound, bound / FAILURE, uniform_tau / (t * len(parts)), 1.0))
    return (
        pd.DataFrame(rows, columns=["estimate", "size", "copy", "square"]),
        pd.DataFrame(laws, columns=["estimate", "size", "exact", "bound", "level", "uniform", "zero"]),
    )


def _z(run: Run, x: Tokens, copies: int, s: int) -> np.ndarray:
    """Squared errors of the copies' z from s slots."""
    heads = states(run.rng("z", s), run.xp, x, copies, s=s)
    return ((sums(numerators, run.xp, heads, x.q)[:, 0] - x.numerator) ** 2).sum(axis=1)


def _tau(run: Run, x: Tokens, copies: int, t: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Squared errors of the copies' tau from t samples per cluster, in units of tau; and the `groups`."""
    heads = states(run.rng("tau", t), run.xp, x, copies, t=t)
    tau = sums(normalisers, run.xp, heads, x.q)[:, 0, 0] / x.normaliser
    return (tau - 1) ** 2, groups(x, heads[0])


# ------------------------------------------------------------------------------------------------- the bound on Var tau
def against_delta_r(run: Run) -> pd.DataFrame:
    """`t Var(tau) / E[tau]^2` over delta r: trials of `sg24.tau-bound`, and the real heads.

    The trials have two-sided clusters, which meet the bound, or random ones. A real head has its clusters at the greedy
    radius for m = n/8 centers, and its queries, each with its own norm.

    Returns
    -------
    DataFrame
        setting, replicate (or head), delta_r (for a head, of its longest query), whole (for a head, the median over its
        queries), within (of the worst cluster alone; nan for heads), largest (the largest over the queries), bound.
    """
    trials = run.rows("sg24.tau-bound")
    # clusters of one point each, and its repetitions, have no variance but rounding: they are not drawn
    trials = trials[(trials["role"] == "claim") & (trials["whole"] > 1e-12)]
    planted = pd.DataFrame(
        {
            "setting": np.where(trials["m"] == 2, "two-sided", "random"),
            "replicate": trials["trial"],
            **{name: trials[name] for name in ("delta_r", "whole", "within")},
            "largest": trials["whole"],
        }
    )
    xp, x, points, rows = run.xp, real(), stacks(run.xp), []
    for head, (q, k) in enumerate(zip(points["queries"], points["keys"], strict=True)):
        delta = float(greedy_radii(xp, k, len(k) // PART)[-1])
        clusters = OnlineClusters(delta, k[:0])
        whole = spread_of_tau(asnumpy(q), asnumpy(k), clusters.absorb(xp, k), x.scale)
        length = delta * float(longest_queries(run.xp, q[None], x.scale)[0])
        rows.append(("real heads", head, length, float(np.median(whole)), np.nan, float(whole.max())))
    table = pd.concat([planted, pd.DataFrame(rows, columns=planted.columns)], ignore_index=True)
    return table.assign(bound=np.sinh(table["delta_r"]) ** 2)


def spread_of_tau(q: np.ndarray, k: np.ndarray, labels: np.ndarray, scale: float) -> np.ndarray:
    """`t Var(tau) / E[tau]^2` for each query (n_q, d): the sum of count^2 times the variance of each cluster."""
    logits = scale * q.astype(np.float64) @ k.astype(np.float64).T
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    member = (labels[:, None] == np.arange(labels.max() + 1)).astype(np.float64)
    sums = e @ member
    variances = (e**2) @ member * member.sum(axis=0) - sums**2
    return np.maximum(variances, 0).sum(axis=1) / sums.sum(axis=1) ** 2


# ---------------------------------------------------------------------------------------------------- the ratio's bias
def ratios(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The answer z/tau along exact attention, over t (s = 64) and over s (t = 1): by how much its mean is too long.

    z and tau are independent, so `E[z/tau] = Attn E[tau] E[1/tau]`: the bias is a factor above 1, whatever s is.
    Parameters of the run: n, copies.

    Returns
    -------
    rows : DataFrame
        varies ("t", "s"), s, t, copy, along (`<out, Attn> / |Attn|^2 - 1`).
    laws : DataFrame
        varies, s, t, exact (its mean), first_order (`Var(tau) / E[tau]^2`).
    """
    copies = run.given("copies", run.pick(smoke=250, standard=4000, full=20_000))
    x = ordered_tokens(run.rng("ratio"), run.given("n", N), **BIASED)
    rows, laws = [], []
    cases = [("t", 64, t) for t in BIAS_SAMPLES] + [("s", s, 1) for s in BIAS_SLOTS]
    found = run.map(_along, [(x, copies, *case) for case in cases])
    for (varies, s, t), (along, parts) in zip(cases, found, strict=True):
        rows += [(varies, s, t, i, off) for i, off in enumerate(along)]
        first = sum(len(e) ** 2 * e.var() for e in parts) / x.normaliser**2 / t
        laws.append((varies, s, t, stretch(parts, t) - 1, first))
    return (
        pd.DataFrame(rows, columns=["varies", "s", "t", "copy", "along"]),
        pd.DataFrame(laws, columns=["varies", "s", "t", "exact", "first_order"]),
    )


def _along(run: Run, x: Tokens, copies: int, varies: str, s: int, t: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The copies' `along` from s slots and t samples per cluster; and the `groups`."""
    heads = states(run.rng("ratio", varies, s, t), run.xp, x, copies, s=s, t=t)
    z, tau = (sums(part, run.xp, heads, x.q)[:, 0] for part in (numerators, normalisers))
    exact = x.numerator / x.normaliser
    return z / tau @ exact / (exact @ exact) - 1, groups(x, heads[0])


def stretch(parts: list[np.ndarray], t: int) -> float:
    """`E[tau] E[1/tau]` for the members' exponentials of each cluster, t samples each.

    `1/tau` is the integral of `exp(-u tau)` over u > 0, and its mean a product over independent samples.
    """
    from scipy.integrate import quad  # a third of a second

    mean = sum(float(e.sum()) for e in parts)
    terms = [len(e) / t * e / mean for e in parts]

    def transform(u: float) -> float:
        return float(np.prod([np.exp(-u * e).mean() ** t for e in terms]))

    return float(quad(transform, 0, np.inf, epsabs=1e-10, limit=500)[0])


def agreement(rows: pd.DataFrame, laws: pd.DataFrame) -> pd.DataFrame:
    """Measured errors beside the laws of `errors`.

    Returns
    -------
    DataFrame
        Index: estimate, size. measured (mean over exact mean), lower, upper (its 99 percent limits), bound (over the
        exact mean), uniform (its mean over the exact mean), exceeded (share of the copies above Chebyshev's level).
    """
    squares = rows.groupby(["estimate", "size"])["square"]
    table = laws.set_index(["estimate", "size"])
    mean, reach = squares.mean() / table["exact"], Z * squares.sem() / table["exact"]
    level = rows.merge(laws, on=["estimate", "size"])["level"]
    above = rows.assign(above=rows["square"].to_numpy() > level.to_numpy())
    return pd.DataFrame(
        {
            "measured": mean,
            "lower": mean - reach,
            "upper": mean + reach,
            "bound": table["bound"] / table["exact"],
            "uniform": table["uniform"] / table["exact"],
            "exceeded": above.groupby(["estimate", "size"])["above"].mean(),
        }
    )


def bias(rows: pd.DataFrame, laws: pd.DataFrame) -> pd.DataFrame:
    """Mean of `along` with 99 percent limits, beside the laws of `ratios`.

    Returns
    -------
    DataFrame
        Index: varies, s, t. measured, lower, upper, exact, first_order.
    """
    along = rows.groupby(["varies", "s", "t"])["along"]
    mean, reach = along.mean(), Z * along.sem()
    table = pd.DataFrame({"measured": mean, "lower": mean - reach, "upper": mean + reach})
    return table.join(laws.set_index(["varies", "s", "t"]))


# -------------------------------------------------------------------------------------------------------------- figures
_GREY = "#BBBBBB"


@paper_style()
def draw_pearson(rows: pd.DataFrame) -> Figure:
    """Pearson's statistic over its expectation, a line per law and sabotage: medians and the range of all trials."""
    rows = rows.assign(kind=np.where(rows["variant"] == "as claimed", "as claimed", "sabotaged"))

    def expected(ax: Axes, _: pd.DataFrame) -> None:
        ax.axvline(1, color="black", linestyle="--", linewidth=1, label="expected under the law", zorder=4)

    options: dict[str, Any] = {"looks": series("as claimed", "sabotaged"), "interval": 100, "logx": True, "height": 2.6}
    label = "Pearson's statistic / its expectation under the law"
    return facets(rows, x="ratio", y="what", hue="kind", xlabel=label, each=expected, **options)


def _means(ax: Axes, rows: pd.DataFrame, x: str, value: str) -> None:
    """Means with 99 percent limits."""
    table = rows.groupby(x)[value].agg(["mean", "sem"])
    look = {**LOOKS["blue"], "linestyle": "none", "elinewidth": 0.7, "capsize": 1.5, "zorder": 5}
    ax.errorbar(table.index, table["mean"], yerr=Z * table["sem"], label="mean of the copies, 99 % limits", **look)


@paper_style()
def draw_errors(rows: pd.DataFrame, laws: pd.DataFrame) -> Figure:
    """`errors` of z over s (left) and of tau over t (right): means and upper quantiles, with exact means and bounds."""
    fig, axes = grid(2, 2, height=2.5)
    names = {
        "z": ("value slots $s$", "numerator $z$", r"$\|z - e^{Kq\top}V\|^2\;/\;(\|e^{Kq}\|\,\|V\|)^2$"),
        "tau": ("samples per cluster $t$", r"normaliser $\tau$", r"$(\tau / \mathrm{E}\,\tau - 1)^2$"),
    }
    for ax, (estimate, (xlabel, title, ylabel)) in zip(axes, names.items(), strict=True):
        part, law = (table[table["estimate"] == estimate] for table in (rows, laws))
        _means(ax, part, "size", "square")
        above = part.groupby("size")["square"].quantile(1 - FAILURE)
        look = {**LOOKS["brown"], "linestyle": "none", "label": f"exceeded by {FAILURE:.0%} of the copies"}
        ax.plot(above.index, above, **look)
        theory_line(ax, law["size"], law["exact"], "exact mean")
        theory_line(ax, law["size"], law["bound"], "bound on the mean", linestyle="-.")
        label = f"Chebyshev: exceeded by at most {FAILURE:.0%}"
        theory_line(ax, law["size"], law["level"], label, linestyle=":")
        ax.plot(law["size"], law["uniform"], **{**METHODS["uniform"], "label": "uniform sampling, exact mean"})
        ax.plot(law["size"], law["zero"], **METHODS["zero"])
        ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel, title=title)
        ticks(ax.xaxis, law["size"])
    finish(fig)
    return fig


@paper_style()
def draw_tau_bound(rows: pd.DataFrame) -> Figure:
    """`against_delta_r` with its bound: left planted clusters, right the real heads."""
    fig, (left, right) = grid(2, 2, height=2.5)
    two, random, heads = (rows[rows["setting"] == name] for name in ("two-sided", "random", "real heads"))
    sets = {
        "two-sided, worst cluster": (left, two, "within"),
        "random, worst cluster": (left, random, "within"),
        "random, all clusters": (left, random, "whole"),
        "a head's worst query": (right, heads, "largest"),
        "a head's median query": (right, heads, "whole"),
    }
    for (ax, part, value), look in zip(sets.values(), series(*sets, linestyle="none").values(), strict=True):
        ax.plot(part["delta_r"], part[value], **look)
    for ax, part, title in ((left, pd.concat([two, random]), "planted clusters"), (right, heads, "real heads")):
        at = np.geomspace(0.8 * part["delta_r"].min(), 1.25 * part["delta_r"].max(), 100)
        theory_line(ax, at, np.sinh(at) ** 2, r"bound: $\sinh(\delta r)^2$")
        ax.set(xscale="log", yscale="log", title=title)
    right.set_ylim(0.3 * heads["whole"].min(), 1e12)  # the bound leaves the panel
    finish(fig, xlabel=r"$\delta r$", ylabel=r"$t\,\mathrm{Var}(\tau)\,/\,(\mathrm{E}\,\tau)^2$")
    return fig


@paper_style()
def draw_bias(rows: pd.DataFrame, laws: pd.DataFrame) -> Figure:
    """By how much the mean of z/tau is too long, over t (left) and over s (right), with the laws of `ratios`."""
    fig, axes = grid(2, 2, height=2.2, sharey=True)
    for ax, varies, fixed, what in zip(axes, "ts", "st", ("samples per cluster", "value slots"), strict=True):
        part, law = (table[table["varies"] == varies] for table in (rows, laws))
        _means(ax, part, varies, "along")
        theory_line(ax, law[varies], law["exact"], r"exact: $\mathrm{E}\,\tau\;\mathrm{E}\,\tau^{-1} - 1$")
        label = r"first order: $\mathrm{Var}(\tau) / (\mathrm{E}\,\tau)^2$"
        theory_line(ax, law[varies], law["first_order"], label, linestyle=":")
        ax.axhline(0, color=_GREY, linewidth=0.8)
        ax.set(xscale="log", xlabel=f"{what} ${varies}$", title=f"${fixed} = {law[fixed].iloc[0]}$")
        ticks(ax.xaxis, law[varies])
    finish(fig, ylabel=r"relative bias of $z/\tau$")
    return fig
