"""Trials of the claims themselves: with an assumption and without it, honest and sabotaged, on one scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ....lab.run import Run
from ....lab.statistics import Z, proportion
from ....theory import CLAIMS
from ....theory.claim import Case, Claim, Exact, Growth, Mean, Trial

ROUNDING = 2.0**-52  # stands for a tolerance of 0


def deviation(claim: Claim, trial: Trial) -> float:
    """How far a trial is from what the claim says, over what the claim allows: above 1 is a failure.

    An identity allows its rounding, a bound itself, an expectation 99 percent of the trial's distribution.
    """
    gap = trial.measured - trial.bound
    match claim.kind:
        case Exact(relation="==", rtol=rtol):
            return abs(gap) / (max(rtol, ROUNDING) * trial.scale)
        case Exact(rtol=rtol):
            return max(gap, 0.0) / (max(rtol, ROUNDING) * trial.scale)
        case Mean():
            return abs(gap) / (Z * trial.scale)
    return trial.measured / trial.bound


def judged() -> list[Claim]:
    """The claims whose single trials can fail: all but growths."""
    return [claim for claim in CLAIMS.values() if not isinstance(claim.kind, Growth)]


def dropped(run: Run) -> pd.DataFrame:
    """Trials of every such claim that drops assumptions: on the dropped case, and on the claim's case most like it.

    Returns
    -------
    DataFrame
        claim, assumption, drop (number within the claim), variant ("kept", "dropped"), replicate, deviation.
    """
    xp, trials = run.xp, run.pick(smoke=30, standard=200, full=200)
    rows = []
    for claim in judged():
        cases = claim.at(claim.cases, run.effort)
        drops = [(drop.assumption, case) for drop in claim.drops for case in drop.cases]
        for number, (assumption, case) in enumerate(drops):
            twin = _most_alike(case, cases)
            for variant, chosen in (("kept", twin), ("dropped", case)):
                rng = run.rng(claim.id, number, variant)
                for i, found in enumerate(_deviations(claim, xp, rng, chosen, trials)):
                    rows.append((claim.id, assumption, number, variant, i, found))
    return pd.DataFrame(rows, columns=["claim", "assumption", "drop", "variant", "replicate", "deviation"])


def _most_alike(case: Case, cases: Sequence[Case]) -> Case:
    return max(cases, key=lambda kept: sum(case.get(key) == value for key, value in kept.items()))


def failure_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of the trials that fail, with exact 99 percent limits.

    Returns
    -------
    DataFrame
        claim, assumption, drop, variant, rate, low, high, trials.
    """
    found = []
    for key, group in rows.groupby(["claim", "assumption", "drop", "variant"], sort=False):
        found.append((*key, *proportion(int((group["deviation"] > 1).sum()), len(group)), len(group)))
    return pd.DataFrame(found, columns=["claim", "assumption", "drop", "variant", "rate", "low", "high", "trials"])


def sabotaged(run: Run) -> pd.DataFrame:
    """Trials of every such claim, honest and under each sabotage.

    Returns
    -------
    DataFrame
        claim, variant ("honest" or the sabotage's name), case, replicate, deviation.
    """
    xp, trials = run.xp, run.pick(smoke=2, standard=20, full=20)
    rows = []
    for claim in judged():
        changes: Mapping[str, Mapping[str, Any]] = {"honest": {}, **{s.name: s.change for s in claim.sabotages}}
        for variant, change in changes.items():
            for case_number, case in enumerate(claim.at(claim.cases, run.effort)):
                rng = run.rng(claim.id, variant, case_number)
                for i, found in enumerate(_deviations(claim, xp, rng, {**case, **change}, trials)):
                    rows.append((claim.id, variant, case_number, i, found))
    return pd.DataFrame(rows, columns=["claim", "variant", "case", "replicate", "deviation"])


def _deviations(
    claim: Claim, xp: Any, rng: np.random.Generator, case: Mapping[str, Any], trials: int
) -> Iterator[float]:
    for _ in range(trials):
        yield deviation(claim, claim.trial(rng, xp, **case))
