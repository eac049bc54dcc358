"""Algorithm 1: its three sketches make the output's, sketches of ranges merge, each row is read once [ALSY23]."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ....core.backends import Array, asnumpy
from ....lab.workloads import make
from ....streams import absorb
from ....theory.claim import Claim, Exact, Sabotage, Trial
from ...countsketch.claims.signals import sketched
from ...countsketch.hashing import IndexHash
from ...countsketch.recovery import SparseColumns, scan
from ...polynomial.approximants import approximant
from ...polynomial.monomials import feature_matrix
from ..onepass import OnePassSketch

SMALL: Mapping[str, Any] = {"degree": 4, "sparsity": 4, "eps1": 0.5, "eps2": 0.5}
N = 200


class Injective(IndexHash):
    """Every index has a bucket of its own: the product of sketches is then exact."""

    def __call__(self, xp: Any, index: Array, which: slice = slice(None)) -> tuple[Array, Array]:
        _, sign = super().__call__(xp, index, which)
        return xp.broadcast_to(index, sign.shape), sign


def three_sketches(rng: Generator, xp: Any, *, n: int, d: int, degree: int, broken: str = "") -> Trial:
    """Largest distance of `Z` from `Phi y`, over the largest entry, if `Psi` loses nothing.

    y is attention with the polynomial's entries. Sabotages: `broken` leaves out the features' weights, or `D^-1`.
    """
    host = make("compressible", n, d, rng=rng, dtype=np.float64)
    a = np.polyval(approximant("taylor", degree, 0.0).coefficients[::-1], host.scale * (host.q @ host.k.T))
    y = a @ host.v / a.sum(axis=1, keepdims=True)
    sketch = OnePassSketch(n, d, d, degree=degree, sparsity=2, eps1=1.0, eps2=1.0, scale=host.scale, rng=rng)
    state: Any = sketch.state
    x = host.to(xp)
    state.psi.hash = Injective(state.psi.hash.coefficients, state.psi.hash.width)
    sketch.absorb_keys(x.k, x.v)
    if broken == "normaliser":
        state.phi.allocate(xp, np.float64)
        state.phi.add(0, feature_matrix(xp, state.monomials, x.q))
    else:
        sketch.absorb_queries(x.q)
    if broken == "weights":
        state.weights = xp.ones_like(state.weights)
    z = state.output(xp)  # (Phi D^-1 U1) ((Psi U2)^T Psi V)
    hashed, bit_tables = state.phi.hash, state.phi.bit_tables
    direct = sketched(xp, hashed.coefficients, y, width=hashed.width, bit_tables=bit_tables)  # Phi y
    pairs = ((asnumpy(m), asnumpy(e)) for m, e in ((z.table, direct.table), (z.bits, direct.bits)))
    error = max(float(np.abs(m - e).max() / np.abs(e).max()) for m, e in pairs)
    return Trial(error, 0.0, facts={"n": n, "t": state.monomials.rank})


def random_ranges(rng: Generator, parts: int) -> list[slice]:
    """A random split of the N indices into consecutive ranges."""
    edges = [0, *sorted(rng.choice(np.arange(1, N), parts - 1, replace=False).tolist()), N]
    return list(map(slice, edges[:-1], edges[1:]))


def merged(rng: Generator, xp: Any, *, variant: str, parts: int, forget: bool = False) -> Trial:
    """Largest distance, over the largest entry, of the decoded output of merged sketches from that of one sketch.

    Keys go to `parts` sketches by ranges, which merge; copies of the result take the queries by ranges, and merge.
    Sabotage (`forget`): only the last copy is decoded.
    """
    x = make("compressible", N, 2, rng=0, dtype=np.float64).to(xp)
    new = partial(OnePassSketch, N, 2, 2, variant=variant, scale=x.scale, rng=int(rng.integers(2**32)), **SMALL)

    def scanned(sketch: OnePassSketch) -> np.ndarray:  # as `decode`, which refuses where queries are missing
        columns = scan(xp, sketch.state.output(xp), SMALL["sparsity"])
        return asnumpy(SparseColumns(*columns, (N, 2)).todense())

    whole = scanned(new().absorb_keys(x.k, x.v).absorb_queries(x.q))
    total = new()
    for rows in random_ranges(rng, parts):
        total.merge(new().absorb_keys(x.k[rows], x.v[rows], start=rows.start))
    *others, last = (deepcopy(total).absorb_queries(x.q[rows], start=rows.start) for rows in random_ranges(rng, parts))
    for other in [] if forget else others:
        last.merge(other)
    return Trial(float(np.abs(whole - scanned(last)).max() / np.abs(whole).max()), 0.0, facts={"n": N, "parts": parts})


class Counted:
    """Rows (n, d) that count how often each is read: what slices like an array is a source."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.reads = rows, np.zeros(len(rows), dtype=int)
        self.shape, self.dtype, self.ndim = rows.shape, rows.dtype, rows.ndim

    def __getitem__(self, where: Any) -> np.ndarray:
        self.reads[where] += 1
        return self.rows[where]


