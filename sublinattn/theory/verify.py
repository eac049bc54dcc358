"""Run a claim as it stands, with each assumption dropped, and with each sabotage; combine the outcomes to one verdict.

The claim's trial measures, and the tests in `sequential` and `growth` decide. This module runs the trials until the
tests are decided, and says what their outcomes mean together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..core.backends import backend as resolve
from . import adversary
from .claim import Case, Claim, Exact, Growth, GrowthTest, Trial, evaluate, listed
from .result import CaseResult, DropResult, SabotageResult, SearchResult, VacuityResult, Verdict
from .sequential import Outcome, SequentialTest
from .trials import Stream, run_trials

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int], None]

LEVEL = 1e-4
"""Bound on the probability that any true claim of the ledger is refuted."""


def verify(
    claim: Claim | str,
    *,
    effort: str = "smoke",
    rng: int | None = 0,
    backend: str = "auto",
    executor: Executor | None = None,
    progress: Progress = lambda done, total: None,
) -> Verdict:
    """Verdict on a claim.

    A hypothesis is one case of the claim, or for `Growth` one variable. Each is tested at the level LEVEL divided by
    the number of hypotheses of all claims, so that LEVEL bounds the probability of any false refutation in the ledger.
    A case gets no more trials once it is decided, a sabotage none once one of its hypotheses is refuted.

    An inequality without exception is also searched for a counterexample, if it says how (`adversary`).

    - *refuted*: at least one hypothesis is refuted, or the search found a counterexample.
    - *vacuous*: none is refuted, and all cases are vacuous by the claim's `vacuity` predicate.
    - *supported*: every hypothesis, vacuous cases aside, is supported, and every sabotage is refuted. (A sabotage that
      is not refuted shows that the trials cannot tell the claim from a false one.)
    - *undecided*: otherwise.

    Parameters
    ----------
    claim : Claim or str
        A claim, or an id that `theory.find` knows.
    effort : "smoke", "standard" or "full"
        Selects the claim's cases and its largest number of trials per case.
    rng : int or None
        Seed; None takes fresh entropy, which the verdict records.
    backend : "auto", "numpy" or "cupy"
    executor : concurrent.futures.Executor, optional
        Where trials run; the results do not depend on it. Not used for claims about this machine's seconds and bytes,
        whose trials must not disturb each other.
    progress : callable
        `progress(done, total)` is called after each trial with numbers of trials; those that a decided case no longer
        needs count as done.

    Raises
    ------
    KeyError
        No claim has this id.
    ValueError
        Unknown effort; a claim that contradicts itself, for example by a case that violates its assumptions, or by a
        drop in whose cases the dropped assumption holds.
    TrialError
        A trial raised.

    Examples
    --------
    >>> from sublinattn.theory import verify
    >>> verdict = verify("ccf02.variance")
    >>> verdict.outcome, verdict.trials, [sabotage.caught for sabotage in verdict.sabotages]
    ('supported', 50, [True])
    """
    from . import CLAIMS, find

    if not isinstance(claim, Claim):
        claim = find(claim)
    seed = _seed(rng)
    backend = resolve(backend).__name__
    started = time.perf_counter()
    # LEVEL is split over all hypotheses of the ledger, and alike for another model's; or over those of a foreign claim.
    family = CLAIMS.values() if claim.origin or CLAIMS.get(claim.id) is claim else [claim]
    level = LEVEL / max(1, sum(_hypotheses(member, effort) for member in family))
    conditions = _conditions(claim, effort, level)
    _run(conditions, seed, backend, None if claim.machine else executor, progress)

    main, drops = conditions[0], conditions[1 : 1 + len(claim.drops)]
    sabotages = tuple(_sabotage_result(condition) for condition in conditions[1 + len(claim.drops) :])
    cases = tuple(_case_result(main, i) for i in range(len(main.cases)))
    vacuity = _vacuity(claim, cases)
    instances = sum(c.trials for c in cases)
    search = adversary.search(claim, effort, instances, seed=seed, backend=backend, executor=executor)
    outcome, reason = _conclude(main, cases, vacuity, sabotages, search)
    return Verdict(
        claim=claim.id,
        outcome=outcome,
        reason=reason,
        effort=effort,
        seed=seed,
        backend=backend,
        level=level,
        cases=cases,
        fits=tuple(test.fit for _, _, test in main.hypotheses if isinstance(test, GrowthTest) and test.fit),
        trials=sum(c.trials for c in cases),
        failures=sum(c.failures for c in cases),
        vacuity=vacuity,
        search=search,
        drops=tuple(
            DropResult(drop.subject, dict(case), test.outcome, test.trials, test.failures, test.reason())
            for drop in drops
            for _, case, test in drop.hypotheses
        ),
        sabotages=sabotages,
        seconds=time.perf_counter() - started,
        machine=claim.machine,
        rows=_rows(conditions),
    )


def _seed(rng: int | None) -> int:
    if rng is None:
        return int(np.random.default_rng().integers(2**63))
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer) or rng < 0:
        raise ValueError(f"rng must be a non-negative integer seed or None, got {rng!r}")
    return int(rng)


def _hypotheses(claim: Claim, effort: str) -> int:
    return len(claim.kind.variables if isinstance(claim.kind, Growth) else claim.at(claim.cases, effort))


def _run(
    conditions: Sequence[Condition], seed: int, backend: str, executor: Executor | None, progress: Progress
) -> None:
    """Run trials until every case is decided or at its limit."""
    places = [(condition, i) for condition in conditions for i in range(len(condition.cases))]
    streams = [Stream(c.claim.trial, c.claim.id, c.name, i, c.cases[i], c.limit, c.needed) for c, i in places]
    active = set(range(len(streams)))
    total = sum(stream.limit for stream in streams)
    for number, trial in run_trials(streams, active, seed=seed, backend=backend, executor=executor):
        condition, i = places[number]
        condition.add(i, trial)
        if condition.tests[i].outcome != "undecided":
            active.discard(number)
        if condition.kind == "sabotage" and condition.tests[i].outcome == "refuted":  # one refuted case catches it
            active.difference_update([n for n in active if places[n][0] is condition])
        progress(total - sum(streams[n].limit - len(places[n][0].trials[places[n][1]]) for n in active), total)


# ---------------------------------------------------------------------------------------------------------- conditions
class Condition:
    """One condition under which a claim is tried: as it stands, with one assumption dropped, or with one sabotage.

    `subject` names the assumption or the sabotage. `trials` and `tests` are those of each case; cases of a `Growth`
    that vary the same variable share one test. `hypotheses` has one entry per case, or per variable of a `Growth`: its
    description, its parameters, its test. `level` is the p-value at which a hypothesis is refuted.
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
        self.claim, self.kind, self.subject, self.cases, self.limit = claim, kind, subject, tuple(cases), limit
        self.name = f"{kind}:{subject}" if subject else kind
        self.needed = limit if isinstance(claim.kind, Growth) else 1  # a fit takes all, a sequential test may stop
        self.trials: list[list[Trial]] = [[] for _ in cases]
        self.tests: list[SequentialTest | GrowthTest]
        self.hypotheses: list[tuple[str, Case, SequentialTest | GrowthTest]]
        if isinstance(claim.kind, Growth):
            varied = {v: [i for i, case in enumerate(cases) if case["variable"] == v] for v in claim.kind.variables}
            tests = {v: GrowthTest(claim.kind, v, varied[v], level=level, limit=limit) for v in varied if varied[v]}
            self.tests = [tests[case["variable"]] for case in cases]
            self.hypotheses = [(f"in {v}", {"variable": v}, test) for v, test in tests.items()]
        else:
            self.tests = [claim.kind.test(level, limit) for _ in cases]
            self.hypotheses = [(self._describe(i), case, self.tests[i]) for i, case in enumerate(cases)]

    def add(self, i: int, trial: Trial) -> None:
        """Take one more trial of case `i`; ValueError if it violates an assumption or cannot be tested."""
        test = self.tests[i]
        try:
            self._check_assumptions(trial)
            if isinstance(test, GrowthTest):
                test.update(i, trial)
            else:
                test.update(float(trial.measured), float(trial.bound), float(trial.scale))
        except ValueError as error:
            number = len(self.trials[i])
            raise ValueError(
                f"claim {self.claim.id}, {self.name}, {self._describe(i)}, trial {number}: {error}"
            ) from error
        self.trials[i].append(trial)

    def outcomes(self) -> list[tuple[Outcome, str]]:
        """Outcome and reason of each hypothesis that was tested."""
        return [(test.outcome, f"{words}: {test.reason()}") for words, _, test in self.hypotheses if test.trials]

    def _describe(self, i: int) -> str:
        return f"case {i} ({listed(self.cases[i])})"

    def _check_assumptions(self, trial: Trial) -> None:
        """ValueError unless all assumptions hold, but for the one that is dropped; a sabotage may violate them."""
        if self.kind == "sabotage":
            return
        for assumption in self.claim.assumptions:
            holds = bool(evaluate(assumption.predicate, trial.facts))
            if holds == (assumption.name == self.subject):
                wrong = "holds, and is to be dropped" if holds else "does not hold"
                facts = dict(trial.facts)
                raise ValueError(f"assumption {assumption.name} ({assumption.predicate}) {wrong}; facts {facts}")


