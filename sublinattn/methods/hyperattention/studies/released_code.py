"""The estimators of the authors' released code beside those of this package, at the same number of keys per query.

Source: `claims/released_code.py`, which says what is released and how its normaliser is biased. Notebook 04.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ....core.backends import asnumpy
from ....core.exact import attention
from ....lab.run import Run
from ....lab.workloads.inputs import CLUSTERED, GAUSSIAN_MEAN, REAL, Input
from ....plots.panels import facets
from ....plots.style import LOOKS, method, paper_style
from ...baselines.uniform import uniform_attention
from ..claims.algorithm1_mask import mask
from ..claims.released_code import Sums, first_keys, recursion, sampled_keys
from ..hyper import hyper_attention
from .causal_scaling import columns_touched, uniform_causal

BLOCKS = (16, 32, 64)
"""Keys per block, and sampled keys."""
LEAF = 2 * BLOCKS[-1]
"""Tokens at which the causal recursion ends."""
RELEASED: dict[str, Callable[..., Sums]] = {
    "sampled, masked": partial(sampled_keys, masked=True),
    "sampled, kernel": partial(sampled_keys, masked=False),
    "first keys": first_keys,
}
PARTS = {"no mask": False, "causal": True}


def errors(run: Run) -> pd.DataFrame:
    """Error of the output, and the normaliser over the exact one, of each method.

    All sort by this package's hash, in the paper's order, so that they differ in their estimators alone.

    Returns
    -------
    DataFrame
        input, source, n, mask, method, replicate, budget (keys per query and square), error (root mean square over the
        rows of `||out_i - (P V)_i||`, divided by the root mean square row norm of V), normaliser (median over the rows
        past the first leaf of the estimate over the exact one; missing where a method estimates none).
    """
    n, replicates = run.pick(smoke=(1024, 4), standard=(2048, 10), full=(4096, 10))
    n, replicates = run.given("n", n), run.given("replicates", replicates)
    cells = [(n, what, replicate) for what in (GAUSSIAN_MEAN, CLUSTERED, REAL) for replicate in range(replicates)]
    columns = ["input", "source", "n", "mask", "method", "replicate", "budget", "error", "normaliser"]
    return run.table(_errors, cells, columns)


def _errors(run: Run, n: int, what: Input, replicate: int) -> list[tuple[Any, ...]]:
    """The rows of one input."""
    rows: list[tuple[Any, ...]] = []
    rng = run.rng("released", what.label, replicate)
    x = what.draw(n, run.given("d", 64), rng)
    q, k, v = (asnumpy(a).astype(np.float64) for a in (x.q, x.k, x.v))
    unit = float(np.sqrt((v**2).sum(axis=1).mean()))
    for name, causal in PARTS.items():
        exact, lse = attention(q, k, v, causal=causal, scale=x.scale, return_lse=True)
        for b in BLOCKS:
            for label, (out, log_normaliser) in _answers(q, k, v, x.scale, causal, b, rng).items():
                error = np.sqrt(((out - exact) ** 2).sum(axis=1).mean()) / unit
                normaliser = np.nan if log_normaliser is None else np.median(np.exp(log_normaliser - lse)[LEAF:])
                rows.append((what.label, what.source, len(q), name, label, replicate, 2 * b, error, normaliser))
    return rows


def _answers(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, causal: bool, b: int, rng: np.random.Generator
) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Output and log of the normaliser of each method; None where it is no estimate."""
    n = len(q)
    logits = scale * (q @ k.T)
    common: dict[str, Any] = {"scale": scale, "rng": rng}
    if causal:
        uniform = uniform_causal(logits, v, columns_touched(n, LEAF, 2 * b), rng)
    else:
        uniform = uniform_attention(q, k, v, sample_size=2 * b, **common)
    sizes: dict[str, Any] = {"block_size": b, "sample_size": b, "min_exact": LEAF if causal else 0}
    answers: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
        "hyper practical": hyper_attention(q, k, v, causal=causal, return_lse=True, **sizes, **common),
        "uniform": (uniform, None),
        "zero": (np.zeros_like(v), None),
        "exact": (attention(*(a.astype(np.float32) for a in (q, k, v)), causal=causal, scale=scale), None),
    }
    top = logits.max()
    a = np.exp(logits - top)
    masks: dict[tuple[int, int], np.ndarray] = {}

    def square(estimate: Callable[..., Sums], queries: slice, keys: slice) -> Sums:
        where = (queries.start, keys.stop)
        if where not in masks:
            masks[where] = mask(rng, np, q[None, queries], k[None, keys], block_size=b)[0] > 0
        return estimate(a[queries, keys], v[keys], masks[where], b, rng)

    for label, estimate in RELEASED.items():
        below = partial(square, estimate)
        normaliser, product = recursion(a, v, LEAF, below) if causal else below(slice(0, n), slice(0, n))
        answers[label] = product / normaliser[:, None], np.log(normaliser) + top
    return answers


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Medians at the largest budget: error over that of this package, and the normaliser over the exact one."""
    last = rows[rows["budget"] == rows["budget"].max()]
    table = last.groupby(["mask", "input", "method"], sort=False)[["error", "normaliser"]].median()
    ours = table["error"].xs("hyper practical", level="method")
    return table.assign(relative=table["error"] / ours)


@paper_style()
def draw(rows: pd.DataFrame) -> Figure:
    """A column per input and a row per mask: the error of `errors` over the budget."""
    released = dict(zip(RELEASED, ("magenta", "green", "cyan"), strict=True))
    looks = {name: method(name) for name in ("hyper practical", "uniform", "zero", "exact")}
    looks |= {name: {**LOOKS[look], "label": f"released: {name}"} for name, look in released.items()}
    options: dict[str, Any] = {"hue": "method", "facet": "input", "row": "mask", "looks": looks, "exact": "exact"}
    labels = {name: f"error, {name}" for name in PARTS}
    return facets(rows, x="budget", y="error", xlabel="keys per query", ylabel=labels, logx=True, logy=True, **options)
