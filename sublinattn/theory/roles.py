"""A claim's cases in their three roles: the claim itself, one assumption dropped, sabotaged; with the trials made and
the tests that watch them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import sympy

from . import growth, sequential
from .claim import Case, Claim, Exact, Growth, Mean, Probability, Trial
from .facts import evaluate
from .result import Fit
from .sequential import Outcome, SequentialTest

FIRST_LOOK = 4
"""Replicates at which a sabotaged growth is judged for the first time: Student's t errs no more with 4 than with 8
(`lab.error_rates`)."""


class Role:
    """The cases of a claim in one role; `subject` is the name of the assumption dropped, or of the sabotage.

    A growth is judged when all is measured. A sabotaged one is looked at before, since most are plain after half of
    the work; its level is split over the looks.
    """

    def __init__(
        self,
        claim: Claim,
        kind: Literal["claim", "drop", "sabotage"],
        subject: str,
        cases: Sequence[Case],
        limit: int,
        level: float,
    ) -> None:
        self.claim, self.kind, self.subject, self.cases, self.limit, self.level = (
            claim,
            kind,
            subject,
            tuple(cases),
            limit,
            level,
        )
        self.name = f"{kind}:{subject}" if subject else kind
        self.trials: list[list[Trial]] = [[] for _ in cases]
        self.tests = [] if isinstance(claim.kind, Growth) else [_test(claim, limit, level) for _ in cases]
        self._looks = {min(FIRST_LOOK, limit), limit} if kind == "sabotage" else {limit}
        self._fits: dict[str, Fit] = {}  # the latest look at each variable

    def add(self, i: int, trial: Trial) -> None:
        """Take one more trial of case `i`."""
        try:
            self._check_assumptions(trial)
            if self.tests:
                self.tests[i].update(float(trial.measured), float(trial.bound), float(trial.scale))
        except ValueError as error:
            raise ValueError(
                f"claim {self.claim.id}, {self.name}, {self.where(i)}, trial {len(self.trials[i])}: {error}"
            ) from error
        self.trials[i].append(trial)
        if isinstance(self.claim.kind, Growth):
            self._look(self.claim.kind, i)

    def outcome(self, i: int) -> Outcome:
        """Of case `i` so far; of a growth, all that counts before the end is a refutation."""
        if self.tests:
            return self.tests[i].outcome
        fit = self._fits.get(self.cases[i]["variable"])
        return "refuted" if fit is not None and fit.outcome == "refuted" else "undecided"

    def where(self, i: int) -> str:
        """Case `i` in words."""
        return f"case {i} ({', '.join(f'{name}={value}' for name, value in self.cases[i].items())})"

    def varying(self, variable: str) -> list[int]:
        """Cases that vary `variable` (`Growth`)."""
        return [i for i, case in enumerate(self.cases) if case.get("variable") == variable]

    def missing(self, i: int) -> int:
        """Trials of case `i` that found no size (`Growth`)."""
        return sum(math.isinf(t.measured) for t in self.trials[i])

    def judged(self) -> list[tuple[Outcome, str]]:
        """Outcome and reason of each case that has trials, or of each growth."""
        if not self.tests:
            return [(fit.outcome, f"in {fit.variable}: {fit.reason}") for fit in self.fits()]
        return [(test.outcome, f"{self.where(i)}: {test.reason()}") for i, test in enumerate(self.tests) if test.trials]

    def fits(self) -> tuple[Fit, ...]:
        """Growth in each variable that was looked at, in the order of the theory."""
        if not isinstance(self.claim.kind, Growth):
            return ()
        return tuple(self._fits[name] for name in self.claim.kind.variables if name in self._fits)

    def _look(self, kind: Growth, i: int) -> None:
        """Judge the growth of case `i`, once all of its cases have as many replicates as a look takes."""
        variable = self.cases[i]["variable"]
        fewest = min(len(self.trials[j]) for j in self.varying(variable))
        if fewest in self._looks and fewest == len(self.trials[i]):
            self._fits[variable] = self._fit(kind, variable, fewest)

    def _fit(self, kind: Growth, variable: str, replicates: int) -> Fit:
        points, theory = [self.trials[i][:replicates] for i in self.varying(variable)], kind.variables[variable]

        def table(of: Any) -> np.ndarray:
            return np.array([[of(trial) for trial in point] for point in points], dtype=float)

        x, size = table(lambda t: t.facts[variable]), table(lambda t: t.measured)
        try:
            found = growth.fit(
                x,
                size,
                table(lambda t: evaluate(theory, t.facts)),
                cap=table(lambda t: t.facts.get("cap", math.nan)),
                resolution=kind.resolution,
                level=self.level / len(self._looks),
            )
        except ValueError as error:
            raise ValueError(f"claim {self.claim.id}, {self.name}, variable {variable}: {error}") from error
        return Fit(
            variable=variable,
            theory=sympy.latex(theory),
            outcome=found.outcome,
            measured_exponent=found.measured,
            theory_exponent=found.theory,
            lower=found.lower,
            upper=found.upper,
            excess=found.excess,
            p_value=found.p_value,
            abscissas=tuple(np.median(x, axis=1).tolist()),
            sizes=tuple(map(tuple, size.tolist())),
            reason=found.reason,
        )

    def _check_assumptions(self, trial: Trial) -> None:
        """All hold except the one that is dropped; a sabotage may do what it likes."""
        if self.kind == "sabotage":
            return
        for assumption in self.claim.assumptions:
            holds = bool(evaluate(assumption.predicate, trial.facts))
            if holds == (assumption.name == self.subject):
                said = "holds, and is to be dropped" if holds else "does not hold"
                raise ValueError(
                    f"assumption {assumption.name} ({assumption.predicate}) {said}; facts {dict(trial.facts)}"
                )


def roles_of(claim: Claim, effort: str, level: float) -> list[Role]:
    """The claim itself, then its drops, then its sabotages; ValueError if the claim contradicts itself."""
    cases, limit = tuple(claim.at(claim.cases, effort)), int(claim.at(claim.max_trials, effort))
    if not cases or limit < 1:
        raise ValueError(f"claim {claim.id} needs at least one case and one trial at effort {effort!r}")
    known = [a.name for a in claim.assumptions]
    dropped = [d.assumption for d in claim.drops]
    for what, names in (("assumptions", known), ("drops", dropped), ("sabotages", [s.name for s in claim.sabotages])):
        if len(set(names)) < len(names):
            raise ValueError(f"claim {claim.id} has two {what} of the same name: {names}")
    if unknown := set(dropped) - set(known):
        raise ValueError(f"claim {claim.id} drops {sorted(unknown)}, its assumptions are {known}")
    if isinstance(claim.kind, Growth):
        varied = {str(case.get("variable")) for case in cases}
        elsewhere = {str(case.get("variable")) for drop in claim.drops for case in drop.cases}
        theory = set(claim.kind.variables)
        if varied != theory or not elsewhere <= theory:
            both = sorted(varied | elsewhere)
            raise ValueError(f"claim {claim.id}: its cases vary {both}, its theory is about {sorted(theory)}")
    return [
        Role(claim, "claim", "", cases, limit, level),
        *(Role(claim, "drop", d.assumption, d.cases, limit, level) for d in claim.drops),
        *(Role(claim, "sabotage", s.name, [{**c, **s.change} for c in cases], limit, level) for s in claim.sabotages),
    ]


def _test(claim: Claim, limit: int, level: float) -> SequentialTest:
    kind = claim.kind
    if isinstance(kind, Probability):
        return sequential.Rate(kind.p, level)
    if isinstance(kind, Mean):
        return sequential.Mean(kind.resolution, level)
    assert isinstance(kind, Exact)
    return sequential.Always(kind.relation, kind.rtol, limit)
