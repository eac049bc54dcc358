"""The phase picture: the rank that accuracy 1/n takes, over n, B/sqrt(log n) and d/log n [AS23, Theorem 1.4]."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from ....lab.run import Run
from ..claims.corollary2_2_degree import crossing
from ..claims.theorem1_4_phase import log_rank

SIZES = {
    "2^10": 10 * math.log(2),
    "2^20": 20 * math.log(2),
    "2^40": 40 * math.log(2),
    "10^1000": 1000 * math.log(10),
    "10^(10^6)": 1e6 * math.log(10),
}
MEASURED, EXPLICIT = tuple(SIZES)[:3], tuple(SIZES)[2:]  # the middle one both ways, for comparison
LAST_MEASURED = 600.0  # of log n: float64 has no smaller eps

# How B grows with log n: name, factor, exponent.
REGIMES = (
    ("B = 1", 1.0, 0.0),
    ("B = (log n)^(1/4)", 1.0, 0.25),
    ("B = sqrt(log n) / 2", 0.5, 0.5),
    ("B = sqrt(log n)", 1.0, 0.5),
)


def exponent(polynomial: str, log_n: float, radius: float, d: float) -> float:
    """`log t / log n` for accuracy 1/n on [-R, R]; the degree is interpolated."""
    return log_rank(d, crossing(polynomial, log_n, radius)) / log_n


def maps(run: Run) -> pd.DataFrame:
    """`log t / log n` over the plane, by the measured minimax degree and by Taylor's explicit bound.

    Returns
    -------
    DataFrame
        polynomial ("minimax", "explicit"), size (n, in words), log_n, entries (B/sqrt(log n)), width (d/log n, not
        rounded to a whole d), degree, exponent.
    """
    points = run.pick(smoke=11, standard=21, full=41)
    rows = []
    for polynomial, sizes in (("minimax", MEASURED), ("explicit", EXPLICIT)):
        for size in sizes:
            log_n = SIZES[size]
            for entries in np.geomspace(0.1, 1, points):
                degree = crossing(polynomial, log_n, float(entries**2 * log_n))
                for width in np.geomspace(0.1, 10, points):
                    value = log_rank(width * log_n, degree) / log_n
                    rows.append((polynomial, size, log_n, entries, width, degree, value))
    columns = ["polynomial", "size", "log_n", "entries", "width", "degree", "exponent"]
    return pd.DataFrame(rows, columns=columns)


def share_below(table: pd.DataFrame) -> pd.DataFrame:
    """For each picture the largest d/log n at which `t < n`, at the smallest and at the largest B/sqrt(log n)."""
    below = table[table["exponent"] < 1]
    ends = {"small B": table["entries"].min(), "B = sqrt(log n)": table["entries"].max()}
    found = {
        name: below[np.isclose(below["entries"], b)].groupby(["polynomial", "size"], sort=False)["width"].max()
        for name, b in ends.items()
    }
    return pd.DataFrame(found).reindex(table.set_index(["polynomial", "size"]).index.unique())


def curves(run: Run) -> pd.DataFrame:
    """`log t / log n` over n at d = log n, for each way in which B may grow.

    Returns
    -------
    DataFrame
        regime, polynomial, log_n, exponent. The minimax degree is measured where R is at most 30 and log n at most
        LAST_MEASURED; Taylor's explicit bound covers all n.
    """
    last = run.pick(smoke=250.0, standard=LAST_MEASURED, full=LAST_MEASURED)
    points = run.pick(smoke=8, standard=16, full=24)
    rows = []
    for regime, factor, power in REGIMES:
        sizes = [("explicit", x) for x in np.geomspace(7, 1e9, 100)]
        sizes += [("minimax", x) for x in np.geomspace(7, last, points) if factor**2 * x ** (2 * power) <= 30]
        for polynomial, log_n in sizes:
            radius = factor**2 * log_n ** (2 * power)
            rows.append((regime, polynomial, log_n, exponent(polynomial, float(log_n), float(radius), log_n)))
    return pd.DataFrame(rows, columns=["regime", "polynomial", "log_n", "exponent"])


def onsets(table: pd.DataFrame) -> pd.DataFrame:
    """`log10 n` from which `t < n` on, for each regime and polynomial (interpolated; inf: not up to the largest n)."""
    rows = []
    for (regime, polynomial), curve in table.groupby(["regime", "polynomial"], sort=False):
        x, y = np.log(curve["log_n"].to_numpy()), curve["exponent"].to_numpy()
        above = np.flatnonzero(y >= 1)
        if not above.size:
            where = x[0]
        elif above[-1] == len(y) - 1:
            where = math.inf
        else:
            i = above[-1]
            where = x[i] + (y[i] - 1) / (y[i] - y[i + 1]) * (x[i + 1] - x[i])
        largest = float(curve["log_n"].max()) / math.log(10)
        rows.append((regime, polynomial, math.exp(where) / math.log(10), largest))
    return pd.DataFrame(rows, columns=["regime", "polynomial", "log10 n from which t < n", "largest log10 n"])
