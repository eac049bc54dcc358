"""Do the keys of a trained decoder cluster, and its values? [SG24]'s question, with the measures of `clusterability`.

Keys are those that attention sees, turned by their positions, and those before the turning; a text's heads are the key
heads, each with the queries that read it. Synthetic keys, 32 parts or Gaussian, stand beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from ....core.backends import Array, asnumpy
from ....lab.models import Model
from ....lab.run import Run
from ....lab.statistics import mean_and_reach
from ....lab.workloads.inputs import GAUSSIAN
from ....lm.rope import rotated
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
    """Of every passage: queries (layers * kv_heads, n * group, d), keys as attention sees them and before the rotation,
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
    """Points of every head (or every so many) of all passages (or so many), numbered through, and synthetic keys, as
    many and as wide."""
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
    """What is clustered more, at m = n/8, from the rows of `cost_curves`: medians over heads, since a cost may be 0.

    Returns
    -------
    DataFrame
        Index: a pair; "radius" (the cost of k-center) or "mean" (distance to the nearest centre). ratio (the median
        head's; geometric mean over passages), lower, upper (its 99 percent limits, Student's t over passages), 10 %,
        90 % (over heads, each the median of its passages), share below 1 (of the heads).
    """
    places = rows[rows["source"] == "real"].groupby("replicate")[["passage", "layer", "head"]].first()
    found: dict[Any, tuple[float, ...]] = {}
    for name, ratio in clusterability.ratios(rows, PAIRS).items():
        middle, reach = mean_and_reach(np.log(ratio.groupby(places["passage"]).median().to_numpy()))
        heads = ratio.groupby([places["layer"], places["head"]]).median()
        tenths = heads.quantile([0.1, 0.9], interpolation="nearest")
        limits = np.exp([middle, middle - reach, middle + reach])
        found[name] = (*limits, *tenths, (heads < 1).mean())
    columns = ["ratio", "lower", "upper", "10 %", "90 %", "share below 1"]
    return pd.DataFrame.from_dict(found, orient="index", columns=columns).set_axis(
        pd.MultiIndex.from_tuples(list(found))
    )


def over_delta(run: Run) -> pd.DataFrame:
    """SubGen's clusters over delta, the rows of `clusterability.counts`: of some heads and few passages, as the order
    of the keys makes it slow."""
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

    They are the head whose keys cost least beside its values at m = n/8 (`rows`: those of `cost_curves`), the median
    one and the one whose keys cost most. A projection shortens distances, never lengthens them: what is apart in the
    plane is apart; what is together there need not be.

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