def _conditions(claim: Claim, effort: str, level: float) -> list[Condition]:
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
        varied_in_drops = {str(case.get("variable")) for drop in claim.drops for case in drop.cases}
        theory = set(claim.kind.variables)
        if varied != theory or not varied_in_drops <= theory:
            both = sorted(varied | varied_in_drops)
            raise ValueError(f"claim {claim.id}: its cases vary {both}, its theory is about {sorted(theory)}")
    return [
        Condition(claim, "claim", "", cases, limit, level),
        *(Condition(claim, "drop", d.assumption, d.cases, limit, level) for d in claim.drops),
        *(
            Condition(claim, "sabotage", s.name, [{**case, **s.change} for case in cases], limit, level)
            for s in claim.sabotages
        ),
    ]


# ------------------------------------------------------------------------------------------------------------- results
def _case_result(condition: Condition, i: int) -> CaseResult:
    claim, trials, test = condition.claim, condition.trials[i], condition.tests[i]
    facts = {name: float(np.median([t.facts[name] for t in trials])) for name in trials[0].facts}
    missing = sum(math.isinf(t.measured) for t in trials)  # `Growth`: trials that found no size up to their cap
    lower, upper = test.limits()
    return CaseResult(
        case=dict(condition.cases[i]),
        outcome=test.outcome,
        trials=len(trials),
        failures=missing if isinstance(claim.kind, Growth) else test.failures,
        p_value=test.p_value,
        lower=lower,
        upper=upper,
        slack=_slack(trials),
        facts=facts,
        vacuous=claim.vacuity is not None and bool(evaluate(claim.vacuity.predicate, facts)),
    )


