"""Notebook 20: what a real model loses when layers attend approximately, what that saves, what context is worth to it.

Source: [HA24] Figure 3, which replaces the last layers of ChatGLM2-6B at 32k tokens: perplexity 5.6 becomes 6.3 for
half of the time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ....core.backends import Array, asnumpy, namespace
from ....core.timing import timed
from ....lab.models import Model
from ....lab.run import Run
from ....lab.statistics import mean_and_reach
from ....lm.attend import Attend, Method, per_query_head, replacing
from ....lm.tokens import as_bytes
from ....plots.layout import ticks
from ....plots.panels import facets, finish, grid, theory_line
from ....plots.style import LOOKS, method, paper_style
from ..claims.replaced_layers import AFTER, BEFORE, HYPER, LOCAL, UNIFORM, ZERO, block, losses, methods
from ..hardness import hardness

TARGETS = 64
"""Tokens of a passage whose loss is compared over contexts."""
LAST, FIRST, ALPHA, GREEDY = "from the last", "from the first", "least alpha first", "greedily"
"""Orders in which layers are replaced."""
REPORTED = 0.5, np.log(AFTER) / np.log(BEFORE)
"""What [HA24] reports of half of the layers at 32768 tokens: share of the time, and of exact log-perplexity."""


# ----------------------------------------------------------------------------------------------------- loss and context
def unit(model: Model) -> str:
    """What one token of the model is called."""
    return "byte" if model.encode is as_bytes else "token"


def over_context(run: Run) -> pd.DataFrame:
    """Held-out loss of the same tokens, the last TARGETS of each passage, after more and more of what comes before.

    Returns
    -------
    DataFrame
        n (tokens of passage and targets: each target sees `n - TARGETS` or more), stretched (n beyond the trained
        context, by YaRN), passage, bits (per token, mean over targets).
    """
    opened = run.open_model()
    trained = opened.decoder.trained
    longest = run.pick(smoke=min(trained, 2048), standard=min(4 * trained, 8192), full=min(16 * trained, 32768))
    count = run.pick(smoke=4, standard=32, full=64)
    lengths = [2**i for i in range(int(np.log2(TARGETS)) + 1, int(np.log2(longest)) + 1)]
    rng = run.rng("context")
    rows: list[tuple[Any, ...]] = []
    for passage in range(count):
        tokens = opened.passage(rng, lengths[-1])
        for n in lengths:
            nats = opened.decoder.stretched(n).losses(tokens[-n:])[-TARGETS:]
            rows.append((n, n > trained, passage, float(nats.mean(dtype=np.float64) / np.log(2))))
    return pd.DataFrame(rows, columns=["n", "stretched", "passage", "bits"])


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean bits over passages, and what the last doubling of n changed, each with 99 percent t-limits.

    Returns
    -------
    DataFrame
        n, stretched, bits, reach, change (below 0 where more context helps; nan for the smallest n), change_reach.
    """
    bits = rows.pivot(index="passage", columns="n", values="bits")
    changes = bits.diff(axis=1)  # paired: passages differ by far more than context changes
    lines = [(n, *mean_and_reach(bits[n].to_numpy()), *mean_and_reach(changes[n].to_numpy())) for n in bits.columns]
    table = pd.DataFrame(lines, columns=["n", "bits", "reach", "change", "change_reach"])
    table.insert(1, "stretched", rows.groupby("n")["stretched"].first().to_numpy())
    return table


