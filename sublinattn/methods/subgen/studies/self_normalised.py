"""Self-normalised SubGen: does any law of its slots beat uniform slots, and do its two errors cancel? Notebook 16.

To first order the mean squared error of an answer from s slots of the law p is F/s with
`F = sum_j P_j^2 ||v_j - o||^2 / p_j` (sg24.shared-variance), o being the exact answer: it is computed here without a
single draw, for laws that no cache has, too. Errors of the caches themselves stand beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....core.backends import asnumpy
from ....lab.comparison.error_over_bytes import STREAMS
from ....lab.comparison.registry import (
    CHUNK,
    QUERIES,
    REGISTRY,
    Stream,
    drawn,
    feed,
    self_normalised,
    subgen_within,
)
from ....lab.run import Run
from ....lab.statistics import mean_and_reach, proportion
from ....lab.workloads.inputs import Input, each_draw
from ....lab.workloads.instance import Instance
from ....plots.panels import facets
from ....plots.style import METHODS, paper_style, series
from ...caches.base import KVCache
from ..laws import FromMean, Law
from .ablation import INPUTS

LAWS: tuple[Law, ...] = ("norm", "centred", "distance", "uniform")
BEST = "best in hindsight"
MIXED = {"half norm, half uniform": "norm", "half centred, half uniform": "centred"}
EXACT_D = "norm, normaliser exact"
MEANS = (0.0, 0.5, 1.0, 2.0, 4.0)
SHARES = (1 / 16, 1 / 4)
"""Budgets of the caches, as fractions of the exact cache's bytes."""


def law(name: Law, v: np.ndarray) -> np.ndarray:
    """Probability with which a slot holds each of the values (n, d_v), in their order, under a law of the caches."""
    if name in ("norm", "uniform"):
        weights = (v**2).sum(axis=1) if name == "norm" else np.ones(len(v))
    else:
        weights = FromMean(name, 1, v.shape[1]).weigh(v, 0)
    return weights / weights.sum()


def first_orders(stream: Stream) -> Iterator[tuple[str, str, float]]:
    """F under every law, mean over the held-out queries: which keys are kept exactly (none, or the first), law, F.

    BEST has for p the root of the mean of `P_j^2 ||v_j - o||^2` over these very queries: no law that sees no query can
    have a smaller mean. MIXED are means of two laws. EXACT_D is what z over the exact normaliser has.
    """
    x = stream.x
    q, k, v = (asnumpy(a).astype(np.float64) for a in (stream.late, x.k, x.v))
    logits = x.scale * q @ k.T
    p = np.exp(logits - logits.max(axis=1)[:, None])
    p /= p.sum(axis=1)[:, None]
    out, squares = p @ v, (v**2).sum(axis=1)
    far = np.maximum(squares - 2 * out @ v.T + (out**2).sum(axis=1)[:, None], 0)
    terms, whole = (p**2 * far).mean(axis=0), (p**2).mean(axis=0) * squares  # of F, but for 1 / p_j
    for exact, first in (("none", 0), ("the first", 1)):
        laws: dict[str, np.ndarray] = {name: law(name, v[first:]) for name in LAWS}
        laws |= {name: (laws[one] + laws["uniform"]) / 2 for name, one in MIXED.items()}
        best = np.sqrt(terms[first:])
        for name, its in {**laws, BEST: best / best.sum()}.items():
            yield exact, name, _over(terms[first:], its)
        z = out - p[:, :first] @ v[:first]  # what z estimates
        yield exact, EXACT_D, _over(whole[first:], laws["norm"]) - float((z**2).sum(axis=1).mean())