def _slack(trials: Sequence[Trial]) -> dict[str, float]:
    """Quantiles of bound / measured over the trials; nan if there is no bound."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.array([t.bound for t in trials], dtype=float) / np.array([t.measured for t in trials], dtype=float)
    ratios = ratios[~np.isnan(ratios)]  # 0/0, or no bound
    quantiles = np.full(3, math.nan)
    if ratios.size:  # "nearest", since interpolation between infinities would give nan
        quantiles = np.quantile(ratios, (0.05, 0.5, 0.95), method="nearest")
    return dict(zip(("q05", "q50", "q95"), quantiles.tolist(), strict=True))


def _sabotage_result(condition: Condition) -> SabotageResult:
    sabotage = next(s for s in condition.claim.sabotages if s.name == condition.subject)
    outcome, reason = _worst(condition.outcomes())
    trials = sum(map(len, condition.trials))
    return SabotageResult(sabotage.name, sabotage.what, sabotage.breaks, outcome, outcome == "refuted", trials, reason)


def _vacuity(claim: Claim, cases: Sequence[CaseResult]) -> VacuityResult | None:
    if claim.vacuity is None:
        return None
    onset = None
    if claim.vacuity.onset is not None:
        values = [float(evaluate(claim.vacuity.onset, case.facts)) for case in cases]
        onset = min(filter(math.isfinite, values), default=None)
    return VacuityResult(sum(c.vacuous for c in cases) / len(cases), onset, claim.vacuity.variable)


def _worst(outcomes: Sequence[tuple[Outcome, str]]) -> tuple[Outcome, str]:
    """The worst outcome (refuted, then undecided, then supported), and the reason of the first that has it."""
    return min(outcomes, key=lambda one: ("refuted", "undecided", "supported").index(one[0]))


def _conclude(
    main: Condition,
    cases: Sequence[CaseResult],
    vacuity: VacuityResult | None,
    sabotages: Sequence[SabotageResult],
    search: SearchResult | None,
) -> tuple[Outcome, str]:
    """Outcome of the whole claim, and one sentence that says why."""
    outcomes = main.outcomes()
    if not isinstance(main.claim.kind, Growth):
        # Vacuous cases cannot support the claim, so they count only if refuted. `_worst` takes the first reason: put
        # the cases first that come closest to a refutation.
        order = sorted(range(len(cases)), key=lambda i: (cases[i].p_value, cases[i].slack["q05"]))
        outcomes = [outcomes[i] for i in order if not cases[i].vacuous or cases[i].outcome == "refuted"]
    refuted = any(outcome == "refuted" for outcome, _ in outcomes)
    if search is not None and search.counterexample and not refuted:
        return (
            "refuted",
            f"Search found a counterexample: measured / bound = {search.ratio:.6g} at {listed(search.case)}.",
        )
    if vacuity is not None and vacuity.share == 1 and not refuted:
        onset = vacuity.onset
        begins = "" if onset is None else f"; it would begin to say something at {vacuity.variable} = {onset:.3g}"
        return "vacuous", f"The theorem's own prescription is the trivial one on every case ({len(cases)}){begins}."
    outcome, reason = _worst(outcomes)
    missed = [s.name for s in sabotages if not s.caught]
    if outcome == "supported" and missed:
        return "undecided", f"Supported by its trials, but they do not catch sabotage ({', '.join(missed)})."
    if outcome == "supported" and isinstance(main.claim.kind, Exact):
        sought = f" and {search.steps} steps of search (closest: ratio {search.ratio:.4g})" if search else ""
        return outcome, f"No counterexample in {sum(case.trials for case in cases)} instances{sought}."
    count = sum(one == outcome for one, _ in outcomes)
    others = f" ({count} of {len(outcomes)} {outcome})" if len(outcomes) > 1 else ""
    return outcome, f"{reason[0].upper()}{reason[1:]}{others}."


def _rows(conditions: Sequence[Condition]) -> pd.DataFrame:
    import pandas as pd  # slow to import, and needed only here

    rows: list[dict[str, Any]] = []
    for condition in conditions:
        for i, trials in enumerate(condition.trials):
            for number, t in enumerate(trials):
                row: dict[str, Any] = {"claim": condition.claim.id, "role": condition.name, "case": i, "trial": number}
                row |= {"measured": float(t.measured), "bound": float(t.bound), "scale": float(t.scale)}
                if taken := sorted(set(row) & set(t.facts)):
                    raise ValueError(f"claim {condition.claim.id}: facts are called {taken}, like columns of the rows")
                rows.append(row | {name: float(value) for name, value in t.facts.items()})
    return pd.DataFrame(rows)
