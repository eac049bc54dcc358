"""Do the keys of a trained decoder cluster, and its values? Notebook 18: [SG24]'s question, measured as in notebook 12.

There are two sets of keys: those that attention sees, rotated by their positions (RoPE), and those before the rotation.
A head here is a key head, with all queries that read it. Synthetic keys, 32 parts or Gaussian, stand beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ....core.backends import Array, asnumpy
from ....lab.models import Model
from ....lab.progress import tracked
from ....lab.run import Run
from ....lab.statistics import growth_exponents, mean_and_reach
from ....lab.workloads.inputs import GAUSSIAN
from ....lm.rope import rotated
from ....plots.panels import finish, grid
from ....plots.style import LOOKS, paper_style
from ....primitives.kcenter import greedy_k_center, greedy_radii, largest_distance
from ...caches.sink import SINKS
from . import clusterability
from .clusterability import CAPTURED, FIXED, NULL, PART

WITHOUT = f"without the first {SINKS}"
BEFORE = "keys before the rotation"
PAIRS: clusterability.Pairs = {
    "keys / values": (("keys", CAPTURED), ("values", CAPTURED)),
    f"keys / values, {WITHOUT}": (("keys", WITHOUT), ("values", WITHOUT)),
    "keys / keys before the rotation": (("keys", CAPTURED), (BEFORE, CAPTURED)),
    "keys / their Gaussian twin": (("keys", CAPTURED), ("keys", NULL)),
    f"{BEFORE} / their Gaussian twin": ((BEFORE, CAPTURED), (BEFORE, NULL)),
    "values / their Gaussian twin": (("values", CAPTURED), ("values", NULL)),
}


CENTERS = 16
"""Greedy centers that are shown in the plane."""


# -------------------------------------------------------------------------------------------------------------- reading
@dataclass(frozen=True)
class Passages:
    """What passages of text leave in a decoder.

    Attributes
    ----------
    opened : Model
    places : list of (layer, head)
        Key heads whose points are kept: all of them, or a random choice where they are many.
    points : list of mapping of str to array
        Of each passage: keys, keys before the rotation, values, each (heads kept, n, d).
    needs : DataFrame
        `clusterability.needs` of every key head, with passage, layer and head.
    """

    opened: Model
    places: list[tuple[int, int]]
    points: list[dict[str, Array]]
    needs: pd.DataFrame


def read(run: Run) -> Passages:
    """Read passages of text; of a large model fewer, four at least (`Model.affordable`).

    Parameters of the run: n, passages.
    """
    opened = run.open_model()
    longest, most, budget = run.pick(smoke=(512, 4, 4e11), standard=(2048, 10, 3.5e12), full=(8192, 10, 3e13))
    n, passages = opened.affordable(longest, most, 1.0, budget)
    n, passages = run.given("n", n), run.given("passages", passages)
    places = some_heads(run, opened, run.pick(smoke=8, standard=30, full=1000))
    points, needs = [], []
    for passage in tracked(range(passages), f"{passages} passages of {n} tokens, {len(places)} key heads kept"):
        kept, needed = _read_one(opened, opened.passage(run.rng("model clusters", passage), n), places)
        points.append(kept)
        needs += [table.assign(passage=passage) for table in needed]
    return Passages(opened, places, points, pd.concat(needs, ignore_index=True))


def some_heads(run: Run, opened: Model, count: int) -> list[tuple[int, int]]:
    """(layer, head) of `count` random key heads in a random order; of all of them if they are no more."""
    config = opened.decoder.config
    chosen = run.rng("which heads").permutation(config.layers * config.kv_heads)[:count]
    return [divmod(int(number), config.kv_heads) for number in chosen]


def _read_one(
    opened: Model, tokens: np.ndarray, places: Sequence[tuple[int, int]]
) -> tuple[dict[str, Array], list[pd.DataFrame]]:
    """Points of these key heads, and what the theorem needs of all; one layer is in memory at a time."""
    xp, n = opened.decoder.xp, len(tokens)
    cosines, sines = opened.decoder.stretched(n).config.rope.turns(xp, 0, n)
    kept: dict[str, dict[tuple[int, int], Array]] = {"keys": {}, BEFORE: {}, "values": {}}
    needs = []

    def visit(layer: int, q: Array, k: Array, v: Array) -> None:
        table = clusterability.needs(xp, q.reshape(len(k), -1, q.shape[-1]), k, q.shape[-1] ** -0.5)
        needs.append(table.assign(layer=layer, head=np.arange(len(k))))
        before = rotated(xp, k, (cosines, -sines))  # but for YaRN's factor: costs are relative to a distance
        for place in (place for place in places if place[0] == layer):
            for own, x in zip(kept.values(), (k, before, v), strict=True):
                own[place] = x[place[1]]

    opened.each_layer(tokens, visit)
    return {name: xp.stack([own[place] for place in places]) for name, own in kept.items()}, needs


def _points(
    run: Run, passages: Passages, names: Sequence[str], *, most: int | None = None, heads: int | None = None
) -> Iterator[tuple[str, str, Sequence[int], str, Array]]:
    """Points of the first heads of the first passages, numbered through, and as many synthetic keys as wide."""
    opened, count = passages.opened, len(passages.places)
    for number, points in enumerate(passages.points[:most]):
        for name in names:
            x = points[name][:heads]
            yield f"{opened.name} decoder", "real", range(number * count, number * count + len(x)), name, x
    n, d = passages.points[0]["keys"].shape[1:]
    replicates = range(run.pick(smoke=3, standard=10, full=10))
    for what in (FIXED, GAUSSIAN):
        rngs = (run.rng("beside the model", what.label, replicate) for replicate in replicates)
        keys = [what.draw(n, d, rng, opened.decoder.xp).k for rng in rngs]
        yield what.label, what.source, replicates, "keys", opened.decoder.xp.stack(keys)


# ------------------------------------------------------------------------------------------------------------ measuring
def cost_curves(run: Run, passages: Passages) -> pd.DataFrame:
    """Cost of greedy k-center: the rows of `clusterability.costs` for every head kept, with its passage, layer and head
    (-1 for the synthetic keys)."""
    points = _points(run, passages, ("keys", BEFORE, "values"))
    rows = clusterability.costs(run, passages.opened.decoder.xp, points, without=(WITHOUT, slice(SINKS, None)))
    real, count = rows["source"] == "real", len(passages.places)
    layers, heads = (np.array(x)[rows["replicate"] % count] for x in zip(*passages.places, strict=True))
    named = {"passage": rows["replicate"] // count, "layer": layers, "head": heads}
    return rows.assign(**{name: np.where(real, np.asarray(place), -1) for name, place in named.items()})


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """Which set of points clusters more, at m = n/8: ratios of the costs in the rows of `cost_curves`.

    They are medians over heads, since the cost of a single head may be 0.

    Returns
    -------
    DataFrame
        Index: a pair; "radius" (the cost of k-center) or "mean" (distance to the nearest centre). ratio (the median
        head's; geometric mean over passages), lower, upper (its 99 percent limits, Student's t over passages), 10 %,
        90 % (over heads, each the median of its passages), share below 1 (of the heads).
    """
    places = rows[rows["source"] == "real"].groupby("replicate")[["passage", "layer", "head"]].first()
    table: dict[Any, tuple[float, ...]] = {}
    for name, ratio in clusterability.ratios(rows, PAIRS).items():
        middle, reach = mean_and_reach(np.log(ratio.groupby(places["passage"]).median().to_numpy()))
        heads = ratio.groupby([places["layer"], places["head"]]).median()
        tenths = heads.quantile([0.1, 0.9], interpolation="nearest")
        limits = np.exp([middle, middle - reach, middle + reach])
        table[name] = (*limits, *tenths, (heads < 1).mean())
    columns = ["ratio", "lower", "upper", "10 %", "90 %", "share below 1"]
    return pd.DataFrame.from_dict(table, orient="index", columns=columns).set_axis(
        pd.MultiIndex.from_tuples(list(table))
    )


def over_delta(run: Run, passages: Passages) -> pd.DataFrame:
    """SubGen's clusters over delta: the rows of `clusterability.counts`, for some heads of few passages.

    SubGen takes the keys in their order, one by one, which is slow.
    """
    most, heads, radii = run.pick(smoke=(1, 4, 6), standard=(3, 8, 12), full=(3, 16, 12))
    radii = run.given("radii", radii)
    points = _points(run, passages, ("keys", "values"), most=most, heads=heads)
    return clusterability.counts(run, points, radii)


def over_n(run: Run, passages: Passages) -> pd.DataFrame:
    """SubGen's clusters at a fixed delta, and `delta r / log n`, over the first n tokens of longer passages.

    Lengths double up to the trained context, 8192 tokens (1024 at smoke) at most; for some of the heads kept, whose
    fixed delta is the covering radius of n/8 greedy centers at the largest n.

    Returns
    -------
    DataFrame
        As `clusterability.over_n`, the parts unknown; and passage, layer and head (replicate numbers all of these).
    """
    opened = passages.opened
    longest, most, heads, steps = run.pick(smoke=(1024, 2, 4, 3), standard=(8192, 3, 8, 4), full=(8192, 3, 16, 4))
    n = run.given("n", opened.affordable(longest, most, 1.0, run.pick(smoke=4e11, standard=1e13, full=1e14))[0])
    most = run.given("passages", most)
    places, rows = passages.places[:heads], []
    for passage in tracked(range(most), f"{most} passages of {n} tokens, {len(places)} key heads"):

        def visit(layer: int, q: Array, k: Array, v: Array, passage: int = passage) -> None:
            xp, (kv_heads, _, d) = opened.decoder.xp, k.shape
            asking = q.reshape(kv_heads, -1, *q.shape[1:])  # the queries that read each key head
            for number, (_, head) in ((i, place) for i, place in enumerate(places) if place[0] == layer):
                delta = greedy_radii(xp, k[head], n // PART)[-1]
                for length in (n >> step for step in range(steps, -1, -1)):
                    own_q = asking[head, :, :length].reshape(-1, d)
                    own = clusterability.grown(xp, own_q, k[head, :length], d**-0.5, delta)
                    replicate = passage * len(places) + number
                    rows.append((replicate, passage, layer, head, length, delta, *own))

        opened.each_layer(opened.passage(run.rng("model clusters over n", passage), n), visit)
    columns = ["replicate", "passage", "layer", "head", "n", "delta", "clusters", "ratio"]
    label = f"{opened.name} decoder"
    return pd.DataFrame(rows, columns=columns).assign(input=label, source="real", what="keys", parts=np.nan)


def growth_of(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """`growth_exponents` of each head in the rows of `over_n`, over its passages."""
    return growth_exponents(rows.assign(replicate=rows["passage"]), quantity, ["layer", "head"])


def head_table(passages: Passages) -> pd.DataFrame:
    """`clusterability.needs` of every key head, medians over passages: also layer and head."""
    return passages.needs.drop(columns="passage").groupby(["layer", "head"]).median().reset_index()


def projection(passages: Passages, rows: pd.DataFrame) -> pd.DataFrame:
    """Three heads of the first passage in the plane of their two largest principal components.

    They are the head with the least ratio of its keys' cost to its values' at m = n/8 (from the `rows` of
    `cost_curves`), the median one and the one with the largest. A projection never lengthens a distance: points that
    are apart in the plane are apart, but points that lie together there may be far apart in other directions.

    Returns
    -------
    DataFrame
        which ("least", "median", "most"), layer, head, what, position, x, y (over the largest distance of two points),
        center (whether it is one of the first 16 greedy centers), share (of the variance that the plane has).
    """
    ordered = clusterability.ratios(rows[rows["passage"] <= 0], PAIRS)["keys / values", "radius"].sort_values().index
    parts, xp = [], passages.opened.decoder.xp
    for which, at in {"least": 0, "median": len(ordered) // 2, "most": -1}.items():
        number = int(ordered[at])
        layer, head = passages.places[number]
        for what in ("keys", BEFORE, "values"):
            points = passages.points[0][what][number]
            x, y, share = _plane(xp, points)
            about = {"which": which, "layer": layer, "head": head, "what": what, "position": np.arange(len(x))}
            centers = np.isin(np.arange(len(x)), greedy_k_center(xp, points, CENTERS)[0])
            parts.append(pd.DataFrame({**about, "x": x, "y": y, "center": centers, "share": share}))
    return pd.concat(parts, ignore_index=True)


def _plane(xp: Any, points: Array) -> tuple[np.ndarray, np.ndarray, float]:
    """Both coordinates over the largest distance, each with its longest side positive; share of the variance."""
    host = asnumpy(points).astype(np.float64)
    u, s, _ = np.linalg.svd(host - host.mean(axis=0), full_matrices=False)
    plane = u[:, :2] * s[:2] / largest_distance(xp, points)
    plane *= np.sign(plane[abs(plane).argmax(axis=0), [0, 1]])
    return plane[:, 0], plane[:, 1], float((s[:2] ** 2).sum() / (s**2).sum())


# ------------------------------------------------------------------------------------------------------------- findings
def kind(cost: Mapping[Any, Any]) -> str:
    """Whether what a ratio of costs is of clusters less or more than what it is over, by its limits."""
    return "less than" if cost["lower"] > 1 else "more than" if cost["upper"] < 1 else "neither less nor more than"


def findings(ratios: pd.DataFrame, heads: pd.DataFrame, over: pd.DataFrame) -> str:
    """What `compared`, `head_table` and `over_n` say, in three sentences of Markdown."""
    costs = pd.DataFrame(ratios.xs("radius", level=1)).to_dict("index")

    def cost(pair: str) -> str:
        return f"{costs[pair]['ratio']:.2f} [{costs[pair]['lower']:.2f}, {costs[pair]['upper']:.2f}]"

    first = costs["keys / values"]
    clusters = (
        f"Keys cluster {kind(first)} values: greedy k-center with n/8 centers costs the median head's keys "
        f"{cost('keys / values')} times what its values cost, {cost(f'keys / values, {WITHOUT}')} times {WITHOUT} "
        f"(99 % limits over passages); in {first['share below 1']:.0%} of the heads keys are cheaper."
    )
    rotation = (
        f"The rotation makes keys cost {cost('keys / keys before the rotation')} times as much; beside Gaussian points "
        f"of the same covariance (1 would be no clusters) keys cost {cost('keys / their Gaussian twin')}, before the "
        f"rotation {cost(f'{BEFORE} / their Gaussian twin')}, and values {cost('values / their Gaussian twin')}."
    )
    grown = growth_of(over, "clusters")
    middle, beyond = grown["exponent"].median(), (heads["factor"] > heads["n"]).sum()
    needs = (
        f"From n = {over['n'].min()} to {over['n'].max()} the clusters of the median head at a fixed delta grow like "
        f"$n^{{{middle:.2f}}}$ ({grown['exponent'].min():.2f} to {grown['exponent'].max():.2f} over {len(grown)} "
        f"heads; the theorem wants less than 1); at m = n/8, delta r / log n is {heads['ratio'].min():.2f} to "
        f"{heads['ratio'].max():.2f}, and e^(2 delta r) exceeds the {heads['n'].iloc[0]:.0f} keys in {beyond} of "
        f"{len(heads)} key heads."
    )
    return "\n".join(f"* {sentence}" for sentence in (clusters, rotation, needs))


# -------------------------------------------------------------------------------------------------------------- figures
@paper_style()
def draw_projections(rows: pd.DataFrame) -> Figure:
    """A column per head, a row per set of points, coloured by the position in the text, and circles around greedy
    centers; each with its share of the variance."""
    heads, sets = rows[["layer", "head"]].drop_duplicates(), rows["what"].unique()
    fig, axes = grid(len(sets) * len(heads), len(heads), height=1.65)
    cells = [(what, layer, head) for what in sets for layer, head in heads.itertuples(index=False)]
    for ax, (what, layer, head) in zip(axes, cells, strict=True):
        part = rows[(rows["layer"] == layer) & (rows["head"] == head) & (rows["what"] == what)]
        dots = ax.scatter(part["x"], part["y"], c=part["position"], s=3, cmap="cividis", linewidths=0, rasterized=True)
        there = part[part["center"]]
        ax.scatter(there["x"], there["y"], s=14, facecolors="none", edgecolors=LOOKS["rose"]["color"], linewidths=0.7)
        ax.set_aspect("equal", adjustable="datalim")
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        name = f"layer {layer}, head {head}\n" if what == sets[0] else ""
        ax.set_title(f"{name}{part['share'].iloc[0]:.0%} of the variance", fontsize=7)
    for ax, what in zip(axes[:: len(heads)], sets, strict=True):
        ax.set_ylabel(what)
    fig.colorbar(dots, ax=axes, label="position in the text", aspect=50, pad=0.01)
    finish(fig, xlabel="principal components / largest distance", legend=False)
    return fig
