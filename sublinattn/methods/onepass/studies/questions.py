"""The reviewers' questions about the one-pass algorithm [ALSY23], each answered by a measurement.

The answers are sentences made of the measured values: no number and no conclusion is written beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ....core.backends import asnumpy, to_device
from ....core.exact import attention
from ....core.timing import peak_bytes
from ....lab import ledger
from ....lab.run import Run
from ....theory import CLAIMS
from ...polynomial.polynomial import PolynomialState, polynomial_attention
from ..onepass import OnePassSketch
from . import flat_outputs

WIDTHS = (2, 4, 8, 12)
PAPERS = ("AS23", "ALSY23")
MIB = 2.0**20


def verdicts(run: Run) -> pd.DataFrame:
    """The claims about [AS23] and [ALSY23], and their verdicts in the run's folder: claim, paper, outcome (None where
    there is none so far)."""
    done = ledger.merge((Path(run.out) / "verdicts").glob("*.json"))["claims"]
    rows = [(c.id, c.paper, done.get(c.id, {}).get("outcome")) for c in CLAIMS.values() if c.paper in PAPERS]
    return pd.DataFrame(rows, columns=["claim", "paper", "outcome"])


def over_n(run: Run) -> pd.DataFrame:
    """Both variants at a small and a large n, on flat and on compressible outputs, at fixed d, degree, k, eps1, eps2.

    Returns
    -------
    DataFrame
        n, output ("flat", "compressible"), replicate, method (with "best k-sparse" beside them), error, rows_zero,
        nbytes, cache (bytes of all keys and values).
    """
    xp = run.xp
    lengths = run.pick(smoke=(2**10, 2**13), standard=(2**10, 2**14), full=(2**12, 2**17))
    replicates = run.pick(smoke=3, standard=5, full=5)
    rows = []
    for n in lengths:
        for output, decay in (("flat", 0.0), ("compressible", 1.0)):
            for replicate in range(replicates):
                rng = run.rng("reviewers", n, output, replicate)
                x = flat_outputs.drawn(n, decay, rng, xp)
                y = flat_outputs.exact(x)
                found = {
                    f"one-pass {variant}": flat_outputs.one_pass(x, variant, rng) for variant in ("paper", "fused")
                }
                found["best k-sparse"] = flat_outputs.best_sparse(y, flat_outputs.SPARSITY), 0
                for method, (t, nbytes) in found.items():
                    error, zero = flat_outputs.relative_error(t, y), flat_outputs.rows_zero(t)
                    rows.append((n, output, replicate, method, error, zero, nbytes, x.k.nbytes + x.v.nbytes))
    columns = ["n", "output", "replicate", "method", "error", "rows_zero", "nbytes", "cache"]
    return pd.DataFrame(rows, columns=columns)


def held(method: str, n: int, d: int) -> int:
    """Bytes of a method's arrays for n tokens of width d = d_v in float32: allocated, no page is touched."""
    if method == "streaming state":
        return PolynomialState(d, d, degree=flat_outputs.DEGREE).nbytes
    parameters: dict[str, Any] = {
        "degree": flat_outputs.DEGREE,
        "sparsity": flat_outputs.SPARSITY,
        "eps1": flat_outputs.EPS,
        "eps2": flat_outputs.EPS,
    }
    sketch = OnePassSketch(n, d, d, variant=method.removeprefix("one-pass "), rng=0, **parameters)
    sketch.state.allocate(np, np.float32, queries=True)
    return sketch.nbytes


def crossing(method: str, d: int, *, longest: int = 2**30) -> int:
    """The n from which on a method holds fewer bytes than the exact cache, 8 n d.

    Bytes never fall as n grows, so `f(n) = bytes(n) // (8 d) + 1` does not, and iterating it downwards from a length
    that is long enough ends at its largest fixed point: beyond, `n > f(n)`.

    Raises
    ------
    ValueError
        `longest` tokens are not enough.
    """
    n, below = longest, held(method, longest, d) // (8 * d) + 1
    if below > n:
        raise ValueError(f"longest must be past the crossing, got {longest}, where {method} still holds more")
    while below < n:
        n, below = below, held(method, below, d) // (8 * d) + 1
    return n


