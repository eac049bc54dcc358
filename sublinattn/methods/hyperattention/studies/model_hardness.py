"""Notebook 17: hardness of a trained decoder's heads over n: alpha, heavy keys, kappa, norms [HA24, section 2].

A causal softmax matrix P has (1, 0, ...) as its first row, so its alpha is at least n whatever the head; with the first
c keys exact it still is about `n/(c + 1/2)` for the most even attention there is. What the causal algorithm (Algorithm
4) samples in are blocks below the diagonal: the theorem's alpha, kappa and stable rank are those of the largest one,
the later half of the queries on the earlier half of the keys. alpha is measured of both; which keys are heavy, and what
share of the attention they have, is said of the block.

A single query that puts the share p of its attention on one key makes alpha at least `n_k p^2`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ....core.backends import Array, asnumpy
from ....core.softmax_matrix import SoftmaxMatrix
from ....lab.models import Model
from ....lab.progress import tracked
from ....lab.run import Run
from ....lab.statistics import mean_and_reach
from ....lm.attend import per_query_head
from ...caches.sink import SINKS
from ..hardness import hardness

EXACT = (1, 4, 16, 64)
"""Numbers of keys without which alpha is measured: the first ones, or the heaviest."""
MATRICES = ("block", "causal")
WHICH = ("first", "heaviest")
ALPHAS = tuple(
    name for matrix in MATRICES for name in (matrix, *(f"{matrix}_{which}{c}" for which in WHICH for c in EXACT))
)
QUANTITIES = (*ALPHAS, "kappa", "srank", "query_norm", "entry")
SHARED = ("block", f"block_first{SINKS}", f"block_heaviest{SINKS}")
"""Of the block, what panels side by side show."""
SINK = 0.25
"""Share of the attention with which a key counts as a sink."""
HELD = 0.9
"""Of the sum of the squared column norms, what the heaviest columns that are counted have."""
SHORTEST = 128
"""Tokens, of which the block has half as many keys: with fewer, little is left without a few of them."""
PASSES = 5.0
"""Passes over n x n entries that all lengths take together: half of one for each sum over P, a quarter for the block's,
where Lanczos' method takes about eight; and a third of all that for the shorter lengths."""


# ------------------------------------------------------------------------------------------------------------ measuring
def sizes(run: Run, opened: Model) -> tuple[tuple[int, ...], int]:
    """Lengths of a passage, doubling, and how many passages.

    The longest is the trained context, 8192 tokens (1024 at smoke) at most, and beyond it by YaRN at full effort. Of a
    large model fewer passages are read, four at least, and after that shorter ones, so that smoke takes half a minute
    and standard a quarter of an hour on two cores. Parameters of the run: n (the lengths), passages.
    """
    longest, passages, budget = run.pick(smoke=(1024, 4, 4e11), standard=(8192, 10, 4.9e13), full=(8192, 10, 1e15))
    steps, beyond = run.pick(smoke=(3, 0), standard=(4, 0), full=(4, 2))
    n, passages = opened.affordable(longest, passages, PASSES, budget)
    doubling = (int(n * 2.0**i) for i in range(-steps, beyond + 1))
    lengths = run.given("n", tuple(length for length in doubling if length >= SHORTEST))
    return tuple(sorted(lengths)), run.given("passages", passages)


def over_n(run: Run, *, block_size: int) -> pd.DataFrame:
    """Hardness of every layer and head on passages of text, each read to several lengths.

    Returns
    -------
    DataFrame
        layer, head, replicate (the passage), n, trained (the decoder's context, beyond which YaRN stretches it); alpha
        of the largest unmasked block and of the causal P, with all keys ("block", "causal"), without the first c
        ("block_first4") and without the c heaviest ("block_heaviest4"), nan where no key is left; kappa (the first 4
        keys exact) and srank of the block; query_norm and entry (the longest query, and B, the largest entry of q, k
        and v); of the block, position (of the heaviest key), mass (its share of the attention), mass_first (that of the
        first 4 keys) and columns (how many hold 90 percent of the sum of squared column norms).
    """
    opened = run.open_model()
    lengths, replicates = sizes(run, opened)
    cost = replicates * opened.operations(lengths[-1], PASSES) / 6e10
    what = f"{replicates} passages of {lengths[-1]} tokens, about {max(cost / 60, 0.1):.2g} min on two cores"
    parts: list[pd.DataFrame] = []
    for replicate in tracked(range(replicates), what):
        rng = run.rng("model hardness", replicate)
        tokens = opened.passage(rng, lengths[-1])
        # No token sees a later one: within the trained context one run of the decoder serves all lengths.
        within = [n for n in lengths if n <= opened.decoder.trained]
        for some in ([within] if within else []) + [[n] for n in lengths if n not in within]:
            parts += [one.assign(replicate=replicate) for one in _run_once(opened, tokens, some, block_size, rng)]
    return pd.concat(parts, ignore_index=True).assign(trained=opened.decoder.trained)


