"""INDEX instances: how many of the bits in the values can be told from a cache, over the bytes that it holds.

Notebook 14. Every value is a random bit, and each token has a query that asks for it. What a cache knows is measured by
Fano's inequality: if a share e of the answers is wrong, its state says at least `n (1 - h(e))` bits about the n that
were stored, with `h(e) = -e log2(e) - (1 - e) log2(1 - e)`. By counting, that is at most 8 bits for each byte, whatever
the method (claim `ho25.counting`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...methods.caches.exact import ExactCache, ZeroCache
from ...plots.panels import finish, grid, lines, theory_line
from ...plots.style import LOOKS, METHODS, paper_style
from ..run import Run
from ..workloads import make
from ..workloads.bits import PACKED, decoded, packed
from .registry import CHUNK, D, Stream, competing, directions, feed

SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)


def over_bytes(run: Run) -> pd.DataFrame:
    """Bits told from every cache over the bytes that it holds, on instances of one bit per token.

    Parameters of the run: n, d, shares, replicates.

    Returns
    -------
    DataFrame
        n, replicate (fresh keys, bits and draws), method, share (its budget, as a fraction of the exact cache's bytes;
        nan without a budget), nbytes (held), right (share of the answers), bits (by Fano's inequality), bytes_per_bit
        (`nbytes / bits`; 1/8 is the least that there can be).
    """
    n = run.given("n", run.pick(smoke=1024, standard=4096, full=16384))
    replicates = run.given("replicates", run.pick(smoke=3, standard=8, full=12))
    shares = run.given("shares", run.pick(smoke=SHARES[2:], standard=SHARES, full=SHARES))
    columns = ["n", "replicate", "method", "share", "nbytes", "right", "bits"]
    table = run.table(_told, [(n, replicate, shares) for replicate in range(replicates)], columns)
    with np.errstate(divide="ignore", invalid="ignore"):
        return table.assign(bytes_per_bit=table["nbytes"] / table["bits"])


def _told(run: Run, n: int, replicate: int, shares: Sequence[float]) -> list[tuple[Any, ...]]:
    """The rows of one instance."""
    rows: list[tuple[Any, ...]] = []
    rng = run.rng("index", n, replicate)
    x = make("index", n, run.given("d", D), rng=rng, d_v=1)
    stream = Stream.of(x, rng, run.xp, early=directions(rng, x))  # no query for a token comes before the end

    def add(method: str, share: float, nbytes: int, out: Any) -> None:
        rows.append((n, replicate, method, share, nbytes, *decoded(x, out)))

    for name, yardstick in (("exact", ExactCache()), ("zero", ZeroCache())):
        stream.feed(yardstick, CHUNK)
        add(name, np.nan, yardstick.nbytes, yardstick.attend(stream.x.q, scale=x.scale))
    add(PACKED, np.nan, n // 8, packed(x, n // 8))
    for share in shares:
        budget = int(share * stream.cache_bytes)
        for name, cache in competing(budget, stream.x, rng).items():
            out = feed(name, cache, stream, budget).attend(stream.x.q, scale=x.scale)
            add(name, share, cache.nbytes, out)
    return rows


def from_the_bound(rows: pd.DataFrame) -> pd.DataFrame:
    """Bytes held per bit told, over the 1/8 that counting allows: medians by method and share (nan: no budget).

    What tells less than one bit in all has no such number: so much is told by chance.
    """
    told = rows[rows["nbytes"] > 0].assign(factor=8 * rows["bytes_per_bit"].where(rows["bits"] > 1))
    return told.groupby(["method", "share"], sort=False, dropna=False)["factor"].median().unstack("share")


# -------------------------------------------------------------------------------------------------------------- figures
@paper_style()
def draw(rows: pd.DataFrame) -> Figure:
    """Bits told over bytes held, under the counting bound; and the share of right answers over the share of bytes.

    Answering zero holds no bytes and is right half of the time: the lower edge of the second panel.
    """
    n, looks = int(rows["n"].iloc[0]), {name: METHODS[name] for name in METHODS if name in set(rows["method"])}
    looks[PACKED] = {**LOOKS["charcoal"], "marker": "*", "markersize": 7, "label": "the bits alone, keys known"}
    stored = rows.groupby(["method", "share"], dropna=False)["nbytes"].transform("median")
    rows = rows.assign(stored=stored, share=rows["share"].fillna(1.0).where(rows["method"] != PACKED))
    fig, (bits, right) = grid(2, 2, height=2.4)
    for name, look in looks.items():
        its = rows[rows["method"] == name]
        if name != "zero":
            lines(bits, its[its["bits"] > 1], "stored", "bits", look, interval=100)
        if name not in ("zero", PACKED):
            lines(right, its, "share", "right", {**look, "label": "_"}, interval=100)
    at = np.geomspace(n / 64, 2 * rows["stored"].max(), 200)
    theory_line(bits, at, np.minimum(8 * at, n), "at most 8 bits a byte, and all bits")
    shares = np.geomspace(rows["share"].min(), 1, 100)
    label = "a fraction of the tokens known, the rest guessed"
    right.plot(shares, (1 + shares) / 2, color=LOOKS["charcoal"]["color"], linestyle=":", label=label)
    bits.set(xscale="log", yscale="log", ylim=(1, 3 * n), xlabel="bytes held", ylabel=f"bits told, of {n}")
    right.set(xscale="log", ylim=(0.48, 1.02), xlabel="budget / bytes of all keys and values", ylabel="answers right")
    finish(fig)
    return fig
