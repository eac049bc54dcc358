"""What verifying a claim found, and its JSON form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from .sequential import Outcome


@dataclass(frozen=True)
class CaseResult:
    """One case of a claim.

    `lower`, `upper` are 99 percent limits of the failure rate (`Mean`: of the mean), each on its side; `slack` has
    the quantiles q05, q50, q95 of bound / measured; `facts` the medians over the trials. For `Growth`, outcome and
    p-value are those of the variable that the case varies, `failures` counts the sizes that were not found, and
    limits and slack are nan: see `Fit`.
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
class Fit:
    """Growth in one variable: measured exponent with its 99 percent limits, the theory's over the same grid, and what
    was fitted.

    `excess` is how much faster the sizes grow than the theory says, so `-excess` is the slack; `abscissas` has the
    median at each grid point, `sizes` all replicates there.
    """

    variable: str
    theory: str
    outcome: Outcome
    measured_exponent: float
    theory_exponent: float
    lower: float
    upper: float
    excess: float
    p_value: float
    abscissas: tuple[float, ...]
    sizes: tuple[tuple[float, ...], ...]
    reason: str


@dataclass(frozen=True)
class DropResult:
    """What happens on a case where one assumption is false (`Growth`: on one variable's cases)."""

    assumption: str
    case: dict[str, Any]
    outcome: Outcome
    trials: int
    failures: int
    reason: str


@dataclass(frozen=True)
class SabotageResult:
    """Whether a deliberately broken variant was refuted."""

    name: str
    what: str
    outcome: Outcome
    caught: bool
    trials: int
    reason: str


@dataclass(frozen=True)
class VacuityResult:
    """Share of the cases on which the theorem says nothing, and the smallest value of `variable` from which it says
    something."""

    share: float
    onset: float | None
    variable: str


@dataclass(frozen=True)
class Verdict:
    """What `verify` found.

    `rows` is tidy: one line per trial, columns claim, role ("claim", "drop:NAME", "sabotage:NAME"), case (index),
    trial, measured, bound, scale, and the facts. `level` is the p-value that refutes, split over the ledger.
    `machine` says that the sizes are times or bytes of this machine.
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
    drops: tuple[DropResult, ...]
    sabotages: tuple[SabotageResult, ...]
    seconds: float
    machine: bool
    rows: pd.DataFrame = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Strict JSON values, without the rows; floats to 12 digits, and "inf", "-inf", "nan" as strings.

        All that differs between two runs of one seed is under the key "machine": the seconds, and every number of a
        claim about this machine.
        """
        found = {name: value for name, value in vars(self).items() if name not in ("rows", "seconds", "machine")}
        plain = _plain(found)
        apart: dict[str, Any] = {"seconds": round(self.seconds, 3)}
        if self.machine:
            keep = {
                "cases": ("case", "outcome", "trials", "vacuous"),
                "fits": ("variable", "theory", "outcome"),
                "drops": ("assumption", "case", "outcome", "trials"),
                "sabotages": ("name", "what", "outcome", "caught", "trials"),
            }
            for name, kept in keep.items():
                apart[name] = [{k: v for k, v in entry.items() if k not in kept} for entry in plain[name]]
                plain[name] = [{k: entry[k] for k in kept} for entry in plain[name]]
            apart |= {"reason": plain["reason"], "failures": plain.pop("failures")}
            plain["reason"] = f"{self.outcome} by this machine's times or bytes (the numbers are under `machine`)"
        return {**plain, "machine": apart}


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.12g}") if math.isfinite(value) else str(value)
    return value
