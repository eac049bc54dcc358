"""Error, memory and time of the one-pass sketches, the streaming state and exact attention over n.

Notebook 10.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ....core.backends import Array, asnumpy, cut, to_device
from ....core.exact import attention
from ....core.quiet import quiet
from ....core.timing import timed
from ....lab.run import Run
from ....lab.workloads.instance import Instance
from ....plots.layout import ticks
from ....plots.panels import finish, grid, lines, theory_line
from ....plots.style import METHODS, method, paper_style
from ...polynomial.polynomial import PolynomialState
from ..onepass import OnePassSketch
from . import flat_outputs

CACHE_ROW = 2 * flat_outputs.D * 4
"""Bytes of one key and value in the exact cache, float32."""
CHUNK = 65536
EXACT_MOST = 2**15
"""Longest input that exact attention is run on; beyond, the output is compared with `REFERENCE`'s."""
SAMPLED_ROWS = 8192
REFERENCE: Mapping[str, Any] = {"degree": 7, "basis": "minimax", "radius": 1.01}
"""In float64; relative error of every entry 2e-7 for logits up to 1."""


def reference(x: Instance) -> np.ndarray:
    """Exact output, float64 on the host: by exact attention, or for long inputs by a polynomial of error 2e-7."""
    if len(x.q) <= EXACT_MOST:
        return flat_outputs.exact(x)
    q, k, v = (a.astype(np.float64) for a in (x.q, x.k, x.v))
    state = PolynomialState(flat_outputs.D, flat_outputs.D, scale=x.scale, **REFERENCE)
    for rows in cut(len(k), CHUNK):
        state.update(k[rows], v[rows])
    return np.concatenate([asnumpy(state.attend(q[rows])) for rows in cut(len(q), CHUNK)])


def fed(x: Instance, variant: str, rng: np.random.Generator, sizes: Mapping[str, Any]) -> OnePassSketch:
    """A sketch of these `flat_outputs.sketch_sizes` that has read all of `x`, chunk by chunk."""
    n = len(x.q)
    sketch = OnePassSketch(n, flat_outputs.D, flat_outputs.D, variant=variant, scale=x.scale, rng=rng, **sizes)
    for rows in cut(n, CHUNK):
        sketch.absorb_keys(x.k[rows], x.v[rows])
    for rows in cut(n, CHUNK):
        sketch.absorb_queries(x.q[rows])
    return sketch


def streamed(x: Instance, degree: int) -> tuple[PolynomialState, Array]:
    """The streaming state of this degree after all keys, and its answers."""
    state = PolynomialState(flat_outputs.D, flat_outputs.D, degree=degree, scale=x.scale)
    for rows in cut(len(x.k), CHUNK):
        state.update(x.k[rows], x.v[rows])
    return state, state.attend(x.q)


@quiet()
def over_n(run: Run) -> pd.DataFrame:
    """Error, bytes and seconds of every method over n.

    Parameters of the run: n, degree, k, eps1, eps2, replicates.

    Returns
    -------
    DataFrame
        quantity ("error": `||out - y||_F / ||y||_F`; "bytes" held; "absorb": seconds for keys and queries; "decode":
        seconds), method, n, replicate, value. The methods' "decode" is "identify" and "scan"; "exact" holds the cache,
        and its "absorb" is the whole of attention.
    """
    xp = run.xp
    powers = run.pick(smoke=range(10, 17, 3), standard=range(10, 19), full=range(10, 21))
    lengths, sizes = run.given("n", [2**i for i in powers]), flat_outputs.sketch_sizes(run)
    replicates = run.given("replicates", run.pick(smoke=2, standard=5, full=2))
    if sizes["sparsity"] >= min(lengths):
        raise ValueError(f"k must be below n = {min(lengths)}, got {sizes['sparsity']}")
    rows: list[tuple[str, str, int, int, float]] = []
    for n in lengths:
        for r in range(replicates):
            x = flat_outputs.drawn(n, 1.0, run.rng("onepass", n, r), xp)
            y = reference(x)
            for variant in ("paper", "fused"):
                method = f"one-pass {variant}"
                sketch, seconds = timed(xp, partial(fed, x, variant, run.rng(variant, n, r), sizes))
                rows.append(("absorb", method, n, r, seconds))
                rows.append(("bytes", method, n, r, float(sketch.nbytes)))
                for how in ("identify", "scan"):
                    columns, seconds = timed(xp, partial(sketch.decode, how))
                    rows.append(("decode", f"{method}, {how}", n, r, seconds))
                    if how == "identify":
                        rows.append(("error", method, n, r, flat_outputs.relative_error(asnumpy(columns.todense()), y)))
            (state, out), seconds = timed(xp, partial(streamed, x, sizes["degree"]))
            rows.append(("absorb", "streaming state", n, r, seconds))
            rows.append(("bytes", "streaming state", n, r, float(state.nbytes)))
            rows.append(("error", "streaming state", n, r, flat_outputs.relative_error(asnumpy(out), y)))
            best = flat_outputs.relative_error(flat_outputs.best_sparse(y, sizes["sparsity"]), y)
            rows.append(("error", "best k-sparse", n, r, best))
            uniform = sampled_error(x, y, sketch.nbytes, run.rng("uniform", n, r), xp)
            rows.append(("error", "uniform", n, r, uniform))
            rows.append(("bytes", "exact", n, r, float(n * CACHE_ROW)))
            if n <= EXACT_MOST:
                _, seconds = timed(xp, partial(attention, x.q, x.k, x.v, scale=x.scale))
                rows.append(("absorb", "exact", n, r, seconds))
    return pd.DataFrame(rows, columns=["quantity", "method", "n", "replicate", "value"])


