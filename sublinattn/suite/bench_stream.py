"""Speed of the streaming state and of the one-pass sketches, beside what they cannot do without, in one run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ..core import backends
from ..core.timing import timed
from ..lab.workloads import make
from ..methods.onepass.onepass import OnePassSketch
from ..methods.polynomial.monomials import Monomials
from ..methods.polynomial.polynomial import PolynomialState

CHUNK = 65536


def products_alone(n: int, d: int, d_v: int, degree: int) -> None:
    """The multiplications and matrix products that absorbing n tokens cannot do without, on arrays that stay in
    cache.
    """
    t = Monomials(d, degree).rank
    rows = 2**18 // t  # 1 MiB of features

    def make_worker() -> Callable[[int], None]:
        features, column, values = (np.full(shape, 0.5, np.float32) for shape in ((t, rows), rows, (rows, d_v + 1)))
        out = np.empty_like(features)

        def worker(chunk: int) -> None:
            np.multiply(features, column, out=out)
            np.matmul(out, values)

        return worker

    backends.for_tiles(np, range(-(-n // rows)), make_worker)


def stream(
    n: int = 2**20, *, n_paper: int = 2**17, d: int = 8, degree: int = 4, sparsity: int = 64, rounds: int = 3
) -> pd.DataFrame:
    """Time the state, the sketches and their decoders `rounds` times in turn, float32, on the CPU.

    Returns
    -------
    DataFrame
        A row per contender: `what`, `n`, `seconds` (median), `fastest`, `tokens_per_second` (of the fastest), `nbytes`
        held, `over_floor` (median over rounds of its own seconds over those of its multiplications and matrix product
        alone; for the state).
    """
    found: dict[tuple[str, int], list[float]] = {}
    held: dict[tuple[str, int], int] = {}

    def measured(what: str, length: int, call: Callable[[], Any]) -> Any:
        result, seconds = timed(np, call)
        found.setdefault((what, length), []).append(seconds)
        return result

    lengths = (n_paper, n)
    inputs = {m: make("compressible", m, d, rng=0) for m in lengths}
    for _ in range(rounds):
        for m in lengths:
            x = inputs[m]
            measured("products alone", m, partial(products_alone, m, d, d, degree))
            state = measured("streaming state, keys", m, partial(_absorbed, x, degree))
            held["streaming state, keys", m] = state.nbytes
            for variant in ("fused", "paper") if m == n_paper else ("fused",):
                sketch = measured(f"{variant}, keys and queries", m, partial(_fed, x, variant, degree, sparsity))
                held[f"{variant}, keys and queries", m] = sketch.nbytes
                for method in ("identify", "scan"):
                    measured(f"{variant}, {method}", m, partial(sketch.decode, method))
    rows = []
    for (what, length), seconds in found.items():
        ratio = np.divide(seconds, found["products alone", length]) if what.startswith("streaming") else [np.nan]
        fastest = min(seconds)
        size = held.get((what, length), -1)
        rows.append((what, length, np.median(seconds), fastest, length / fastest, size, float(np.median(ratio))))
    columns = ["what", "n", "seconds", "fastest", "tokens_per_second", "nbytes", "over_floor"]
    return pd.DataFrame(rows, columns=columns)


def _absorbed(x: Any, degree: int) -> PolynomialState:
    d = x.k.shape[1]
    return PolynomialState(d, d, degree=degree).update(x.k, x.v)


def _fed(x: Any, variant: str, degree: int, sparsity: int) -> OnePassSketch:
    n, d = x.q.shape
    sketch = OnePassSketch(n, d, d, degree=degree, sparsity=sparsity, eps1=0.5, eps2=0.5, variant=variant, rng=0)
    for at in range(0, n, CHUNK):
        sketch.absorb_keys(x.k[at : at + CHUNK], x.v[at : at + CHUNK])
    for at in range(0, n, CHUNK):
        sketch.absorb_queries(x.q[at : at + CHUNK])
    return sketch
