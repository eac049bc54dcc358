"""Exact attention in tiles is attention, its partials merge to the whole, and it takes memory linear in n [RS21]."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ...core import checks, timing
from ...core.backends import Array, asnumpy, to_device
from ...core.exact import Partial, attention, each_query_tile, partial_attention
from ...theory import symbols
from ...theory.claim import Claim, Exact, Growth, Sabotage, Trial

D = 8


def pointed(rng: Generator, n_q: int, n_k: int, *, peak: float, scale: float, dtype: str) -> list[np.ndarray]:
    """Queries, keys and values; `peak` is the size of each query's largest logit, at its own key, of random sign.

    Keys have norm 1, so `peak` is the Cauchy-Schwarz bound, too: a logit that is not shifted is as large as it can be.
    """
    k = rng.standard_normal((n_k, D))
    k /= np.linalg.norm(k, axis=1, keepdims=True)
    q = k[rng.integers(n_k, size=n_q)] * (peak / scale * rng.choice([-1.0, 1.0], size=(n_q, 1)))
    return [x.astype(dtype) for x in (q, k, rng.standard_normal((n_k, D)))]


def dense(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, scale: float, causal: bool) -> tuple[np.ndarray, np.ndarray]:
    """Output and log of the normaliser by the definition, in float64."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    logits = scale * (q @ k.T)
    if causal:
        logits[np.triu_indices(len(q), 1, len(k))] = -np.inf
    top = logits.max(axis=1, keepdims=True)
    a = np.exp(logits - top)
    return a @ v / a.sum(axis=1, keepdims=True), (top + np.log(a.sum(axis=1, keepdims=True)))[:, 0]


def distance(partial: Partial, exact: tuple[np.ndarray, np.ndarray]) -> float:
    """Largest difference of a partial's output and lse to the exact ones; nan if one is."""
    with np.errstate(invalid="ignore"):
        pairs = zip((partial.output(), partial.lse()), exact, strict=True)
        return float(np.max([abs(asnumpy(x) - y).max() for x, y in pairs]))


def rounding(dtype: str, peak: float) -> float:
    """What the relative rounding of a logit does to its exponential."""
    return float(np.finfo(dtype).eps) * max(1.0, peak)


def merged(
    rng: Generator, xp: Any, *, n: int, parts: int, peak: float, dtype: str = "float64", references: bool = True
) -> Trial:
    """Largest distance between dense attention and the merge of partials over a random split of the keys.

    Partials merge in random order, those over no key, too. Sabotage: without `references` the partials' reference
    logits are forgotten.
    """
    q, k, v = pointed(rng, n, n, peak=peak, scale=1.0, dtype=dtype)
    owner = rng.integers(parts, size=n)
    total = Partial.empty(xp, (n,), D, q.dtype).merge(Partial.empty(xp, (n,), D, q.dtype))
    for part in rng.permutation(parts):
        mine = owner == part
        partial = Partial.empty(xp, (n,), D, q.dtype)
        if mine.any():
            partial = partial_attention(*(to_device(x, xp) for x in (q, k[mine], v[mine])), scale=1.0)
            if not references:
                partial.m[...] = 0
        total.merge(partial)
    error = distance(total, dense(q, k, v, scale=1.0, causal=False))
    return Trial(error, 0.0, scale=rounding(dtype, peak), facts={"n": n, "parts": parts})


def tiled(
    rng: Generator,
    xp: Any,
    *,
    n_q: int,
    n_k: int,
    peak: float,
    dtype: str = "float64",
    causal: bool = False,
    scale: float | None = None,
    shift: bool | None = None,
) -> Trial:
    """Largest distance between dense attention and the tiled one. Sabotage: `shift` false subtracts no maximum."""
    s = checks.resolve_scale(scale, D)
    arrays = pointed(rng, n_q, n_k, peak=peak, scale=s, dtype=dtype)
    q, k, v = (to_device(x, xp) for x in arrays)
    if shift is None:
        partial = partial_attention(q, k, v, scale=scale, causal=causal)
    else:
        partial = unshifted(xp, q, k, v, scale=s, causal=causal)
    error = distance(partial, dense(*arrays, scale=D**-0.5 if scale is None else scale, causal=causal))
    return Trial(error, 0.0, scale=rounding(dtype, peak), facts={"n": n_k})


def unshifted(xp: Any, q: Array, k: Array, v: Array, *, scale: float, causal: bool) -> Partial:
    """The partial by tiles whose exponentials are not kept from overflowing."""
    total = Partial.empty(xp, (1, len(q)), v.shape[1], q.dtype)

    def finish(at: slice, rows: slice, p: Partial) -> None:
        total.m[at, rows], total.l[at, rows], total.o[at, rows] = p.m, p.l, p.o

    with np.errstate(over="ignore", invalid="ignore"):
        each_query_tile(xp, q[None], k[None], v[None], scale=scale, causal=causal, shift=False, finish=finish)
        return Partial(total.m[0], total.l[0], total.o[0])


