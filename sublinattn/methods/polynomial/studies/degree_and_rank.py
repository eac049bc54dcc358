"""Degrees and ranks of the polynomial method, measured beside what is proved of them [AS23, AA22]."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
from scipy.special import lambertw

from ....lab.run import Run
from ....theory import symbols
from ....theory.claim import evaluate
from ..approximants import BASES, minimal_degree, taylor_degree
from ..claims.corollary2_2_degree import crossing

RADIUS, EPS = 4.0, 1e-6  # of the panels in which the other one varies


def law(eps: float, radius: float) -> float:
    """`max{log(1/eps) / log(log(1/eps)/R), R}`, the degree law without its constant."""
    return float(evaluate(symbols.DEGREE_GROWTH, {"L": math.log(1 / eps), "R": radius}))


def minimal_degrees(run: Run) -> pd.DataFrame:
    """Smallest degree of each basis, and the degree by Taylor's explicit bound, over eps and over R.

    Returns
    -------
    DataFrame
        varies ("eps", "R"), what (a basis, or "explicit"), eps, radius, degree.
    """
    points = run.pick(smoke=9, standard=17, full=33)
    accuracies = [("eps", 10.0**-power, RADIUS) for power in np.linspace(1, 16, points)]
    radii = [("R", EPS, float(radius)) for radius in np.geomspace(0.25, 40, points)]
    rows: list[tuple[str, str, float, float, int]] = []
    for varies, eps, radius in (*accuracies, *radii):
        rows += [(varies, basis, eps, radius, minimal_degree(basis, eps, radius)) for basis in BASES]
        rows.append((varies, "explicit", eps, radius, taylor_degree(math.log(eps), radius)))
    return pd.DataFrame(rows, columns=["varies", "what", "eps", "radius", "degree"])


def laws(points: int = 200) -> pd.DataFrame:
    """The degree law, without constant, over the same ranges: varies, eps, radius, degree; nan between its lowest point
    L = e R and its pole L = R."""
    accuracies = [("eps", 10.0**-power, RADIUS) for power in np.linspace(1, 16, points)]
    radii = [("R", EPS, float(radius)) for radius in np.geomspace(0.25, 40, points)]
    rows = []
    for varies, eps, radius in (*accuracies, *radii):
        near = 1 < math.log(1 / eps) / radius < math.e
        rows.append((varies, eps, radius, math.nan if near else law(eps, radius)))
    return pd.DataFrame(rows, columns=["varies", "eps", "radius", "degree"])


def law_constant(run: Run) -> pd.DataFrame:
    """The minimax degree over its law at several R, over log(1/eps)/R.

    Returns
    -------
    DataFrame
        radius, eps, ratio `log(1/eps)/R`, constant.
    """
    largest = run.pick(smoke=120.0, standard=300.0, full=600.0)
    points = run.pick(smoke=7, standard=11, full=15)
    rows = []
    for radius in (1.0, 2.0, 4.0, 8.0):
        for big in np.geomspace(2 * radius, largest, points):
            eps = math.exp(-big)
            rows.append((radius, eps, big / radius, crossing("minimax", float(big), radius) / law(eps, radius)))
    return pd.DataFrame(rows, columns=["radius", "eps", "ratio", "constant"])


def leading_constant(points: int = 200) -> pd.DataFrame:
    """The same to leading order: ratio, constant.

    From `(R/2)^g / g! = eps`: with Stirling `g log(2g/(eR)) = L`, so `g = L/w`, `w + log w = log(2L/(eR))`. The
    constant `log(L/R)/w` is 3/2 at most, at `L/R = e^3`, and 1 in the limit.
    """
    ratio = np.geomspace(2, 600, points)
    w = lambertw(2 * ratio / math.e).real
    return pd.DataFrame({"ratio": ratio, "constant": np.log(ratio) / w})


def ranks() -> pd.DataFrame:
    """Number of monomials and the paper's bound on it: d, degree, rank, bound (as floats: they pass 2^63)."""
    pairs = [(d, g) for d, g in product((2, 4, 8, 16, 32, 64, 128), range(1, 17))]
    rows = [(d, g, float(math.comb(d + g, g)), float(math.comb(2 * (d + g), 2 * g))) for d, g in pairs]
    return pd.DataFrame(rows, columns=["d", "degree", "rank", "bound"])
