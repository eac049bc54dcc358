"""Degree and rank of the polynomial method beside what is proved of them [AS23, AA22], and its error over the degree.

Notebook 06.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import lambertw

from ....core.backends import asnumpy, to_device
from ....core.exact import attention
from ....lab.run import Run
from ....plots.panels import facets, finish, grid, theory_line
from ....plots.style import LOOKS, SERIES, method, paper_style, series
from ....theory import symbols
from ....theory.claim import evaluate
from ...baselines.uniform import uniform_attention
from ..approximants import BASES, approximant, minimal_degree, taylor_degree
from ..claims.corollary2_2_degree import crossing
from ..monomials import Monomials
from ..polynomial import PolynomialState

RADIUS, EPS = 4.0, 1e-6  # of the panels in which the other one varies
D, LOGITS = 4, 3.0  # head dimension and largest logit where the error of attention is measured
DEGREES = tuple(range(1, 13))
DOTTED = (0, (1, 1.5))
NAMES = {"taylor": "Taylor", "chebyshev": "Chebyshev", "minimax": "minimax"}
LOOKS_OF_BASES = dict(zip(NAMES, series(*NAMES.values()).values(), strict=True))


# --------------------------------------------------------------------------------------------------------------- degree
def accuracies_and_radii(run: Run, points: int) -> list[tuple[str, float, float]]:
    """(what varies, eps, R): accuracies from 0.1 to 1e-16 at R = RADIUS, then radii from 0.25 to 40 at eps = EPS.

    The run's parameters `radius` and `eps` replace RADIUS and EPS.
    """
    accuracies = [("eps", 10.0**-power, run.given("radius", RADIUS)) for power in np.linspace(1, 16, points)]
    return accuracies + [("R", run.given("eps", EPS), float(radius)) for radius in np.geomspace(0.25, 40, points)]


def law(eps: float, radius: float) -> float:
    """`max{log(1/eps) / log(log(1/eps)/R), R}`, the degree law without its constant."""
    return float(evaluate(symbols.DEGREE_GROWTH, {"L": math.log(1 / eps), "R": radius}))


def minimal_degrees(run: Run) -> pd.DataFrame:
    """Smallest degree of each basis, and the degree by Taylor's explicit bound, over eps and over R.

    Returns
    -------
    DataFrame
        varies ("eps", "R"), what (a basis, or "explicit"), eps, radius, degree.
    """
    rows: list[tuple[str, str, float, float, int]] = []
    for varies, eps, radius in accuracies_and_radii(run, run.pick(smoke=9, standard=17, full=33)):
        rows += [(varies, basis, eps, radius, minimal_degree(basis, eps, radius)) for basis in BASES]
        rows.append((varies, "explicit", eps, radius, taylor_degree(math.log(eps), radius)))
    return pd.DataFrame(rows, columns=["varies", "what", "eps", "radius", "degree"])


def laws(run: Run, points: int = 200) -> pd.DataFrame:
    """The degree law, without constant, over the same ranges: varies, eps, radius, degree; nan between its lowest point
    L = e R and its pole L = R."""
    rows = []
    for varies, eps, radius in accuracies_and_radii(run, points):
        near = 1 < math.log(1 / eps) / radius < math.e
        rows.append((varies, eps, radius, math.nan if near else law(eps, radius)))
    return pd.DataFrame(rows, columns=["varies", "eps", "radius", "degree"])


def law_constant(run: Run) -> pd.DataFrame:
    """The minimax degree over its law at several R, over log(1/eps)/R.

    Returns
    -------
    DataFrame
        radius, eps, ratio `log(1/eps)/R`, constant.
    """
    largest = run.pick(smoke=120.0, standard=300.0, full=600.0)
    points = run.pick(smoke=7, standard=11, full=15)
    rows = []
    for radius in (1.0, 2.0, 4.0, 8.0):
        for big in np.geomspace(2 * radius, largest, points):
            eps = math.exp(-big)
            rows.append((radius, eps, big / radius, crossing("minimax", float(big), radius) / law(eps, radius)))
    return pd.DataFrame(rows, columns=["radius", "eps", "ratio", "constant"])


def leading_constant(points: int = 200) -> pd.DataFrame:
    """The same to leading order: ratio, constant.

    From `(R/2)^g / g! = eps`: with Stirling `g log(2g/(eR)) = L`, so `g = L/w`, `w + log w = log(2L/(eR))`. The
    constant `log(L/R)/w` is 3/2 at most, at `L/R = e^3`, and 1 in the limit.
    """
    ratio = np.geomspace(2, 600, points)
    w = lambertw(2 * ratio / math.e).real
    return pd.DataFrame({"ratio": ratio, "constant": np.log(ratio) / w})


# ----------------------------------------------------------------------------------------------------------------- rank
def ranks() -> pd.DataFrame:
    """Number of monomials and the paper's bound on it: d, degree, rank, bound (as floats: they pass 2^63)."""
    pairs = [(d, g) for d, g in product((2, 4, 8, 16, 32, 64, 128), range(1, 17))]
    rows = [(d, g, float(math.comb(d + g, g)), float(math.comb(2 * (d + g), 2 * g))) for d, g in pairs]
    return pd.DataFrame(rows, columns=["d", "degree", "rank", "bound"])


