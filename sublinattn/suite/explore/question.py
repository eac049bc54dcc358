"""What can be asked of a claim: its cases, the parameters of each and the values that they may take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np

from ...theory import find
from ...theory.claim import Case, Claim

REACH = 4
"""A number may be so many times smaller or larger than in any of the claim's cases; below 1 if all of them are."""
STEPS = 17
"""Values of a number, from the smallest to the largest, evenly spaced in their logarithm."""


@dataclass(frozen=True)
class Question:
    """A claim's trial at chosen arguments.

    Attributes
    ----------
    claim : str
        The claim's id.
    case : mapping
        Keyword arguments of its trial.
    sabotage : str
        Name of one of the claim's sabotages, a deliberately broken variant; empty for the claim as it stands.
    """

    claim: str
    case: Case
    sabotage: str = ""

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the trial, those that the sabotage changes among them."""
        broken = {each.name: each.change for each in find(self.claim).sabotages}
        return {**self.case, **(broken[self.sabotage] if self.sabotage else {})}

    def code(self, seed: int = 0) -> str:
        """Lines of Python that print the first trial's measurement and bound."""
        given = "".join(f", {name}={value!r}" for name, value in self.arguments().items())
        call = f"find({self.claim!r}).trial(np.random.default_rng([{seed}, 0]), np{given})"
        imports = "import numpy as np\nfrom sublinattn.theory import find"
        return f"{imports}\n\ntrial = {call}\nprint(trial.measured, trial.bound)"


@dataclass(frozen=True)
class Setting:
    """A case of a claim that a control panel starts from.

    Attributes
    ----------
    name : str
        What tells it apart from the claim's other settings.
    case : mapping
        Keyword arguments of the trial.
    choices : mapping
        Of each argument that can be changed, its values: numbers in order, the case's own among them, or words and
        truth values that the claim's cases have. Arguments inside a mapping are named "instance.n".
    """

    name: str
    case: Case
    choices: Mapping[str, tuple[Any, ...]] = field(repr=False)


def settings(claim: Claim) -> list[Setting]:
    """The settings of a claim: cases at smoke effort that differ in more than numbers, then its dropped assumptions.

    Of cases that differ in numbers alone it is the middle one.
    """
    every = list(claim.at(claim.cases, "smoke"))
    every += [case for drop in claim.drops for case in drop.cases]
    every += [{**claim.at(claim.cases, "smoke")[0], **sabotage.change} for sabotage in claim.sabotages]
    groups: dict[str, list[Case]] = {}
    for case in claim.at(claim.cases, "smoke"):
        groups.setdefault(_kept(case), []).append(case)
    for drop in claim.drops:
        for case in drop.cases:
            groups.setdefault(f"dropped: {drop.assumption} ({_kept(case)})", []).append(case)
    return [
        Setting(name or "as stated", cases[len(cases) // 2], _choices(cases[len(cases) // 2], every))
        for name, cases in groups.items()
    ]


def changed(case: Case, name: str, value: Any) -> dict[str, Any]:
    """The case with another value of the argument `name`, which may lie inside a mapping ("instance.n")."""
    outer, _, inner = name.partition(".")
    return {**case, outer: changed(case[outer], inner, value) if inner else value}


def flat(case: Case) -> dict[str, Any]:
    """Arguments by name, those inside a mapping as "instance.n"."""
    return dict(_flat(case))


def _flat(case: Case) -> Iterator[tuple[str, Any]]:
    for name, value in case.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", each) for inner, each in _flat(value))
        else:
            yield name, value


def _kept(case: Case) -> str:
    """What a case says in words and truth values."""
    words = {name: value for name, value in flat(case).items() if not _is_number(value)}
    numbers = [name for name, value in flat(case).items() if _is_number(value)]
    told = ", ".join(f"{name.split('.')[-1]}={value}" for name, value in words.items() if value is not None)
    return told if told else ", ".join(numbers)


def _choices(case: Case, every: Sequence[Case]) -> dict[str, tuple[Any, ...]]:
    choices: dict[str, tuple[Any, ...]] = {}
    for name, value in flat(case).items():
        if name == "variable":  # which abscissa a case belongs to, no argument of its own
            continue
        seen = [other[name] for other in map(flat, every) if name in other]
        if _is_number(value):
            choices[name] = _numbers([each for each in seen if _is_number(each)])
        elif isinstance(value, str | bool):
            choices[name] = tuple(dict.fromkeys(each for each in seen if not _is_number(each) and each is not None))
    return {name: values for name, values in choices.items() if len(values) > 1}


def _numbers(seen: Sequence[float]) -> tuple[float, ...]:
    positive = [float(each) for each in seen if each > 0]
    if not positive:
        return tuple(sorted(set(seen)))
    largest = max(positive) * REACH
    if max(positive) < 1:  # a probability, an accuracy, a share
        largest = min(largest, (1 + max(positive)) / 2)
    grid = np.geomspace(min(positive) / REACH, largest, STEPS)
    if all(isinstance(each, int) for each in seen):
        return tuple(sorted({*(max(1, round(each)) for each in grid), *seen}))
    return tuple(sorted({*(float(f"{each:.3g}") for each in grid), *map(float, seen)}))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
