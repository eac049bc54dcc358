"""The reviewers' questions about the one-pass algorithm [ALSY23], each answered by numbers measured here.

Notebook 11.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ....core.backends import asnumpy, to_device
from ....core.exact import attention
from ....core.timing import peak_bytes
from ....lab import ledger
from ....lab.run import Run
from ....plots.layout import ticks
from ....plots.panels import finish, grid, theory_line
from ....plots.style import COLUMN, METHODS, paper_style
from ....theory import CLAIMS
from ...polynomial.polynomial import PolynomialState, polynomial_attention
from ..claims import space
from ..onepass import OnePassSketch
from . import flat_outputs

WIDTHS = (2, 4, 8, 12)
PAPERS = ("AS23", "ALSY23")
METHODS_COMPARED = ("one-pass paper", "one-pass fused", "streaming state")
MIB = 2.0**20


def verdicts(run: Run) -> pd.DataFrame:
    """The claims about [AS23] and [ALSY23], and their verdicts in the run's folder: claim, paper, outcome (None where
    there is none so far)."""
    done = ledger.merge((Path(run.out) / "verdicts").glob("*.json"))["claims"]
    rows = [(c.id, c.paper, done.get(c.id, {}).get("outcome")) for c in CLAIMS.values() if c.paper in PAPERS]
    return pd.DataFrame(rows, columns=["claim", "paper", "outcome"])


def over_n(run: Run) -> pd.DataFrame:
    """Both variants at a small and a large n, on flat and on compressible outputs, at fixed d, degree, k, eps1, eps2.

    Parameters of the run: n, degree, k, eps1, eps2, replicates.

    Returns
    -------
    DataFrame
        n, output ("flat", "compressible"), replicate, method (with "best k-sparse" beside them), error, rows_zero,
        nbytes, cache (bytes of all keys and values).
    """
    xp = run.xp
    lengths = run.given("n", run.pick(smoke=(2**10, 2**13), standard=(2**10, 2**14), full=(2**12, 2**17)))
    replicates = run.given("replicates", run.pick(smoke=3, standard=5, full=5))
    sizes = flat_outputs.sketch_sizes(run)
    rows = []
    for n in lengths:
        for output, decay in (("flat", 0.0), ("compressible", 1.0)):
            for replicate in range(replicates):
                rng = run.rng("reviewers", n, output, replicate)
                x = flat_outputs.drawn(n, decay, rng, xp)
                y = flat_outputs.exact(x)
                outputs = {
                    f"one-pass {name}": flat_outputs.one_pass(x, name, rng, sizes) for name in ("paper", "fused")
                }
                outputs["best k-sparse"] = flat_outputs.best_sparse(y, sizes["sparsity"]), 0
                for method, (t, nbytes) in outputs.items():
                    error, zero = flat_outputs.relative_error(t, y), flat_outputs.rows_zero(t)
                    rows.append((n, output, replicate, method, error, zero, nbytes, x.k.nbytes + x.v.nbytes))
    columns = ["n", "output", "replicate", "method", "error", "rows_zero", "nbytes", "cache"]
    return pd.DataFrame(rows, columns=columns)


def stored_bytes(method: str, n: int, d: int, sizes: Mapping[str, Any] = flat_outputs.SKETCH) -> int:
    """Bytes of a method's arrays for n tokens of width d = d_v in float32: allocated, no page is touched."""
    if method == "streaming state":
        return PolynomialState(d, d, degree=sizes["degree"]).nbytes
    sketch = OnePassSketch(n, d, d, variant=method.removeprefix("one-pass "), rng=0, **sizes)
    sketch.state.allocate(np, np.float32, queries=True)
    return sketch.nbytes


def crossing(method: str, d: int, sizes: Mapping[str, Any] = flat_outputs.SKETCH, *, longest: int = 2**30) -> int:
    """The n from which on a method holds fewer bytes than the exact cache, 8 n d; ValueError if `longest` is less."""
    return space.crossing(lambda n: stored_bytes(method, n, d, sizes), 8 * d, longest=longest)


def crossings(run: Run) -> pd.DataFrame:
    """d, rank, method, n (fewer bytes than the cache from there on), two_to_d.

    Parameters of the run: widths (d), degree, k, eps1, eps2.
    """
    sizes = flat_outputs.sketch_sizes(run)
    rows = [
        (d, PolynomialState(d, d, degree=sizes["degree"]).rank, method, crossing(method, d, sizes), 2**d)
        for d in run.given("widths", WIDTHS)
        for method in METHODS_COMPARED
    ]
    return pd.DataFrame(rows, columns=["d", "rank", "method", "n", "two_to_d"])


def causal(run: Run, *, n: int = 256) -> dict[str, Any]:
    """A query before the last key, put to both streaming methods, token by token.

    Returns
    -------
    dict
        refusal (the sketch's error, "" if it answers), apart (largest distance of the state's answers from causal
        polynomial attention, over the largest entry), exact (the same from exact causal attention).
    """
    xp = run.xp
    x = flat_outputs.drawn(n, 1.0, run.rng("causal"), xp)
    sketch = OnePassSketch(n, flat_outputs.D, flat_outputs.D, scale=x.scale, rng=0, **flat_outputs.SKETCH).absorb_keys(
        x.k[0], x.v[0]
    )
    refusal = ""
    try:
        sketch.absorb_queries(x.q[0])
    except ValueError as error:
        refusal = str(error)
    state = PolynomialState(flat_outputs.D, flat_outputs.D, degree=flat_outputs.DEGREE, scale=x.scale)
    streamed = np.stack([asnumpy(state.update(x.k[i], x.v[i]).attend(x.q[i])) for i in range(n)])
    common: dict[str, Any] = {"causal": True, "scale": x.scale}
    batch = asnumpy(polynomial_attention(x.q, x.k, x.v, degree=flat_outputs.DEGREE, **common))
    y = asnumpy(attention(x.q, x.k, x.v, **common))
    apart, exact = (float(np.abs(streamed - other).max() / np.abs(y).max()) for other in (batch, y))
    return {"n": n, "refusal": refusal, "apart": apart, "exact": exact}