# ---------------------------------------------------------------------------------------------------------------- error
def errors(run: Run) -> pd.DataFrame:
    """Largest error of an output entry over `max|V|`, float64, logits up to LOGITS.

    Parameters of the run: n, d, logits (largest), degrees, replicates.

    Returns
    -------
    DataFrame
        method (a basis, "uniform": as many keys as features, or "zero"), degree, rank, n, replicate, error (nan where a
        normaliser is not positive), bound (`2 eps`, the polynomial's error up to the largest logit; nan for the
        yardsticks).
    """
    xp = run.xp
    n = run.given("n", run.pick(smoke=1024, standard=4096, full=16384))
    replicates = run.given("replicates", run.pick(smoke=5, standard=20, full=20))
    d, logits = run.given("d", D), run.given("logits", LOGITS)
    rows: list[tuple[Any, ...]] = []
    for r in range(replicates):
        rng = run.rng("over_degree", r)
        q, k, v = (rng.standard_normal((n, d)) for _ in range(3))
        q, k = (x / np.linalg.norm(x, axis=1).max() for x in (q, k))
        q, k, v = (to_device(x, xp) for x in (q, k, v))
        exact, size = asnumpy(attention(q, k, v, scale=logits)), float(np.abs(asnumpy(v)).max())

        def error(out: Any, exact: np.ndarray = exact, size: float = size) -> float:
            return float(np.abs(asnumpy(out) - exact).max()) / size

        for degree in run.given("degrees", DEGREES):
            rank = Monomials(d, degree).rank
            for basis in BASES:
                radius = None if basis == "taylor" else logits
                state = PolynomialState(d, d, degree=degree, scale=logits, basis=basis, radius=radius).update(k, v)
                try:
                    largest = error(state.attend(q))
                except ValueError:  # the row sums are not all positive: no attention at this degree
                    largest = np.nan
                rows.append((basis, degree, rank, n, r, largest, 2 * approximant(basis, degree, logits).error))
            sample = uniform_attention(q, k, v, sample_size=min(rank, n), scale=logits, rng=rng)
            rows.append(("uniform", degree, rank, n, r, error(sample), np.nan))
            rows.append(("zero", degree, rank, n, r, error(np.zeros_like(exact)), np.nan))
    return pd.DataFrame(rows, columns=["method", "degree", "rank", "n", "replicate", "error", "bound"])


