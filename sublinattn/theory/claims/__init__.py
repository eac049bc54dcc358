"""Every claim, by id: the tuples named `CLAIMS` of the modules in this folder. A new paper is a new file here, and
nothing else."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ..claim import Claim


def _collect() -> dict[str, Claim]:
    found: dict[str, Claim] = {}
    for module in sorted(info.name for info in iter_modules(__path__)):
        for claim in getattr(import_module(f"{__name__}.{module}"), "CLAIMS", ()):
            if claim.id in found:
                raise ValueError(f"two claims have the id {claim.id!r}, the second in {module}.py")
            found[claim.id] = claim
    return found


CLAIMS = _collect()
