"""Do the keys of a trained decoder cluster, and its values? Notebook 18: [SG24]'s question, measured as in notebook 12.

There are two sets of keys: those that attention sees, rotated by their positions (RoPE), and those before the rotation.
A head here is a key head, with all queries that read it. Synthetic keys, 32 parts or Gaussian, stand beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ....core.backends import Array, asnumpy
from ....lab.models import Model
from ....lab.run import Run
from ....lab.statistics import mean_and_reach
from ....lab.workloads.inputs import GAUSSIAN
from ....lm.rope import rotated
from ....plots.panels import finish, grid
from ....plots.style import paper_style
from ....primitives.kcenter import largest_distance
from ...caches.sink import SINKS
from . import clusterability
from .clusterability import CAPTURED, FIXED, NULL

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


def _passages(run: Run, opened: Model) -> Iterator[dict[str, Array]]:
    """Arrays of each passage by name: queries (layers * kv_heads, n * group, d); keys, keys before the rotation and
    values (layers * kv_heads, n, d)."""
    xp = opened.decoder.xp
    n, replicates = run.pick(smoke=(512, 4), standard=(2048, 10), full=(8192, 10))
    for replicate in range(replicates):
        q, k, v = opened.qkv(opened.passage(run.rng("model clusters", replicate), n))
        rope = opened.decoder.stretched(n).config.rope
        cosines, sines = rope.turns(xp, 0, n)
        back = rotated(xp, k, (cosines, -sines))  # but for YaRN's factor: costs are relative to a distance
        group = q.shape[1] // k.shape[1]
        stacks = {"queries": q.reshape(-1, n * group, q.shape[-1]), "keys": k, BEFORE: back, "values": v}
        yield {name: xp.ascontiguousarray(x).reshape(-1, *x.shape[-2:]) for name, x in stacks.items()}


def _points(
    run: Run, opened: Model, names: Sequence[str], *, passages: int | None = None, every: int = 1
) -> Iterator[tuple[str, str, int, str, Array]]:
    """Points of every `every`-th head of the first passages, numbered through, and as many synthetic keys as wide."""
    n, d, number = 0, 0, 0
    for stacks in islice(_passages(run, opened), passages):
        heads, n, d = stacks["keys"].shape
        for head in range(0, heads, every):
            yield from ((f"{opened.name} decoder", "real", number + head, name, stacks[name][head]) for name in names)
        number += heads
    for what in (FIXED, GAUSSIAN):
        for replicate in range(run.pick(smoke=3, standard=10, full=10)):
            rng = run.rng("beside the model", what.label, replicate)
            yield what.label, what.source, replicate, "keys", what.draw(n, d, rng, opened.decoder.xp).k


def cost_curves(run: Run) -> pd.DataFrame:
    """Cost of greedy k-center: the rows of `clusterability.costs` for every head (every second one at smoke), with its
    passage, layer and head (-1 for the synthetic keys)."""
    opened = run.open_model()
    every = run.pick(smoke=2, standard=1, full=1)
    points = _points(run, opened, ("keys", BEFORE, "values"), every=every)
    rows = clusterability.costs(run, opened.decoder.xp, points, without=(WITHOUT, slice(SINKS, None)))
    config, real = opened.decoder.config, rows["source"] == "real"
    places = np.unravel_index(rows["replicate"], (len(rows), config.layers, config.kv_heads))
    named = dict(zip(("passage", "layer", "head"), places, strict=True))
    return rows.assign(**{name: np.where(real, place, -1) for name, place in named.items()})


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


def over_delta(run: Run) -> pd.DataFrame:
    """SubGen's clusters over delta: the rows of `clusterability.counts`, for some heads of few passages.

    SubGen takes the keys in their order, one by one, which is slow.
    """
    opened = run.open_model()
    passages, every = run.pick(smoke=(1, 4), standard=(3, 2), full=(3, 1))
    points = _points(run, opened, ("keys", "values"), passages=passages, every=every)
    return clusterability.counts(opened.decoder.xp, points, run.pick(smoke=6, standard=12, full=12))


def head_table(run: Run) -> pd.DataFrame:
    """`clusterability.needs` of every key head, medians over passages: also layer and head."""
    opened = run.open_model()
    config, xp = opened.decoder.config, opened.decoder.xp
    shape = (config.layers, config.kv_heads)
    parts = [
        clusterability.needs(xp, stacks["queries"], stacks["keys"], config.head_dim**-0.5)
        for stacks in _passages(run, opened)
    ]
    places = pd.DataFrame(list(np.ndindex(*shape)), columns=["layer", "head"])
    return places.join(pd.concat(parts).groupby(level=0).median())


def projection(run: Run, rows: pd.DataFrame) -> pd.DataFrame:
    """Three heads of the first passage in the plane of their two largest principal components.

    They are the head with the least ratio of its keys' cost to its values' at m = n/8 (from the `rows` of
    `cost_curves`), the median one and the one with the largest. A projection never lengthens a distance: points that
    are apart in the plane are apart, but points that lie together there may be far apart in other directions.

    Returns
    -------
    DataFrame
        which ("least", "median", "most"), layer, head, what, position, x, y (over the largest distance of two points),
        share (of the variance that the plane has).
    """
    opened = run.open_model()
    config, xp = opened.decoder.config, opened.decoder.xp
    stacks = next(_passages(run, opened))
    ordered = clusterability.ratios(rows[rows["passage"] <= 0], PAIRS)["keys / values", "radius"].sort_values().index
    parts = []
    for which, at in {"least": 0, "median": len(ordered) // 2, "most": -1}.items():
        layer, head = divmod(int(ordered[at]), config.kv_heads)
        for what in ("keys", BEFORE, "values"):
            x, y, share = _plane(xp, stacks[what][ordered[at]])
            about = {"which": which, "layer": layer, "head": head, "what": what, "position": np.arange(len(x))}
            parts.append(pd.DataFrame({**about, "x": x, "y": y, "share": share}))
    return pd.concat(parts, ignore_index=True)


def _plane(xp: Any, points: Array) -> tuple[np.ndarray, np.ndarray, float]:
    """Both coordinates over the largest distance, each with its longest side positive; share of the variance."""
    host = asnumpy(points).astype(np.float64)
    u, s, _ = np.linalg.svd(host - host.mean(axis=0), full_matrices=False)
    plane = u[:, :2] * s[:2] / largest_distance(xp, points)
    plane *= np.sign(plane[abs(plane).argmax(axis=0), [0, 1]])
    return plane[:, 0], plane[:, 1], float((s[:2] ** 2).sum() / (s**2).sum())


# -------------------------------------------------------------------------------------------------------------- figures
@paper_style()
def draw_projections(rows: pd.DataFrame) -> Figure:
    """A column per head, a row per set of points, coloured by the position in the text; each with its share of the
    variance."""
    heads, sets = rows[["layer", "head"]].drop_duplicates(), rows["what"].unique()
    fig, axes = grid(len(sets) * len(heads), len(heads), height=1.65)
    cells = [(what, layer, head) for what in sets for layer, head in heads.itertuples(index=False)]
    for ax, (what, layer, head) in zip(axes, cells, strict=True):
        part = rows[(rows["layer"] == layer) & (rows["head"] == head) & (rows["what"] == what)]
        dots = ax.scatter(part["x"], part["y"], c=part["position"], s=3, cmap="cividis", linewidths=0, rasterized=True)
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
