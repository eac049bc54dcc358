"""Attention with a polynomial in place of exp: its features, and the error of its output [AS23, section 3].

Lemma 3.2 factorises the polynomial, Lemmas 3.5 and 3.6 carry an error of the entries over to the output.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ....core.backends import asnumpy, to_device
from ....theory import symbols
from ....theory.adversary import Arrays, Search
from ....theory.claim import Claim, Exact, Sabotage, Trial
from ..approximants import BASES, approximant
from ..monomials import Monomials, feature_matrix
from ..polynomial import polynomial_attention
from ._instances import attention_kept, attention_start, factors_kept, factors_start


def factored(rng: Generator, xp: Any, *, d: int, degree: int, basis: str, multinomials: bool = True) -> Trial:
    """Largest distance between `<u1(q), u2(k)>` and `p(s <q, k>)`, relative to the largest sum of magnitudes."""
    q, k = (rng.standard_normal((40, d)) / np.sqrt(d) for _ in range(2))
    s = float(rng.uniform(0.3, 1.0))
    coefficients = approximant(basis, degree, 2.0).coefficients
    monomials = Monomials(d, degree)
    u1, u2 = (asnumpy(feature_matrix(xp, monomials, to_device(a, xp))) for a in (q, k))
    weights = monomials.weights(coefficients, s)  # c_l s^l l!/a! of the monomial x^a of degree l
    if not multinomials:
        # Monomials stand by level l = |a|, and C(d+l-1, l) are of level l.
        level = np.repeat(np.arange(degree + 1), np.diff([0, *(Monomials(d, g).rank for g in range(degree + 1))]))
        weights = np.array(coefficients)[level] * s**level
    direct = np.polyval(coefficients[::-1], s * (q @ k.T))
    size = np.abs(u1 * weights) @ np.abs(u2).T
    return Trial(float(np.abs((u1 * weights) @ u2.T - direct).max() / size.max()), 0.0, facts={"t": monomials.rank})


def perturbed_output(
    rng: Generator, xp: Any, *, n: int, eps: float, kind: str, law: str, own_normaliser: bool = True
) -> Trial:
    """Largest error of the output when every entry of A is off by a factor within 1 +- eps.

    The factors follow `law`: uniform, or the worst there is. The bound is the paper's or the sharp one, as `kind` says.
    Sabotage: the output is normalised by n instead of the row sums of the perturbed entries.
    """
    if law == "worst":
        # Uniform attention. A share p of the keys has value 1 and error +eps, the others -1 and -eps: the output moves
        # by 4 p (1-p) eps / (1 - eps + 2 p eps). `plus` keys make the share with the largest move.
        p = np.arange(1, n) / n
        plus = round(n * float(p[np.argmax(4 * p * (1 - p) / (1 - eps + 2 * p * eps))]))
        a, v = np.ones((1, n)), np.where(np.arange(n) < plus, 1.0, -1.0)[:, None]
        e = eps * v.T
    else:
        a, v = np.exp(rng.standard_normal((8, n))), rng.standard_normal((n, 3))
        e = rng.uniform(-eps, eps, size=a.shape)
    return moved_output(a, e, v, kind=kind, own_normaliser=own_normaliser)


def moved_output(a: np.ndarray, e: np.ndarray, v: np.ndarray, *, kind: str, own_normaliser: bool = True) -> Trial:
    """Largest error of the output when the entries a (m, n) are off by factors 1 + e (m, n), with values v (n, d_v)."""
    rough = a * (1 + e)
    normaliser = rough.sum(axis=1) if own_normaliser else np.full(len(rough), float(a.shape[1]))
    error = np.abs(rough @ v / normaliser[:, None] - a @ v / a.sum(axis=1)[:, None]).max() / np.abs(v).max()
    realised = float(np.abs(rough / a - 1).max())  # the eps of these factors
    bound = {"paper": 2 * realised, "sharp": symbols.output_error(realised)}[kind]
    facts = {"n": a.shape[1], "varepsilon": realised, "share": error / bound}
    return Trial(float(error), bound, scale=bound, facts=facts)


def factors_measured(xp: Any, arrays: Arrays, *, kind: str) -> Trial:
    return moved_output(np.exp(arrays["logits"]), arrays["e"], arrays["v"], kind=kind)


def polynomial_output(
    rng: Generator, xp: Any, *, n: int, d: int, eps: float, basis: str, degree: int | None = None
) -> Trial:
    """Largest error of `polynomial_attention(eps=...)` against exact attention.

    Sabotage: the polynomial has the given `degree`.
    """
    q, k = (rng.uniform(-1, 1, size=(n, d)) for _ in range(2))
    v = rng.standard_normal((n, d))
    return output_distance(xp, q, k, v, eps=eps, basis=basis, degree=degree)


def output_distance(
    xp: Any, q: np.ndarray, k: np.ndarray, v: np.ndarray, *, eps: float, basis: str, degree: int | None = None
) -> Trial:
    """Largest error of `polynomial_attention(eps=...)` on these arrays; scale 1/d."""
    s = 1 / q.shape[1]
    a = np.exp(s * (q @ k.T))
    exact = a @ v / a.sum(axis=1, keepdims=True)
    accuracy = {"eps": eps} if degree is None else {"degree": degree}
    out = polynomial_attention(*(to_device(x, xp) for x in (q, k, v)), basis=basis, scale=s, **accuracy)
    bound = 2 * eps * float(np.abs(v).max())
    return Trial(float(np.abs(asnumpy(out) - exact).max()), bound, scale=bound, facts={"n": len(k), "varepsilon": eps})


def attention_measured(xp: Any, arrays: Arrays, *, basis: str, degree: int, radius: float) -> Trial:
    """With eps the error of the polynomial of this degree on [-radius, radius]: none of it is spared."""
    eps = approximant(basis, degree, radius).error * (1 + 1e-12)
    return output_distance(xp, arrays["q"], arrays["k"], arrays["v"], eps=eps, basis=basis)


V_MAX = symbols.norm("V", r"{\max}")
OUT_ERROR = symbols.norm(r"\widetilde{D}^{-1}\widetilde{A}V-D^{-1}AV", r"{\max}")
WITHIN_2_EPS = sp.Le(OUT_ERROR, 2 * symbols.eps * V_MAX)
LAWS = tuple({"n": 400, "eps": eps, "law": law} for eps in (0.01, 0.3, 0.9) for law in ("worst", "uniform"))
TIGHT = tuple(
    {"basis": basis, "degree": degree, "radius": radius} for basis in BASES for degree, radius in ((1, 0.5), (2, 1.0))
) + ({"basis": "minimax", "degree": 0, "radius": 4.0},)
OUTPUT_ERROR = Claim(
    id="as23.output-error",
    paper="AS23",
    source="Lemmas 3.5 and 3.6 (error propagation)",
    basis="theorem",
    source_checked=False,
    title="If every entry of A is off by a factor within 1 +- eps, the output is off by at most 2 eps max|V|",
    statement=WITHIN_2_EPS,
    kind=Exact("<="),
    trial=perturbed_output,
    cases={"smoke": tuple({**case, "kind": "paper"} for case in LAWS)},
    max_trials={"smoke": 20, "standard": 200},
    sabotages=(
        Sabotage(
            "another normaliser",
            "row sums are taken to be n instead of those of the same entries",
            {"own_normaliser": False},
        ),
    ),
    search=Search(factors_start, factors_measured, factors_kept, ({"kind": "paper"},)),
    remark="Numerator and normaliser share the perturbed entries; as23.output-error-sharp has the best constant.",
)
CLAIMS = (
    Claim(
        id="as23.factorisation",
        paper="AS23",
        source="Lemma 3.2 (features)",
        basis="theorem",
        source_checked=False,
        title="p(s<q,k>) is a scalar product of C(d+g, g) monomial features",
        statement=sp.Eq(
            sp.Symbol(r"\langle u_1(q), u_2(k)\rangle"), sp.Function("p")(sp.Symbol(r"s\langle q, k\rangle"))
        ),
        kind=Exact("==", rtol=1e-12),
        trial=factored,
        cases={
            "smoke": tuple(
                {"d": d, "degree": g, "basis": basis} for d, g in ((1, 7), (3, 5), (8, 4)) for basis in BASES
            )
        },
        max_trials={"smoke": 2, "standard": 20},
        sabotages=(Sabotage("no multinomials", "weights c_l s^l without l!/a!", {"multinomials": False}),),
        remark="float64; relative to the largest sum of the terms' magnitudes.",
    ),
    OUTPUT_ERROR,
    replace(
        OUTPUT_ERROR,
        id="as23.output-error-sharp",
        source="Lemma 3.6, with the best constant (derived here)",
        basis="derived",
        title="With the best constant the output is off by at most 2 (1 - sqrt(1 - eps^2)) / eps max|V| (about eps)",
        statement=sp.Le(OUT_ERROR, symbols.OUTPUT_ERROR * V_MAX),
        cases={"smoke": tuple({**case, "kind": "sharp"} for case in LAWS)},
        search=Search(factors_start, factors_measured, factors_kept, ({"kind": "sharp"},)),
        remark=(
            "With weights P_j and errors e_j the output moves by sum_j P_j (e_j - m) v_j / (1 + m), m their mean: at "
            "most 4 p (1-p) eps / (1 + (2p-1) eps) when a share p has +eps and the rest -eps; its maximum over p is "
            "the bound, eps + eps^3/4 + ... The worst law attains it (up to p being a multiple of 1/n)."
        ),
    ),
    Claim(
        id="as23.accuracy",
        paper="AS23",
        source="Theorem 3.8 (the algorithm's error)",
        basis="derived",
        title="polynomial_attention(eps=...) is within 2 eps max|V| of exact attention",
        statement=WITHIN_2_EPS,
        kind=Exact("<="),
        trial=polynomial_output,
        cases={
            "smoke": tuple({"n": 200, "d": 4, "eps": eps, "basis": basis} for eps in (0.05, 1e-3) for basis in BASES)
        },
        max_trials={"smoke": 5, "standard": 50},
        sabotages=(
            Sabotage("degree 0", "every entry of A is taken to be the constant of the polynomial", {"degree": 0}),
        ),
        search=Search(attention_start, attention_measured, attention_kept, TIGHT),
        remark="Entries uniform in [-1, 1], s = 1/d, so R <= 1. The degree is the least that reaches eps on [-R, R].",
    ),
)
