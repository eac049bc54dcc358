"""The result of verifying a claim, and its JSON form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.plain import plain
from .growth import Fit
from .sequential import Outcome

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CaseResult:
    """One case of a claim.

    `lower`, `upper` are 99 percent limits of the failure rate (`Mean`: of the mean), each on its side; `slack` has
    the quantiles q05, q50, q95 of bound / measured; `facts` the medians of the trials' measurements. For `Growth`,
    outcome and p-value are those of the variable that the case varies, `failures` counts the sizes that were not found,
    and limits and slack are nan: see `Fit`.
    """

    case: dict[str, Any]
    outcome: Outcome
    trials: int
    failures: int
    p_value: float
    lower: float
    upper: float
    slack: dict[str, float]
    facts: dict[str, float]
    vacuous: bool


@dataclass(frozen=True)
class DropResult:
    """Verdict on a case where one assumption is false (`Growth`: on all cases of one variable)."""

    assumption: str
    case: dict[str, Any]
    outcome: Outcome
    trials: int
    failures: int
    reason: str


@dataclass(frozen=True)
class SabotageResult:
    """Verdict on a deliberately broken variant: `caught` if it was refuted, and only then."""

    name: str
    what: str
    breaks: str
    outcome: Outcome
    caught: bool
    trials: int
    reason: str


@dataclass(frozen=True)
class VacuityResult:
    """Share of the cases on which the theorem says nothing; smallest value of `variable` from which it does."""

    share: float
    onset: float | None
    variable: str


@dataclass(frozen=True)
class SearchResult:
    """What an adversary found on the instances it climbed over: `ratio` is the largest measured / bound, on `case`.

    `instances` were drawn by the claim's trials before; `steps` counts the instances measured in all of the `restarts`
    climbs, the one from the instance on record among them.
    """

    instances: int
    steps: int
    restarts: int
    ratio: float
    case: dict[str, Any]
    counterexample: bool


_REPEATABLE = {
    "cases": ("case", "outcome", "trials", "vacuous"),
    "fits": ("variable", "theory", "outcome"),
    "drops": ("assumption", "case", "outcome", "trials"),
    "sabotages": ("name", "what", "breaks", "outcome", "caught", "trials"),
}
"""Parts of a verdict about this machine's times or bytes on which two runs of one seed agree."""


@dataclass(frozen=True)
class Verdict:
    """The result of `verify`.

    `rows` is tidy: one line per trial, columns claim, role ("claim", "drop:NAME", "sabotage:NAME"), case (index),
    trial, measured, bound, scale, and the trial's other measurements. `level` is the p-value that refutes, split over
    the ledger. `machine` says that the sizes are times or bytes of this machine.
    """

    claim: str
    outcome: Outcome
    reason: str
    effort: str
    seed: int
    backend: str
    level: float
    cases: tuple[CaseResult, ...]
    fits: tuple[Fit, ...]
    trials: int
    failures: int
    vacuity: VacuityResult | None
    search: SearchResult | None
    drops: tuple[DropResult, ...]
    sabotages: tuple[SabotageResult, ...]
    seconds: float
    machine: bool
    rows: pd.DataFrame = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Strict JSON values, without the rows; floats to 12 digits, and "inf", "-inf", "nan" as strings.

        All that differs between two runs of one seed is under the key "machine": the seconds, and of a claim about
        this machine every entry with measured numbers, whole. `record | record["machine"]` is the complete verdict.
        """
        record = plain({k: v for k, v in vars(self).items() if k not in ("rows", "seconds", "machine")}, digits=12)
        apart: dict[str, Any] = {"seconds": round(self.seconds, 3)}
        if self.machine:
            apart |= {name: record[name] for name in ("reason", "failures", *_REPEATABLE)}
            for name, keys in _REPEATABLE.items():
                record[name] = [{key: entry[key] for key in keys} for entry in record[name]]
            record["reason"] = f"{self.outcome} by this machine's times or bytes (the numbers are under `machine`)"
            del record["failures"]
        return {**record, "machine": apart}
