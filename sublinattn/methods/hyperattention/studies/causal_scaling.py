"""The causal recursion by itself (what each level handles, the error at each position), and what HyperAttention costs.

Source: [HA24] Algorithm 4 and the time of Theorem 1. Notebook 04. Nothing else may run while the costs are measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ....core.backends import asnumpy, to_device
from ....core.exact import attention
from ....core.quiet import quiet
from ....core.timing import best_of, peak_bytes, stage_times
from ....lab.run import Run
from ....lab.workloads.inputs import CLUSTERED, GAUSSIAN_MEAN, Input
from ....plots.layout import finish, ticks
from ....plots.panels import facets, grid, lines, theory_line
from ....plots.style import COLUMN, LOOKS, method, paper_style
from ....theory.growth import fit
from ..hyper import Deliver, Problem, hyper_attention
from ..sort_lsh import SortedBlocks

D = 64
LENGTHS = tuple(2**i for i in range(12, 21))
STAGES = {"hash": "charcoal", "sort": "cyan", "gather": "indigo", "block": "orange"}
STAGES |= {"sample": "blue", "merge": "rose", "exact": "teal"}
"""Stages that HyperAttention reports, in their order, and their colours: dark and light in turn."""
LEVELS = ("charcoal", "sky", "green", "orange", "magenta", "blue")
"""Colours of the leaves and of the recursion's levels."""


# ------------------------------------------------------------------------------------------------------- the recursion
@dataclass(frozen=True)
class RecordingProblem(Problem):
    """HyperAttention on one problem that notes which step handles each entry of A.

    Attributes
    ----------
    level : numpy array of int, shape (n, n)
        0 in the leaves of the recursion, then 1, 2, ... from the smallest squares up; -1 above the diagonal.
    computed : numpy array of bool, shape (n, n)
        Whether the entry is exact: in a leaf, or in a block of the sortLSH mask.
    """

    level: np.ndarray
    computed: np.ndarray

    def exact(self, q: Any, k: Any, v: Any, start: np.ndarray, *, causal: bool, deliver: Deliver) -> None:
        size = q.shape[1]
        for first in start:
            inside = slice(first, first + size), slice(first, first + size)
            self.level[inside] = np.where(np.tri(size, dtype=bool), 0, self.level[inside])
            self.computed[inside] |= np.tri(size, dtype=bool)
        super().exact(q, k, v, start, causal=causal, deliver=deliver)

    def estimate(self, blocks: SortedBlocks, sinks: np.ndarray, deliver: Deliver) -> None:
        depth = self.level.max() + 1  # the squares of one level come as one batch, after those of the level below
        for q_rows, k_rows in zip(asnumpy(blocks.q_order), asnumpy(blocks.k_order), strict=True):
            self.level[np.ix_(q_rows, k_rows)] = depth
        for group in blocks.groups:
            for q_rows, k_rows in zip(asnumpy(group.q_rows), asnumpy(group.k_rows), strict=True):
                self.computed[np.ix_(q_rows, k_rows)] = True
        super().estimate(blocks, sinks, deliver)


