"""Error of every key-value cache over the bytes that it stores, on streams that favour one method or another.

Notebook 14. All caches see the same tokens in the same order. Queries come between them, for the one cache that learns
from queries; errors are measured afterwards, on other queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...core.backends import asnumpy
from ...methods.caches.exact import ExactCache, ZeroCache
from ...methods.polynomial.approximants import MAX_RADIUS
from ...methods.polynomial.polynomial import PolynomialState
from ...plots.panels import facets, finish, grid, lines
from ...plots.style import LOOKS, METHODS, THEORY, paper_style, series, variant
from ..run import Run
from ..statistics import mean_and_reach, proportion
from ..workloads.inputs import GAUSSIAN, GAUSSIAN_MEAN, HEAVY_VALUES, REAL, Input, each_draw
from ..workloads.instance import Instance
from .registry import CHUNK, HINDSIGHT, REGISTRY, TOLD, Stream, competing, directions, drawn, feed

SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
RETRIEVAL_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
INFORMED = "heavy hitters, asked before"
variant(INFORMED, "H2O, queried all along", of="heavy hitters")
CLUSTERS = Input("32 clusters", "clusterable")
CLUSTERS_MEAN = Input("32 clusters, values + 2", "clusterable", value_mean=2.0)
ROOT = Input("sqrt(n) clusters, values + 2", "clusterable", {"clusters": 1.0, "exponent": 0.5}, value_mean=2.0)
ALL_APART = Input("n clusters, values + 2", "clusterable", {"clusters": 1.0, "exponent": 1.0}, value_mean=2.0)
DRIFTING = Input("drifting, values + 2", "drifting", value_mean=2.0)
NEEDLES = Input("needles", "needles")
BY_NORM = Input("|v| rising, values + 2", "clusterable", {"order": "norm", "mean": 2.0})
BY_CLUSTER = Input("clusters in turn, values + 2", "clusterable", {"order": "cluster"}, value_mean=2.0)
STREAMS = {
    "clusters": CLUSTERS,
    "clusters-mean": CLUSTERS_MEAN,
    "sqrt-n-clusters": ROOT,
    "n-clusters": ALL_APART,
    "drifting": DRIFTING,
    "norms-rising": BY_NORM,
    "clusters-in-turn": BY_CLUSTER,
    "needles": NEEDLES,
    "heavy-values": HEAVY_VALUES,
    "gaussian": GAUSSIAN,
    "gaussian-mean": GAUSSIAN_MEAN,
    "real": REAL,
}
"""By the names that the notebook's parameter `inputs` takes."""
INPUTS = tuple(STREAMS.values())


def unbudgeted(stream: Stream, maximum: int | None = None) -> Iterator[tuple[str, Any, int]]:
    """Yardsticks and the streaming state: method, answers to the held-out queries, bytes stored.

    The state has the highest degree that stays below `maximum` bytes (the exact cache's, if not given), and is given
    the largest logit. It is left out where even degree 1 is larger, where a logit is beyond `MAX_RADIUS`, and where its
    polynomial's normaliser is not positive.
    """
    x = stream.x
    for name, cache in (("exact", ExactCache()), ("zero", ZeroCache())):
        stream.feed(cache, CHUNK)
        yield name, cache.attend(stream.late, scale=x.scale), cache.nbytes
    d, d_v = x.k.shape[1], x.v.shape[1]
    chunks = ((x.scale * q[i : i + CHUNK]) @ x.k.T for q in (x.q, stream.late) for i in range(0, len(q), CHUNK))
    radius = max(float(max(logits.max(), -logits.min())) for logits in chunks)
    degrees = [g for g in (1, 2, 3) if math.comb(d + g, g) * (d_v + 2) * 8 < (maximum or stream.cache_bytes)]
    if degrees and radius <= MAX_RADIUS:
        state = PolynomialState(d, d_v, degree=max(degrees), scale=x.scale, basis="minimax", radius=radius)
        stream.feed(state, CHUNK)
        try:
            yield "streaming state", state.attend(stream.late), state.nbytes
        except ValueError:  # the normaliser is not positive
            return


