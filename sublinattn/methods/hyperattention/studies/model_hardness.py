"""Notebook 17: hardness of a trained decoder's heads over n: alpha, kappa, stable rank, sinks [HA24, section 2].

A causal softmax matrix P has (1, 0, ...) as its first row, so its alpha is at least n whatever the head; with the first
c keys exact it still is about `n/(c + 1/2)` for the most even attention there is. What the causal algorithm (Algorithm
4) samples in are blocks below the diagonal: the theorem's alpha, kappa and stable rank are those of the largest one,
the later half of the queries on the earlier half of the keys. alpha is measured of both.

A single query that puts the share p of its attention on one key makes alpha at least `n_k p^2`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ....core.backends import Array, asnumpy
from ....core.exact import attention
from ....core.softmax_matrix import SoftmaxMatrix
from ....lab.models import Model
from ....lab.run import Run
from ....lab.statistics import growth_exponents
from ....lm.attend import per_query_head
from ....plots.layout import ticks
from ....plots.panels import finish, grid, lines, theory_line
from ....plots.style import LOOKS, paper_style
from ...caches.sink import SINKS
from ..hardness import hardness

ALPHAS = ("alpha", "alpha_rest", "block", "block_rest")
QUANTITIES = (*ALPHAS, "kappa", "srank", "mass")
TITLES = {
    "alpha": r"$\alpha$: causal, all keys",
    "alpha_rest": rf"$\alpha$: causal, first {SINKS} exact",
    "kappa": r"$\kappa$ of the block",
    "block": r"$\alpha$: block, all keys",
    "block_rest": rf"$\alpha$: block, first {SINKS} exact",
    "mass": f"attention on the first {SINKS}",
}
"""Panels of the figure over n."""
MEAN = {**LOOKS["rose"], "linewidth": 2.0, "zorder": 5, "label": "geometric mean of all heads"}


# ------------------------------------------------------------------------------------------------------------ measuring
def over_n(run: Run, *, block_size: int) -> pd.DataFrame:
    """Hardness of every layer and head on passages of text, each read to several lengths.

    Returns
    -------
    DataFrame
        layer, head, replicate (the passage), n, trained (the decoder's context, beyond which YaRN stretches it),
        alpha and alpha_rest (causal P; all keys, and all but the first 4), block and block_rest (alpha of the largest
        unmasked block, likewise), kappa (the first 4 keys exact) and srank of that block, query_norm (the largest),
        mass (share of the attention that the later half of the queries gives to the first 4 keys), uniform (that
        share if they attended evenly).
    """
    opened = run.open_model()
    lengths, replicates = run.pick(
        smoke=((128, 256, 512, 1024), 4),
        standard=((128, 256, 512, 1024, 2048), 10),
        full=((256, 512, 1024, 2048, 4096, 8192, 16384), 10),
    )
    parts = []
    for replicate in range(replicates):
        rng = run.rng("model hardness", replicate)
        tokens = opened.passage(rng, lengths[-1])
        for q, k in _prefixes(opened, tokens, lengths):
            table = pd.DataFrame(measure(opened.decoder.xp, q, k, block_size, rng))
            places = pd.DataFrame(list(np.ndindex(*q.shape[:2])), columns=["layer", "head"])
            about = {"replicate": replicate, "n": q.shape[2], "trained": opened.decoder.trained}
            parts.append(places.assign(**about).join(table))
    return pd.concat(parts, ignore_index=True)


def _prefixes(opened: Model, tokens: np.ndarray, lengths: Sequence[int]) -> Iterator[tuple[Array, Array]]:
    """Queries and keys of the first n tokens for each length, with a key head for every query head."""
    # No token sees a later one: within the trained context one run of the decoder serves all lengths.
    within = [n for n in lengths if n <= opened.decoder.trained]
    whole = opened.qkv(tokens[: within[-1]]) if within else None
    for n in lengths:
        q, k, _ = whole if whole and n in within else opened.qkv(tokens[:n])
        yield q[:, :, :n], per_query_head(opened.decoder.xp, q, k[:, :, :n])


def measure(xp: Any, q: Array, k: Array, block_size: int, rng: np.random.Generator) -> dict[str, Any]:
    """The measured columns of `over_n`, one entry per head."""
    n, d = q.shape[2:]
    q, k = (xp.ascontiguousarray(x).reshape(-1, n, d) for x in (q, k))
    # [HA24, section 2]: alpha = n max_j ||P e_j||^2, of the causal P ...
    squares = n * SoftmaxMatrix(xp, q, k, scale=d**-0.5, causal=True).column_squares()
    # ... and of A21, the largest block that Algorithm 4 samples in: queries n/2.. on keys ..n/2.
    block = hardness(q[:, n // 2 :], k[:, : n // 2], block_size=block_size, exact_keys=SINKS, rng=rng)
    # Values that are 1 at the first keys and 0 elsewhere: attention's output is the share that these keys get.
    first = xp.zeros((*k.shape[:2], 1), k.dtype)
    first[:, :SINKS] = 1
    measured = {
        "alpha": squares.max(axis=1),
        "alpha_rest": squares[:, SINKS:].max(axis=1),
        "block": block.alpha,
        "block_rest": block.alpha_residual,
        "kappa": block.kappa,
        "srank": block.srank,
        "query_norm": xp.sqrt((q * q).sum(axis=2).max(axis=1)),
        "mass": attention(q, k, first, causal=True)[:, n // 2 :].mean(axis=(1, 2)),
    }
    even = SINKS / np.arange(n // 2 + 1, n + 1)  # of query i, which sees i keys
    return {**{name: asnumpy(x).astype(np.float64) for name, x in measured.items()}, "uniform": even.mean()}


# ------------------------------------------------------------------------------------------------------------ summaries
def within(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of lengths that the decoder was trained for; all rows where fewer than two lengths are such."""
    fitting = rows[rows["n"] <= rows["trained"]]
    return fitting if fitting["n"].nunique() > 1 else rows


def by_head(rows: pd.DataFrame) -> pd.DataFrame:
    """At the largest n within the trained context: geometric means over passages, by layer and head."""
    rows = within(rows)
    rows = rows[rows["n"] == rows["n"].max()]
    logs = rows.set_index(["layer", "head"])[[*QUANTITIES, "query_norm"]].apply(np.log)
    return logs.groupby(["layer", "head"]).mean().apply(np.exp).reset_index()


def exponents(rows: pd.DataFrame) -> pd.DataFrame:
    """Slopes of the logarithm of each quantity on log n within the trained context.

    Values that are not positive and finite are left out (kappa may overflow).

    Returns
    -------
    DataFrame
        Index: the quantity. exponent (of the geometric mean over all heads; mean over passages), lower, upper (its 99
        percent limits, Student's t over passages); 10 %, 90 % (of the heads' own exponents), sublinear (heads whose
        own 99 percent limits are below 1), heads.
    """
    fits = {}
    for quantity in QUANTITIES:
        given = within(rows)
        given = given[np.isfinite(given[quantity]) & (given[quantity] > 0)]
        mean = growth_exponents(given.assign(input=quantity), quantity).iloc[0]
        heads = head_exponents(given, quantity)
        fits[quantity] = {
            **mean[["exponent", "lower", "upper"]],
            **dict(zip(("10 %", "90 %"), heads["exponent"].quantile([0.1, 0.9]), strict=True)),
            "sublinear": int((heads["upper"] < 1).sum()),
            "heads": len(heads),
        }
    return pd.DataFrame.from_dict(fits, orient="index")


def head_exponents(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Exponent of a quantity within the trained context for each head, with 99 percent limits over passages.

    Returns
    -------
    DataFrame
        Index: layer, head. exponent, lower, upper.
    """
    fits = growth_exponents(within(rows), quantity, ["layer", "head"]).set_index(["layer", "head"])
    return fits[["exponent", "lower", "upper"]].sort_index()


# -------------------------------------------------------------------------------------------------------------- drawing
@paper_style()
def draw_over_n(rows: pd.DataFrame) -> Figure:
    """A panel per quantity of `TITLES`: every head thin, in its layer's colour, and the geometric mean of all thick.

    Thin lines are geometric means over passages; of more than 40 heads each layer has one line, the mean of its heads.
    The thick line is the median over passages, with the range of the middle 80 percent. The four panels of alpha have
    one range of values. Lengths beyond the trained context are shaded.
    """
    fig, axes = grid(len(TITLES), 3, height=1.85, sharex=True)
    layers = int(rows["layer"].max()) + 1
    thin = ["layer", "head"] if len(rows[["layer", "head"]].drop_duplicates()) <= 40 else ["layer"]
    colours = ListedColormap(colormaps["cividis"](np.linspace(0, 0.9, layers)))
    logs = rows.assign(**{column: np.log(rows[column]) for column in TITLES})
    for ax, (column, title) in zip(axes, TITLES.items(), strict=True):
        for _, one in logs.groupby(thin):
            over = np.exp(one.groupby("n")[column].mean())
            ax.plot(over.index, over, color=colours(one["layer"].iloc[0]), linewidth=0.7, alpha=0.7)
        mean = np.exp(logs.groupby(["replicate", "n"])[column].mean()).reset_index()
        lines(ax, mean, "n", column, MEAN, bars=True)
        ax.set(xscale="log", yscale="log", title=title)
        if column in ALPHAS:
            ends = mean["n"].min(), mean["n"].max()
            start = mean.loc[mean["n"] == ends[0], column].median()
            theory_line(ax, ends, (start, start * ends[1] / ends[0]), "$n^1$")
            theory_line(ax, ends, start, "$n^0$", linestyle=(0, (1, 1.5)))
        if column == "mass":
            even = rows.groupby("n")["uniform"].first()
            theory_line(ax, even.index, even, "even attention", linestyle="-.")
        low, high = ax.get_ylim()
        if high < 10 * low:  # at least a decade, so that small differences look small
            ax.set_ylim((low * high / 10) ** 0.5, (low * high * 10) ** 0.5)
        _lengths(ax, rows)
    together = [ax for ax, column in zip(axes, TITLES, strict=True) if column in ALPHAS]
    bottoms, tops = zip(*(ax.get_ylim() for ax in together), strict=True)
    for ax in together:
        ax.set_ylim(min(bottoms), max(tops))
    axes[0].plot([], [], color="#888888", linewidth=0.7, label="one head" if len(thin) > 1 else "one layer's heads")
    mappable = ScalarMappable(BoundaryNorm(np.arange(layers + 1) - 0.5, layers), colours)
    fig.colorbar(mappable, ax=axes, label="layer", ticks=MaxNLocator(8, integer=True), aspect=40, pad=0.01)
    finish(fig, xlabel="tokens $n$")
    return fig


def _lengths(ax: Axes, rows: pd.DataFrame) -> None:
    """Ticks at the measured lengths; those beyond the trained context are shaded."""
    trained, shortest, longest = rows["trained"].iloc[0], rows["n"].min(), rows["n"].max()
    if longest > trained:
        label = "beyond the trained context (YaRN)"
        ax.axvspan(trained, longest * 1.15, color="#777777", alpha=0.15, linewidth=0, label=label)
    ax.set_xlim(shortest / 1.15, longest * 1.15)
    ticks(ax.xaxis, rows["n"].unique(), at_most=4)