# --------------------------------------------------------------------------------------------------- which layers first
def layers_alone(run: Run) -> pd.DataFrame:
    """What decides which layer is replaced first, measured on passages of their own.

    Greedily the layer goes that harms least with those before it replaced, too: of the order of the number of layers
    squared evaluations.

    Returns
    -------
    DataFrame
        layer, alpha (of the later half of the queries on the earlier half of the keys, the largest block that the
        causal recursion samples in; geometric mean over heads and passages), harm (of HyperAttention in this layer
        only: nats per token, mean over passages), reach (of its 99 percent t-interval), turn (0 for the layer that
        goes first greedily).
    """
    opened = run.open_model()
    layers = range(opened.decoder.config.layers)
    n = min(run.pick(smoke=256, standard=2048, full=2048), opened.decoder.trained)
    count = run.pick(smoke=3, standard=8, full=16)
    rng = run.rng("layers alone", n)
    passages = [opened.passage(rng, n) for _ in range(count)]
    exact = [losses(opened, tokens) for tokens in passages]

    def harms(replaced: Collection[int]) -> list[float]:
        chosen = dict.fromkeys(replaced, methods(n, rng)[HYPER])
        return [losses(opened, tokens, chosen) - base for tokens, base in zip(passages, exact, strict=True)]

    alone = [mean_and_reach(np.array(harms([layer]))) for layer in layers]
    turns = [int(np.argmin([harm for harm, _ in alone]))]
    while len(turns) < len(layers):
        rest = [layer for layer in layers if layer not in turns]
        turns.append(min(rest, key=lambda layer: float(np.mean(harms([*turns, layer])))))
    logs = []
    for tokens in passages:
        q, k, _ = opened.qkv(tokens)
        k = per_query_head(opened.decoder.xp, q, k)
        alpha = hardness(q[..., n // 2 :, :], k[..., : n // 2, :], block_size=block(n), rng=rng).alpha
        logs.append(np.log(asnumpy(alpha)).mean(axis=1))
    table = pd.DataFrame(alone, columns=["harm", "reach"])
    table = table.assign(layer=layers, alpha=np.exp(np.mean(logs, axis=0)), turn=[turns.index(i) for i in layers])
    return table[["layer", "alpha", "harm", "reach", "turn"]]


def orders(alone: pd.DataFrame) -> dict[str, list[int]]:
    """In which order layers are replaced, by name."""
    layers = alone["layer"].tolist()
    return {
        LAST: layers[::-1],
        FIRST: layers,
        ALPHA: alone.sort_values("alpha")["layer"].tolist(),
        GREEDY: alone.sort_values("turn")["layer"].tolist(),
    }


# ------------------------------------------------------------------------------------------------------ replaced layers
class Clock:
    """An attention that adds up the seconds spent in it."""

    def __init__(self, attend: Attend) -> None:
        self.attend, self.seconds = attend, 0.0

    def __call__(self, layer: int, q: Array, k: Array, v: Array) -> Array:
        out, seconds = timed(namespace(q), partial(self.attend, layer, q, k, v))
        self.seconds += seconds
        return out


def replaced_layers(run: Run, alone: pd.DataFrame) -> pd.DataFrame:
    """Loss and time over the number of replaced layers; yardsticks from the last layer on. Nothing else may run.

    Returns
    -------
    DataFrame
        n, stretched, method, order, replaced (number of layers), passage, nats (per token), relative (to those of exact
        attention: a ratio of log-perplexities), attention and forward (seconds of all layers' attention, of the whole
        pass). With no layer replaced every method is exact attention.
    """
    opened = run.open_model()
    trained, ways = opened.decoder.trained, orders(alone)
    lengths = run.pick(smoke=(256, 1024), standard=(2048, 8192, 32768), full=(2048, 4096, 8192, 16384, 32768))
    maximum = run.pick(smoke=2, standard=6, full=12)
    tokens_read = run.pick(smoke=2**11, standard=2**15, full=2**18)
    rows: list[tuple[Any, ...]] = []
    for n in lengths:
        decoder, rng = opened.decoder.stretched(n), run.rng("replaced", n)
        decoder.losses(opened.passage(rng, n))  # warm: exact attention comes first
        for passage in range(max(2, min(maximum, tokens_read // n))):
            tokens, made = opened.passage(rng, n), methods(n, rng)
            measured: dict[tuple[str, frozenset[int]], tuple[float, float, float]] = {}
            tried = [(HYPER, way) for way in ways] + [(LOCAL, LAST), (UNIFORM, LAST), (ZERO, LAST)]
            for name, way in tried:
                for number in numbers(len(alone)):
                    chosen = frozenset(ways[way][:number])
                    key = (name if chosen else "", chosen)
                    if key not in measured:
                        measured[key] = _timed(decoder, tokens, {layer: made[name] for layer in chosen})
                    nats, *seconds = measured[key]
                    relative = nats / measured["", frozenset()][0]
                    rows.append((n, n > trained, name, way, number, passage, nats, relative, *seconds))
    columns = ["n", "stretched", "method", "order", "replaced", "passage", "nats", "relative", "attention", "forward"]
    return pd.DataFrame(rows, columns=columns)


def numbers(layers: int) -> list[int]:
    """How many layers are replaced: none, all, and up to seven numbers between."""
    return np.unique(np.linspace(0, layers, min(layers, 8) + 1).round().astype(int)).tolist()


def _timed(decoder: Any, tokens: np.ndarray, replaced: Mapping[int, Method]) -> tuple[float, float, float]:
    """Nats per token, seconds of attention, seconds of the whole pass."""
    clock = Clock(replacing(replaced))
    nats, seconds = timed(decoder.xp, partial(decoder.losses, tokens, attend=clock))
    return float(nats.mean(dtype=np.float64)), clock.seconds, seconds


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per n, method, order and number of replaced layers.

    Returns
    -------
    DataFrame
        perplexity (of a token, over all passages), bits (per token), relative with low and high (over passages), and
        attention and forward: seconds of the fastest passage, as a share of exact attention's.
    """
    exact = rows[rows["replaced"] == 0].groupby("n")
    base = exact[["attention", "forward"]].min().assign(nats=exact["nats"].mean()).loc[rows["n"]]
    shares = {name: rows[name] / base[name].to_numpy() for name in base.columns}
    by = ["n", "stretched", "method", "order", "replaced"]
    named = {"mean": "mean", "nats": "mean", "low": "min", "high": "max", "attention": "min", "forward": "min"}
    table = rows.assign(mean=rows["nats"], low=rows["relative"], high=rows["relative"], **shares)
    table = table.groupby(by, sort=False).agg(named).rename(columns={"nats": "relative"}).reset_index()
    table.insert(len(by), "perplexity", np.exp(table["mean"]))
    table["mean"] /= np.log(2)
    return table.rename(columns={"mean": "bits"})


# -------------------------------------------------------------------------------------------------------------- drawing
@paper_style()
def draw_context(rows: pd.DataFrame, *, unit: str) -> Figure:
    """Bits over the context, each passage and the mean; and what each doubling changes, with 99 percent limits."""
    fig, (level, change) = grid(2, 2, height=2.2)
    table = gains(rows)
    for _, passage in rows.groupby("passage"):
        level.plot(passage["n"], passage["bits"], color="#BBBBBB", linewidth=0.6, zorder=1)
    level.plot([], [], color="#BBBBBB", linewidth=0.6, label="one passage")
    looks = {False: {"label": "mean, within the trained context"}, True: {"label": "mean, beyond it (YaRN)"}}
    hollow = {"markerfacecolor": "white", "linestyle": ":"}
    for stretched, part in table.groupby("stretched"):
        look = {**LOOKS["blue"], **looks[bool(stretched)], **(hollow if stretched else {})}
        level.plot(part["n"], part["bits"], **look)
        change.errorbar(part["n"], part["change"], yerr=part["change_reach"], elinewidth=0.7, capsize=1.5, **look)
    theory_line(change, table["n"], 0, "no change", linestyle=":")
    level.set(ylabel=f"held-out bits per {unit}", ylim=(0, None))
    change.set_ylabel("change by the last doubling")
    for ax in (level, change):
        ax.set_xscale("log")
        ticks(ax.xaxis, table["n"], at_most=6)
    finish(fig, xlabel="tokens up to the one predicted")
    return fig


@paper_style()
def draw_layers(table: pd.DataFrame, *, unit: str) -> Figure:
    """A column of panels per n. Above: perplexity with each method, from the last layer on. Below: orders of layers.

    Below is log-perplexity over that of exact attention, with ranges over passages. Above, ranges are exact attention's
    mean perplexity to the powers of these: perplexities differ by passage far more than by method. Where answering zero
    is far above everything else it leaves the panel, and its value stands there. Orders that always replace the same
    layers share a line.
    """
    exact = table["n"].map(table[table["replaced"] == 0].groupby("n")["perplexity"].first())
    series = table["order"].where(table["method"] == HYPER, table["method"])
    above = {"value": table["perplexity"], "low": exact ** table["low"], "high": exact ** table["high"]}
    rows = pd.concat(
        [
            table.assign(quantity="perplexity", series=series, **above)[table["order"] == LAST],
            table.assign(quantity="relative", series=series, value=table["relative"])[~series.isin((LOCAL, ZERO))],
        ]
    )
    top = 1.2 * rows.loc[(rows["quantity"] == "perplexity") & (rows["series"] != ZERO), "high"].max()

    names = {order: [order] for order in (LAST, FIRST, ALPHA, GREEDY)}
    costs = table[table["method"] == HYPER].pivot_table("relative", ["n", "replaced"], "order")
    for order in (FIRST, ALPHA, GREEDY):
        twin = next(other for other in names if costs[other].equals(costs[order]))
        if twin != order:
            names[twin] += names.pop(order)
    colours = (method("hyper practical"), LOOKS["green"], LOOKS["magenta"], LOOKS["cyan"])
    looks = {
        order: {**look, "label": "HyperAttention " + " = ".join(names[order])}
        for order, look in zip(names, colours, strict=False)
    }
    looks[UNIFORM] = method("uniform", linestyle=":", label="uniform sampling and own block")
    looks[LOCAL] = {**LOOKS["maroon"], "linestyle": ":", "label": "own block alone"}
    looks[ZERO] = method("zero", linestyle=":")

    def edges(ax: Axes, panel: pd.DataFrame) -> None:
        ax.axhline(panel.loc[panel["replaced"] == 0, "value"].iloc[0], **method("exact", marker=""))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        zero = panel.loc[panel["series"] == ZERO, ["replaced", "value"]].groupby("replaced").median()["value"]
        if len(zero) and zero.iloc[-1] > top:
            ax.set_ylim(exact.min() / 1.05, top)
            note = f"answering zero: up to {zero.iloc[-1]:.3g}"
            ax.text(0.98, 0.97, note, transform=ax.transAxes, va="top", ha="right", size=6)

    stretched = table.groupby("n")["stretched"].any()
    labels: dict[str, Any] = {
        "xlabel": "layers replaced",
        "ylabel": {"perplexity": f"perplexity of a {unit}", "relative": "log-perplexity / exact"},
        "titles": lambda n: f"n = {n}" + " (YaRN)" * bool(stretched[n]),
    }
    options: dict[str, Any] = {"looks": looks, "limits": ("low", "high"), "bars": True, "logy": True, "height": 2.0}
    return facets(
        rows, x="replaced", y="value", hue="series", facet="n", row="quantity", each=edges, **labels, **options
    )


@paper_style()
def draw_time(table: pd.DataFrame) -> Figure:
    """Seconds over n, with half and with all of the layers replaced from the last on; and the price in log-perplexity.

    Both are shares of exact attention's, and so is what [HA24] reports of half of the layers (star).
    """
    fig, (saved, price) = grid(2, 2, height=2.3)
    table = table[(table["method"] == HYPER) & (table["order"] == LAST)].sort_values("replaced")
    layers = table["replaced"].max()
    looks = {layers // 2: {**LOOKS["blue"], "label": "half"}, layers: {**LOOKS["brown"], "label": "all"}}
    for replaced, look in looks.items():
        part = table[table["replaced"] == replaced].sort_values("n")
        saved.plot(
            part["n"], part["forward"], **{**look, "label": f"whole pass, {look['label']} of the layers replaced"}
        )
        look |= {"label": f"attention, {look['label']} of the layers replaced", "markerfacecolor": "white"}
        saved.plot(part["n"], part["attention"], **look, linestyle=":")
    lengths = sorted(table["n"].unique())
    for place, n in enumerate(lengths):
        part = table[table["n"] == n]
        shade = mpl.colormaps["cividis"](0.8 * place / max(1, len(lengths) - 1))  # darker is shorter
        reach = np.abs(part[["low", "high"]].to_numpy() - part[["relative"]].to_numpy()).T
        look = {"color": shade, "marker": "osD^v"[place % 5], "label": f"n = {n}: 0 to {layers} layers replaced"}
        price.errorbar(part["forward"], part["relative"], yerr=reach, elinewidth=0.7, capsize=1.5, **look)
    star: dict[str, Any] = {"linestyle": "", "marker": "*", "markersize": 8, "color": "black", "zorder": 5}
    saved.plot(32768, REPORTED[0], **star, label="half of the layers, n = 32k, reported [HA24]")
    price.plot(*REPORTED, **star)
    for ax in (saved, price):
        ax.axhline(1, **method("exact", marker="", linewidth=0.8))
    saved.set(xscale="log", xlabel="tokens $n$", ylabel="seconds / exact", ylim=(0, None))
    ticks(saved.xaxis, [*lengths, 32768], at_most=6)
    price.set(xlabel="seconds of the whole pass / exact", ylabel="log-perplexity / exact", xlim=(0, None))
    finish(fig)
    return fig
