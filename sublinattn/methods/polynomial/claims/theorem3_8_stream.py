"""Theorem 3.8 read as a stream: the state's answers, its bytes and the time to absorb keys [AS23]."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ....core.backends import asnumpy, to_device
from ....core.timing import best_of
from ....theory import symbols
from ....theory.claim import Claim, Exact, Growth, Sabotage, Trial, Vacuity
from ....theory.cost import over, powers
from ..approximants import BASES, approximant
from ..polynomial import PolynomialState


def streamed(
    rng: Generator, xp: Any, *, n: int, parts: int, causal: bool, basis: str = "taylor", forget: bool = False
) -> Trial:
    """Largest distance between the answers of a state and attention with the same polynomial, computed densely.

    Causal: one state takes the tokens one by one and answers after each. Otherwise each of `parts` random chunks of the
    keys has a state, and these merge in random order. Sabotage (`forget`): the tokens at the chunks' first places, or
    the state of one chunk, are left out.
    """
    d, d_v, degree, scale = 4, 3, 4, float(rng.uniform(0.1, 0.4))
    q, k, v = (rng.uniform(-1, 1, size=(n, width)) for width in (d, d, d_v))
    radius = None if basis == "taylor" else d * scale  # no logit is larger
    coefficients = (1, 1, 1 / 2, 1 / 6, 1 / 24) if radius is None else approximant(basis, degree, radius).coefficients
    entries = np.polyval(coefficients[::-1], scale * (q @ k.T))
    if causal:
        entries *= np.tri(n)
    dense = entries @ v / entries.sum(axis=1, keepdims=True)
    cuts = np.sort(rng.choice(np.arange(1, n), parts - 1, replace=False))
    queries, keys, values = (to_device(x, xp) for x in (q, k, v))
    new_state = partial(PolynomialState, d, d_v, degree=degree, scale=scale, basis=basis, radius=radius)
    state, out = new_state(), np.empty_like(dense)
    if causal:
        for i in range(n):
            if not (forget and i in cuts):
                state.update(keys[i], values[i])
            out[i] = asnumpy(state.attend(queries[i]))
    else:
        edges = [0, *cuts, n]
        for part in rng.permutation(parts)[int(forget) :]:
            chunk = slice(edges[part], edges[part + 1])
            state.merge(new_state().update(keys[chunk], values[chunk]))
        out[:] = asnumpy(state.attend(queries))
    return Trial(float(np.abs(out - dense).max()), 0.0, facts={"n": n, "parts": parts})


def absorb_seconds(
    rng: Generator, xp: Any, *, variable: str, n: int, d: int, degree: int, restart: bool = False
) -> Trial:
    """Seconds to absorb n tokens in eight chunks, fastest of three.

    Sabotage (`restart`): at each chunk of 1024 tokens a new state absorbs all tokens so far.
    """
    k, v = (to_device(rng.standard_normal((n, d), dtype=np.float32) / d, xp) for _ in range(2))
    state, step = PolynomialState(d, d, degree=degree), 1024 if restart else -(-n // 8)

    def absorb() -> None:
        for stop in range(step, n + step, step):
            if restart:
                PolynomialState(d, d, degree=degree).update(k[:stop], v[:stop])
            else:
                state.update(k[stop - step : stop], v[stop - step : stop])

    return Trial(best_of(xp, absorb, 1 if restart else 3), facts={"n": n, "nbytes": state.nbytes})


def state_bytes(rng: Generator, xp: Any, *, n: int, d: int, d_v: int, degree: int, keep: bool = False) -> Trial:
    """Bytes that a state holds after n keys, against those of its moments and weights.

    Sabotage (`keep`): the keys and values are kept, too.
    """
    k, v = (to_device(rng.standard_normal((n, width)), xp) for width in (d, d_v))
    state = PolynomialState(d, d_v, degree=degree)
    for rows in (slice(n // 3), slice(n // 3, n)):
        state.update(k[rows], v[rows])
    t = math.comb(d + degree, degree)
    held = state.nbytes + (k.nbytes + v.nbytes if keep else 0)
    return Trial(float(held), 8.0 * t * (d_v + 2), facts={"n": n, "d": d, "d_v": d_v, "t": t})


STREAMING = Claim(
    id="as23.streaming",
    paper="AS23",
    source="Theorem 3.8, read as a stream",
    basis="derived",
    title="The state U2^T [V, 1] over any split of the keys, merged in any order, answers as attention with p",
    statement=sp.Eq(
        sp.Symbol(r"\frac{u_1(q)\sum_S U_{2,S}^{\top}V_S}{u_1(q)\sum_S U_{2,S}^{\top}\mathbf{1}}"),
        sp.Symbol(r"\frac{p(sqK^{\top})V}{p(sqK^{\top})\mathbf{1}}"),
    ),
    kind=Exact("==", rtol=1e-12),
    trial=streamed,
    cases={
        "smoke": tuple(
            {"n": 60, "parts": parts, "causal": False, "basis": basis}
            for parts, basis in zip((2, 5, 20), BASES, strict=True)
        )
    },
    max_trials={"smoke": 3, "standard": 20},
    sabotages=(Sabotage("a part is lost", "one of the states is not merged", {"forget": True}),),
    remark="float64, degree 4; 1/l! (Taylor) or the polynomial of `approximant`.",
    restated="fce1123: Taylor's polynomial only",
)

CLAIMS = (
    STREAMING,
    replace(
        STREAMING,
        id="as23.streaming-causal",
        title="Asked as the stream goes by, the state is causal attention with p",
        statement=sp.Eq(
            sp.Symbol(r"\frac{u_1(q_i)\sum_{j\le i}u_2(k_j)^{\top}v_j}{u_1(q_i)\sum_{j\le i}u_2(k_j)^{\top}}"),
            sp.Symbol(r"\frac{\sum_{j\le i}p(s\langle q_i,k_j\rangle)v_j}{\sum_{j\le i}p(s\langle q_i,k_j\rangle)}"),
        ),
        cases={"smoke": tuple({"n": 60, "parts": 6, "causal": True, "basis": basis} for basis in BASES)},
        sabotages=(Sabotage("tokens are lost", "the tokens at five random places are not absorbed", {"forget": True}),),
        remark="float64, one token at a time.",
    ),
    Claim(
        id="as23.time",
        paper="AS23",
        source="Theorem 3.8 (time)",
        basis="implementation",
        title="The state absorbs n tokens in time that grows no faster than n",
        statement=sp.Eq(symbols.SECONDS, symbols.O(symbols.n)),
        kind=Growth(variables={"n": symbols.n}, machine=True, resolution={"n": 0.1}),
        trial=absorb_seconds,
        cases={
            "smoke": over("n", powers(12, 15), d=8, degree=4),
            "standard": over("n", powers(14, 18), d=8, degree=4),
        },
        max_trials={"smoke": 12},
        sabotages=(Sabotage("no state", "at each chunk the sum is taken from the start", {"restart": True}),),
        remark=(
            "Seconds of this machine, d = d_v = 8, degree 4 (t = 495). The exponent is 1 where the fixed cost of a "
            "chunk no longer counts, so support means that an excess of 0.1 is ruled out."
        ),
    ),
    Claim(
        id="as23.state-space",
        paper="AS23",
        source="Theorem 3.8, read as a stream (space of this code)",
        basis="implementation",
        title="The state holds 8 t (d_v + 2) bytes, however many keys it has absorbed",
        statement=sp.Eq(symbols.BYTES, 8 * symbols.t * (symbols.d_v + 2), evaluate=False),
        kind=Exact("=="),
        trial=state_bytes,
        cases={
            "smoke": tuple(
                {"n": n, "d": d, "d_v": d_v, "degree": degree}
                for n, d, d_v, degree in ((1000, 4, 4, 4), (10000, 4, 4, 4), (4000, 8, 5, 4), (256, 24, 24, 3))
            )
        },
        max_trials={"smoke": 1},
        sabotages=(Sabotage("keys are kept", "the state keeps the keys and values that it absorbs", {"keep": True}),),
        vacuity=Vacuity(
            sp.Ge(symbols.t * (symbols.d_v + 1), symbols.n * (symbols.d + symbols.d_v)),
            onset=symbols.t * (symbols.d_v + 1) / (symbols.d + symbols.d_v),
        ),
        remark=(
            "Moments, t (d_v + 1), and weights, t, in float64. A case is vacuous where the moments are no fewer than "
            "the n (d + d_v) numbers of the keys and values themselves."
        ),
    ),
)
