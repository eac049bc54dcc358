"""Run a claim's trial a few times, and say in words how what was measured compares with what the claim says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...theory import find
from ...theory.claim import Claim, Exact, Growth, Mean, Probability, evaluate
from .question import Question, changed, settings

TRIALS = 12


@dataclass(frozen=True)
class Answer:
    """What a few trials measured.

    Attributes
    ----------
    question : Question
    rows : DataFrame
        A trial per line: trial, measured, bound, scale, and the further measurements of the trial (its facts).
    problem : str
        Why there are no trials: what the algorithm, or the trial, says of these arguments. Empty if there are some.
    seconds : float
        Of all trials together.
    """

    question: Question
    rows: pd.DataFrame
    problem: str
    seconds: float

    @property
    def facts(self) -> dict[str, float]:
        """Medians of the trials' measurements."""
        return {str(name): float(value) for name, value in self.rows.drop(columns=["trial"]).median().items()}

    @property
    def vacuous(self) -> bool:
        """Whether the theorem says nothing here, by the claim's own predicate (for example: more samples than keys)."""
        vacuity = find(self.question.claim).vacuity
        return bool(vacuity and not self.problem and evaluate(vacuity.predicate, self.facts))

    @property
    def assumptions(self) -> dict[str, bool]:
        """The claim's assumptions by name, and whether the input satisfies them."""
        if self.problem:
            return {}
        return {each.name: bool(evaluate(each.predicate, self.facts)) for each in find(self.question.claim).assumptions}

    def words(self) -> list[str]:
        """Sentences: what was measured beside what the claim says, which assumptions fail, whether it is vacuous."""
        if self.problem:
            return [f"No trial ran: {self.problem}"]
        claim = find(self.question.claim)
        said = [_compared(claim, self.rows)]
        if failing := [name for name, holds in self.assumptions.items() if not holds]:
            said.append(f"The claim assumes {' and '.join(failing)}, which is not so here: it promises nothing.")
        if self.vacuous:
            said.append("The theorem is vacuous here: what it asks for is no less than exact attention's.")
        if self.question.sabotage:
            what = next(each.what for each in claim.sabotages if each.name == self.question.sabotage)
            said.append(f"Sabotaged: {what}.")
        return said


def ask(question: Question, *, trials: int = TRIALS, seed: int = 0, seconds: float = np.inf) -> Answer:
    """Run the claim's trial `trials` times, each with a generator of its own: the same seed gives the same numbers.

    After `seconds` no further trial begins; one is always run.
    """
    trial, arguments = find(question.claim).trial, question.arguments()
    rows: list[dict[str, float]] = []
    problem, began = "", time.perf_counter()
    for number in range(trials):
        if rows and time.perf_counter() - began > seconds:
            break
        try:
            made = trial(np.random.default_rng([seed, number]), np, **arguments)
        except (ValueError, TypeError, ZeroDivisionError, MemoryError, np.linalg.LinAlgError) as error:
            rows, problem = [], f"{type(error).__name__}: {error}"
            break
        rows.append(
            {"trial": number, "measured": made.measured, "bound": made.bound, "scale": made.scale, **made.facts}
        )
    return Answer(question, pd.DataFrame(rows), problem, time.perf_counter() - began)


def sweep(claim: str, moved: str, values: Sequence[Any], *, setting: str = "", **options: Any) -> list[Answer]:
    """Answers over values of one argument, from the claim's first setting whose name begins with `setting`.

    `options` are those of `ask`. ValueError if the claim has no such setting; the message lists what it has.
    """
    named = {each.name: each.case for each in settings(find(claim))}
    found = [case for name, case in named.items() if name.startswith(setting)]
    if not found:
        raise ValueError(f"setting must begin one of {list(named)}, got {setting!r}")
    return [ask(Question(claim, changed(found[0], moved, value)), **options) for value in values]


def _compared(claim: Claim, rows: pd.DataFrame) -> str:
    measured, bound, count = rows["measured"], rows["bound"], len(rows)
    match claim.kind:
        case Probability(p=p):
            held = int((measured <= bound).sum())
            slack = float((bound / measured)[measured > 0].median())
            told = f" The median trial leaves a factor {slack:.3g} between measurement and bound." if slack > 0 else ""
            return f"{held} of {count} trials are within the bound, which may fail with probability {p:g}.{told}"
        case Exact(relation="==", rtol=rtol):
            worst = float((abs(measured - bound) / rows["scale"]).max())
            return f"The two sides differ by at most {worst:.2g} of their size in {count} trials; {rtol:g} is rounding."
        case Exact(rtol=rtol):
            held = int((measured <= bound + rtol * rows["scale"]).sum())
            nearest = float((measured / bound.where(abs(bound) > rtol * rows["scale"])).max())
            return f"The inequality holds in {held} of {count} trials; the nearest reaches {nearest:.3g} of the bound."
        case Mean():
            reach = float(rows["scale"].mean()) / np.sqrt(count)
            return (
                f"The mean of {count} trials is {measured.mean():.4g}, the claim's {bound.mean():.4g}; "
                f"one standard deviation of such a mean is {reach:.2g}."
            )
        case Growth(variables=variables):
            name = next(iter(variables))
            found = measured[np.isfinite(measured)]
            if found.empty:
                return f"No size up to the search's limit was enough in {count} trials."
            return (
                f"Measured: {found.median():.4g} (median of {count} trials). The claim says how it grows with "
                f"{', '.join(variables)}: move {name if len(variables) == 1 else 'one of them'} to see a curve."
            )
    raise TypeError(f"claim {claim.id} has a kind of type {type(claim.kind).__name__}")
