"""What it costs that a query's block follows from its own hash: recall, error, keys needed, perplexity, time.

Source: none; the two masks of `hyper_attention(causal=True, block_by=...)`. Notebook 04.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ....core.backends import asnumpy, to_device
from ....core.exact import attention
from ....core.quiet import quiet
from ....core.timing import timed
from ....lab.run import Run
from ....lab.statistics import mean_and_reach
from ....lab.workloads.inputs import ALPHA, CLUSTERED, GAUSSIAN_MEAN, PLANTED, REAL, SINKS, Input
from ....plots.layout import finish
from ....plots.panels import facets, grid, theory_line
from ....plots.style import method, paper_style
from ..claims.algorithm1_mask import held, recall_law
from ..claims.own_hash import own_recall_law
from ..claims.replaced_layers import Passage
from ..hyper import Deliver, Problem, hyper_attention
from ..sort_lsh import SortedBlocks
from .causal_scaling import columns_touched, uniform_causal

RULES = {"rank": "hyper practical", "own-hash": "hyper practical, own hash"}
"""The rules that `block_by` names, and how they look in figures."""
LAWS = {"rank": recall_law, "own-hash": own_recall_law}
"""The recall of each, as computed."""
INPUTS = GAUSSIAN_MEAN, CLUSTERED, PLANTED, SINKS, ALPHA, REAL
BITS, BLOCKS, BLOCK_SIZE = 3, 8, 4
"""The planted clusters of the recall: those of `ha24.mask-recall`'s first case."""


# --------------------------------------------------------------------------------------------------------------- recall
def recall(run: Run) -> pd.DataFrame:
    """Measure how often the mask holds a planted pair, over the angle between its query and its key.

    Returns
    -------
    DataFrame
        rule, angle (over pi), measured (share of all heads), law (as computed), heads.
    """
    heads = run.pick(smoke=1500, standard=15000, full=60000)
    cells = [(rule, angle, heads) for rule in LAWS for angle in (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)]
    return pd.DataFrame(run.map(_recall, cells), columns=["rule", "angle", "measured", "law", "heads"])


def _recall(run: Run, rule: str, angle: float, heads: int) -> tuple[Any, ...]:
    """A row of `recall`."""
    sizes: dict[str, Any] = {"bits": BITS, "blocks": BLOCKS, "block_size": BLOCK_SIZE, "queries": BLOCK_SIZE}
    rng = run.rng("recall", rule, angle)
    share = held(rng, run.xp, angle=angle, heads=heads, block_by=rule, **sizes).mean()
    return rule, angle, float(share), LAWS[rule](angle, BITS, BLOCKS), heads


# ---------------------------------------------------------------------------------------------------------------- error
@dataclass(frozen=True)
class _Noting(Problem):
    """Notes which entries lie in a square of the recursion, and which of these in a block of the mask."""

    squares: list[np.ndarray] = field(default_factory=list)
    blocks: list[np.ndarray] = field(default_factory=list)

    def estimate(self, blocks: SortedBlocks, sinks: np.ndarray, deliver: Deliver) -> None:
        n = self.q.shape[1]
        square, inside = np.zeros((n, n), bool), np.zeros((n, n), bool)
        for q_rows, k_rows in zip(asnumpy(blocks.q_order), asnumpy(blocks.k_order), strict=True):
            square[np.ix_(q_rows, k_rows)] = True
        for group in blocks.groups:
            for q_rows, k_rows in zip(asnumpy(group.q_rows), asnumpy(group.k_rows), strict=True):
                inside[np.ix_(q_rows[q_rows >= 0], k_rows)] = True
        self.squares.append(square)
        self.blocks.append(inside)
        super().estimate(blocks, sinks, deliver)


def errors(run: Run) -> pd.DataFrame:
    """Measure the causal output's error by either rule over b = m, beside a uniform sample of as many keys.

    Returns
    -------
    DataFrame
        input, n, method ("rank", "own-hash", "uniform", "zero", "exact"), b, replicate, error (Frobenius norm of the
        error over that of the exact output), mass (share of the squares' softmax weights that lies in the blocks; nan
        but for the rules). The replicates of both rules have the same inputs and the same draws.
    """
    n, replicates = run.pick(smoke=(1024, 4), standard=(2048, 20), full=(4096, 40))
    n, replicates = run.given("n", n), run.given("replicates", replicates)
    cells = [(n, what, replicate) for what in INPUTS for replicate in range(replicates)]
    return run.table(_errors, cells, ["input", "n", "method", "b", "replicate", "error", "mass"])