def _run_once(
    opened: Model, tokens: np.ndarray, lengths: Sequence[int], block_size: int, rng: np.random.Generator
) -> list[pd.DataFrame]:
    """A table per layer and length; queries, keys and values of one layer are in memory at a time."""
    xp, parts = opened.decoder.xp, []

    def visit(layer: int, q: Array, *kv: Array) -> None:
        k, v = (per_query_head(xp, q[None], x[None])[0] for x in kv)
        for n in lengths:
            table = measure(xp, q[:, :n], k[:, :n], v[:, :n], block_size, rng)
            parts.append(pd.DataFrame({"layer": layer, "head": np.arange(len(q)), "n": n, **table}))

    opened.each_layer(tokens[: lengths[-1]], visit)
    return parts


def measure(xp: Any, q: Array, k: Array, v: Array, block_size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The measured columns of `over_n`, one entry per head of q, k, v (heads, n, d)."""
    n, d = q.shape[1:]
    q, k = (xp.ascontiguousarray(x) for x in (q, k))
    causal = SoftmaxMatrix(xp, q, k, scale=d**-0.5, causal=True).column_squares()
    # A21, the largest block that Algorithm 4 samples in: queries n/2.. on keys ..n/2.
    block = hardness(q[:, n // 2 :], k[:, : n // 2], block_size=block_size, exact_keys=SINKS, rng=rng)
    heaviest = block.heaviest(1)
    measured = {
        "kappa": block.kappa,
        "srank": block.srank,
        "query_norm": xp.sqrt((q * q).sum(axis=2).max(axis=1)),
        "entry": xp.stack([abs(x).max(axis=(1, 2)) for x in (q, k, v)]).max(axis=0),
        "position": heaviest.positions[:, 0],
        "mass": heaviest.masses[:, 0],
        "mass_first": block.column_masses[:, :SINKS].sum(axis=1),
    }
    own = {name: asnumpy(x) for name, x in measured.items()}
    for matrix, squares in (("block", asnumpy(block.column_norms) ** 2), ("causal", asnumpy(causal))):
        falling = -np.sort(-squares, axis=1)
        # [HA24, section 2]: alpha = n max_j ||P e_j||^2, over the keys that are left
        alphas = squares.shape[1] * squares, squares.shape[1] * falling
        own[matrix] = alphas[0].max(axis=1)
        for c in EXACT:
            left = [x[:, c:].max(axis=1) if c < x.shape[1] else np.full(len(x), np.nan) for x in alphas]
            own |= {f"{matrix}_{which}{c}": x for which, x in zip(WHICH, left, strict=True)}
        if matrix == "block":
            shares = falling.cumsum(axis=1) / falling.sum(axis=1, keepdims=True)
            own["columns"] = (shares < HELD).sum(axis=1) + 1
    return own


# ------------------------------------------------------------------------------------------------------------ summaries
def within(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of lengths that the decoder was trained for; all rows where fewer than two lengths are such."""
    fitting = rows[rows["n"] <= rows["trained"]]
    return fitting if fitting["n"].nunique() > 1 else rows


def at_end(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the largest n within the trained context."""
    rows = within(rows)
    return rows[rows["n"] == rows["n"].max()]


def by_head(rows: pd.DataFrame) -> pd.DataFrame:
    """At the largest n within the trained context: geometric means over passages, by layer and head.

    number is that of the heaviest key, counted from 1.
    """
    rows = at_end(rows).assign(number=lambda x: x["position"] + 1)
    columns = [*QUANTITIES, "mass", "mass_first", "columns", "number"]
    logs = rows.set_index(["layer", "head"])[columns].apply(np.log)
    return logs.groupby(["layer", "head"]).mean().apply(np.exp).reset_index()


def heavy_keys(rows: pd.DataFrame) -> pd.DataFrame:
    """Which keys are heavy, by layer, at the largest n within the trained context.

    Returns
    -------
    DataFrame
        Index: the layer. first (of its heads and passages, the share whose heaviest key is the first one), else (the
        median position of the others' heaviest keys, from 0; nan where there are none), mass, least mass, largest mass
        (the heaviest key's share of the attention, over heads and passages), first 4 (median share of the first 4
        keys), columns (median number that holds 90 percent of the sum of squared column norms).
    """
    rows = at_end(rows)
    layers = rows.groupby("layer")
    table = {
        "first": rows["position"].eq(0).groupby(rows["layer"]).mean(),
        "else": rows["position"].where(rows["position"] > 0).groupby(rows["layer"]).median(),
        "mass": layers["mass"].median(),
        "least mass": layers["mass"].min(),
        "largest mass": layers["mass"].max(),
        f"first {SINKS}": layers["mass_first"].median(),
        "columns": layers["columns"].median(),
    }
    return pd.DataFrame(table)


def slopes(rows: pd.DataFrame, quantity: str) -> pd.Series:
    """Least-squares slope of log quantity on log n within the trained context, by layer, head and replicate.

    Values that are not positive and finite are left out (kappa may overflow).
    """
    rows = within(rows)
    rows = rows[np.isfinite(rows[quantity]) & (rows[quantity] > 0)]
    x, y = (rows[name].apply(np.log) for name in ("n", quantity))
    terms = pd.DataFrame({"x": x, "y": y, "xy": x * y, "xx": x * x})
    groups = terms.groupby([rows["layer"], rows["head"], rows["replicate"]])
    mean = groups.mean()[groups.size() > 1]
    return (mean["xy"] - mean["x"] * mean["y"]) / (mean["xx"] - mean["x"] ** 2)


def exponents(rows: pd.DataFrame) -> pd.DataFrame:
    """Exponents of n of each quantity within the trained context.

    Returns
    -------
    DataFrame
        Index: the quantity. exponent (mean over heads, that of their geometric mean; mean over passages), lower, upper
        (its 99 percent limits, Student's t over passages); 10 %, 90 % (of the heads' own exponents), sublinear (heads
        whose own 99 percent limits are below 1), heads.
    """
    fits = {}
    for quantity in QUANTITIES:
        found = slopes(rows, quantity)
        middle, reach = mean_and_reach(found.groupby("replicate").mean().to_numpy())
        heads = head_exponents(rows, quantity)
        fits[quantity] = {
            **{"exponent": middle, "lower": middle - reach, "upper": middle + reach},
            **dict(zip(("10 %", "90 %"), heads["exponent"].quantile([0.1, 0.9]), strict=True)),
            "sublinear": int((heads["upper"] < 1).sum()),
            "heads": len(heads),
        }
    return pd.DataFrame.from_dict(fits, orient="index")


def head_exponents(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Exponent of a quantity within the trained context for each head, with 99 percent limits over passages.

    Returns
    -------
    DataFrame
        Index: layer, head. exponent, lower, upper.
    """
    fits = {at: mean_and_reach(own.to_numpy()) for at, own in slopes(rows, quantity).groupby(["layer", "head"])}
    index = pd.MultiIndex.from_tuples(list(fits), names=["layer", "head"])
    limits = [(x, x - reach, x + reach) for x, reach in fits.values()]
    return pd.DataFrame(limits, index, ["exponent", "lower", "upper"])


# ------------------------------------------------------------------------------------------------------------- findings
def kind(fit: Mapping[Any, Any]) -> str:
    """Whether an exponent's limits are below 1."""
    return "sublinear" if fit["upper"] < 1 else "not sublinear" if fit["lower"] > 1 else "undecided"


def sinks(rows: pd.DataFrame) -> pd.DataFrame:
    """By layer and head, at the largest n within the trained context, means over passages.

    Returns
    -------
    DataFrame
        Index: layer, head. mass (of the heaviest key), first (how often that is the first key), sink (whether the mass
        is a quarter or more).
    """
    rows = at_end(rows)
    means = rows.assign(first=rows["position"].eq(0)).groupby(["layer", "head"])[["mass", "first"]].mean()
    return means.assign(sink=means["mass"] >= SINK)


def findings(rows: pd.DataFrame) -> str:
    """What the rows of `over_n` say, in three sentences of Markdown: growth, heavy keys, what the theorem needs."""
    places, n, passages = sinks(rows), int(at_end(rows)["n"].iloc[0]), rows["replicate"].nunique()
    heads, masses, have = len(places), places["mass"], places["sink"]
    grown = {}
    for name, fit in exponents(rows).loc[list(SHARED)].to_dict("index").items():
        grown[name] = f"$n^{{{fit['exponent']:.2f}}}$ [{fit['lower']:.2f}, {fit['upper']:.2f}] ({kind(fit)})"
    growth = (
        f"From n = {within(rows)['n'].min()} to {n}, alpha of the largest block grows like {grown['block']}, with the "
        f"first {SINKS} keys exact like {grown[SHARED[1]]}, with the {SINKS} heaviest exact like {grown[SHARED[2]]}: "
        f"geometric mean of {heads} heads, 99 % limits over {passages} passages."
    )
    if have.any():
        heavy = (
            f"{have.sum()} of {heads} heads have a sink, one key with {SINK:.0%} or more of the attention (median of "
            f"these heads {masses[have].median():.0%}, largest {masses.max():.0%}); it is the first key in "
            f"{places['first'][have].mean():.0%} of these heads and passages."
        )
    else:
        heavy = (
            f"No head has a sink: a head's heaviest key gets {masses.min():.2%} to {masses.max():.2%} of the attention "
            f"({2 / n:.2%} if attention were even), and it is the first key in {places['first'].mean():.0%} of the "
            "heads and passages."
        )
    table = by_head(rows)
    middle, low, high = (table[[*QUANTITIES, "columns"]].quantile(share) for share in (0.5, 0.0, 1.0))
    alphas = [f"{middle[name]:.3g}" for name in SHARED]
    needs = (
        f"At n = {n} the median head has alpha {alphas[0]}, {alphas[1]} without the first {SINKS} keys, {alphas[2]} "
        f"without the {SINKS} heaviest, and {middle['columns']:.0f} of {n // 2} columns hold "
        f"{HELD:.0%} of the squared norms; its kappa is {middle['kappa']:.3g}, a head's longest query has norm "
        f"{low['query_norm']:.1f} to {high['query_norm']:.1f}, and B is {low['entry']:.1f} to {high['entry']:.1f}."
    )
    return "\n".join(f"* {sentence}" for sentence in (growth, heavy, needs))