def _over(terms: np.ndarray, law: np.ndarray) -> float:
    """Sum of `terms / law`, where nothing over nothing is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(terms == 0, 0, terms / law).sum())


def decoder_heads(run: Run) -> Iterator[Stream]:
    """Every key head of the decoder on one passage, with the last QUERIES tokens' queries of one of its query heads."""
    opened = run.open_model()
    n = run.pick(smoke=512, standard=1024, full=2048)
    rng = run.rng("decoder heads")
    q, k, v = (asnumpy(x).astype(np.float32) for x in opened.qkv(opened.passage(rng, n)))
    group = q.shape[1] // k.shape[1]
    for layer in range(k.shape[0]):
        for head in range(k.shape[1]):
            one = (q[layer, head * group + int(rng.integers(group))], k[layer, head], v[layer, head])
            x = Instance(*one, scale=q.shape[-1] ** -0.5, source=opened.name).to(run.xp)
            late = min(QUERIES, n // 2)
            yield Stream.over(x, early=x.q, asked=np.arange(n) < n - late, late=x.q[n - late :])


def measure(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """F under each law, and errors of the caches in SHARES of the exact cache's bytes, on INPUTS and a decoder's heads.

    Parameters of the run, for the INPUTS: n, d, inputs, replicates.

    Returns
    -------
    DataFrame
        input, source, n, replicate, exact (keys kept exactly: none, or the first one), law, first_order (F), over
        (F over that of uniform slots).
    DataFrame
        input, source, n, replicate, share, method, relative (error over the norm of the answer), over (relative over
        that of uniform sampling in the same bytes). Methods: "subgen", the four laws (self-normalised), "uniform", the
        reservoir without replacement, and "zero".
    """
    n = run.given("n", run.pick(smoke=1024, standard=4096, full=16384))
    replicates, heads = run.pick(smoke=(3, 12), standard=(8, 72), full=(8, 72))
    cells = each_draw(run, n, INPUTS, replicates=replicates, heads=heads, known=STREAMS)
    found = [*run.map(_of_input, cells), *run.map(_of_head, list(enumerate(decoder_heads(run))))]
    base = ["input", "source", "n", "replicate"]
    return (
        pd.DataFrame(
            [row for laws, _ in found for row in laws], columns=[*base, "exact", "law", "first_order", "over"]
        ),
        pd.DataFrame(
            [row for _, errors in found for row in errors], columns=[*base, "share", "method", "relative", "over"]
        ),
    )


def _of_input(run: Run, n: int, what: Input, replicate: int) -> tuple[list[Any], list[Any]]:
    stream, rng = drawn(what, n, replicate, run)
    return _rows((what.label, what.source, len(stream.x.k), replicate), stream, rng)


def _of_head(run: Run, head: int, stream: Stream) -> tuple[list[Any], list[Any]]:
    about = (f"real ({stream.x.source} decoder)", "real", len(stream.x.k), head)
    return _rows(about, stream, run.rng("decoder caches", head))


def _rows(base: tuple[Any, ...], stream: Stream, rng: np.random.Generator) -> tuple[list[Any], list[Any]]:
    """The rows of both tables of `measure` of one stream."""
    found = list(first_orders(stream))
    uniform = {exact: f for exact, name, f in found if name == "uniform"}
    laws = [(*base, exact, name, f, f / uniform[exact]) for exact, name, f in found]
    errors: list[Any] = []
    for share in SHARES:
        relative = {"zero": 1.0}
        for name, cache in caches(stream, int(share * stream.cache_bytes), rng).items():
            out = stream.feed(cache, CHUNK).attend(stream.late, scale=stream.x.scale)
            relative[name] = stream.errors(out)[1]
        errors += [(*base, share, name, error, error / relative["uniform"]) for name, error in relative.items()]
    return laws, errors


def caches(stream: Stream, nbytes: int, rng: np.random.Generator) -> dict[str, KVCache]:
    """Empty caches of `nbytes`: SubGen's, the laws self-normalised, and a uniform sample without replacement."""
    x = stream.x
    made: dict[str, KVCache] = {"subgen": subgen_within(nbytes, x, rng)}
    made |= {f"slots, {name}": self_normalised(nbytes, x, rng, law=name) for name in LAWS}
    return {**made, "uniform": REGISTRY["uniform"].within(nbytes, x, rng)}


def over_mean(run: Run) -> pd.DataFrame:
    """Errors of the caches over the mean of the values, which is added to Gaussian ones.

    Parameters of the run: n, d, replicates.

    Returns
    -------
    DataFrame
        n, replicate, mean, method ("subgen", "value-norm": the same law, self-normalised, "uniform", "zero"),
        relative, absolute (root mean square over queries and entries).
    """
    n = run.given("n", run.pick(smoke=1024, standard=4096, full=16384))
    replicates = run.given("replicates", run.pick(smoke=6, standard=20, full=20))
    cells = [(n, mean, replicate) for mean in MEANS for replicate in range(replicates)]
    return run.table(_at_mean, cells, ["n", "replicate", "mean", "method", "relative", "absolute"])


def _at_mean(run: Run, n: int, mean: float, replicate: int) -> list[tuple[Any, ...]]:
    """The rows of `over_mean` of one stream."""
    rows: list[tuple[Any, ...]] = []
    what = Input(f"values + {mean:g}", "gaussian", value_mean=mean)
    stream, rng = drawn(what, n, replicate, run)
    budget = stream.cache_bytes // 4
    outs = {"zero": np.zeros_like(stream.exact)}
    for name in ("subgen", "value-norm", "uniform"):
        cache = feed(name, REGISTRY[name].within(budget, stream.x, rng), stream, budget)
        outs[name] = asnumpy(cache.attend(stream.late, scale=stream.x.scale))
    for name, out in outs.items():
        absolute = float(np.sqrt(((out - stream.exact) ** 2).mean()))
        rows.append((n, replicate, mean, name, stream.errors(out)[1], absolute))
    return rows


def against_uniform(laws: pd.DataFrame) -> pd.DataFrame:
    """For real heads: geometric mean of F over that of uniform slots, its 99 percent limits, and how often it is less.

    Index input, exact, law; columns over, lower, upper, wins, low, high (Clopper-Pearson), heads.
    """
    table = {}
    real = laws[(laws["source"] == "real") & (laws["law"] != "uniform")]
    for key, part in real.groupby(["input", "exact", "law"], sort=False):
        middle, reach = mean_and_reach(np.log(part["over"].to_numpy()))
        wins = proportion(int((part["over"] < 1).sum()), len(part))
        table[key] = (*np.exp([middle, middle - reach, middle + reach]), *wins, len(part))
    columns = ["over", "lower", "upper", "wins", "low", "high", "heads"]
    found = pd.DataFrame.from_dict(table, orient="index", columns=columns)
    return found.set_index(pd.MultiIndex.from_tuples(found.index, names=["input", "exact", "law"]))


# -------------------------------------------------------------------------------------------------------------- figures
@paper_style()
def draw_laws(laws: pd.DataFrame) -> Figure:
    """A panel per input: F of every law over that of uniform slots, medians and full ranges."""
    names = [*LAWS[:3], *MIXED, BEST, EXACT_D]
    order = [law for law in names if law in set(laws["law"])]
    rows = laws.set_index("law").loc[order].reset_index()
    looks = series("no key exact", "the first key exact")
    looks = dict(zip(("none", "the first"), looks.values(), strict=True))

    def uniform(ax: Axes, panel: pd.DataFrame) -> None:
        ax.axvline(1.0, **{**METHODS["uniform"], "marker": "", "label": "uniform slots"})

    options: dict[str, Any] = {"hue": "exact", "facet": "input", "looks": looks, "interval": 100, "logx": True}
    label = "first-order variance, over that of uniform slots"
    return facets(rows, x="over", y="law", xlabel=label, each=uniform, columns=2, height=1.5, **options)


@paper_style()
def draw_errors(errors: pd.DataFrame) -> Figure:
    """A panel per input: relative error of each cache in the same bytes, medians and full ranges."""
    names = {"subgen": "clusters, norm (SubGen)", **{f"slots, {law}": f"slots, {law}" for law in LAWS}}
    rows = errors[errors["method"].isin(names)].assign(method=lambda table: table["method"].map(names))
    looks = series(*SHARES)
    looks = {share: {**looks[share], "label": f"{Fraction(share)} of the bytes"} for share in SHARES}

    def yardsticks(ax: Axes, panel: pd.DataFrame) -> None:
        same = errors[(errors["input"] == panel["input"].iloc[0]) & (errors["method"] == "uniform")]
        for share, part in same.groupby("share"):
            look = {"color": looks[share]["color"], "linestyle": ":", "label": "uniform sampling, same bytes"}
            ax.axvline(part["relative"].median(), **look)
        ax.axvline(1.0, **{**METHODS["zero"], "marker": ""})

    options: dict[str, Any] = {"hue": "share", "facet": "input", "looks": looks, "interval": 100, "logx": True}
    label = r"relative error $\|\mathrm{out}-\mathrm{Attn}\|_F\;/\;\|\mathrm{Attn}\|_F$"
    return facets(rows, x="relative", y="method", xlabel=label, each=yardsticks, columns=2, height=1.5, **options)


@paper_style()
def draw_over_mean(rows: pd.DataFrame) -> Figure:
    """Error of the caches over the mean of the values: relative, and root mean square of an entry."""
    long = rows.melt(["n", "replicate", "mean", "method"], ["absolute", "relative"], "measure", "error")
    looks = {name: METHODS[name] for name in ("subgen", "value-norm", "uniform", "zero")}
    looks["value-norm"] = {**looks["value-norm"], "label": "the same slots' law, self-normalised"}
    labels = {"absolute": "root mean square error of an entry", "relative": "relative error"}
    options: dict[str, Any] = {"hue": "method", "facet": "measure", "looks": looks, "interval": 100, "columns": 2}
    label = "added to every value, whose deviation is 1"
    return facets(long, x="mean", y="error", xlabel=label, logy=True, ylabel=labels, height=2.2, **options)