def sampled_error(x: Instance, y: np.ndarray, nbytes: int, rng: np.random.Generator, xp: Any) -> float:
    """Relative error of attention over as many uniformly drawn keys as fit into `nbytes` (0 where all do).

    Estimated from SAMPLED_ROWS random rows: this error is spread over all rows alike.
    """
    n = len(y)
    if nbytes // CACHE_ROW >= n:
        return 0.0
    rows = rng.choice(n, min(n, SAMPLED_ROWS), replace=False)
    keys = to_device(rng.choice(n, nbytes // CACHE_ROW, replace=False), xp)
    out = asnumpy(attention(x.q[to_device(rows, xp)], x.k[keys], x.v[keys], scale=x.scale))
    return float(np.linalg.norm(out - y[rows]) * np.sqrt(n / len(rows)) / np.linalg.norm(y))


@paper_style()
def draw(rows: pd.DataFrame) -> Figure:
    """`over_n`: relative error, bytes, seconds to read and seconds to decode; medians and whole ranges."""
    quantities = {
        "error": r"$\|\mathrm{out}-y\|_F\,/\,\|y\|_F$",
        "bytes": "MiB stored",
        "absorb": "keys and queries read (s)",
        "decode": "decoded (s)",
    }
    fig, axes = grid(4, columns=2, height=2.0, sharex=True)
    n = np.unique(rows["n"]).astype(float)
    for ax, (quantity, label) in zip(axes, quantities.items(), strict=True):
        part = rows[(rows["quantity"] == quantity) & (rows["value"] > 0)]  # 0: a sample of all keys, which is exact
        for name, line in part.groupby("method", sort=False):
            values = line.assign(value=line["value"] / 2**20) if quantity == "bytes" else line
            lines(ax, values, "n", "value", _look(str(name)), interval=100)
        ax.set(xscale="log", yscale="log", ylabel=label)
        ticks(ax.xaxis, n)
    axes[0].axhline(1.0, **method("zero", marker=""))
    fused = rows[(rows["quantity"] == "bytes") & (rows["method"] == "one-pass fused")].groupby("n")["value"].median()
    theory_line(axes[1], n, 0.6 * fused.iloc[0] / 2**20 * np.log(n) / np.log(n[0]), r"slope of $\log n$")
    state = rows[(rows["quantity"] == "absorb") & (rows["method"] == "streaming state")]["value"].max()
    theory_line(axes[2], n, 0.4 * state * n / n[-1], "slope of $n$", linestyle="-.")
    finish(fig, xlabel="tokens $n$")
    return fig


def _look(name: str) -> dict[str, Any]:
    """A method's look; "METHOD, scan" is hollow, and decoding by identification has the method's own."""
    if name == "best k-sparse":
        return {"color": "black", "linestyle": ":", "marker": "", "label": "best $k$-sparse answer"}
    how, _, decoder = name.partition(", ")
    scan = {"linestyle": "-.", "markerfacecolor": "white", "label": f"{METHODS[how]['label']}, by scan"}
    return method(how, **(scan if decoder == "scan" else {}))
