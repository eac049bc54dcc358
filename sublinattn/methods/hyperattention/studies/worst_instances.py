"""How many samples ApproxD and row-norm sampling need on the worst instances an adversary found [HA24, Lemmas 1, 2].

The instances on record are the ends of climbs of `claims/hard_instances.py`, a few hundred steps each, from two or more
starts; what is shown is measured with fresh draws. Notebook 03.
"""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ....core.files import atomic
from ....lab.run import Run
from ....lab.workloads import make
from ....theory.adversary import Arrays
from ..claims import hard_instances as hard

RECORD = Path(__file__).parent / "hard_instances.npz"
LIMITS = ((4, 16), (8, 16), (16, 16), (32, 16), (8, 8), (8, 32))
"""Largest kappa and alpha: of the former at alpha 16, of the latter at kappa 8."""
VARIABLES = {"kappa": ("alpha", 16, 7), "alpha": ("kappa", 8, 2)}
"""What each is measured at, and Lemma 1's exponent."""


@cache
def record() -> dict[str, Arrays]:
    """The worst instances on record, by name: "approxd 4 16" for limits, "product"."""
    found: dict[str, Arrays] = {}
    with np.load(RECORD) as archive:
        for key in archive.files:
            name, array = key.rsplit(" ", 1)
            found.setdefault(name, {})[array] = archive[key].astype(np.float64)
    return found


def keep(instances: dict[str, Arrays]) -> None:
    """Put these instances on record, in half precision."""
    packed = {f"{name} {key}": a.astype(np.float16) for name, arrays in instances.items() for key, a in arrays.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **packed)  # type: ignore[arg-type]
    with atomic(RECORD) as temporary:
        temporary.write_bytes(buffer.getvalue())


def approxd(run: Run) -> pd.DataFrame:
    """Critical sizes of ApproxD on the adversary's instances, further climbed at larger efforts, and on workloads.

    Returns
    -------
    DataFrame
        instance ("adversary", or "workload": the `kappa` workload at about the same kappa, noise 0.7),
        limit_kappa, limit_alpha, kappa, alpha, replicate (fresh draws), size.
    """
    return run.table(_sizes, LIMITS, ["instance", "limit_kappa", "limit_alpha", "kappa", "alpha", "replicate", "size"])


def _sizes(run: Run, kappa: int, alpha: int) -> list[tuple[Any, ...]]:
    """The rows of `approxd` at one pair of limits."""
    steps, replicates, trials = run.pick(smoke=(0, 2, 12), standard=(200, 5, 50), full=(2000, 10, 50))
    rows: list[tuple[Any, ...]] = []
    start = record()[f"approxd {kappa} {alpha}"]
    rng = run.rng("worst", kappa, alpha)
    if steps:
        start = hard.worst_for_approxd(run.xp, start, rng, steps=steps, kappa=kappa, alpha=alpha)
    made = make("kappa", hard.N, hard.D, rng=rng, dtype=np.float64, scale=1.0, kappa=kappa, noise=0.7)
    for name, arrays in (("adversary", start), ("workload", {"q": made.q, "k": made.k})):
        x = hard.reference(arrays)
        facts = (kappa, alpha, hard.kappa_of(run.xp, x), x.facts["alpha"])
        for replicate in range(replicates):
            draws = int(rng.integers(2**31))
            rows.append((name, *facts, replicate, hard.size_of(run.xp, x, draws=draws, trials=trials)))
    return rows


def exponents(rows: pd.DataFrame) -> pd.DataFrame:
    """Slopes of the adversary's critical sizes, medians over draws, in kappa and in alpha, the other held fixed.

    Returns
    -------
    DataFrame
        Index: variable. at (what is held fixed), from, to (of the variable), size at either end, exponent, theory (that
        of Lemma 1).
    """
    lines = []
    worst = rows[rows["instance"] == "adversary"]
    for variable, (other, value, theory) in VARIABLES.items():
        some = worst[worst[f"limit_{other}"] == value]
        medians = some.groupby(f"limit_{variable}")[[variable, "size"]].median()
        x, y = medians[variable].to_numpy(), medians["size"].to_numpy()
        slope = float(np.polyfit(np.log(x), np.log(y), 1)[0])
        lines.append((variable, f"{other} = {value}", x[0], x[-1], y[0], y[-1], slope, theory))
    columns = ["variable", "at", "from", "to", "size at first", "size at last", "exponent", "theory"]
    return pd.DataFrame(lines, columns=columns).set_index("variable")


def product(run: Run) -> pd.DataFrame:
    """Critical size of the product over `eps^-2 d_v srank(P)`, on Gaussian inputs and on the worst on record.

    Returns
    -------
    DataFrame
        Index: instance. ratio (median over draws), bound (Markov's inequality at a tenth of misses).
    """
    replicates, trials = run.pick(smoke=(1, 300), standard=(5, 1000), full=(9, 2000))
    rng = run.rng("product")
    gaussian = {"q": rng.standard_normal((hard.N, hard.D)), "k": rng.standard_normal((hard.N, hard.D))}
    gaussian["v"] = rng.standard_normal((hard.N, hard.D_V))
    lines = []
    for name, arrays in (("Gaussian", gaussian), ("adversary", record()["product"])):
        draws = rng.integers(2**31, size=replicates)
        ratios = [hard.product_ratio(run.xp, arrays, draws=int(one), trials=trials).ratio for one in draws]
        lines.append((name, float(np.median(ratios)), 10.0))
    return pd.DataFrame(lines, columns=["instance", "ratio", "bound"]).set_index("instance")