# -------------------------------------------------------------------------------------------------------------- figures
@paper_style()
def draw_degrees(rows: pd.DataFrame, laws: pd.DataFrame, constants: pd.DataFrame, leading: pd.DataFrame) -> Figure:
    """`minimal_degrees` over 1/eps and over R with Taylor's bound and the law `laws`; right, `law_constant` with
    `leading_constant`."""
    fig, axes = grid(3, columns=3, height=2.1)
    for ax, varies in zip(axes, ("eps", "R"), strict=False):
        for what, part in rows[rows["varies"] == varies].groupby("what", sort=False):
            if what == "explicit":
                theory_line(ax, _abscissa(part), part["degree"], "Taylor's bound")
            else:
                ax.plot(_abscissa(part), part["degree"], **LOOKS_OF_BASES[str(what)])
        part = laws[laws["varies"] == varies]
        theory_line(ax, _abscissa(part), part["degree"], "law with constant 1", linestyle=DOTTED)
    for (radius, part), look in zip(constants.groupby("radius"), SERIES, strict=False):
        axes[2].plot(part["ratio"], part["constant"], **LOOKS[look])
        first = part[["ratio", "constant"]].to_numpy()[0]
        look_of_text = {"size": 6, "color": LOOKS[look]["color"], "ha": "right", "va": "center"}
        axes[2].annotate(f"$R = {radius:g}$", first, (-3, 0), textcoords="offset points", **look_of_text)
    theory_line(axes[2], leading["ratio"], leading["constant"], "law to leading order", linestyle="-.")
    radius = rows.loc[rows["varies"] == "eps", "radius"].iloc[0]
    eps = rows.loc[rows["varies"] == "R", "eps"].iloc[0]
    axes[0].set(
        xscale="log", xlabel=r"$1/\varepsilon$", ylabel="smallest degree $g$", title=f"$R = {radius:g}$", ylim=(0, None)
    )
    axes[1].set(xscale="log", yscale="log", xlabel="$R$", title=rf"$\varepsilon = 10^{{{np.log10(eps):.3g}}}$")
    axes[2].set(
        xscale="log", xlim=(0.6, None), xlabel=r"$\log(1/\varepsilon)/R$", title="minimax degree / law", ylim=(0, 1.7)
    )
    finish(fig)
    return fig


def _abscissa(part: pd.DataFrame) -> pd.Series:
    """1/eps where the accuracy varies, else R."""
    return 1 / part["eps"] if (part["varies"] == "eps").all() else part["radius"]


@paper_style()
def draw_ranks(rows: pd.DataFrame, *, keys: float) -> Figure:
    """`ranks` (solid) and the paper's bound (dashed) over the degree and over d; at `keys` keys exact attention has as
    many columns as the polynomial has features."""
    fig, axes = grid(2, columns=2, height=2.2, sharey=True)
    for ax, (x, other, chosen, name) in zip(
        axes, (("degree", "d", (4, 8, 16, 64), "d"), ("d", "degree", (2, 4, 8, 16), "g")), strict=True
    ):
        for value, look in zip(chosen, SERIES, strict=False):
            part = rows[rows[other] == value]
            ax.plot(part[x], part["rank"], markersize=2.5, label=f"${name} = {value}$", **LOOKS[look])
            ax.plot(part[x], part["bound"], color=LOOKS[look]["color"], linestyle="--", linewidth=0.8)
        ax.axhline(keys, color="black", linewidth=0.8, linestyle=DOTTED)
        ax.set(yscale="log", ylim=(1, 1e24))
        ax.legend(loc="upper left", ncols=2)
    note = f"$2^{{{np.log2(keys):.0f}}}$\nkeys"
    axes[1].annotate(note, (1.02, keys), xycoords=("axes fraction", "data"), va="center")
    axes[0].set(xlabel="degree $g$", ylabel="rank", xticks=range(0, 17, 4))
    axes[1].set_xscale("log", base=2)
    axes[1].set(xlabel="dimension $d$")
    finish(fig, legend=False)
    return fig


@paper_style()
def draw_errors(rows: pd.DataFrame) -> Figure:
    """A panel per basis: `errors` over the degree, the bound, and the yardsticks with as many keys as features."""
    partial = rows[(rows["method"] != "uniform") | (rows["rank"] < rows["n"])]  # a sample of all keys is exact
    shown = pd.concat(
        partial[partial["method"].isin(("uniform", "zero", basis))].assign(basis=basis) for basis in BASES
    )

    looks = {name: method(name) for name in ("uniform", "zero")} | LOOKS_OF_BASES

    def add_bound(ax: Any, panel: pd.DataFrame) -> None:
        bound = panel.dropna(subset=["bound"]).groupby("degree")["bound"].first()
        theory_line(ax, bound.index, bound, r"bound $2\varepsilon$")

    labels: dict[str, Any] = {"xlabel": "degree $g$", "ylabel": r"$\max|\mathrm{out}-\mathrm{Attn}|\,/\,\max|V|$"}
    options: dict[str, Any] = {
        "looks": looks,
        "logy": True,
        "each": add_bound,
        "titles": NAMES.__getitem__,
        "height": 2.0,
    }
    return facets(shown, x="degree", y="error", hue="method", facet="basis", **labels, **options)
