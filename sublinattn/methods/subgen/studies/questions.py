"""What a careful review of SubGen [SG24] asked, each question answered by numbers measured here. Notebook 16."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ....core.backends import to_device
from ....core.timing import timed
from ....lab.comparison.error_over_bytes import CLUSTERS_MEAN
from ....lab.comparison.registry import CHUNK, drawn
from ....lab.run import Run
from ....lab.workloads import real
from ....primitives.kcenter import greedy_k_center
from ...caches.exact import ExactCache
from ..claims.algorithm1_clusters import WIDE, chunked
from ..claims.theorem1 import EXPLICIT, theorem
from ..subgen import SubGenCache
from .ablation import DELTA, INPUTS, NORMALISERS

SLOTS, SAMPLES = 256, 4
KIB = 2.0**10


def differing(run: Run) -> tuple[int, int, int]:
    """How many numbers of the state differ between chunks and single tokens; on how many streams of how many tokens."""
    n = run.pick(smoke=200, standard=2000, full=2000)
    rng, streams = run.rng("chunks"), 4
    differences = [
        chunked(rng, run.xp, n=n, rows=rows, knobs=WIDE[i % 2]["knobs"], recent=recent).measured
        for i, (rows, recent) in enumerate(((n, 0), (7, 0), (64, 20), (64, 0)))
    ]
    return round(sum(differences)), streams, n


def cost(run: Run) -> dict[str, float]:
    """Bytes stored, microseconds per token and per query, of SubGen and of the exact cache on 32 clusters."""
    xp = run.xp
    n = run.pick(smoke=2**14, standard=2**17, full=2**20)
    stream, _ = drawn(CLUSTERS_MEAN, n, 0, run)
    costs: dict[str, float] = {"n": n}
    for name, cache in (("subgen", SubGenCache(DELTA, SAMPLES, SLOTS, rng=run.seed)), ("exact", ExactCache())):
        _, taken = timed(xp, partial(stream.feed, cache, CHUNK))
        seconds = [timed(xp, partial(cache.attend, stream.late[:1]))[1] for _ in range(9)]
        costs |= {
            f"{name} bytes": cache.nbytes,
            f"{name} token": 1e6 * taken / n,
            f"{name} query": 1e6 * float(np.median(seconds)),
        }
    return costs


def lengths(run: Run) -> pd.DataFrame:
    """`delta r / ln n` of every real head over the number n of its first tokens.

    delta is the radius of sqrt(n) greedy centers, and r the longest query times the scale.

    Returns
    -------
    DataFrame
        n, layer, head, delta_r, over_log.
    """
    xp, parts = run.xp, []
    for n in (128, 256, 512):
        x = real().first(n)
        k = to_device(x.k.astype(np.float32), xp)
        delta = np.empty(k.shape[:2])
        for index in np.ndindex(*delta.shape):
            delta[index] = greedy_k_center(xp, k[index], round(n**0.5))[1][-1]
        delta_r = delta * x.scale * np.linalg.norm(x.q.astype(np.float64), axis=-1).max(axis=-1)
        layer, head = (axis.ravel() for axis in np.indices(delta_r.shape))
        values = {"layer": layer, "head": head, "delta_r": delta_r.ravel(), "over_log": delta_r.ravel() / np.log(n)}
        parts.append(pd.DataFrame({"n": n, **values}))
    return pd.concat(parts, ignore_index=True)


def slack(run: Run) -> pd.DataFrame:
    """The theorem's error and its bound with constants: instance, replicate, error, bound."""
    trials = run.pick(smoke=8, standard=100, full=100)
    rows = []
    cases: tuple[dict[str, Any], ...] = EXPLICIT
    for number, case in enumerate(cases):
        rng = run.rng("slack", number)
        for replicate in range(trials):
            trial = theorem(rng, run.xp, **case)
            rows.append((number, replicate, trial.measured, trial.bound))
    return pd.DataFrame(rows, columns=["instance", "replicate", "error", "bound"])


def uncompressed(run: Run) -> dict[str, float]:
    """Relative error of the exact cache on every input of the ablation."""
    n = run.pick(smoke=1024, standard=8192, full=65536)
    errors = {}
    for what in INPUTS:
        stream, _ = drawn(what, n, 0, run)
        out = stream.feed(ExactCache(), CHUNK).attend(stream.late, scale=stream.x.scale)
        errors[what.label] = stream.errors(out)[1]
    return errors


def answers(
    differ: tuple[int, int, int],
    costs: dict[str, float],
    heads: pd.DataFrame,
    bounds: pd.DataFrame,
    exact: dict[str, float],
    parts: pd.DataFrame,
) -> pd.DataFrame:
    """The numbers that answer each question; the arguments are what the functions above give, and `ablation.parts`.

    Returns
    -------
    DataFrame
        Index: question, number (what it is). value, more (where there is more of it).
    """
    numbers, streams, n = differ
    table: list[tuple[str, str, Any, str]] = [
        (
            "The streaming algorithm itself?",
            f"numbers of its state that differ between chunks and single tokens ({streams} streams of {n} tokens)",
            numbers,
            "sg24.chunks",
        )
    ]
    units = {"bytes": ("KiB stored", KIB), "token": ("µs per token", 1.0), "query": ("µs per query", 1.0)}
    for name, label in (("subgen", "SubGen"), ("exact", "the exact cache")):
        for quantity, (unit, size) in units.items():
            what = f"{unit}, {label}, {costs['n']:.0f} tokens"
            table.append(("Memory and time?", what, costs[f"{name} {quantity}"] / size, "notebook 15"))
    question = "Is delta r = o(log n)? (sqrt(n) clusters, real heads)"
    for length, part in heads.groupby("n"):
        table.append((question, f"median of delta r / ln n, n = {length}", part["over_log"].median(), "notebook 12"))
    longest = heads[heads["n"] == heads["n"].max()]
    factor = np.exp(2 * longest["delta_r"])
    table.append((question, "median of e^(2 delta r), to which t is proportional", factor.median(), "notebook 12"))
    table.append((question, "share of the heads where that is below n", (factor < longest["n"]).mean(), "notebook 12"))
    ratio = bounds["bound"] / bounds["error"]
    question = f"The error of the bound itself? (prescribed s and t, {len(ratio)} caches)"
    table += [(question, f"{name} of bound / error", ratio.agg(name), "sg24.theorem") for name in ("median", "min")]
    question = "The uncompressed cache?"
    table.append((question, f"largest relative error on {len(exact)} inputs", max(exact.values()), "notebook 14"))
    ours = parts[parts["numerator"] == "value-norm"]
    medians = ours.groupby(["input", "normaliser"], sort=False)["relative"]
    for row in medians.median().reset_index().itertuples():
        what = f"relative error, {row.input}: value-norm slots, normaliser {row.normaliser}"
        table.append(("Ablation?", what, row.relative, "figure subgen-parts"))
    spans = ours[ours["normaliser"] == NORMALISERS[1]].groupby("input", sort=False)["relative"]
    for where, span in (spans.max() / spans.min()).items():
        table.append(("Error bars?", f"largest / smallest error over streams and draws, {where}", span, "every figure"))
    columns = ["question", "number", "value", "more"]
    return pd.DataFrame(table, columns=columns).set_index(["question", "number"])
