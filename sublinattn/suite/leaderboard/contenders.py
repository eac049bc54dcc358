"""What has a row in the leaderboard: all that is registered, and for each kind the yardsticks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...lab.comparison.batch import BATCH
from ...lab.comparison.registry import REGISTRY, D
from ...lab.workloads.instance import Instance
from ...plots.style import METHODS

BATCHES, CACHES = "batch", "cache"
EXACT, ZERO, UNIFORM = "exact", "zero", "uniform"
SHARE = 1 / 4
"""The budget: columns read per query over the keys, or bytes stored over those of all keys and values."""


@dataclass(frozen=True)
class Row:
    """A method of one kind.

    Attributes
    ----------
    kind : "batch" or "cache"
        Batch methods answer all queries at once and hold all keys; caches read the tokens one after another.
    name, label : str
        In the registry of its kind, and in words.
    guarantee, claim : str
        What is proved, and the id of the claim that says so.
    """

    kind: str
    name: str
    label: str
    guarantee: str = ""
    claim: str = ""


def rows() -> list[Row]:
    """The batch methods and the caches that are registered, in their order; before each kind its yardsticks.

    Caches in hindsight are none: their settings are chosen with the input known.
    """
    yardsticks = {EXACT: "exact attention", ZERO: "answering zero"}
    return [
        *(Row(BATCHES, name, label) for name, label in yardsticks.items()),
        *(Row(BATCHES, name, _label(name), each.guarantee, each.claim) for name, each in BATCH.items()),
        Row(CACHES, EXACT, "exact cache"),
        Row(CACHES, ZERO, "storing nothing"),
        *(
            Row(CACHES, name, _label(name), each.guarantee, each.claim)
            for name, each in REGISTRY.items()
            if not each.hindsight
        ),
    ]


def names(kind: str) -> list[str]:
    """The methods of one kind, without its yardsticks of no budget."""
    return [row.name for row in rows() if row.kind == kind and row.name not in (EXACT, ZERO)]


def _label(name: str) -> str:
    return str(METHODS[name]["label"]) if name in METHODS else name


def parameters(row: Row, n: int) -> str:
    """Its parameters for n tokens of width D at the budget, as text; empty where it has none."""
    if row.name in (EXACT, ZERO):
        return ""
    if row.kind == BATCHES:
        chosen = BATCH[row.name].options(int(SHARE * n), n) or {}
    else:
        token = np.ones((1, D), np.float32)
        x, nbytes = Instance(token, token, token, scale=D**-0.5), int(SHARE * n * 2 * D * token.itemsize)
        try:
            chosen = REGISTRY[row.name].within(nbytes, x, np.random.default_rng(0)).parameters()
        except ValueError:  # there is none in so few bytes
            chosen = {}
    return ", ".join(f"{key} {value}" for key, value in chosen.items() if value is not None)