def memory(run: Run) -> pd.DataFrame:
    """Exact attention's peak beyond its inputs and output, beside what the streaming methods hold.

    Returns
    -------
    DataFrame
        n, cache (bytes of k and v), exact peak (bytes), and the bytes of each method.
    """
    xp = run.xp
    lengths = run.pick(smoke=(2**11, 2**12, 2**13), standard=(2**12, 2**14), full=(2**13, 2**15, 2**17))
    rows = []
    for n in lengths:
        rng = run.rng("memory", n)
        q, k, v = (to_device(rng.standard_normal((n, flat_outputs.D), dtype=np.float32), xp) for _ in range(3))
        peak = peak_bytes(xp, partial(attention, q, k, v)) - v.nbytes
        stored = {method: stored_bytes(method, n, flat_outputs.D) for method in METHODS_COMPARED}
        rows.append({"n": n, "cache": k.nbytes + v.nbytes, "exact peak": peak, **stored})
    return pd.DataFrame(rows)


def answers(
    claims: pd.DataFrame, sizes: pd.DataFrame, crossed: pd.DataFrame, asked: Mapping[str, Any], peaks: pd.DataFrame
) -> pd.DataFrame:
    """The table of this notebook, a number per line; the arguments are what the functions above return.

    Returns
    -------
    DataFrame
        question, measured (what the number is), value.
    """
    rows: list[tuple[str, str, Any]] = []
    question = "There are no experiments."
    for outcome, count in claims["outcome"].fillna("not checked in this folder").value_counts().items():
        rows.append((question, f"claims of {' and '.join(PAPERS)} that are {outcome}", count))
    low, high = sizes["n"].min(), sizes["n"].max()
    cache = sizes.groupby("n")["cache"].first()
    sparse = f"The output has at most k d_v non-zeros (n = {high}; answering zero has error 1)."
    grown = "As n grows, the error diminishes while memory stays nearly constant (abstract)."
    for (output, method), part in sizes.groupby(["output", "method"], sort=False):
        start, end = (part[part["n"] == n].median(numeric_only=True) for n in (low, high))
        rows.append((sparse, f"error on {output} outputs, {method}", end["error"]))
        rows.append((sparse, f"share of rows that are 0, {output} outputs, {method}", end["rows_zero"]))
        if method != "best k-sparse":
            rows.append((grown, f"error at n = {low} to {high}, {output} outputs, {method}", change(part)))
            what = f"bytes at {high} over bytes at {low}, {output} outputs, {method}"
            rows.append((grown, what, end["nbytes"] / start["nbytes"]))
    rows.append((grown, "the same of the exact cache", cache[high] / cache[low]))
    question = "It needs n much larger than 2^d."
    for row in crossed.itertuples():
        what = f"n from which on {row.method} is smaller than the cache, d = {row.d} (2^d = {row.two_to_d})"
        rows.append((question, what, row.n))
    question = "There is no causal mask."
    rows.append((question, "the one-pass sketch on a query before the last key", asked["refusal"] or "answers"))
    rows.append((question, "streaming state: distance from causal polynomial attention", asked["apart"]))
    rows.append((question, "streaming state: distance from exact causal attention", asked["exact"]))
    question = "Exact attention needs only O(n) memory [RS21]."
    for at_n in peaks.iloc[[0, -1]].to_dict("records"):
        whole = at_n["cache"] + at_n["exact peak"]
        rows.append((question, f"MiB of keys, values and exact attention's work space, n = {at_n['n']}", whole / MIB))
        for method in METHODS_COMPARED:
            rows.append((question, f"bytes of {method} over those, n = {at_n['n']}", at_n[method] / whole))
    table = pd.DataFrame(rows, columns=["question", "measured", "value"])
    table = table.sort_values("question", kind="stable", ignore_index=True)
    return table.assign(value=[x if isinstance(x, str) else f"{x:,.3g}" for x in table["value"]])


def change(rows: pd.DataFrame) -> str:
    """Median errors at the smallest and largest n; a direction only where no replicate of one n lies among the
    other's."""
    (_, before), (_, after) = rows.groupby("n")["error"]
    falls, grows = after.max() < before.min(), after.min() > before.max()
    direction = "falls" if falls else "grows" if grows else "within the spread of the inputs"
    return f"{before.median():.3g} to {after.median():.3g} ({direction})"


@paper_style()
def draw_crossings(rows: pd.DataFrame) -> Figure:
    """`crossings`: from which n on each method is smaller than the cache, over the head width, beside 2^d."""
    fig, (ax,) = grid(1, columns=1, width=COLUMN, height=2.1)
    for name, part in rows.groupby("method", sort=False):
        ax.plot(part["d"], part["n"], **METHODS[str(name)])
    d = np.geomspace(rows["d"].min(), rows["d"].max(), 50)
    theory_line(ax, d, 2**d, "$2^d$")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="head width $d = d_v$",
        ylabel="tokens $n$ from which on it\nis smaller than the cache",
    )
    ticks(ax.xaxis, rows["d"])
    finish(fig, legend="ends")
    return fig