def held_bytes(rng: Generator, xp: Any, *, variable: str, n: int, causal: bool, tiles: bool = True) -> Trial:
    """Peak bytes of attention beyond its inputs. Sabotage: without `tiles`, all logits are made at once."""
    q, k, v = (to_device(rng.standard_normal((n, D), dtype=np.float32), xp) for _ in range(3))

    def call() -> None:
        if tiles:
            attention(q, k, v, causal=causal)
        else:
            a = xp.exp(q @ k.T / D)
            (a @ v) / a.sum(axis=1)[:, None]

    return Trial(float(timing.peak_bytes(xp, call)), facts={"n": n})


NO_REFERENCES = Sabotage(
    "references forgotten", "partials are added as if their reference logits were equal", {"references": False}
)
UNSHIFTED = Sabotage("no maximum", "no maximum is subtracted before the exponential", {"shift": False})
ALL_AT_ONCE = Sabotage("all logits at once", "the n x n logits are made before the softmax", {"tiles": False})

CLAIMS = (
    Claim(
        id="rs21.merge",
        paper="RS21",
        source="Section 2 (lazy softmax), as a monoid",
        basis="theorem",
        title="Partials over any split of the keys merge, in any order, to exact attention",
        statement=sp.Eq(
            sp.Symbol(r"\mathrm{out}\left(\bigoplus_S (m_S, l_S, o_S)\right)"),
            sp.Symbol(r"\mathrm{softmax}(QK^{\top})V"),
        ),
        kind=Exact("==", rtol=64),
        trial=merged,
        cases={
            "smoke": (
                *({"n": 97, "parts": parts, "peak": peak} for parts in (1, 3, 40) for peak in (1.0, 30.0, 3000.0)),
                *({"n": 97, "parts": 7, "peak": peak, "dtype": "float32"} for peak in (95.0, 160.0)),
            )
        },
        max_trials={"smoke": 3, "standard": 20},
        sabotages=(NO_REFERENCES,),
        remark="Output and log of the normaliser agree within 64 times the rounding of the largest logit.",
        restated="eaf5810: parts over no key were left out, and float32, which overflows first, was not tried",
    ),
    Claim(
        id="rs21.attention",
        paper="RS21",
        source="Section 2 (lazy softmax, running maximum)",
        basis="theorem",
        title="Attention in tiles with a running maximum is exact attention, also where exponentials overflow",
        statement=sp.Eq(sp.Symbol(r"\mathrm{out}"), sp.Symbol(r"\mathrm{softmax}(sQK^{\top})V")),
        kind=Exact("==", rtol=64),
        trial=tiled,
        cases={
            "smoke": (
                *(
                    {"n_q": 300, "n_k": 700, "peak": peak, "dtype": "float32", "causal": causal}
                    for peak in (38.0, 95.0, 160.0, 3000.0)
                    for causal in (False, True)
                ),
                {"n_q": 700, "n_k": 300, "peak": 500.0, "causal": True},
                {"n_q": 300, "n_k": 700, "peak": 95.0, "dtype": "float32", "scale": -0.3},
                {"n_q": 300, "n_k": 700, "peak": 10.0, "scale": 2.0},
                *({"n_q": 3, "n_k": 100_003, "peak": peak, "dtype": "float32"} for peak in (1.0, 160.0)),
            )
        },
        max_trials={"smoke": 3, "standard": 20},
        sabotages=(UNSHIFTED,),
        remark=(
            "Output and log of the normaliser agree within 64 times the rounding of the largest logit. Three queries "
            "over many keys take the path of decoding, where the keys are cut into segments."
        ),
        restated="3ce6d9b: the left side of the formula was misprinted",
    ),
    *(
        Claim(
            id=f"rs21.memory{'-causal' * causal}",
            paper="RS21",
            source="Section 2 (memory)",
            basis="implementation",
            title=f"Memory of exact attention {'with a causal mask ' * causal}grows no faster than n",
            statement=sp.Eq(symbols.BYTES, symbols.O(symbols.n)),
            kind=Growth(variables={"n": symbols.n}, machine=True),
            trial=held_bytes,
            cases={
                effort: tuple({"variable": "n", "n": 2**i, "causal": causal} for i in range(9, stop))
                for effort, stop in (("smoke", 13), ("standard", 14))
            },
            max_trials={"smoke": 8},
            sabotages=(ALL_AT_ONCE,),
            remark=(
                "Peak bytes beyond the inputs: the output, and one tile per thread. At small n the tiles make the "
                "exponent fall below 1."
            ),
        )
        for causal in (False, True)
    ),
)
