"""Search for a counterexample: hill climbing, with restarts, on measured / bound over the instances of a claim.

A theorem holds for all inputs, and random instances are only some. The search starts from the worst instance on
record, from the lab's workloads and from random arrays, and keeps every change that does not lower the ratio. Its
changes are Gaussian steps on all, a few or one of the numbers, whose size follows the 1/5 success rule [Rechenberg
1973], and changes of whole rows: scaled, copied, drawn towards another, exchanged, set to 0.

The steps follow from the run's seed alone, and so do not depend on the number of workers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..core import files
from ..core.backends import backend as resolve
from .claim import Case, Claim, Exact, Trial, evaluate
from .result import SearchResult
from .trials import Stream, one_thread, trial_rng

Arrays = dict[str, np.ndarray]
"""An instance: arrays in float64, on the host."""


def anywhere(arrays: Arrays, **case: Any) -> Arrays:
    """The claim speaks of all instances."""
    return arrays


@dataclass(frozen=True)
class Search:
    """How to look for a counterexample to a claim of kind `Exact("<=")`.

    Attributes
    ----------
    start : callable
        `start(rng, **case) -> Arrays`: an instance to begin with. A climb changes any number in it.
    measure : callable
        `measure(xp, arrays, **case) -> Trial`: what the claim's trial measures, on this instance. Deterministic.
    keep : callable
        `keep(arrays, **case) -> Arrays` brings a changed instance back to where the claim speaks (entries cut at a
        bound, say). Instances that violate one of the claim's assumptions are refused in any case.
    cases : tuple of Case
        What is not searched over; the climbs take them in turn.
    steps : mapping of effort to int
        Instances measured, over all climbs. Efforts as in `Claim.cases`.
    """

    start: Callable[..., Arrays]
    measure: Callable[..., Trial]
    keep: Callable[..., Arrays] = anywhere
    cases: tuple[Case, ...] = ({},)
    steps: Mapping[str, int] = field(default_factory=lambda: {"smoke": 600, "standard": 10000, "full": 100000})


@dataclass(frozen=True)
class Found:
    """An instance, what was measured on it, and whether it contradicts the claim."""

    arrays: Arrays
    case: Case
    ratio: float
    counterexample: bool


@dataclass(frozen=True)
class Sought:
    """The worst instance of a search, and how many climbs and steps it took."""

    worst: Found
    restarts: int
    steps: int


def search(
    claim: Claim, effort: str, instances: int, *, seed: int, backend: str, executor: Executor | None
) -> SearchResult | None:
    """The search that belongs to a verdict, after the trials on so many instances; None if the claim has none."""
    if claim.search is None:
        return None
    steps = int(claim.at(claim.search.steps, effort))
    sought = seek(claim, steps=steps, seed=seed, backend=backend, executor=executor)
    worst = sought.worst
    return SearchResult(instances, sought.steps, sought.restarts, worst.ratio, dict(worst.case), worst.counterexample)


def seek(claim: Claim, *, steps: int, seed: int, backend: str = "auto", executor: Executor | None = None) -> Sought:
    """Look for the instance of largest measured / bound; the first climb starts from the instance on record.

    The other climbs start from draws of `Search.start`, about sqrt(steps)/5 of them and at least one for each case. A
    climb ends early at a counterexample.
    """
    restarts = max(len(_parts(claim)[0].cases), math.isqrt(steps) // 5)
    known = stored(claim)
    jobs = [partial(_climb, claim, number, None, steps // restarts, seed, backend) for number in range(restarts)]
    if known is not None:
        jobs = [partial(_climb, claim, restarts, known, steps // restarts, seed, backend), *jobs]
    climbs = [job() for job in jobs] if executor is None else [f.result() for f in [executor.submit(j) for j in jobs]]
    worst = max((found for found, _ in climbs), key=lambda found: (found.counterexample, found.ratio))
    return Sought(worst, len(jobs), sum(count for _, count in climbs))


def measured(claim: Claim, arrays: Arrays, case: Case, backend: str = "auto") -> Found:
    """The ratio of one instance; -inf where an assumption of the claim does not hold.

    A NaN counts as a counterexample, as in a trial; numbers that are not finite make no instance.
    """
    if not all(np.isfinite(a).all() for a in arrays.values()):
        return Found(arrays, case, -math.inf, False)
    how, kind = _parts(claim)
    with one_thread(), np.errstate(all="ignore"):
        trial = how.measure(resolve(backend), arrays, **case)
    if not all(bool(evaluate(assumption.predicate, trial.facts)) for assumption in claim.assumptions):
        return Found(arrays, case, -math.inf, False)
    test = kind.test(1.0, 1)
    test.update(float(trial.measured), float(trial.bound), float(trial.scale))
    broken = test.outcome == "refuted"
    if trial.bound > kind.rtol * trial.scale and not math.isnan(trial.measured):
        return Found(arrays, case, float(trial.measured / trial.bound), broken)
    return Found(arrays, case, math.inf if broken else 0.0, broken)  # a bound of 0, up to rounding


# ----------------------------------------------------------------------------------------------------------- one climb
def _climb(claim: Claim, number: int, first: Found | None, steps: int, seed: int, backend: str) -> tuple[Found, int]:
    """The end of one climb, and the instances measured."""
    how, _ = _parts(claim)
    case = how.cases[number % len(how.cases)] if first is None else first.case
    rng = trial_rng(Stream(claim.trial, claim.id, "search", number, case, steps), 0, seed)
    start = how.start(rng, **case) if first is None else first.arrays
    return climb(start, partial(measured, claim, case=case, backend=backend), partial(how.keep, **case), rng, steps)


def climb(
    start: Arrays,
    measure: Callable[[Arrays], Found],
    keep: Callable[[Arrays], Arrays],
    rng: np.random.Generator,
    steps: int,
) -> tuple[Found, int]:
    """Climb from `start` for so many measurements, or to a counterexample; also returns how many there were."""
    best, count = measure(start), 1
    sizes = dict.fromkeys(best.arrays, 0.3)
    while count < steps and not best.counterexample:
        name = str(rng.choice(sorted(best.arrays)))
        move = MOVES[int(rng.integers(len(MOVES)))]
        tried = measure(keep({**best.arrays, name: move(rng, best.arrays[name], sizes[name])}))
        count += 1
        if move in GAUSSIAN:  # at rest where one step in five succeeds
            sizes[name] *= 2.0 if tried.ratio > best.ratio else 2.0**-0.25
            if not 1e-9 < sizes[name] < 10:
                sizes[name] = 0.3
        if tried.counterexample or tried.ratio >= best.ratio:
            best = tried
    return best, count


def _step(rng: np.random.Generator, a: np.ndarray, size: float, where: Any) -> np.ndarray:
    """A Gaussian step on a part of the array, `size` relative to the root mean square of all."""
    moved = a.copy()
    unit = math.sqrt(float(np.mean(a**2))) or 1.0
    moved[where] += size * unit * rng.standard_normal(moved[where].shape)
    return moved


def _rows(rng: np.random.Generator, a: np.ndarray) -> np.ndarray:
    """One to three rows."""
    return rng.choice(len(a), min(len(a), int(rng.integers(1, 4))), replace=False)


def _all(rng: np.random.Generator, a: np.ndarray, size: float) -> np.ndarray:
    return _step(rng, a, size, ...)


def _few(rng: np.random.Generator, a: np.ndarray, size: float) -> np.ndarray:
    return _step(rng, a, size, _rows(rng, a))


def _one(rng: np.random.Generator, a: np.ndarray, size: float) -> np.ndarray:
    return _step(rng, a, size, tuple(rng.integers(a.shape)))


def _scale(rng: np.random.Generator, a: np.ndarray, size: float) -> np.ndarray:
    where: Any = _rows(rng, a) if rng.random() < 0.5 else ...
    moved = a.copy()
    moved[where] *= math.exp(size * rng.standard_normal())
    return moved


def _copy(rng: np.random.Generator, a: np.ndarray, size: float) -> np.ndarray:
    moved = a.copy()
    moved[_rows(rng, a)] = a[rng.integers(len(a))] * rng.choice([1.0, 1.0, 1.0, -1.0])
    return moved


def _towards(rng: np.random.Generator, a: np.ndarray, size: float) -> np.ndarray:
    rows, moved = _rows(rng, a), a.copy()
    moved[rows] += size * rng.standard_normal() * (a[rng.integers(len(a))] - a[rows])
    return moved


def _exchange(rng: np.random.Generator, a: np.ndarray, size: float) -> np.ndarray:
    rows, moved = _rows(rng, a), a.copy()
    moved[rows] = a[rng.permutation(rows)]
    return moved


def _zero(rng: np.random.Generator, a: np.ndarray, size: float) -> np.ndarray:
    moved = a.copy()
    moved[_rows(rng, a)] = 0
    return moved


GAUSSIAN = (_all, _few, _one)
MOVES = (*GAUSSIAN, *GAUSSIAN, _scale, _copy, _towards, _exchange, _zero)


# ---------------------------------------------------------------------------------------------- the instance on record
def place(claim: Claim) -> Path:
    """Where a claim's worst instance is stored: in the folder `worst` beside the file of its trial."""
    return claim.file.parent / "worst" / f"{claim.id}.npz"


def stored(claim: Claim) -> Found | None:
    """The claim's worst instance on record, with the ratio on record; None if there is none."""
    path = place(claim)
    if not path.exists():
        return None
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files if not name.startswith("_")}
        about = json.loads(str(archive["_about"]))
    return Found(arrays, about["case"], float(about["ratio"]), about["counterexample"])


def store(claim: Claim, found: Found) -> Path:
    """Write an instance as the claim's worst; the same instance gives the same bytes."""
    about = {"case": dict(found.case), "ratio": found.ratio, "counterexample": found.counterexample}
    with files.atomic(place(claim)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, _about=np.array(json.dumps(about, sort_keys=True)), **found.arrays)  # type: ignore[arg-type]
    return place(claim)


def _parts(claim: Claim) -> tuple[Search, Exact]:
    if claim.search is None or not isinstance(claim.kind, Exact) or claim.kind.relation != "<=":
        raise ValueError(f"claim {claim.id} must have a search, and be an inequality without exception")
    return claim.search, claim.kind
