"""How many tokens each method stores, or reads per query, for an accuracy eps: the exponents of its critical size.

A method is a contender of `REGISTRY` (by the bytes of so many tokens) or of `BATCH` (by its budget of key columns); a
new one is a name in `METHODS`, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from ...core.backends import asnumpy
from ...theory.exponents import limits, slope, upper_half
from ...theory.search import critical_size
from ..run import Run
from ..workloads.instance import Instance
from .batch import BATCH
from .registry import REGISTRY, Stream, feed, row_bytes

METHODS = ("uniform", "subgen", "balancekv", "balancekv, pairs", "Thinformer", "self-normalised")
"""Sampling, SubGen's two samples, balancing by Algorithm 2 and by pairs, kernel halving of all keys at once, and SubGen
whose slots give both sums."""


def stream(n: int, rng: np.random.Generator, xp: Any) -> Stream:
    """A stream on which sampling needs `eps^-2` tokens and balance can do better: few directions, none of them heavy.

    Keys of length about 1/2 in 3 dimensions, queries of length about 1, scale 1, values 1 and -1 by coins.
    """
    q, k = rng.standard_normal((2, n, 3)) / np.sqrt(3)
    v = rng.choice([-1.0, 1.0], size=(n, 1))
    q, k, v = (a.astype(np.float32) for a in (q, k / 2, v))
    x = Instance(q, k, v, scale=1.0, source="synthetic")
    return Stream.of(x, rng, xp)


def error(method: str, size: int, given: Stream, rng: np.random.Generator) -> float:
    """Root mean squared error of the answers from `size` tokens, over the largest value; inf if it cannot do with them.

    A batch method reads the `size` key columns that its budget has for each query.
    """
    x = given.x
    if method in REGISTRY:
        nbytes = size * row_bytes(x)
        try:
            cache = REGISTRY[method].within(nbytes, x, rng)
        except ValueError:
            return np.inf
        out = feed(method, cache, given, nbytes).attend(given.late, scale=x.scale)
    else:
        out = BATCH[method].answer(given.late, x.k, x.v, budget=size, scale=x.scale, rng=rng)
        if out is None:
            return np.inf
    return float(np.sqrt(np.mean((asnumpy(out) - given.exact) ** 2)) / np.abs(asnumpy(x.v)).max())


def excess(method: str, eps: float, given: Stream, draws: int, rng: np.random.Generator, size: int) -> float:
    """Root mean square of the errors of so many draws, over eps."""
    return float(np.sqrt(np.mean([error(method, size, given, rng) ** 2 for _ in range(draws)])) / eps)


def over_eps(run: Run, *, n: int, epses: Sequence[float], draws: int, methods: Iterable[str] = METHODS) -> pd.DataFrame:
    """Critical size of each method at each accuracy: at it the root mean square of `draws` errors is eps.

    Parameter of the run: replicates.

    Returns
    -------
    DataFrame
        method, eps, replicate (fresh stream and draws), size (inf: none up to n/4 is enough), n.
    """
    replicates = range(run.given("replicates", run.pick(smoke=4, standard=8, full=12)))
    cells = [(method, eps, replicate, n, draws) for method, eps, replicate in product(methods, epses, replicates)]
    return pd.DataFrame(run.map(_size, cells), columns=["method", "eps", "replicate", "size", "n"])


def _size(run: Run, method: str, eps: float, replicate: int, n: int, draws: int) -> tuple[Any, ...]:
    """The row of one stream."""
    rng = run.rng("critical", method, eps, replicate)
    given = stream(n, rng, run.xp)
    size = critical_size(partial(excess, method, eps, given, draws, rng), start=1 / eps, cap=n // 4, rng=rng)
    return method, eps, replicate, size, n


def exponents(rows: pd.DataFrame) -> pd.DataFrame:
    """Exponent of the critical size in 1/eps with its 99 percent limits, by method, over accuracies with all sizes.

    Returns
    -------
    DataFrame
        Index method. exponent, lower, upper (nan where fewer than two accuracies are left), points.
    """
    table: dict[Any, tuple[float, float, float, int]] = {}
    for method, part in rows.groupby("method", sort=False):
        every = part.pivot(index="eps", columns="replicate", values="size").sort_index(ascending=False)
        sizes = every.replace(np.inf, np.nan).dropna()
        if len(sizes) < 2:
            table[method] = (np.nan, np.nan, np.nan, len(sizes))
            continue
        at = np.broadcast_to(-np.log(sizes.index.to_numpy())[:, None], sizes.shape)
        y = np.log(sizes.to_numpy())
        fit = slope(at, y)
        lower, upper = limits(fit, slope(at, y, upper_half(at)))
        table[method] = (float(fit.value), float(lower), float(upper), len(sizes))
    return pd.DataFrame.from_dict(table, orient="index", columns=["exponent", "lower", "upper", "points"])
