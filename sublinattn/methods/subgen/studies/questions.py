"""What a careful review of SubGen [SG24] asked, each question answered by numbers measured here. Notebook 16."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ....core.quiet import quiet
from ....core.timing import timed
from ....lab.comparison.error_over_bytes import CLUSTERS_MEAN, STREAMS
from ....lab.comparison.registry import CHUNK, drawn
from ....lab.run import Run
from ....lab.workloads import real
from ....lab.workloads.inputs import chosen
from ...caches.exact import ExactCache
from ..claims.algorithm1_clusters import WIDE, chunked
from ..subgen import SubGenCache
from .ablation import DELTA, INPUTS, NORMALISERS
from .clusterability import needs, stacks

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


@quiet()
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
    """`clusterability.needs` of the first n tokens of every real head at sqrt(n) clusters, for several n."""
    points, scale = stacks(run.xp), real().scale
    tables = [
        needs(run.xp, points["queries"][:, :n], points["keys"][:, :n], scale, m=round(n**0.5)) for n in (128, 256, 512)
    ]
    return pd.concat(tables)


def uncompressed(run: Run) -> dict[str, float]:
    """Relative error of the exact cache on every input of the ablation."""
    n = run.given("n", run.pick(smoke=1024, standard=8192, full=65536))
    errors = {}
    for what in chosen(run, INPUTS, known=STREAMS):
        stream, _ = drawn(what, n, 0, run)
        out = stream.feed(ExactCache(), CHUNK).attend(stream.late, scale=stream.x.scale)
        errors[what.label] = stream.errors(out)[1]
    return errors


def answers(
    differ: tuple[int, int, int],
    costs: dict[str, float],
    heads: pd.DataFrame,
    theorem: pd.DataFrame,
    exact: dict[str, float],
    parts: pd.DataFrame,
) -> pd.DataFrame:
    """The numbers that answer each question; the arguments are what the functions above give, the rows of the claim
    sg24.theorem, and `ablation.parts`.

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
        table.append((question, f"median of delta r / ln n, n = {length}", part["ratio"].median(), "notebook 12"))
    longest = heads[heads["n"] == heads["n"].max()]
    table.append(
        (question, "median of e^(2 delta r), to which t is proportional", longest["factor"].median(), "notebook 12")
    )
    below = (longest["factor"] < longest["n"]).mean()
    table.append((question, "share of the heads where that is below n", below, "notebook 12"))
    trials = theorem[theorem["role"] == "claim"]
    ratio = trials["bound"] / trials["measured"]
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
