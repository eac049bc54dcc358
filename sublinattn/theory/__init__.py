"""What the papers claim, and whether it holds: `CLAIMS` by id, `find`, and `verify`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import walk_packages
from typing import TYPE_CHECKING, Any

from ..core.names import suggestion
from .result import Verdict
from .verify import verify

if TYPE_CHECKING:
    from .claim import Claim

    CLAIMS: dict[str, Claim]

__all__ = ["CLAIMS", "Verdict", "find", "verify"]


def __getattr__(name: str) -> Any:
    if name != "CLAIMS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = _collect()
    return globals()[name]


def find(name: str) -> Claim:
    """The claim with this id: one of `CLAIMS`, or one of them about another model (`ha24.perplexity-half-smollm2`).

    Raises
    ------
    KeyError
        There is none.
    TypeError
        It is no name.

    Examples
    --------
    >>> from sublinattn.theory import find
    >>> claim = find("ha24.lemma2")
    >>> claim.paper, claim.source, claim.basis
    ('HA24', 'Lemma 2', 'theorem')
    """
    from . import CLAIMS as claims

    if not isinstance(name, str):
        raise TypeError(f"claim must be a Claim or the id of one, got {type(name).__name__}")
    if name in claims:
        return claims[name]
    for claim in sorted(claims.values(), key=lambda claim: -len(claim.id)):  # one id may begin another
        if claim.model and name.startswith(f"{claim.id}-"):
            return claim.on(name.removeprefix(f"{claim.id}-"))
    raise KeyError(f"no claim has the id {name!r}{suggestion(name, claims)} (`sublinattn claims` lists them)")


def _collect() -> dict[str, Claim]:
    """Every claim by id: the tuples named `CLAIMS` of all modules in the methods' folders `claims`."""
    from .. import methods  # whose claims import this package: so they are collected at the first use

    collected: dict[str, Claim] = {}
    for info in walk_packages(methods.__path__, f"{methods.__name__}."):
        if ".claims" in info.name and not info.ispkg:
            for claim in getattr(import_module(info.name), "CLAIMS", ()):
                if claim.id in collected:
                    raise ValueError(f"two claims have the id {claim.id!r}, the second in {info.name}")
                collected[claim.id] = claim
    return dict(sorted(collected.items()))
