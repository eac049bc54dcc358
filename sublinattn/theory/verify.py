"""Run a claim: its cases, its dropped assumptions and its sabotages, each as a stream of seeded trials, into one
verdict.

Knows no paper and no statistics: what is true is decided in `verdict` and `growth`, what is measured in the claim's
trial.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor

import numpy as np
import pandas as pd

from ..core.backends import backend as resolve
from .claim import Claim, Growth, Sabotage, Trial
from .facts import evaluate
from .result import CaseResult, DropResult, Fit, SabotageResult, VacuityResult, Verdict
from .roles import Role, roles_of
from .sequential import Outcome
from .trials import Stream, run_trials

__all__ = ["CaseResult", "DropResult", "Fit", "SabotageResult", "VacuityResult", "Verdict", "verify"]

LEVEL = 1e-4
"""Chance that any true claim of the ledger is refuted."""

_NO_SLACK = {"q05": math.nan, "q50": math.nan, "q95": math.nan}


def verify(
    claim: Claim | str,
    *,
    effort: str = "smoke",
    rng: int | None = 0,
    backend: str = "auto",
    executor: Executor | None = None,
) -> Verdict:
    """Verdict on a claim.

    A case stops as soon as it is decided, a sabotage as soon as one of its cases (`Growth`: variables) is refuted. The
    level of a refutation is LEVEL, split evenly over all cases (`Growth`: variables) of all claims, so that LEVEL
    bounds the chance of any false refutation in the ledger.

    - *refuted*: one case is; *supported*: all cases are that are not vacuous; *vacuous*: all cases are; else
      *undecided*.
    - A claim with a sabotage that is not refuted is not verified: it cannot be supported.

    Parameters
    ----------
    claim : Claim or str
        Or its id in `CLAIMS`.
    effort : "smoke", "standard" or "full"
    rng : int or None
        Seed; None takes fresh entropy, which the verdict records.
    backend : "auto", "numpy" or "cupy"
    executor : concurrent.futures.Executor, optional
        Where trials run; it changes no number. Not used for claims about the machine, whose trials must not disturb
        each other.

    Raises
    ------
    KeyError
        No claim has this id.
    ValueError
        Unknown effort; a claim that contradicts itself: its cases violate its assumptions, a dropped assumption
        holds, ...
    TrialError
        A trial raised.
    """
    claim = _find(claim)
    seed = _seed(rng)
    backend = resolve(backend).__name__
    machine = isinstance(claim.kind, Growth) and claim.kind.machine
    started = time.perf_counter()
    level = LEVEL / max(1, _family_size(claim, effort))
    roles = roles_of(claim, effort, level)
    _run(roles, seed, backend, None if machine else executor)

    main, drops, sabotaged = roles[0], roles[1 : 1 + len(claim.drops)], roles[1 + len(claim.drops) :]
    fits = main.fits()
    cases = tuple(_case_result(main, i, fits) for i in range(len(main.cases)))
    vacuity = _vacuity(claim, cases)
    sabotages = tuple(_sabotage_result(role, s) for role, s in zip(sabotaged, claim.sabotages, strict=True))
    outcome, reason = _conclude(main, cases, vacuity, sabotages)
    return Verdict(
        claim=claim.id,
        outcome=outcome,
        reason=reason,
        effort=effort,
        seed=seed,
        backend=backend,
        level=level,
        cases=cases,
        fits=fits,
        trials=sum(c.trials for c in cases),
        failures=sum(c.failures for c in cases),
        vacuity=vacuity,
        drops=tuple(result for role in drops for result in _drop_results(role)),
        sabotages=sabotages,
        seconds=time.perf_counter() - started,
        machine=machine,
        rows=_rows(roles),
    )


def _find(claim: Claim | str) -> Claim:
    if isinstance(claim, Claim):
        return claim
    from . import CLAIMS

    if claim not in CLAIMS:
        raise KeyError(f"no claim has the id {claim!r}; there are {sorted(CLAIMS)}")
    return CLAIMS[claim]


def _seed(rng: int | None) -> int:
    if rng is None:
        return int(np.random.default_rng().integers(2**63))
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer) or rng < 0:
        raise ValueError(f"rng must be a non-negative integer seed or None, got {rng!r}")
    return int(rng)


def _family_size(claim: Claim, effort: str) -> int:
    """Number of hypotheses over which LEVEL is split: those of the whole ledger, or of a claim that is not in it."""
    from . import CLAIMS

    family: Iterable[Claim] = CLAIMS.values() if CLAIMS.get(claim.id) is claim else (claim,)
    return sum(len(c.kind.variables) if isinstance(c.kind, Growth) else len(c.at(c.cases, effort)) for c in family)


def _run(roles: Sequence[Role], seed: int, backend: str, executor: Executor | None) -> None:
    """Make trials until every case is decided or at its limit."""
    places = [(role, i) for role in roles for i in range(len(role.cases))]
    streams = [Stream(r.claim.trial, r.claim.id, r.name, i, r.cases[i], r.limit) for r, i in places]
    active = set(range(len(streams)))
    for number, trial in run_trials(streams, active, seed=seed, backend=backend, executor=executor):
        role, i = places[number]
        role.add(i, trial)
        if role.outcome(i) != "undecided":
            active.discard(number)
        if role.kind == "sabotage" and role.outcome(i) == "refuted":
            active.difference_update([n for n in active if places[n][0] is role])


# ------------------------------------------------------------------------------------------------------------- results
def _case_result(role: Role, i: int, fits: Sequence[Fit]) -> CaseResult:
    trials, vacuity = role.trials[i], role.claim.vacuity
    facts = {name: float(np.median([t.facts[name] for t in trials])) for name in trials[0].facts}
    if role.tests:
        test = role.tests[i]
        outcome, failures, p_value, slack = test.outcome, test.failures, test.p_value, _slack(trials)
        lower, upper = test.limits()
    else:
        fit = next(f for f in fits if f.variable == role.cases[i]["variable"])
        outcome, failures, p_value, slack = fit.outcome, role.missing(i), fit.p_value, _NO_SLACK
        lower = upper = math.nan
    return CaseResult(
        case=dict(role.cases[i]),
        outcome=outcome,
        trials=len(trials),
        failures=failures,
        p_value=p_value,
        lower=lower,
        upper=upper,
        slack=dict(slack),
        facts=facts,
        vacuous=vacuity is not None and bool(evaluate(vacuity.predicate, facts)),
    )


def _slack(trials: Sequence[Trial]) -> dict[str, float]:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.array([t.bound for t in trials], dtype=float) / np.array([t.measured for t in trials], dtype=float)
    ratios = ratios[~np.isnan(ratios)]  # 0/0
    if not ratios.size:
        return _NO_SLACK
    quantiles = np.quantile(ratios, (0.05, 0.5, 0.95), method="nearest")  # interpolating between infinities gives nan
    return dict(zip(_NO_SLACK, quantiles.tolist(), strict=True))


def _drop_results(role: Role) -> list[DropResult]:
    if role.tests:
        return [
            DropResult(role.subject, dict(case), test.outcome, test.trials, test.failures, test.reason())
            for case, test in zip(role.cases, role.tests, strict=True)
        ]
    found = []
    for fit in role.fits():
        at = role.varying(fit.variable)
        trials, missing = sum(len(role.trials[i]) for i in at), sum(map(role.missing, at))
        found.append(DropResult(role.subject, {"variable": fit.variable}, fit.outcome, trials, missing, fit.reason))
    return found


def _sabotage_result(role: Role, sabotage: Sabotage) -> SabotageResult:
    outcome, reason = _worst(role.judged())
    trials = sum(map(len, role.trials))
    return SabotageResult(sabotage.name, sabotage.what, outcome, outcome == "refuted", trials, reason)


def _vacuity(claim: Claim, cases: Sequence[CaseResult]) -> VacuityResult | None:
    if claim.vacuity is None:
        return None
    onset = None
    if claim.vacuity.onset is not None:
        values = [float(evaluate(claim.vacuity.onset, case.facts)) for case in cases]
        onset = min(filter(math.isfinite, values), default=None)
    return VacuityResult(sum(c.vacuous for c in cases) / len(cases), onset, claim.vacuity.variable)


def _worst(judged: Sequence[tuple[Outcome, str]]) -> tuple[Outcome, str]:
    """The outcome of all together, and the first reason for it."""
    order: tuple[Outcome, ...] = ("refuted", "undecided", "supported")
    return min(judged, key=lambda found: order.index(found[0]))


def _conclude(
    role: Role, cases: Sequence[CaseResult], vacuity: VacuityResult | None, sabotages: Sequence[SabotageResult]
) -> tuple[Outcome, str]:
    """Outcome of the whole claim, and one sentence that says why."""
    judged = role.judged()
    if role.tests:  # a vacuous case supports nothing, but it may refute; the closest case speaks for the others
        closest = sorted(range(len(cases)), key=lambda i: (cases[i].p_value, cases[i].slack["q05"]))
        judged = [judged[i] for i in closest if not cases[i].vacuous or cases[i].outcome == "refuted"]
    refuted = any(outcome == "refuted" for outcome, _ in judged)
    if vacuity is not None and vacuity.share == 1 and not refuted:
        onset = vacuity.onset
        begins = "" if onset is None else f"; it would begin to say something at {vacuity.variable} = {onset:.3g}"
        return "vacuous", f"The theorem's own prescription is the trivial one on all {len(cases)} cases{begins}."
    outcome, reason = _worst(judged)
    missed = [s.name for s in sabotages if not s.caught]
    if outcome == "supported" and missed:
        return "undecided", f"Supported by its trials, but they do not catch sabotage ({', '.join(missed)})."
    count = sum(found == outcome for found, _ in judged)
    others = f" ({count} of {len(judged)} {outcome})" if len(judged) > 1 else ""
    return outcome, f"{reason[0].upper()}{reason[1:]}{others}."


def _rows(roles: Sequence[Role]) -> pd.DataFrame:
    rows = []
    for role in roles:
        for i, trials in enumerate(role.trials):
            for number, t in enumerate(trials):
                row = {"claim": role.claim.id, "role": role.name, "case": i, "trial": number}
                row |= {"measured": float(t.measured), "bound": float(t.bound), "scale": float(t.scale)}
                if taken := sorted(set(row) & set(t.facts)):
                    raise ValueError(f"claim {role.claim.id}: facts are called {taken}, like columns of the rows")
                rows.append(row | {name: float(value) for name, value in t.facts.items()})
    return pd.DataFrame(rows)
