"""Theorem 3.8's algorithm as its callers see it: `polynomial_attention` against dense float64 attention [AS23]."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ....core.backends import asnumpy, to_device
from ....theory import symbols
from ....theory.adversary import Arrays, Search
from ....theory.claim import Claim, Exact, Sabotage, Trial, Vacuity
from ..approximants import approximant, minimal_degree
from ..polynomial import polynomial_attention, rounded_up
from .lemmas3_features_error import WITHIN_2_EPS
from .theorem1_4_phase import onset

HEADS, D, D_V = (1, 2), 4, 3  # of `algorithm`; d_v is not d
ROWS = 100  # queries of a head that `algorithm` looks at, the last ones among them


def attend(xp: Any, *arrays: np.ndarray, **options: Any) -> np.ndarray:
    """`polynomial_attention` of host arrays, on the host."""
    return asnumpy(polynomial_attention(*(to_device(x, xp) for x in arrays), **options))


def largest_logit(q: np.ndarray, k: np.ndarray, scale: float) -> float:
    """`R` as the algorithm takes it: `scale max|q_i| max|k_j|`, rounded up."""
    q_norm, k_norm = (float(np.linalg.norm(x, axis=-1).max()) for x in (q, k))
    return rounded_up(scale * q_norm * k_norm)


def algorithm(
    rng: Generator,
    xp: Any,
    *,
    n_q: int,
    n_k: int,
    basis: str,
    dtype: str,
    degree: int = 6,
    causal: bool = False,
    broken: str = "",
) -> Trial:
    """Largest distance between `polynomial_attention` and attention with p, computed densely in float64.

    Two heads with inputs of their own, d_v other than d, a random scale. Sabotages, by `broken`: every head has the
    first one's keys and values ("head"); the scale given is ignored ("scale"); row sums are those of the exponentials
    ("normaliser"); causal, the second half of the queries does not see the first half of the keys ("prefix"), or
    none its own key ("own key").
    """
    q, k, v = (rng.uniform(-1, 1, (*HEADS, n, d)).astype(dtype) for n, d in ((n_q, D), (n_k, D), (n_k, D_V)))
    scale = float(rng.uniform(0.2, 0.4))
    options = {"degree": degree, "basis": basis, "causal": causal, "scale": None if broken == "scale" else scale}
    keys, values = (np.repeat(x[:, :1], HEADS[1], axis=1) for x in (k, v)) if broken == "head" else (k, v)
    out = attend(xp, q, keys, values, **options).astype(np.float64)
    if broken == "prefix":
        i, j = n_q // 2, n_k // 2
        out[..., i:, :] = attend(xp, q[..., i:, :], k[..., j:, :], v[..., j:, :], **options)
    if broken == "own key":
        out[..., 1:, :] = attend(xp, q[..., 1:, :], k[..., :-1, :], v[..., :-1, :], **options)

    coefficients = [1 / math.factorial(power) for power in range(degree + 1)]
    if basis != "taylor":
        coefficients = list(approximant(basis, degree, largest_logit(q, k, scale)).coefficients)
    rows = np.union1d(rng.choice(n_q, min(ROWS, n_q), replace=False), np.arange(max(n_q - 5, 0), n_q))
    x = scale * (q[..., rows, :].astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2))
    mask = np.arange(n_k) <= rows[:, None] if causal else np.True_
    entries = mask * np.polyval(coefficients[::-1], x)
    sums = entries.sum(axis=-1, keepdims=True)
    out = out[..., rows, :]
    if broken == "normaliser":
        out *= sums / (mask * np.exp(x)).sum(axis=-1, keepdims=True)
    rounding = float(np.finfo(dtype).eps / np.finfo(np.float64).eps)
    error = np.abs(out - entries @ v.astype(np.float64) / sums).max()
    return Trial(float(error), 0.0, scale=rounding, facts={"n_q": n_q, "n_k": n_k})


def inverse_n(rng: Generator, xp: Any, *, n: int, width: float, beta: float, power: float = 1.0) -> Trial:
    """Largest error of `polynomial_attention(eps=1/n)` at d = width log n and entries +-B, B = (log n)^beta.

    Over 64 queries and n keys that reach the largest logit, R = B^2. Sabotage: the algorithm is given n^-power.
    """
    d, b = math.ceil(width * math.log(n)), math.log(n) ** beta
    q, k = (b * rng.choice([-1.0, 1.0], size=(rows, d)) for rows in (64, n))
    arrays = {"q": q, "k": k, "v": b * np.sign(k @ rng.standard_normal((d, 2)))}
    trial = inverse_n_measured(xp, arrays, beta=beta, power=power)
    begins = onset(width=width, entries=1.0, beta=beta) / math.log(10)
    return replace(trial, facts={**trial.facts, "onset": begins})


def inverse_n_measured(xp: Any, arrays: Arrays, *, beta: float, power: float = 1.0) -> Trial:
    """The same on given arrays."""
    q, k, v = (arrays[name] for name in "qkv")
    n, d = k.shape
    a = np.exp(q @ k.T / d)
    exact = a @ v / a.sum(axis=1, keepdims=True)
    out = attend(xp, q, k, v, eps=n**-power, basis="minimax", scale=1 / d)
    degree = minimal_degree("minimax", n**-power, largest_logit(q, k, 1 / d))
    largest = float(np.abs(v).max())
    facts = {"n": n, "d": d, "g": degree, "t": math.comb(d + degree, degree), "B": math.log(n) ** beta}
    return Trial(float(np.abs(out - exact).max()), 2 / n * largest, scale=largest, facts=facts)


def inverse_n_start(rng: Generator, *, beta: float) -> Arrays:
    """8 queries and 64 keys of d = log(64) / 4, rounded up, with any entries up to B."""
    q, k, v = (rng.uniform(-2, 2, size=(rows, 2)) for rows in (8, 64, 64))
    return inverse_n_kept({"q": q, "k": k, "v": v}, beta=beta)


def inverse_n_kept(arrays: Arrays, *, beta: float) -> Arrays:
    """Entries cut at B; the first query and key reach it, so that R is the same throughout, and so the polynomial."""
    b = math.log(len(arrays["k"])) ** beta
    kept = {name: np.clip(x, -b, b) for name, x in arrays.items()}
    for name in kept:
        kept[name][0] = b
    return kept


OUTPUT = sp.Symbol(r"\mathrm{out}(Q, K, V)")
ALGORITHM = Claim(
    id="as23.algorithm",
    paper="AS23",
    source="Theorem 3.8 (the algorithm's output)",
    basis="theorem",
    title="polynomial_attention is attention with p in place of exp, for any heads, widths and scale",
    statement=sp.Eq(OUTPUT, sp.Symbol(r"\frac{p(sQK^{\top})V}{p(sQK^{\top})\mathbf{1}}")),
    kind=Exact("==", rtol=1e-12),
    trial=algorithm,
    cases={
        "smoke": (
            {"n_q": 50, "n_k": 80, "basis": "taylor", "dtype": "float64"},
            {"n_q": 50, "n_k": 80, "basis": "chebyshev", "dtype": "float64"},
            {"n_q": 120, "n_k": 70, "basis": "minimax", "dtype": "float64"},
            {"n_q": 300, "n_k": 300, "basis": "taylor", "dtype": "float32"},
            {"n_q": 100, "n_k": 2500, "basis": "taylor", "dtype": "float64", "degree": 10},
        )
    },
    max_trials={"smoke": 2, "standard": 20},
    sabotages=(
        Sabotage("one head", "every head has the keys and values of the first", {"broken": "head"}),
        Sabotage("another scale", "the scale given is ignored: it is 1/sqrt(d)", {"broken": "scale"}),
        Sabotage("another normaliser", "row sums are those of exp, not those of p", {"broken": "normaliser"}),
    ),
    remark=(
        "Against dense attention in float64 with 1/l! (Taylor) or the polynomial of `approximant`, degree 6 or 10. "
        "Two heads, d = 4, d_v = 3. float32 may be off by as many units of its own rounding."
    ),
    restated="fce1123: so few keys that their sums were made in one piece",
)

CLAIMS = (
    ALGORITHM,
    replace(
        ALGORITHM,
        id="as23.algorithm-causal",
        source="Theorem 3.8, with a causal mask (derived here)",
        basis="derived",
        title="With a causal mask polynomial_attention is causal attention with p",
        statement=sp.Eq(OUTPUT, sp.Symbol(r"\frac{(M\circ p(sQK^{\top}))V}{(M\circ p(sQK^{\top}))\mathbf{1}}")),
        cases={
            "smoke": tuple(
                {"n_q": n_q, "n_k": n_k, "basis": basis, "dtype": dtype, "degree": degree, "causal": True}
                for n_q, n_k, basis, dtype, degree in (
                    (1100, 1100, "taylor", "float64", 6),
                    (900, 600, "minimax", "float64", 6),
                    (40, 600, "chebyshev", "float64", 6),
                    (700, 700, "taylor", "float32", 6),
                    (2600, 2500, "taylor", "float64", 10),
                )
            )
        },
        sabotages=(
            Sabotage("the prefix is lost", "later queries do not see the first half of the keys", {"broken": "prefix"}),
            Sabotage("a key short", "no query sees its own key", {"broken": "own key"}),
        ),
        remark=ALGORITHM.remark + " Several chunks of rows, and lanes of these; queries past the last key.",
        restated="fce1123: one lane of rows only, so that queries past the last key had one prefix sum to choose from",
    ),
    Claim(
        id="as23.inverse-n",
        paper="AS23",
        source="Theorem 1.4 (upper bound), run at eps = 1/n",
        basis="theorem",
        title="With d = O(log n), B = (log n)^(1/4) and eps = 1/n the output is within 2/n max|V|",
        statement=WITHIN_2_EPS.subs(symbols.eps, 1 / symbols.n),
        kind=Exact("<="),
        trial=inverse_n,
        cases={
            "smoke": tuple(
                {"n": n, "width": width, "beta": 0.25}
                for n, width in ((256, 0.25), (2048, 0.25), (16384, 0.25), (256, 1.0), (1024, 1.0))
            )
        },
        max_trials={"smoke": 2, "standard": 10},
        sabotages=(Sabotage("accuracy 1/sqrt(n)", "the degree is that of eps = n^(-1/2)", {"power": 0.5}),),
        search=Search(
            inverse_n_start, inverse_n_measured, inverse_n_kept, ({"beta": 0.25},), {"smoke": 200, "standard": 5000}
        ),
        vacuity=Vacuity(sp.Ge(symbols.t, symbols.n), variable="log10(n)", onset=symbols.ONSET),
        remark=(
            "Entries +-B, so that logits reach R = B^2; the minimax polynomial; s = 1/d. A case is vacuous where the "
            "rank t = C(d+g, g) is at least n: exact attention then does less. At d = log n / 4 it is not, at "
            "d = log n it is at any n that a computer holds."
        ),
    ),
)
