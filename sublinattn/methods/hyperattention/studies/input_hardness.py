"""Hardness of the inputs: alpha and kappa over n, column norms, head by head [HA24, section 2]."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ....core.backends import asnumpy, to_device
from ....lab.run import Run
from ....lab.workloads import real
from ....lab.workloads.inputs import ALPHA, CLUSTERED, GAUSSIAN, HEAVY_VALUES, KAPPA, PLANTED, REAL, SINKS, Input
from ..hardness import Hardness, hardness

D = 64
SYNTHETIC = (GAUSSIAN, CLUSTERED, PLANTED, SINKS, HEAVY_VALUES, ALPHA, KAPPA)
SINK_KEYS = 4
"""First keys moved into the exact part of the synthetic inputs; of the real one it is [CLS] alone."""


def _stack(xp: Any, n: int) -> tuple[Any, Any, float]:
    """First `n` tokens of all real heads, (layer * head, n, d) float32."""
    every = real()
    q, k = (np.ascontiguousarray(a[..., :n, :], np.float32).reshape(-1, n, a.shape[-1]) for a in (every.q, every.k))
    return to_device(q, xp), to_device(k, xp), every.scale


def _measure(xp: Any, what: Input, n: int, rng: np.random.Generator, block_size: int, exact_keys: int) -> Hardness:
    if what is REAL:
        q, k, scale = _stack(xp, n)
    else:
        x = what.draw(n, D, rng, xp)
        q, k, scale = x.q[None], x.k[None], x.scale
    return hardness(q, k, scale=scale, block_size=block_size, exact_keys=exact_keys, rng=rng)


def over_n(run: Run, *, block_size: int) -> pd.DataFrame:
    """alpha and kappa of every input over n, with the first keys sampled like the others and with them in the exact
    part.

    Returns
    -------
    DataFrame
        input, source, n, replicate (fresh input; for "real" the head's number), exact_keys, alpha, kappa, srank.
    """
    xp = run.xp
    lengths = run.pick(
        smoke=(128, 256, 512, 1024),
        standard=tuple(2**i for i in range(8, 14)),
        full=tuple(2**i for i in range(9, 16)),
    )
    replicates = run.pick(smoke=5, standard=10, full=10)
    rows = []
    for what in (*SYNTHETIC, REAL):
        for n in (128, 256, 512) if what is REAL else lengths:
            for exact_keys in (0, 1 if what is REAL else SINK_KEYS):
                for replicate in range(1 if what is REAL else replicates):
                    rng = run.rng("over n", what.label, n, replicate)
                    h = _measure(xp, what, n, rng, block_size, exact_keys)
                    values = zip(
                        *(np.atleast_1d(asnumpy(x)) for x in (h.alpha_residual, h.kappa, h.srank)), strict=True
                    )
                    rows += [(what.label, what.source, n, replicate + i, exact_keys, *x) for i, x in enumerate(values)]
    return pd.DataFrame(rows, columns=["input", "source", "n", "replicate", "exact_keys", "alpha", "kappa", "srank"])


def column_profile(run: Run, *, points: int = 40) -> pd.DataFrame:
    """Squared column norms of P, times n, from the heaviest key down; their maximum is alpha.

    Returns
    -------
    DataFrame
        input, source, n, replicate (or head), rank (about `points` of them, log-spaced), value.
    """
    xp = run.xp
    n, replicates = run.pick(smoke=(512, 3), standard=(4096, 5), full=(16384, 5))
    rows = []
    for what in (*SYNTHETIC[:-1], REAL):
        for replicate in range(1 if what is REAL else replicates):
            rng = run.rng("profile", what.label, replicate)
            norms = asnumpy(_measure(xp, what, 512 if what is REAL else n, rng, 256, 0).column_norms)
            falling = -np.sort(-(norms**2) * norms.shape[1], axis=1)
            ranks = np.unique(np.geomspace(1, norms.shape[1], points).round().astype(int))
            rows += [
                (what.label, what.source, norms.shape[1], replicate + i, int(rank), float(line[rank - 1]))
                for i, line in enumerate(falling)
                for rank in ranks
            ]
    return pd.DataFrame(rows, columns=["input", "source", "n", "replicate", "rank", "value"])


def head_maps(run: Run, *, block_size: int) -> pd.DataFrame:
    """Hardness of every layer and head of the real input at its full length.

    Returns
    -------
    DataFrame
        layer, head, alpha, alpha_no_cls ([CLS] in the exact part), alpha_no_special ([SEP], the last token, left out as
        well), kappa, srank,
        heaviest (the key whose column gives alpha).
    """
    xp = run.xp
    every = real()
    q, k, scale = _stack(xp, every.q.shape[-2])
    h = hardness(q, k, scale=scale, block_size=block_size, rng=run.rng("heads"))
    squares = len(k[0]) * asnumpy(h.column_norms) ** 2
    layers, heads = every.q.shape[:2]
    return pd.DataFrame(
        {
            "layer": np.repeat(np.arange(layers), heads),
            "head": np.tile(np.arange(heads), layers),
            "alpha": asnumpy(h.alpha),
            "alpha_no_cls": squares[:, 1:].max(axis=1),
            "alpha_no_special": squares[:, 1:-1].max(axis=1),
            "kappa": asnumpy(h.kappa),
            "srank": asnumpy(h.srank),
            "heaviest": squares.argmax(axis=1),
        }
    )


def exponents(rows: pd.DataFrame) -> pd.DataFrame:
    """By input and `exact_keys`: medians at the largest n, and least-squares slopes of log alpha and kappa on log n."""
    found = []
    for (name, exact_keys), group in rows.groupby(["input", "exact_keys"], sort=False):
        largest = group["n"].max()
        medians = group.loc[group["n"] == largest, ["alpha", "kappa"]].median()
        slopes = (float(np.polyfit(np.log(group["n"]), np.log(group[x]), 1)[0]) for x in ("alpha", "kappa"))
        found.append((name, exact_keys, largest, *medians, *slopes))
    columns = ["largest n", "median alpha", "median kappa", "exponent of alpha", "exponent of kappa"]
    return pd.DataFrame(found, columns=["input", "exact_keys", *columns]).set_index(["input", "exact_keys"]).round(3)