def recursion_map(run: Run, *, n: int, leaf: int, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Run Algorithm 4 on clustered input and note which level handles each entry.

    Returns
    -------
    level, computed : arrays, shape (n, n)
        As in `RecordingProblem`.

    Raises
    ------
    ValueError
        `n` is not `leaf` times a power of two: then a level is not one batch.
    """
    if n % leaf or (n // leaf) & (n // leaf - 1):
        raise ValueError(f"n must be leaf = {leaf} times a power of two, got {n}")
    xp, rng = run.xp, run.rng("map")
    x = CLUSTERED.draw(n, run.given("d", D), rng)
    q, k, v = (to_device(a[None].astype(np.float32), xp) for a in (x.q, x.k, x.v))
    how: dict[str, Any] = {"block_size": block_size, "sample_size": block_size, "min_exact": leaf, "rng": rng}
    noted: dict[str, Any] = {"level": np.full((n, n), -1), "computed": np.zeros((n, n), bool)}
    recording = RecordingProblem(xp, q, k, v, scale=x.scale, shift=True, **how, **noted)
    recording.causal(0)
    return recording.level, recording.computed


def level_shares(level: np.ndarray, computed: np.ndarray) -> pd.DataFrame:
    """Count the entries of each level, and the share of them that is exact: level, entries, exact_share."""
    rows = [(int(i), int((level == i).sum()), float(computed[level == i].mean())) for i in range(level.max() + 1)]
    return pd.DataFrame(rows, columns=["level", "entries", "exact_share"])


def columns_touched(n: int, leaf: int, per_level: int) -> np.ndarray:
    """Number of key columns that the recursion reads for each query: those of its leaf up to itself, and `per_level`
    for each square A21 that it lies in.
    """
    position = np.arange(n)
    levels = np.array([int(p // leaf).bit_count() for p in position])  # a bit 1: in the second half of that node
    return position % leaf + 1 + levels * per_level


def uniform_causal(logits: np.ndarray, v: np.ndarray, budget: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Attention of query i over `budget[i]` keys drawn uniformly from 0..i: the first of these in one random order of
    all keys.
    """
    n = len(logits)
    order = rng.permutation(n)
    visible = order[None, :] <= np.arange(n)[:, None]
    chosen = visible & (np.cumsum(visible, axis=1) <= budget[:, None])
    a = np.exp(logits[:, order] - logits.max(axis=1, keepdims=True)) * chosen
    return a @ v[order] / np.maximum(a.sum(axis=1, keepdims=True), 1e-300)


def error_by_position(run: Run) -> pd.DataFrame:
    """Measure the error of each output row under the causal mask, of HyperAttention and of uniform sampling with the
    same number of key columns, beside answering zero and exact attention.

    Returns
    -------
    DataFrame
        input, n, leaf, method, replicate, position (middle of a bin of rows), error: root mean square over the bin's
        rows of `||out_i - (P V)_i||`, divided by the root mean square row norm of V.
    """
    n, replicates = run.pick(smoke=(2048, 4), standard=(4096, 10), full=(8192, 10))
    n, replicates = run.given("n", n), run.given("replicates", replicates)
    cells = [(n, what, replicate) for what in (GAUSSIAN_MEAN, CLUSTERED) for replicate in range(replicates)]
    return run.table(_errors, cells, ["input", "n", "leaf", "method", "replicate", "position", "error"])


def _errors(run: Run, n: int, what: Input, replicate: int) -> list[tuple[Any, ...]]:
    """The rows of one input."""
    leaf, block_size = n // 16, run.given("block_size", 32)
    edges = np.unique(
        np.concatenate([np.geomspace(16, leaf, 6), np.arange(leaf, n + 1, leaf // 2)]).round().astype(int)
    )
    edges[0] = 0
    rows: list[tuple[Any, ...]] = []
    rng = run.rng("position", what.label, replicate)
    x = what.draw(n, run.given("d", D), rng, run.xp)
    q, k, v = (asnumpy(a).astype(np.float64) for a in (x.q, x.k, x.v))
    exact = attention(q, k, v, causal=True, scale=x.scale)
    arrays: dict[str, Any] = {"causal": True, "scale": x.scale}
    how: dict[str, Any] = {"block_size": block_size, "sample_size": block_size, "min_exact": leaf, "rng": rng}
    uniform = uniform_causal(x.scale * (q @ k.T), v, columns_touched(n, leaf, 2 * block_size), rng)
    outputs = {
        "hyper practical": hyper_attention(x.q, x.k, x.v, **arrays, **how),
        "uniform": uniform.astype(np.float32),
        "zero": np.zeros_like(exact),
        "exact": attention(x.q, x.k, x.v, **arrays),
    }
    unit = np.sqrt((v**2).sum(axis=1).mean())
    for name, out in outputs.items():
        squares = ((asnumpy(out) - exact) ** 2).sum(axis=1)
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            error = float(np.sqrt(squares[low:high].mean()) / unit)
            rows.append((what.label, n, leaf, name, replicate, (low + high) / 2, error))
    return rows


# ------------------------------------------------------------------------------------------------------ time and memory
def _calls(run: Run, label: str, n: int) -> dict[tuple[str, bool], Callable[[], Any]]:
    rng, size = run.rng(label, n), (n, run.given("d", D))
    q, k, v = (to_device(rng.standard_normal(size, dtype=np.float32), run.xp) for _ in range(3))
    return {
        (name, causal): partial(call, q, k, v, causal=causal)
        for causal in (False, True)
        for name, call in (("hyper practical", partial(hyper_attention, rng=0)), ("exact", attention))
    }


@quiet()
def cost_over_n(run: Run) -> pd.DataFrame:
    """Measure seconds and peak bytes of one head (float32, d = 64, b = m = 256) over n, beside exact attention.

    Returns
    -------
    DataFrame
        quantity ("time", "memory"), method, causal, n, replicate, value (seconds; bytes beyond the inputs, the output
        included).
    """
    xp = run.xp
    lengths = run.given("lengths", run.pick(smoke=(2048, 8192, 32768, 131072), standard=LENGTHS[:6], full=LENGTHS))
    exact_up_to = run.pick(smoke=8192, standard=32768, full=131072)
    if len(lengths) < 2 or min(lengths) > exact_up_to:
        raise ValueError(
            f"lengths must hold two or more, one of at most {exact_up_to} for exact attention, got {lengths}"
        )
    replicates = run.given("replicates", run.pick(smoke=3, standard=5, full=5))
    rows = []
    for n in lengths:
        calls = _calls(run, "cost", n)
        for (name, causal), call in calls.items():
            if name == "exact" and n > exact_up_to:
                continue
            rows.append(("memory", name, causal, n, 0, float(peak_bytes(xp, call))))  # also the warm-up
            rounds = max(1, 2**14 // n)  # where n is small, other programs disturb most
            rows += [("time", name, causal, n, r, best_of(xp, call, rounds)) for r in range(replicates)]
    return pd.DataFrame(rows, columns=["quantity", "method", "causal", "n", "replicate", "value"])


def exponents(rows: pd.DataFrame) -> pd.DataFrame:
    """Fit the growth of the time in n.

    Returns
    -------
    DataFrame
        method, causal, exponent, lower, upper (99 percent limits, each side), theory (that of n log n over the same n;
        2 for exact attention).
    """
    table = []
    for (name, causal), group in rows[rows["quantity"] == "time"].groupby(["method", "causal"], sort=False):
        seconds = group.pivot(index="n", columns="replicate", values="value")
        x = np.broadcast_to(seconds.index.to_numpy(float)[:, None], seconds.shape)
        theory = x**2 if name == "exact" else x * np.log(x)
        f = fit(x, seconds.to_numpy(), theory, level=1e-4)  # the level is that of a test that is not read here
        table.append((name, causal, f.measured_exponent, f.lower, f.upper, f.theory_exponent))
    return pd.DataFrame(table, columns=["method", "causal", "exponent", "lower", "upper", "theory"])


def speed_up(rows: pd.DataFrame) -> pd.DataFrame:
    """Divide exact attention's time by HyperAttention's, medians over the replicates.

    Returns
    -------
    DataFrame
        causal, n, measured (False where exact attention was too slow to be timed: its time then grows like n^2 from the
        largest n at which it was), speed_up.
    """
    times = rows[rows["quantity"] == "time"].groupby(["causal", "method", "n"])["value"].median()
    table = []
    for causal in (False, True):
        exact, hyper = times[causal, "exact"], times[causal, "hyper practical"]
        last = exact.index.max()
        for n, seconds in hyper.items():
            slow = exact[n] if n in exact.index else exact[last] * (n / last) ** 2
            table.append((causal, n, n in exact.index, slow / seconds))
    return pd.DataFrame(table, columns=["causal", "n", "measured", "speed_up"])


@quiet()
def stages(run: Run) -> pd.DataFrame:
    """Measure the seconds of all threads in each stage of HyperAttention: causal, n, stage, seconds.

    Stage "exact" is the leaves of the causal recursion.
    """
    lengths = run.pick(smoke=(8192, 32768, 131072), standard=(8192, 32768, 131072), full=(8192, 32768, 131072, 524288))
    lengths = run.given("lengths", lengths)
    rows = []
    for n in lengths:
        for (name, causal), call in _calls(run, "stages", n).items():
            if name == "exact":
                continue
            with stage_times() as seconds:
                call()
            if unknown := set(seconds) - set(STAGES):
                raise ValueError(f"hyper_attention reports stages {sorted(unknown)} that the figure does not know")
            rows += [(causal, n, stage, float(seconds.get(stage, 0.0))) for stage in STAGES]
    return pd.DataFrame(rows, columns=["causal", "n", "stage", "seconds"])


# -------------------------------------------------------------------------------------------------------------- figures
@paper_style()
def draw_recursion(level: np.ndarray, computed: np.ndarray) -> Figure:
    """The lower triangle, coloured by level: entries computed exactly are dark, those left to the sample pale."""
    fig, (ax,) = grid(1, 1, width=1.3 * COLUMN, height=3.1)
    dark = np.array([to_rgb(LOOKS[look]["color"]) for look in LEVELS])
    pale = 0.65 + 0.35 * dark
    colors = np.concatenate([np.ones((1, 3)), np.stack([pale, dark], axis=1).reshape(-1, 3)])
    code = np.where(level < 0, 0, 1 + 2 * level + computed)
    ax.imshow(code, cmap=ListedColormap(colors), vmin=0, vmax=len(colors) - 1, interpolation="nearest")
    ax.set(xlabel="key (position)", ylabel="query (position)")
    ax.grid(False)
    names = [Patch(facecolor=dark[0], label="leaf: exact")]
    for number in range(1, level.max() + 1):
        side = len(level) >> (level.max() - number + 1)
        look = {"facecolor": pale[number], "edgecolor": dark[number], "linewidth": 1.5}
        names.append(Patch(**look, label=f"level {number}: $A_{{21}}$ of {side} x {side}"))
    ax.legend(handles=names, loc="upper right", framealpha=1.0)
    return fig


@paper_style()
def draw_error_by_position(rows: pd.DataFrame) -> Figure:
    """A panel per input of `error_by_position`; the first leaf is shaded, halves and quarters of n are dotted."""
    n, leaf = (int(rows[column].iloc[0]) for column in ("n", "leaf"))
    sampled = rows[(rows["method"] != "exact") & (rows["position"] > leaf)]  # before, HyperAttention is exact

    def nodes(ax: Axes, panel: pd.DataFrame) -> None:
        ax.axvspan(0, leaf, color="#EEEEEE", linewidth=0)
        for edge in range(n // 2, n, n // 4):
            ax.axvline(edge, color="#AAAAAA", linewidth=0.8, linestyle=":")
        ax.set_xticks(range(0, n + 1, n // 4))

    looks = {name: method(name, markersize=2.5) for name in ("hyper practical", "uniform", "zero", "exact")}
    scales: dict[str, Any] = {"exact": "exact", "logy": True, "ylim": (sampled["error"].min() / 3, 3), "height": 2.2}
    labels: dict[str, Any] = {"xlabel": "position of the query", "ylabel": "error of the row / rms row of $V$"}
    options: dict[str, Any] = {"facet": "input", "columns": 2, "looks": looks, "each": nodes}
    return facets(rows, x="position", y="error", hue="method", **scales, **labels, **options)


@paper_style()
def draw_cost(rows: pd.DataFrame, exponents: pd.DataFrame) -> Figure:
    """Seconds with the fitted `exponents`, speed-up over exact attention, and peak bytes over n, from `cost_over_n`."""
    fig, (time, gain, memory) = grid(3, columns=3, height=2.3)
    ratios = speed_up(rows)
    for row in exponents.to_dict("records"):
        name, causal = row["method"], row["causal"]
        words = f"{'exact' if name == 'exact' else 'HyperAttention'}, {'causal' if causal else 'no mask'}"
        look = method(name, label=f"{words}: time $n^{{{row['exponent']:.2f}}}$")
        look |= {"linestyle": "-.", "markerfacecolor": "white"} if causal else {}
        here = rows[(rows["method"] == name) & (rows["causal"] == causal)]
        for ax, quantity, unit in ((time, "time", 1.0), (memory, "memory", 2.0**-20)):
            part = here[here["quantity"] == quantity]
            lines(ax, part.assign(value=part["value"] * unit), "n", "value", look, interval=100, bars=True)
        if name != "exact":
            ratio = ratios[ratios["causal"] == causal]
            lines(gain, ratio[ratio["measured"]], "n", "speed_up", {**look, "label": "_"}, interval=0)
            ahead = ratio[ratio["n"] >= ratio.loc[ratio["measured"], "n"].max()]
            dotted = {**look, "label": "exact extrapolated as $n^2$", "linestyle": ":", "marker": ""}
            lines(gain, ahead, "n", "speed_up", dotted, interval=0)
    n = np.array(sorted(rows["n"].unique()), float)
    low = rows.loc[(rows["quantity"] == "time") & (rows["n"] == n[0]), "value"].min()
    theory_line(time, n, 0.3 * low * n * np.log(n) / (n[0] * np.log(n[0])), r"slope of $n \log n$")
    theory_line(gain, n, 1, "as fast as exact", linestyle="-", linewidth=0.8)
    high = rows.loc[rows["quantity"] == "memory", "value"].max() * 2.0**-20
    theory_line(memory, n, 2 * high * n / n[-1], "slope of $n$", linestyle=(0, (1, 1.5)))
    for ax, title in ((time, "seconds"), (gain, "times as fast as exact"), (memory, "peak MiB beyond inputs")):
        ax.set(xscale="log", yscale="log", title=title)
        ticks(ax.xaxis, n, at_most=4)
    finish(fig, xlabel="tokens $n$")
    return fig


@paper_style()
def draw_stages(rows: pd.DataFrame) -> Figure:
    """Stacked bars of the microseconds of all threads per token, from `stages`: bars of one height are linear time."""
    fig, axes = grid(2, columns=2, height=2.4, sharey=True)
    edge: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.5}
    for ax, causal in zip(axes, (False, True), strict=True):
        seconds = rows[rows["causal"] == causal].pivot(index="n", columns="stage", values="seconds")
        bottom = np.zeros(len(seconds))
        for stage, look in STAGES.items():
            height = (1e6 * seconds[stage] / seconds.index).to_numpy()
            ax.bar(range(len(seconds)), height, 0.6, bottom, color=LOOKS[look]["color"], label=stage, **edge)
            bottom += height
        ax.set_xticks(range(len(seconds)), [f"{n // 1024}k" for n in seconds.index])
        ax.set(title="causal" if causal else "no mask")
        ax.grid(axis="x", visible=False)
    finish(fig, xlabel="tokens $n$", ylabel="thread time per token (µs)", legend=False)
    axes[0].legend(loc="upper left", reverse=True)
    return fig
