"""What k d_v non-zeros do to outputs that are not compressible, and how compressible outputs are [ALSY23].

The one-pass algorithm returns k entries per column. Its error is at least that of the best k-sparse answer,
`tail_k(y)`: small if a few rows of the output are large, nearly `|y|` if all are of one size. Notebook 09.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....core.backends import asnumpy
from ....core.exact import attention
from ....lab.run import Run
from ....lab.workloads import make, real
from ....lab.workloads.inputs import CLUSTERED, GAUSSIAN, REAL, SINKS, Input
from ....lab.workloads.instance import Instance
from ....plots.growth import growth_panel
from ....plots.layout import ticks
from ....plots.panels import finish, grid, lines, theory_line
from ....plots.style import LOOKS, METHODS, method, paper_style, series
from ...baselines.uniform import uniform_attention
from ...polynomial.polynomial import PolynomialState
from ..claims.main_theorem_cost import FALLING_COLUMNS, FALLS
from ..onepass import OnePassSketch

D, DEGREE, SPARSITY, EPS = 8, 4, 64, 0.5
"""d = d_v, degree of the polynomial, k, and eps1 = eps2."""
SKETCH: dict[str, Any] = {"degree": DEGREE, "sparsity": SPARSITY, "eps1": EPS, "eps2": EPS}
DECAYS = (0.0, 0.25, 0.5, 1.0, 2.0)
KEPT = 1 / 64
"""Share k/n of the entries at which inputs are compared: k = 64 of 4096."""
FLAT = Input("flat (decay 0)", "compressible", {"decay": 0.0})
COMPRESSIBLE = Input("compressible (decay 1)", "compressible", {"decay": 1.0})
FALLING = ("compressible", "flat")
FALLING_ROW = 4 * (2 + FALLING_COLUMNS)  # bytes of a key and a value in the trials of those claims
SYNTHETIC = (COMPRESSIBLE, FLAT, GAUSSIAN, CLUSTERED, SINKS)


def sketch_sizes(run: Run) -> dict[str, Any]:
    """Parameters of the one-pass sketch: degree, sparsity (k), eps1, eps2."""
    return {name: run.given("k" if name == "sparsity" else name, value) for name, value in SKETCH.items()}


def drawn(n: int, decay: float, rng: np.random.Generator, xp: Any, *, d: int = D) -> Instance:
    """The compressible workload, float32, on the device."""
    return make("compressible", n, d, rng=rng, decay=decay).to(xp)


def exact(x: Instance) -> np.ndarray:
    """Attention in float64, on the host."""
    return asnumpy(attention(*(a.astype(np.float64) for a in (x.q, x.k, x.v)), scale=x.scale))


def best_sparse(y: np.ndarray, k: int) -> np.ndarray:
    """The k largest entries of every column (..., n, d_v), 0 elsewhere: no k-sparse answer is closer."""
    order = np.argsort(-np.abs(y), axis=-2)[..., :k, :]
    out = np.zeros_like(y)
    np.put_along_axis(out, order, np.take_along_axis(y, order, axis=-2), axis=-2)
    return out


def relative_error(t: np.ndarray, y: np.ndarray) -> float:
    """`||t - y||_F / ||y||_F`."""
    return float(np.linalg.norm(t - y) / np.linalg.norm(y))


def rows_zero(t: np.ndarray) -> float:
    """Share of rows whose entries are all 0."""
    return float((t == 0).all(axis=1).mean())


def one_pass(
    x: Instance, variant: str, rng: np.random.Generator, sizes: dict[str, Any] = SKETCH
) -> tuple[np.ndarray, int]:
    """Decoded output of the one-pass sketch of these `sketch_sizes`, and the bytes it held."""
    d = x.q.shape[1]
    sketch = OnePassSketch(len(x.q), d, d, variant=variant, scale=x.scale, rng=rng, **sizes)
    sketch.absorb_keys(x.k, x.v).absorb_queries(x.q)
    return asnumpy(sketch.decode().todense()), sketch.nbytes


def over_decay(run: Run) -> pd.DataFrame:
    """Every method on outputs from flat (decay 0) to steep, n fixed.

    Parameters of the run: n, d (also d_v), degree, k, eps1, eps2, decays, replicates.

    Returns
    -------
    DataFrame
        decay, n, replicate (fresh input, fresh hashes), method, error (`||T - y||_F / ||y||_F`), rows_zero (share of
        rows that come back as 0), nbytes (held between keys and answer; nan where nothing is), keys (of n, that
        uniform sampling holds in those bytes; else nan).
    """
    n, sparsity = run.given("n", run.pick(smoke=2**12, standard=2**14, full=2**17)), sketch_sizes(run)["sparsity"]
    if sparsity >= n:
        raise ValueError(f"k must be below n = {n}, got {sparsity}")
    replicates = range(run.given("replicates", run.pick(smoke=2, standard=5, full=10)))
    cells = [(n, decay, replicate) for decay in run.given("decays", DECAYS) for replicate in replicates]
    columns = ["decay", "n", "replicate", "method", "error", "rows_zero", "nbytes", "keys"]
    return run.table(_errors, cells, columns)


def _errors(run: Run, n: int, decay: float, replicate: int) -> list[tuple[Any, ...]]:
    """The rows of `over_decay` of one input."""
    rng = run.rng("flat", decay, replicate)
    x = drawn(n, decay, rng, run.xp, d=run.given("d", D))
    y = exact(x)
    return [
        (decay, n, replicate, name, relative_error(t, y), rows_zero(t), nbytes, keys)
        for name, t, nbytes, keys in answers(x, y, rng, sketch_sizes(run))
    ]


def answers(
    x: Instance, y: np.ndarray, rng: np.random.Generator, sizes: dict[str, Any] = SKETCH
) -> Iterator[tuple[str, np.ndarray, float, float]]:
    """Method, output, bytes held, keys held. Uniform sampling gets the bytes of the fused sketch, then of the state."""
    row, (n, d) = x.k[0].nbytes + x.v[0].nbytes, x.k.shape
    paper, paper_bytes = one_pass(x, "paper", rng, sizes)
    fused, fused_bytes = one_pass(x, "fused", rng, sizes)
    state = PolynomialState(d, d, degree=sizes["degree"], scale=x.scale).update(x.k, x.v)
    yield "one-pass paper", paper, paper_bytes, np.nan
    yield "one-pass fused", fused, fused_bytes, np.nan
    yield "best k-sparse", best_sparse(y, sizes["sparsity"]), np.nan, np.nan
    yield "streaming state", asnumpy(state.attend(x.q)), state.nbytes, np.nan
    for name, nbytes in (("uniform", fused_bytes), ("uniform, state's bytes", state.nbytes)):
        keys = min(n, nbytes // row)
        sample = uniform_attention(x.q, x.k, x.v, sample_size=keys, scale=x.scale, rng=rng)
        yield name, asnumpy(sample), keys * row, keys
    yield "exact", asnumpy(attention(x.q, x.k, x.v, scale=x.scale)), n * row, np.nan
    yield "zero", np.zeros_like(y), np.nan, np.nan


def falling(run: Run) -> pd.DataFrame:
    """The trials of the claims that the error falls with n, which the run has checked.

    Returns
    -------
    DataFrame
        output ("compressible", "flat"), n, error (`||T - y||_F / ||y||_F`), nbytes (of the fused sketch), cache (bytes
        of all keys and values).
    """
    parts = []
    for output in FALLING:
        rows = run.rows(f"alsy23.error-falls-{output}").query("role == 'claim'")
        parts.append(rows[["n", "error", "nbytes"]].assign(output=output, cache=rows["n"] * FALLING_ROW))
    return pd.concat(parts, ignore_index=True)


def falling_rates(run: Run) -> pd.DataFrame:
    """Exponents of n in the error, from the verdicts on the same claims: output, measured, lower, upper, wanted."""
    fits = run.fits(*(f"alsy23.error-falls-{output}" for output in FALLING))
    shifted = fits[["measured", "lower", "upper"]] - float(FALLS)  # the claims measure error times n^FALLS
    return shifted.assign(output=FALLING, wanted=-float(FALLS))


def profiles(run: Run) -> pd.DataFrame:
    """How much of exact outputs lies outside the k largest entries of each column, for all k.

    Returns
    -------
    DataFrame
        input, source, n, replicate (fresh input; for "real" the head's number), k, share (k/n), tail
        (`||tail_k(y)||_F / ||y||_F`).
    """
    n = run.given("n", run.pick(smoke=2**12, standard=2**14, full=2**16))
    replicates = range(run.given("replicates", run.pick(smoke=4, standard=8, full=8)))
    cells = [*((n, what, replicate) for what in SYNTHETIC for replicate in replicates), (n, REAL, 0)]
    return run.table(_profile, cells, ["input", "source", "n", "replicate", "k", "share", "tail"])


def _profile(run: Run, n: int, what: Input, replicate: int) -> list[tuple[Any, ...]]:
    """The rows of one synthetic input, or of all real heads."""
    if what == REAL:
        y = exact(real().to(run.xp))
        return [row for head, one in enumerate(y.reshape(-1, *y.shape[-2:])) for row in profile(REAL, head, one)]
    d = run.given("d", D) if what.workload == "compressible" else 64
    return profile(what, replicate, exact(what.draw(n, d, run.rng("profile", what.label, replicate), run.xp)))


def profile(what: Input, replicate: int, y: np.ndarray) -> list[tuple[Any, ...]]:
    n = len(y)
    squares = np.sort(y**2, axis=0)
    outside = np.cumsum(squares, axis=0).sum(axis=1)[::-1]  # of the n - k smallest of each column, at place k
    ks = sorted({round(n * KEPT), *np.unique(np.geomspace(1, n - 1, 40).astype(int)).tolist()})
    return [(what.label, what.source, n, replicate, k, k / n, float(np.sqrt(outside[k] / outside[0]))) for k in ks]


def tails(rows: pd.DataFrame) -> pd.DataFrame:
    """Tails at k = n/64, rounded, per input: n, k, median, 10 and 90 percent, share of outputs with one below 0.5."""
    here = rows[rows["k"] == (rows["n"] * KEPT).round()]
    groups = here.groupby(["input", "n", "k"], sort=False)["tail"]
    table = groups.quantile(np.array([0.1, 0.5, 0.9])).unstack()
    table.columns = pd.Index(["10 %", "median", "90 %"])
    return table.assign(**{"share below 0.5": groups.apply(lambda tail: float((tail < 0.5).mean()))})


# -------------------------------------------------------------------------------------------------------------- figures
@paper_style()
def draw_decay(rows: pd.DataFrame, *, entries: int = SPARSITY * D) -> Figure:
    """`over_decay`: error, and share of rows that come back as 0, over the decay; medians and whole ranges.

    `entries` is k d_v, the number of entries that a decoded answer has.
    What is exact up to rounding stands at the lower edge: exact attention, and uniform sampling where all keys fit.
    """
    n = int(rows["n"].iloc[0])
    rounding = (rows["method"] == "exact") | (rows["keys"] == n)
    best = {**method("exact", label="best $k$-sparse answer"), "color": "black", "linestyle": ":", "marker": ""}
    looks = {name: METHODS[name] for name in METHODS if name in set(rows.loc[~rounding, "method"])}
    looks["best k-sparse"] = best
    fig, (left, right) = grid(2, columns=2, height=2.5)
    for name, look in looks.items():
        part = rows[(rows["method"] == name) & ~rounding]
        lines(left, part, "decay", "error", look, interval=100)
        if name in ("zero", "one-pass paper", "one-pass fused", "best k-sparse"):  # those that leave rows 0
            lines(right, part, "decay", "rows_zero", look, interval=100)
    left.set(yscale="log", ylabel=r"$\|T - y\|_F\;/\;\|y\|_F$")
    bottom, top = left.get_ylim()
    left.set_ylim(bottom * (bottom / top) ** 0.2, top)
    decays = np.unique(rows["decay"])
    for place, (at_edge, part) in enumerate(rows[rounding].groupby("method")):
        fits = "" if at_edge == "exact" else ": all keys fit"
        label = f"{METHODS[str(at_edge)]['label']}{fits} (rounding)"
        edge = method(str(at_edge), linestyle="none", label=label, transform=left.get_xaxis_transform())
        left.plot(np.unique(part["decay"]), np.full(part["decay"].nunique(), 0.03 + 0.06 * place), **edge)
    theory_line(right, decays, max(0, 1 - entries / n), "least share of rows, $1 - k d_v/n$")
    right.set(ylim=(-0.03, 1.03), ylabel="share of rows that come back as 0")
    right.annotate("all other methods: 0", (0.5, 0.05), xycoords="axes fraction", ha="center", fontsize=7)
    for ax in (left, right):
        ax.set_xlabel("decay of the rows (0: flat)")
        ticks(ax.xaxis, decays)
    finish(fig)
    return fig


@paper_style()
def draw_profiles(rows: pd.DataFrame) -> Figure:
    """`profiles` over k/n: left synthetic inputs, right the real heads, with what entries of one size would give."""
    fig, axes = grid(2, columns=2, height=2.3, sharey=True)
    synthetic, real = (rows[rows["source"] == source] for source in ("synthetic", "real"))
    for name, look in series(*synthetic["input"].unique(), markevery=6).items():
        lines(axes[0], synthetic[synthetic["input"] == name], "share", "tail", look)
    head = {**LOOKS["sky"], "marker": ""}
    lines(axes[1], real, "share", "tail", {**head, "label": "median head; all heads; 10 to 90 %"}, interval=100)
    lines(axes[1], real, "share", "tail", head)
    for ax, part, title in zip(axes, (synthetic, real), ("synthetic", REAL.label), strict=True):
        share = np.geomspace(part["share"].min(), 1, 200)
        theory_line(ax, share, np.sqrt(1 - share), r"entries of one size: $\sqrt{1 - k/n}$")
        ax.axvline(KEPT, color="#777777", linestyle=":", label=f"$k = n/{round(1 / KEPT)}$")
        ax.set(xscale="log", ylim=(0, 1.03), title=f"{title}, n = {part['n'].iloc[0]}")
    finish(fig, xlabel="$k/n$", ylabel=r"$\|\mathrm{tail}_k(y)\|_F\;/\;\|y\|_F$")
    return fig


@paper_style()
def draw_falling(rows: pd.DataFrame, rates: pd.DataFrame) -> Figure:
    """`falling` over n, replicate by replicate, with the fits and the wanted slopes of `falling_rates`."""
    fig, (left, right) = grid(2, columns=2, height=2.2)
    for output, look in series(*FALLING, linestyle="none", markersize=2.5, alpha=0.6).items():
        part, rate = rows[rows["output"] == output], rates.set_index("output").loc[output]
        left.plot(part["n"], part["error"], **{**look, "label": f"{output} outputs"})
        wanted = f"what counts as falling: $n^{{{rate['wanted']:g}}}$"
        _power_law(left, part["n"], part["error"], rate["measured"], color=look["color"], label=f"fit, {output}")
        _power_law(left, part["n"], part["error"], rate["wanted"], label=wanted)
        right.plot(part["n"], part["nbytes"] / 1024, **{**look, "label": ""})
    left.axhline(1, **method("zero", marker=""))
    right.plot(rows["n"], rows["cache"] / 1024, **method("exact", marker="", label="the exact cache"))
    for ax, label in ((left, r"$\|T - y\|_F\;/\;\|y\|_F$"), (right, "bytes stored (KiB)")):
        ax.set(xscale="log", yscale="log", xlabel="tokens $n$", ylabel=label)
    finish(fig)
    return fig


def _power_law(ax: Axes, n: pd.Series, size: pd.Series, exponent: float, **look: Any) -> None:
    """A line of this slope through the middle of the points (log scales); the theory's look unless it has a colour."""
    ends = np.array([n.min(), n.max()], float)
    middle = np.exp([np.log(n).mean(), np.log(size).mean()])
    style = {"linestyle": "-"} if "color" in look else {}
    theory_line(ax, ends, middle[1] * (ends / middle[0]) ** exponent, **style, **look)


@paper_style()
def draw_psi_rows(sizes: pd.DataFrame, fits: pd.DataFrame) -> Figure:
    """Rows of Psi at which its error is that of answering zero, over n: `Run.sizes` and `Run.fits` of that claim."""
    fig, (ax,) = grid(1, columns=1, width=3.25, height=2.3)
    growth_panel(ax, sizes, fits.iloc[0])
    n = np.unique(sizes["x"])
    ax.plot(n, n, **method("exact", marker="", label="$n$"))
    ax.set(ylim=(None, 1.5 * n.max()), xlabel="tokens $n$", ylabel=r"rows $m_2^*$ of $\Psi$")
    finish(fig)
    return fig