def over_bytes(run: Run, *, inputs: tuple[Input, ...] = INPUTS) -> pd.DataFrame:
    """Errors of every method on every input over its bytes.

    Parameters of the run: n, d, inputs, shares, replicates.

    Returns
    -------
    DataFrame
        input, source, n, replicate (fresh stream and draws; for "real" another head), method, share (its budget, as a
        fraction of the exact cache's bytes; nan without a budget), nbytes (stored), held (over `n (d + d_v)` numbers),
        error (in the theorem's norm, mean over queries), relative (Frobenius norm). The method HINDSIGHT is, per input
        and share, the contender in hindsight with the least median relative error, which SubGen cannot know.
    """
    n = run.given("n", run.pick(smoke=1024, standard=4096, full=65536))
    replicates, heads = run.pick(smoke=(3, 5), standard=(8, 36), full=(12, 72))
    cells = each_draw(run, n, inputs, replicates=replicates, heads=heads, known=STREAMS)
    columns = ["input", "source", "n", "replicate", "method", "share", "nbytes", "held", "error", "relative"]
    return best_setting(run.table(_errors, cells, columns))


def _errors(run: Run, n: int, what: Input, replicate: int) -> list[tuple[Any, ...]]:
    """The rows of one stream."""
    rows: list[tuple[Any, ...]] = []
    stream, rng = drawn(what, n, replicate, run)
    base = (what.label, what.source, len(stream.x.k), replicate)
    for method, out, nbytes in unbudgeted(stream):
        rows.append((*base, method, np.nan, nbytes, nbytes / stream.cache_bytes, *stream.errors(out)))
    for share in run.given("shares", run.pick(smoke=(1 / 16, 1 / 4), standard=SHARES, full=SHARES)):
        budget = int(share * stream.cache_bytes)
        for method, cache in competing(budget, stream.x, rng, hindsight=True).items():
            out = feed(method, cache, stream, budget).attend(stream.late, scale=stream.x.scale)
            held = cache.nbytes / stream.cache_bytes
            rows.append((*base, method, share, cache.nbytes, held, *stream.errors(out)))
    return rows


def best_setting(rows: pd.DataFrame) -> pd.DataFrame:
    """Replace the contenders in hindsight by the best one of each input and share, under the name HINDSIGHT."""
    tried = rows["method"].isin([name for name, contender in REGISTRY.items() if contender.hindsight])
    by = ["input", "share"]
    medians = rows[tried].groupby([*by, "method"], sort=False)["relative"].median().reset_index()
    best = medians.loc[medians.groupby(by, sort=False)["relative"].idxmin(), [*by, "method"]]
    kept = rows[tried].merge(best, on=[*by, "method"]).assign(method=HINDSIGHT)
    return pd.concat([rows[~tried], kept], ignore_index=True)


def winners(rows: pd.DataFrame) -> pd.DataFrame:
    """For each input and share: the method with the least geometric mean of the relative error, and others beside it.

    Returns
    -------
    DataFrame
        Index input, share. winner; error (its geometric mean); runner-up; clear (whether the 99 percent t-interval of
        the mean difference of their logarithms, over paired replicates, excludes 0); beats zero; subgen, HINDSIGHT,
        uniform, zero, exact (geometric means); subgen / uniform (ratio with its 99 percent limits, as text).
    """
    from scipy.stats import gmean  # a third of a second

    table = []
    fixed = rows[rows["share"].isna()].groupby(["input", "method"], sort=False)["relative"].agg(gmean).unstack()
    for (name, share), part in rows.dropna(subset=["share"]).groupby(["input", "share"], sort=False):
        logs = np.log(part.pivot(index="replicate", columns="method", values="relative"))
        order = logs.mean().sort_values().index
        middle, reach = mean_and_reach((logs[order[1]] - logs[order[0]]).to_numpy())
        ratio, width = mean_and_reach((logs["subgen"] - logs["uniform"]).to_numpy())
        span = f"{np.exp(ratio):.2f} [{np.exp(ratio - width):.2f}, {np.exp(ratio + width):.2f}]"
        means, yardstick = np.exp(logs.mean()), fixed.loc[str(name)].astype(float)
        table.append(
            {
                "input": name,
                "share": share,
                "winner": order[0],
                "error": means[order[0]],
                "runner-up": order[1],
                "clear": bool(middle > reach),
                "beats zero": bool(means[order[0]] < yardstick["zero"]),
                **{method: means[method] for method in ("subgen", HINDSIGHT, "uniform")},
                **{method: yardstick[method] for method in ("zero", "exact")},
                "subgen / uniform": span,
            }
        )
    return pd.DataFrame(table).set_index(["input", "share"])


