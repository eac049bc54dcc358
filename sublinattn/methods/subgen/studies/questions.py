"""What a careful review of SubGen asked [SG24], each question answered by a measurement.

The answers are sentences made of the measured values: no number and no conclusion is written beforehand.
"""

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
from .ablation import DELTA, INPUTS, NORMALISERS, SHARED

SLOTS, SAMPLES = 256, 4
KIB = 2.0**10


def differing(run: Run) -> tuple[int, int, int]:
    """Numbers of the state that differ between chunks and single tokens: how many, over so many streams of so many
    tokens each."""
    n = run.pick(smoke=200, standard=2000, full=2000)
    rng, streams = run.rng("chunks"), 4
    found = [
        chunked(rng, run.xp, n=n, rows=rows, knobs=WIDE[i % 2]["knobs"], recent=recent).measured
        for i, (rows, recent) in enumerate(((n, 0), (7, 0), (64, 20), (64, 0)))
    ]
    return round(sum(found)), streams, n


def cost(run: Run) -> dict[str, float]:
    """Bytes held, microseconds per token and per query, of SubGen and of the exact cache on 32 clusters."""
    xp = run.xp
    n = run.pick(smoke=2**14, standard=2**17, full=2**20)
    stream, _ = drawn(CLUSTERS_MEAN, n, 0, run)
    found: dict[str, float] = {"n": n}
    for name, cache in (("subgen", SubGenCache(DELTA, SAMPLES, SLOTS, rng=run.seed)), ("exact", ExactCache())):
        _, taken = timed(xp, partial(stream.feed, cache, CHUNK))
        asked = [timed(xp, partial(cache.attend, stream.late[:1]))[1] for _ in range(9)]
        found |= {
            f"{name} bytes": cache.nbytes,
            f"{name} token": 1e6 * taken / n,
            f"{name} query": 1e6 * float(np.median(asked)),
        }
    return found


def lengths(run: Run) -> pd.DataFrame:
    """`delta r / ln n` of every real head over the number of its first tokens: sqrt(n) greedy centres, their radius
    delta, and the longest query with the scale, r.

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
        found = {"layer": layer, "head": head, "delta_r": delta_r.ravel(), "over_log": delta_r.ravel() / np.log(n)}
        parts.append(pd.DataFrame({"n": n, **found}))
    return pd.concat(parts, ignore_index=True)


def slack(run: Run) -> pd.DataFrame:
    """The theorem's bound with constants over the error measured: instance, replicate, error, bound."""
    xp, trials = run.xp, run.pick(smoke=8, standard=100, full=100)
    rows = []
    cases: tuple[dict[str, Any], ...] = EXPLICIT
    for number, case in enumerate(cases):
        rng = run.rng("slack", number)
        for replicate in range(trials):
            found = theorem(rng, xp, **case)
            rows.append((number, replicate, found.measured, found.bound))
    return pd.DataFrame(rows, columns=["instance", "replicate", "error", "bound"])


def uncompressed(run: Run) -> dict[str, float]:
    """Relative error of the exact cache on every input of the ablation."""
    _xp, n = run.xp, run.pick(smoke=1024, standard=8192, full=65536)
    found = {}
    for what in INPUTS:
        stream, _ = drawn(what, n, 0, run)
        out = stream.feed(ExactCache(), CHUNK).attend(stream.late, scale=stream.x.scale)
        found[what.label] = stream.errors(out)[1]
    return found


def answers(
    differ: tuple[int, int, int],
    costs: dict[str, float],
    heads: pd.DataFrame,
    bounds: pd.DataFrame,
    exact: dict[str, float],
    parts: pd.DataFrame,
) -> pd.DataFrame:
    """One line per question: what was asked, what was measured, and where there is more of it."""
    numbers, streams, n = differ
    shortest, longest = heads["n"].min(), heads["n"].max()
    over = heads.groupby("n")["over_log"].median()
    samples = np.exp(2 * heads.loc[heads["n"] == longest, "delta_r"])
    ratio = bounds["bound"] / bounds["error"]
    medians = parts.groupby(["input", "normaliser", "numerator"], sort=False)["relative"].median()
    compared = [
        f"{i}: " + ", ".join(f"{name} {medians[i, name, 'value-norm']:.2g}" for name in (*NORMALISERS, SHARED))
        for i in parts["input"].unique()
    ]
    ours = parts[(parts["normaliser"] == NORMALISERS[1]) & (parts["numerator"] == "value-norm")]
    spans = ours.groupby("input")["relative"].agg(lambda x: x.max() / x.min())
    rows = {
        "The streaming algorithm itself?": (
            f"It exists, in chunks: {numbers} numbers of its state differ from those of token by token absorption, "
            f"over {streams} streams of {n} tokens.",
            "sg24.chunks",
        ),
        "Memory and time?": (
            f"{costs['n']:.0f} tokens: {costs['subgen bytes'] / KIB:.0f} KiB, {costs['subgen token']:.2g} us per token "
            f"and {costs['subgen query']:.0f} us per query; the exact cache {costs['exact bytes'] / KIB:.0f} KiB, "
            f"{costs['exact token']:.2g} us and {costs['exact query']:.0f} us (beside other work on the machine).",
            "notebook 15, measured alone",
        ),
        "Is delta r = o(log n)?": (
            f"With sqrt(n) clusters, delta r / ln n of the {len(samples)} real heads has the median "
            f"{over[shortest]:.2f} at n = {shortest} and {over[longest]:.2f} at n = {longest}. There e^(2 delta r), to "
            f"which t is proportional, is {samples.median():.2g} (median), below n in {(samples < longest).mean():.0%} "
            "of the heads.",
            "notebook 12",
        ),
        "The error of the bound itself?": (
            f"With the prescribed s and t the error is {ratio.median():.1f} times (median) below the bound, at least "
            f"{ratio.min():.1f} times in {len(ratio)} caches.",
            "sg24.theorem, notebook 14",
        ),
        "The uncompressed cache?": (
            f"It is a row of every table; relative error at most {max(exact.values()):.0e} on {len(exact)} inputs.",
            "notebook 14",
        ),
        "Ablation?": (
            "Relative error with value-norm slots and each normaliser. " + "; ".join(compared) + ".",
            "figure subgen-parts",
        ),
        "Error bars?": (
            "Every error is measured on fresh streams and draws. SubGen's (delta told) differs between them by a "
            "factor "
            + ", ".join(f"{span:.2g} ({name})" for name, span in spans.items())
            + f", over {ours.groupby('input').size().min()} or more replicates.",
            "every figure",
        ),
    }
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["measured", "more"])
    return frame.rename_axis("asked")
