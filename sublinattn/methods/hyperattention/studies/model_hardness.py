"""Hardness of a trained decoder's heads over n: alpha, kappa, stable rank, attention sinks [HA24, section 2].

A causal softmax matrix P has (1, 0, ...) as its first row, so its alpha is at least n whatever the head, and with the
first c keys exact it still is about `n/(c + 1/2)` for the most even attention there is. What the causal algorithm
(Algorithm 4) samples in are blocks below the diagonal: the theorem's alpha, kappa and stable rank are those of the
largest one, the later half of the queries on the earlier half of the keys. alpha is measured of both.

A single query that puts the share p of its attention on one key makes alpha at least `n_k p^2`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ....core.backends import Array, asnumpy
from ....core.exact import attention
from ....core.softmax_matrix import SoftmaxMatrix
from ....lab.models import Model
from ....lab.run import Run
from ....lab.statistics import growth_exponents
from ....lm.attend import per_query_head
from ...caches.sink import SINKS
from ..hardness import hardness

ALPHAS = ("alpha", "alpha_rest", "block", "block_rest")
QUANTITIES = (*ALPHAS, "kappa", "srank", "mass")


def over_n(run: Run, *, block_size: int) -> pd.DataFrame:
    """Hardness of every layer and head on passages of text, each read to several lengths.

    Returns
    -------
    DataFrame
        layer, head, replicate (the passage), n, trained (the decoder's context, beyond which YaRN stretches it),
        alpha and alpha_rest (causal P; all keys, and all but the first 4), block and block_rest (alpha of the largest
        unmasked block, likewise), kappa (the first 4 keys exact) and srank of that block, query_norm (the largest),
        mass (share of the attention that the later half of the queries gives to the first 4 keys), uniform (that
        share if they attended evenly).
    """
    opened = run.open_model()
    lengths, replicates = run.pick(
        smoke=((128, 256, 512, 1024), 4),
        standard=((128, 256, 512, 1024, 2048), 10),
        full=((256, 512, 1024, 2048, 4096, 8192, 16384), 10),
    )
    parts = []
    for replicate in range(replicates):
        rng = run.rng("model hardness", replicate)
        tokens = opened.passage(rng, lengths[-1])
        for q, k in _prefixes(opened, tokens, lengths):
            table = pd.DataFrame(_measure(opened.decoder.xp, q, k, block_size, rng))
            places = pd.DataFrame(list(np.ndindex(*q.shape[:2])), columns=["layer", "head"])
            about = {"replicate": replicate, "n": q.shape[2], "trained": opened.decoder.trained}
            parts.append(places.assign(**about).join(table))
    return pd.concat(parts, ignore_index=True)


def _prefixes(opened: Model, tokens: np.ndarray, lengths: Sequence[int]) -> Iterator[tuple[Array, Array]]:
    """Queries and keys, a key head for every query head, of the first n tokens for each length.

    No token sees a later one: within the trained context one run serves all lengths.
    """
    within = [n for n in lengths if n <= opened.decoder.trained]
    whole = opened.qkv(tokens[: within[-1]]) if within else None
    for n in lengths:
        q, k, _ = whole if whole and n in within else opened.qkv(tokens[:n])
        yield q[:, :, :n], per_query_head(opened.decoder.xp, q, k[:, :, :n])


def _measure(xp: Any, q: Array, k: Array, block_size: int, rng: np.random.Generator) -> dict[str, Any]:
    """The measured columns of `over_n`, one entry per head."""
    n, d = q.shape[2:]
    q, k = (xp.ascontiguousarray(x).reshape(-1, n, d) for x in (q, k))
    squares = n * SoftmaxMatrix(xp, q, k, scale=d**-0.5, causal=True).column_squares()
    block = hardness(q[:, n // 2 :], k[:, : n // 2], block_size=block_size, exact_keys=SINKS, rng=rng)
    first = xp.zeros((*k.shape[:2], 1), k.dtype)
    first[:, :SINKS] = 1
    found = {
        "alpha": squares.max(axis=1),
        "alpha_rest": squares[:, SINKS:].max(axis=1),
        "block": block.alpha,
        "block_rest": block.alpha_residual,
        "kappa": block.kappa,
        "srank": block.srank,
        "query_norm": xp.sqrt((q * q).sum(axis=2).max(axis=1)),
        "mass": attention(q, k, first, causal=True)[:, n // 2 :].mean(axis=(1, 2)),
    }
    uniform = SINKS / np.arange(n // 2 + 1, n + 1)
    return {**{name: asnumpy(x).astype(np.float64) for name, x in found.items()}, "uniform": uniform.mean()}


def within(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of lengths that the decoder was trained for; all rows where fewer than two lengths are such."""
    fitting = rows[rows["n"] <= rows["trained"]]
    return fitting if fitting["n"].nunique() > 1 else rows


def by_head(rows: pd.DataFrame) -> pd.DataFrame:
    """At the largest n within the trained context: geometric means over passages, by layer and head."""
    rows = within(rows)
    rows = rows[rows["n"] == rows["n"].max()]
    logs = rows.set_index(["layer", "head"])[[*QUANTITIES, "query_norm"]].apply(np.log)
    return logs.groupby(["layer", "head"]).mean().apply(np.exp).reset_index()


def exponents(rows: pd.DataFrame) -> pd.DataFrame:
    """Slopes of the logarithm of each quantity on log n within the trained context; rows where it is not positive and
    finite are left out (kappa may overflow).

    Returns
    -------
    DataFrame
        Index: the quantity. exponent (of the geometric mean over all heads; mean over passages), lower, upper (its 99
        percent limits, Student's t over passages); 10 %, 90 % (of the heads' own exponents), sublinear (heads whose
        own 99 percent limits are below 1), heads.
    """
    found = {}
    for quantity in QUANTITIES:
        given = within(rows)
        given = given[np.isfinite(given[quantity]) & (given[quantity] > 0)]
        mean = growth_exponents(given.assign(input=quantity), quantity).iloc[0]
        heads = head_exponents(given, quantity)
        found[quantity] = {
            **mean[["exponent", "lower", "upper"]],
            **dict(zip(("10 %", "90 %"), heads["exponent"].quantile([0.1, 0.9]), strict=True)),
            "sublinear": int((heads["upper"] < 1).sum()),
            "heads": len(heads),
        }
    return pd.DataFrame.from_dict(found, orient="index")


def head_exponents(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Exponent of a quantity within the trained context for every layer and head, with 99 percent limits over passages:
    index layer, head."""
    found = {
        place: growth_exponents(head.assign(input=quantity), quantity).iloc[0]
        for place, head in within(rows).groupby(["layer", "head"])
    }
    fits = pd.DataFrame.from_dict(found, orient="index").rename_axis(["layer", "head"])
    return fits[["exponent", "lower", "upper"]]
