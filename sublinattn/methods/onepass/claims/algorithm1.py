"""What the one-pass algorithm does: three sketches make the output's, ranges merge, rows are read once [ALSY23]."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import Array, asnumpy, to_device
from ....lab.workloads import make
from ....streams import absorb
from ....theory.claim import Claim, Exact, Sabotage, Trial
from ...countsketch.countsketch import CountSketch
from ...countsketch.hashing import IndexHash
from ...polynomial.approximants import approximant
from ...polynomial.monomials import feature_matrix
from ..onepass import OnePassSketch
from .main_theorem import setting

SMALL: Mapping[str, Any] = {"degree": 4, "sparsity": 4, "eps1": 0.5, "eps2": 0.5}


class Injective(IndexHash):
    """Every index has a bucket of its own: the product of sketches is then exact."""

    def __call__(self, xp: Any, index: Array, which: slice = slice(None)) -> tuple[Array, Array]:
        _, sign = super().__call__(xp, index, which)
        return xp.broadcast_to(index, sign.shape), sign


def three_sketches(rng: np.random.Generator, xp: Any, *, n: int, d: int, degree: int, broken: str = "") -> Trial:
    """Largest distance of `Z` from `Phi y`, over the largest entry, if `Psi` loses nothing; y by attention with the
    polynomial's entries. `broken` leaves out the features' weights, or `D^-1`.
    """
    made = make("compressible", n, d, rng=rng, dtype=np.float64)
    a = np.polyval(approximant("taylor", degree, 0.0).coefficients[::-1], made.scale * (made.q @ made.k.T))
    y = a @ made.v / a.sum(axis=1, keepdims=True)
    sketch = OnePassSketch(n, d, d, degree=degree, sparsity=2, eps1=1.0, eps2=1.0, scale=made.scale, rng=rng)
    kept: Any = sketch.state
    kept.psi.hash = Injective(kept.psi.hash.coefficients, kept.psi.hash.width)
    q, k, v = (to_device(b, xp) for b in (made.q, made.k, made.v))
    sketch.absorb_keys(k, v)
    if broken == "normaliser":
        kept.phi.allocate(xp, np.float64)
        kept.phi.add(0, feature_matrix(xp, kept.monomials, q))
    else:
        sketch.absorb_queries(q)
    if broken == "weights":
        kept.weights = xp.ones_like(kept.weights)
    z, direct = kept.output(xp), CountSketch(n, d, kept.phi.hash, kept.phi.bit_tables)
    direct.allocate(xp, np.float64)
    direct.add(0, to_device(y, xp))
    pairs = ((asnumpy(m), asnumpy(e)) for m, e in ((z.table, direct.table), (z.bits, direct.bits)))
    error = max(float(np.abs(m - e).max() / np.abs(e).max()) for m, e in pairs)
    return Trial(error, 0.0, facts={"n": n, "t": kept.monomials.rank})


def merged(rng: np.random.Generator, xp: Any, *, variant: str, parts: int, forget: bool = False) -> Trial:
    """Largest distance, over the largest entry, of the decoded output of merged sketches from that of one sketch.

    Keys go to `parts` sketches by ranges, which merge; copies of the result take the queries by ranges, and merge.
    """
    x = setting(200, 2, 2, 4, 1.0)
    n = len(x.q)
    seed = int(rng.integers(2**32))
    parameters: dict[str, Any] = {**SMALL, "variant": variant, "scale": x.scale}

    def new() -> OnePassSketch:
        return OnePassSketch(n, 2, 2, rng=seed, **parameters)

    q, k, v = (to_device(a, xp) for a in (x.q, x.k, x.v))
    whole = new().absorb_keys(k, v).absorb_queries(q).decode("scan")
    total = new()
    for start, stop in _ranges(rng, n, parts):
        total.merge(new().absorb_keys(k[start:stop], v[start:stop], start=start))
    copies = [deepcopy(total) for _ in range(parts)]
    for copy, (start, stop) in zip(copies, _ranges(rng, n, parts), strict=True):
        copy.absorb_queries(q[start:stop], start=start)
    for copy in copies[:-1] if not forget else []:
        copies[-1].merge(copy)
    if forget:
        copies[-1]._ranges["q"] = [(0, n)]
    parted = copies[-1].decode("scan")
    a, b = (asnumpy(columns.todense()) for columns in (whole, parted))
    return Trial(float(np.abs(a - b).max() / np.abs(a).max()), 0.0, facts={"n": n, "parts": parts})


def _ranges(rng: np.random.Generator, n: int, parts: int) -> list[tuple[int, int]]:
    cuts = [0, *sorted(rng.choice(np.arange(1, n), parts - 1, replace=False).tolist()), n]
    return [(int(a), int(b)) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


class Counted:
    """Rows (n, d) that count how often each is read: what slices like an array is a source."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.reads = rows, np.zeros(len(rows), dtype=int)
        self.shape, self.dtype, self.ndim = rows.shape, rows.dtype, rows.ndim

    def __getitem__(self, where: Any) -> np.ndarray:
        self.reads[where] += 1
        return self.rows[where]


def one_pass(rng: np.random.Generator, xp: Any, *, variant: str, chunk: int, passes: int = 1) -> Trial:
    """Most reads of any row of q, k and v, if each is read at all; beginning anew after the keys is a sabotage."""
    x = setting(200, 2, 2, 4, 1.0)
    parameters: dict[str, Any] = {**SMALL, "variant": variant, "scale": x.scale}
    q, k, v = (Counted(a) for a in (x.q, x.k, x.v))
    for last in range(passes):
        sketch = OnePassSketch(len(x.q), 2, 2, rng=rng, **parameters)
        absorb(sketch, keys=k, values=v, rows=chunk, progress=False)
        if last == passes - 1:
            absorb(sketch, keys=k, values=v, queries=q, rows=chunk, progress=False)
    sketch.decode()
    reads = np.concatenate([source.reads for source in (q, k, v)])
    return Trial(float(reads.max()), 1.0 if reads.min() else np.nan, facts={"n": len(x.q), "least": int(reads.min())})


CLAIMS = (
    Claim(
        id="alsy23.three-sketches",
        paper="ALSY23",
        source="Algorithm 1 (decoding)",
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