def against_uniform(rows: pd.DataFrame) -> dict[str, Any]:
    """SubGen beside uniform sampling, by medians over replicates.

    Returns
    -------
    dict
        Shares of the inputs and budgets at which SubGen's relative error is the larger one: `behind`;
        `behind_hindsight`, for HINDSIGHT; `behind_per_byte`, with errors times the root of the bytes stored, since
        errors of samples fall like one over the root. `used`: least and largest ratio of the bytes stored. `ratios`:
        error over error, median over budgets, by input.
    """
    cells = rows.groupby(["input", "method", "share"], sort=False)[["relative", "held"]].median().unstack("method")
    error, held = cells["relative"], cells["held"]
    used = held["subgen"] / held["uniform"]
    return {
        "behind": float((error["subgen"] > error["uniform"]).mean()),
        "behind_hindsight": float((error[HINDSIGHT] > error["uniform"]).mean()),
        "behind_per_byte": float((error["subgen"] * used**0.5 > error["uniform"]).mean()),
        "used": (float(used.min()), float(used.max())),
        "ratios": (error["subgen"] / error["uniform"]).groupby("input", sort=False).median(),
    }


# ------------------------------------------------------------------------------------------------------------ retrieval
def retrieval(run: Run) -> pd.DataFrame:
    """Whether each method finds a needle: of 4 in the stream, the one that the query at the end looks for.

    Parameters of the run: n, d, shares, replicates.

    Returns
    -------
    DataFrame
        n, replicate (fresh stream and draws), method, share (nan without a budget), found (bool). INFORMED are heavy
        hitters that see queries for the needles all along; TOLD is SubGen with the delta that fills its bytes.
    """
    n = run.given("n", run.pick(smoke=512, standard=1024, full=9216))
    replicates = run.given("replicates", run.pick(smoke=25, standard=200, full=200))
    shares = run.given("shares", run.pick(smoke=(1 / 8, 1 / 4), standard=RETRIEVAL_SHARES, full=RETRIEVAL_SHARES))
    cells = [(n, replicate, shares) for replicate in range(replicates)]
    return run.table(_found, cells, ["n", "replicate", "method", "share", "found"])


def _found(run: Run, n: int, replicate: int, shares: Sequence[float]) -> list[tuple[Any, ...]]:
    """The rows of one stream with needles."""
    rows: list[tuple[Any, ...]] = []
    rng = run.rng("retrieval", n, replicate)
    x = NEEDLES.draw(n, retrieval_width(run), rng)
    at = int(rng.integers(n))
    wanted = needle(x, at)
    early = directions(rng, x)
    stream, informed = (Stream.of(x, rng, run.xp, early=q) for q in (early, x.q))
    query = stream.x.q[at]
    for name, yardstick in (("exact", ExactCache()), ("zero", ZeroCache())):
        out = stream.feed(yardstick, CHUNK).attend(query, scale=x.scale)
        rows.append((n, replicate, name, np.nan, hit(out, wanted)))
    for share in shares:
        budget = int(share * stream.cache_bytes)
        for name, cache in competing(budget, stream.x, rng, hindsight=True).items():
            if name == TOLD or not REGISTRY[name].hindsight:
                out = feed(name, cache, stream, budget).attend(query, scale=x.scale)
                rows.append((n, replicate, name, share, hit(out, wanted)))
        hitters = REGISTRY["heavy hitters"].within(budget, stream.x, rng)
        out = feed("heavy hitters", hitters, informed, budget).attend(query, scale=x.scale)
        rows.append((n, replicate, INFORMED, share, hit(out, wanted)))
    return rows


def retrieval_width(run: Run) -> int:
    """Width d of keys and values in `retrieval`: an answer at random names the needle with probability 1/d."""
    return int(run.given("d", run.pick(smoke=16, standard=32, full=64)))


def needle(x: Instance, query: int) -> int:
    """The number of the needle that a query of the workload "needles" looks for."""
    at = np.flatnonzero(np.count_nonzero(x.v, axis=1) == 1)
    return int(x.v[at[(x.k[at] @ x.q[query]).argmax()]].argmax())