def _errors(run: Run, n: int, what: Input, replicate: int) -> list[tuple[Any, ...]]:
    """The rows of one input."""
    rows: list[tuple[Any, ...]] = []
    x = what.draw(n, run.given("d", 64), run.rng("ahead", what.label, replicate))
    size = len(x.q)
    leaf = size // 16
    logits = x.scale * (x.q.astype(np.float64) @ x.k.T.astype(np.float64))
    p = np.exp(np.where(np.tri(size, dtype=bool), logits, -np.inf) - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    exact = p @ x.v
    norm = np.linalg.norm(exact)
    single = attention(x.q, x.k, x.v, causal=True, scale=x.scale)
    q, k, v = (to_device(a[None], run.xp) for a in (x.q, x.k, x.v))
    for b in (b for b in (8, 16, 32, 64) if b <= leaf):
        seed = int(run.rng("draws", what.label, replicate, b).integers(2**31))
        uniform = uniform_causal(logits, x.v, columns_touched(size, leaf, 2 * b), np.random.default_rng(seed))
        outs = {"uniform": (uniform, np.nan), "zero": (0 * exact, np.nan), "exact": (single, np.nan)}
        for rule in RULES:
            sizes: dict[str, Any] = {"block_size": b, "sample_size": b, "min_exact": leaf, "block_by": rule}
            noting = _Noting(run.xp, q, k, v, scale=x.scale, shift=True, rng=np.random.default_rng(seed), **sizes)
            out = asnumpy(noting.causal(0)[0])[0]
            mass = p[np.any(noting.blocks, axis=0)].sum() / p[np.any(noting.squares, axis=0)].sum()
            outs[rule] = (out, float(mass))
        for name, (out, mass) in outs.items():
            rows.append((what.label, size, name, b, replicate, float(np.linalg.norm(out - exact) / norm), mass))
    return rows


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """What `errors` says of "own-hash" beside "rank", by input.

    Returns
    -------
    DataFrame
        By input: mass_rank and mass_own (share of the squares' weights in the blocks, at the largest b), ratio (of the
        errors, own over rank, geometric mean over b and replicates), low and high (its 99 percent limits, over the
        replicates), keys (how many keys per query, relative to "rank" with half of the largest b, give that error).
    """
    table = {}
    for name, part in rows.groupby("input", sort=False):
        wide = part.pivot(index="replicate", columns=["method", "b"], values="error")
        logs = np.log(wide["own-hash"] / wide["rank"]).mean(axis=1).to_numpy()
        mean, reach = mean_and_reach(logs)
        b = np.array(sorted(part["b"].unique()))
        own, rank = (np.log(wide[rule].to_numpy()).mean(axis=0) for rule in ("own-hash", "rank"))
        there = len(b) - 2
        keys = np.exp(np.interp(-rank[there], -own, np.log(b)) - np.log(b[there]))  # errors fall as b grows
        mass = part[part["b"] == b[-1]].groupby("method")["mass"].mean()
        limits = (np.exp(mean), np.exp(mean - reach), np.exp(mean + reach))
        table[name] = (mass["rank"], mass["own-hash"], *limits, keys)
    return pd.DataFrame.from_dict(
        table, orient="index", columns=["mass_rank", "mass_own", "ratio", "low", "high", "keys"]
    )


# ----------------------------------------------------------------------------------------------------- perplexity, time
def perplexity(run: Run) -> pd.DataFrame:
    """Measure what a decoder's log-perplexity grows by when the last half of its layers attends approximately.

    Returns
    -------
    DataFrame
        model, n, b (= m; leaves of 2 b), passage, exact_keys, rule, ratio (of log-perplexities, over exact attention).
    """
    opened = run.open_model()
    layers = opened.decoder.config.layers
    n, count = (1024, 1) if opened.large else run.pick(smoke=(1024, 4), standard=(2048, 16), full=(8192, 16))
    b, last = n // 16, range(layers // 2, layers)
    rows = []
    for passage in range(count):
        text = Passage(opened.decoder, opened.passage(run.rng("passage", passage), n), [last.start, layers])
        exact = text.read({}).nats
        for exact_keys in (0, 1):
            for rule in RULES:
                rng = run.rng("perplexity", passage, exact_keys)
                sizes: dict[str, Any] = {"block_size": b, "sample_size": b, "min_exact": 2 * b, "block_by": rule}
                call = partial(hyper_attention, causal=True, exact_keys=exact_keys, rng=rng, **sizes)
                ratio = text.read(dict.fromkeys(last, call)).nats / exact
                rows.append((opened.name, n, b, passage, exact_keys, rule, ratio))
    return pd.DataFrame(rows, columns=["model", "n", "b", "passage", "exact_keys", "rule", "ratio"])


@quiet()
def seconds(run: Run) -> pd.DataFrame:
    """Time both rules in turn (d = 64, b = m = 256; one head in float32, on a GPU 16 heads in float16).

    Returns
    -------
    DataFrame
        n, replicate, rank, own-hash (seconds).
    """
    heads, dtype = (1, np.float32) if run.xp is np else (16, np.float16)
    lengths = run.given(
        "lengths", run.pick(smoke=(8192, 32768), standard=(8192, 32768, 131072), full=(8192, 32768, 131072, 524288))
    )
    rows = []
    for n in lengths:
        rng = run.rng("time", n)
        drawn = (rng.standard_normal((heads, n, 64), dtype=np.float32).astype(dtype) for _ in range(3))
        arrays = [to_device(x, run.xp) for x in drawn]
        causal = partial(hyper_attention, *arrays, causal=True, rng=0)
        calls = {rule: partial(causal, **{"block_by": rule}) for rule in RULES}
        for call in calls.values():  # the warm-up
            call()
        for replicate in range(run.pick(smoke=5, standard=15, full=25)):
            rows.append((n, replicate, *(timed(run.xp, call)[1] for call in calls.values())))
    return pd.DataFrame(rows, columns=["n", "replicate", *RULES])


def slower(rows: pd.DataFrame) -> pd.DataFrame:
    """The seconds of "own-hash" over those of "rank" from `seconds`: n, ratio (median over the pairs), low, high (its
    quartiles)."""
    ratios = (rows["own-hash"] / rows["rank"]).groupby(rows["n"]).quantile(np.array([0.5, 0.25, 0.75])).unstack()
    return ratios.set_axis(["ratio", "low", "high"], axis=1)


# -------------------------------------------------------------------------------------------------------------- figures
@paper_style()
def draw_errors(rows: pd.DataFrame) -> Figure:
    """A panel per input of `errors`: error over b = m."""
    named = rows.assign(method=rows["method"].replace(RULES))
    looks = {name: method(name) for name in (*RULES.values(), "uniform", "zero", "exact")}
    scales: dict[str, Any] = {"exact": "exact", "logx": True, "logy": True, "bars": True}
    sampled = named.loc[named["method"] != "exact", "error"]
    labels: dict[str, Any] = {"xlabel": "keys per block, and sampled keys, $b = m$", "ylabel": "relative error"}
    limits: dict[str, Any] = {"ylim": (sampled[sampled > 0].min() / 1.5, 4)}
    return facets(named, x="b", y="error", hue="method", facet="input", looks=looks, **scales, **limits, **labels)


@paper_style()
def draw_recall(rows: pd.DataFrame) -> Figure:
    """Share of heads that hold the planted pair, over its angle: measured (points) and computed (dashed)."""
    fig, (ax,) = grid(1, 1, height=2.4, width=4.2)
    for rule, part in rows.groupby("rule", sort=False):
        ax.plot(part["angle"], part["measured"], **method(RULES[str(rule)], linestyle=""))
        theory_line(ax, part["angle"], part["law"], "computed" if rule == "rank" else "_")
    theory_line(ax, rows["angle"], 1 / BLOCKS, "a random block", linestyle=":")
    ax.set(ylim=(0, 1))
    finish(fig, xlabel=r"angle between query and key, $\theta/\pi$", ylabel="share of pairs in one block")
    return fig