def crossings() -> pd.DataFrame:
    """d, rank, method, n (fewer bytes than the cache from there on), two_to_d."""
    methods = ("one-pass paper", "one-pass fused", "streaming state")
    rows = [
        (d, PolynomialState(d, d, degree=flat_outputs.DEGREE).rank, method, crossing(method, d), 2**d)
        for d in WIDTHS
        for method in methods
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
    parameters: dict[str, Any] = {
        "degree": flat_outputs.DEGREE,
        "sparsity": flat_outputs.SPARSITY,
        "eps1": flat_outputs.EPS,
        "eps2": flat_outputs.EPS,
    }
    sketch = OnePassSketch(n, flat_outputs.D, flat_outputs.D, scale=x.scale, rng=0, **parameters).absorb_keys(
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
        methods = {m: held(m, n, flat_outputs.D) for m in ("one-pass paper", "one-pass fused", "streaming state")}
        rows.append({"n": n, "cache": k.nbytes + v.nbytes, "exact peak": peak, **methods})
    return pd.DataFrame(rows)


def answers(
    claims: pd.DataFrame, sizes: pd.DataFrame, crossed: pd.DataFrame, asked: Mapping[str, Any], peaks: pd.DataFrame
) -> pd.DataFrame:
    """The table of this notebook: question, measured answer; the arguments are what the functions above return."""
    table = {
        "There are no experiments.": _experiments(claims),
        "The output has at most k d_v non-zeros.": _non_zeros(sizes),
        "As n grows, the error diminishes while memory stays nearly constant (abstract).": _abstract(sizes),
        "It needs n much larger than 2^d.": _lengths(crossed),
        "There is no causal mask.": _causal(asked),
        "Exact attention needs only O(n) memory [RS21].": _exact_memory(peaks),
    }
    return pd.DataFrame({"question": table.keys(), "measured": table.values()}).set_index("question")


def _experiments(claims: pd.DataFrame) -> str:
    done = claims.dropna(subset=["outcome"])
    by_paper = " and ".join(f"{number} of {paper}" for paper, number in claims["paper"].value_counts().items())
    count = f"Claims with trials and sabotages here: {by_paper}"
    if done.empty:
        return f"{count}; none of them has been checked in this run's folder so far."
    found = "; ".join(
        f"{len(rows)} {outcome}" + (f" ({', '.join(rows['claim'])})" if outcome != "supported" else "")
        for outcome, rows in done.groupby("outcome", sort=True)
    )
    return f"{count}. With a verdict in this run's folder so far: {len(done)}; {found}."


def _median(sizes: pd.DataFrame, value: str) -> pd.Series:
    return sizes.groupby(["output", "method", "n"])[value].median()


def _non_zeros(sizes: pd.DataFrame) -> str:
    n = sizes["n"].max()
    error, zero = (_median(sizes, value) for value in ("error", "rows_zero"))
    parts = []
    for output in ("flat", "compressible"):
        best = error[output, "best k-sparse", n]
        each = ", ".join(
            f"{error[output, m, n]:.3g} ({m}, {zero[output, m, n]:.1%} of the rows 0)"
            for m in ("one-pass fused", "one-pass paper")
        )
        parts.append(
            f"{output} outputs: relative error {each}, the best {flat_outputs.SPARSITY}-sparse answer {best:.3g}"
        )
    return f"n = {n}, answering zero = 1. " + "; ".join(parts) + "."


def _abstract(sizes: pd.DataFrame) -> str:
    kept, cache = _median(sizes, "nbytes"), sizes.groupby("n")["cache"].first()
    low, high = sizes["n"].min(), sizes["n"].max()
    parts = []
    for method in ("one-pass fused", "one-pass paper"):
        change = ", ".join(
            f"{output} {_change(sizes[(sizes['method'] == method) & (sizes['output'] == output)])}"
            for output in ("flat", "compressible")
        )
        before, after = (kept["flat", method, n] for n in (low, high))
        parts.append(f"{method}: error {change}; bytes times {after / before:.2f}, to {after / MIB:.3g} MiB")
    return (
        f"n from {low} to {high}, k = {flat_outputs.SPARSITY}. " + "; ".join(parts) + ". The exact cache: bytes times "
        f"{cache[high] / cache[low]:.2f}, to {cache[high] / MIB:.3g} MiB."
    )


def _change(rows: pd.DataFrame) -> str:
    """Medians at the smallest and largest n; a direction only where no replicate of one n lies among the other's."""
    (_, before), (_, after) = rows.groupby("n")["error"]
    falls, grows = after.max() < before.min(), after.min() > before.max()
    direction = "falls" if falls else "grows" if grows else "within the spread of the inputs"
    return f"{before.median():.3g} to {after.median():.3g} ({direction})"


def _lengths(crossed: pd.DataFrame) -> str:
    widths = ", ".join(
        f"{row.d} (rank {row.rank}, 2^d = {row.two_to_d})" for row in crossed.drop_duplicates("d").itertuples()
    )
    parts = []
    for method, rows in crossed.groupby("method", sort=False):
        above = int((rows["n"] > rows["two_to_d"]).sum())
        parts.append(f"{method} {', '.join(f'{n:,}' for n in rows['n'])} (above 2^d at {above} of {len(rows)} widths)")
    return f"d = {widths}. Fewer bytes than the exact cache from these n on: " + "; ".join(parts) + "."


def _causal(asked: Mapping[str, Any]) -> str:
    said = f'refuses: "{asked["refusal"]}"' if asked["refusal"] else "answers"
    return (
        f"A query after the first key: the one-pass sketch {said}. The streaming state answers every query causally; "
        f"over {asked['n']} tokens its largest distance from causal polynomial attention is {asked['apart']:.1e} of "
        f"the largest entry, from exact causal attention {asked['exact']:.1e}."
    )


def _exact_memory(peaks: pd.DataFrame) -> str:
    parts = []
    for row in peaks.iloc[[0, -1]].to_dict("records"):
        whole = row["cache"] + row["exact peak"]
        each = ", ".join(
            f"{m} {row[m] / MIB:.3g} MiB ({row[m] / whole:.3g} times as much)"
            for m in ("one-pass fused", "one-pass paper", "streaming state")
        )
        parts.append(
            f"n = {row['n']:,}: keys and values {row['cache'] / MIB:.3g} MiB + exact attention's work space "
            f"{row['exact peak'] / MIB:.3g} MiB; {each}"
        )
    return "; ".join(parts) + "."