def hit(out: Any, wanted: int) -> bool:
    """Whether an output row names the needle: its entry is larger than all others."""
    values = asnumpy(out)
    return bool((values >= values[wanted]).sum() == 1)


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of replicates in which the needle was found, with Clopper-Pearson limits.

    Returns
    -------
    DataFrame
        method, share, rate, low, high, trials.
    """
    groups = rows.groupby(["method", "share"], sort=False, dropna=False)["found"]
    table = [(*key, *proportion(int(part.sum()), len(part)), len(part)) for key, part in groups]
    return pd.DataFrame(table, columns=["method", "share", "rate", "low", "high", "trials"])


# -------------------------------------------------------------------------------------------------------------- figures
_LABELS = {
    "error": r"$\|\mathrm{out}-\mathrm{Attn}\|_2\;/\;(\|\mathrm{softmax}(Kq)\|_2\,\|V\|)$, mean over queries",
    "relative": r"relative error $\|\mathrm{out}-\mathrm{Attn}\|_F\;/\;\|\mathrm{Attn}\|_F$",
}


@paper_style()
def draw_errors(rows: pd.DataFrame, value: str = "relative") -> Figure:
    """A panel per input of `over_bytes`: median `value` ("relative" or "error") of each cache over the bytes it stores;
    for SubGen and uniform sampling also the full range over the replicates.
    """
    stored = rows.groupby(["input", "method", "share"], dropna=False)["held"].transform("median")
    rows = rows.assign(stored=stored.where(rows["method"] != "zero"))
    low, high = rows.loc[rows["method"] != "exact", value].quantile([0.005, 0.995])
    # SubGen on top; uniform sampling large and below, since many caches err as it does and would hide it, or it them.
    places = {"uniform": -1, "subgen": len(METHODS)}
    names = sorted(set(rows["method"]), key=lambda name: places.get(name, list(METHODS).index(name)))
    own = {"uniform": {"linewidth": 2.4, "markersize": 6}, "subgen": {"linewidth": 1.6}}
    looks = {name: {**METHODS[name], "linewidth": 0.9, **own.get(name, {})} for name in names}

    def ranges(ax: Axes, panel: pd.DataFrame) -> None:
        for name in ("uniform", "subgen"):
            look = {"color": looks[name]["color"], "linewidth": 0}
            lines(ax, panel[panel["method"] == name], "stored", value, look, interval=100)

    labels: dict[str, Any] = {
        "xlabel": "bytes stored / bytes of all keys and values (+ 2: added to all values)",
        "ylabel": _LABELS[value],
    }
    scales: dict[str, Any] = {"logx": True, "logy": True, "ylim": (low / 6, 2 * high), "interval": 0, "exact": "exact"}
    return facets(rows, x="stored", y=value, hue="method", facet="input", looks=looks, each=ranges, **labels, **scales)


def dots(ax: Axes, table: pd.DataFrame, value: str, low: str, high: str) -> list[str]:
    """A line of the panel per method, on it a dot with its interval per budget; the methods from the top."""
    names = [name for name in METHODS if name in set(table["method"])]
    shares = sorted(table["share"].dropna().unique())
    looks = series(*shares) | {None: {**LOOKS["charcoal"], "label": "no budget"}}
    for place, (share, look) in enumerate(looks.items()):
        part = table[table["share"].isna() if share is None else table["share"] == share]
        shift = 0.0 if share is None else 0.7 * ((place + 0.5) / len(shares) - 0.5)
        reach = [part[value] - part[low], part[high] - part[value]]
        label = look["label"] if share is None else f"{Fraction(share)} of the bytes"
        ax.errorbar(
            part[value],
            part["method"].map(names.index) + shift,
            xerr=np.maximum(reach, 0),
            linestyle="none",
            elinewidth=0.7,
            capsize=1.5,
            **{**look, "label": label},
        )
    ax.set_yticks(range(len(names)), [str(METHODS[name]["label"]) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    return names


def stored_fractions(ax: Axes, table: pd.DataFrame, chance: float) -> None:
    """Vertical lines: how often a cache answers that stores so many tokens as they are; and chance."""
    shares = sorted(table["share"].dropna().unique())
    for share, look in series(*shares).items():
        label = "fraction of the tokens stored" if share == shares[0] else "_"
        ax.axvline(share, color=look["color"], linestyle="--", linewidth=0.9, label=label)
    ax.axvline(chance, **{**THEORY, "linestyle": ":", "label": "chance"})
    ax.set_xlim(-0.03, 1.03)


@paper_style()
def draw_needles(table: pd.DataFrame, *, chance: float) -> Figure:
    """`accuracies` of each cache under each budget; `chance` is what a random answer finds."""
    fig, (ax,) = grid(1, 1, height=0.26 * table["method"].nunique())
    dots(ax, table, "rate", "low", "high")
    stored_fractions(ax, table, chance)
    finish(fig, xlabel="needles found")
    return fig