def one_pass(rng: Generator, xp: Any, *, variant: str, chunk: int, passes: int = 1) -> Trial:
    """Largest number of reads of a row of q, k and v, if each is read at all.

    Sabotage: of `passes` sketches that read the keys only the last goes on to the queries.
    """
    x = make("compressible", N, 2, rng=0, dtype=np.float64)
    q, k, v = (Counted(a) for a in (x.q, x.k, x.v))
    for _ in range(passes):
        sketch = OnePassSketch(N, 2, 2, variant=variant, scale=x.scale, rng=rng, **SMALL)
        absorb(sketch, keys=k, values=v, rows=chunk, progress=False)
    absorb(sketch, keys=k, values=v, queries=q, rows=chunk, progress=False)
    sketch.decode()
    reads = np.concatenate([source.reads for source in (q, k, v)])
    return Trial(float(reads.max()), 1.0 if reads.min() else np.nan, facts={"n": N, "least": int(reads.min())})


CLAIMS = (
    Claim(
        id="alsy23.three-sketches",
        paper="ALSY23",
        source="Algorithm 1 (decoding)",
        basis="theorem",
        title="If Psi loses nothing, Z = (Phi D^-1 U1) ((Psi U2)^T Psi V) is the sketch Phi y of attention with p",
        statement=sp.Eq(
            sp.Symbol(r"(\Phi D^{-1}U_1)\left((\Psi U_2)^{\top}\Psi V\right)"),
            sp.Symbol(r"\Phi D^{-1}U_1U_2^{\top}V"),
        ),
        kind=Exact("==", rtol=1e-10),
        trial=three_sketches,
        cases={"smoke": tuple({"n": 150, "d": d, "degree": g} for d, g in ((1, 3), (2, 4), (4, 2)))},
        max_trials={"smoke": 3, "standard": 20},
        sabotages=(
            Sabotage("no D^-1", "the queries' features are not divided by their normaliser", {"broken": "normaliser"}),
            Sabotage("no weights", "the monomials' coefficients are left out of the product", {"broken": "weights"}),
        ),
        remark="float64; Psi with a bucket of its own for every index, so that S^T S = I. Bit counters included.",
    ),
    Claim(
        id="alsy23.merge",
        paper="ALSY23",
        source="Algorithm 1 (linear sketches)",
        basis="theorem",
        title="Sketches of disjoint ranges of keys, then of queries, merge to that of the whole",
        statement=sp.Eq(
            sp.Symbol(r"\bigoplus_S \mathrm{sketch}(S)"), sp.Symbol(r"\mathrm{sketch}\left(\bigcup_S S\right)")
        ),
        kind=Exact("==", rtol=1e-9),
        trial=merged,
        cases={"smoke": tuple({"variant": v, "parts": parts} for v in ("paper", "fused") for parts in (2, 7))},
        max_trials={"smoke": 3, "standard": 20},
        sabotages=(Sabotage("a part is lost", "only the last range of the queries is decoded", {"forget": True}),),
        remark="float64. Decoded by the scan, so that a near-tie between candidates cannot differ.",
    ),
    Claim(
        id="alsy23.one-pass",
        paper="ALSY23",
        source="title",
        basis="reading",
        title="Every row of Q, K and V is read exactly once",
        statement=sp.Eq(sp.Symbol(r"\max_i\,\mathrm{reads}(i)"), 1),
        kind=Exact("=="),
        trial=one_pass,
        cases={"smoke": tuple({"variant": v, "chunk": chunk} for v in ("paper", "fused") for chunk in (1, 30, 200))},
        max_trials={"smoke": 1},
        sabotages=(Sabotage("two passes", "the sketch of the keys is lost, and made again", {"passes": 2}),),
        remark="Counted at sources that would allow more. Keys and values come before queries, as in the paper.",
    ),
)
