"""The inputs that the figures compare, with their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..run import Run
from . import make, real
from .instance import Instance


@dataclass(frozen=True)
class Input:
    """A workload with fixed parameters and its label in the figures."""

    label: str
    workload: str
    knobs: Mapping[str, Any] = field(default_factory=dict)
    exact_keys: int = 0
    """Number of first keys that are attention sinks, which the exact part may hold."""
    value_mean: float = 0.0
    """Added to every entry of V. With values of mean zero P V is close to 0, and answering 0 is hard to beat."""

    @property
    def source(self) -> str:
        return "real" if self.workload == "real" else "synthetic"

    def draw(
        self, n: int, d: int, rng: np.random.Generator, xp: Any = np, *, d_v: int | None = None, **knobs: Any
    ) -> Instance:
        """A fresh instance in float32 on the device; for "real" the first `n` tokens (or all) of a random head.

        A real head has its own dimensions. `knobs` replace those of the workload.
        """
        if self.workload == "real":
            stack = real()
            layers, heads, longest, d = stack.q.shape
            layer, head = int(rng.integers(layers)), int(rng.integers(heads))
            return make("real", min(n, longest), d, rng=None, layer=layer, head=head).to(xp)
        made = make(self.workload, n, d, d_v=d_v, rng=rng, **{**self.knobs, **knobs})
        made.v[...] += self.value_mean
        return made.to(xp)


GAUSSIAN = Input("Gaussian", "gaussian")
GAUSSIAN_MEAN = Input("Gaussian, values + 2", "gaussian", value_mean=2.0)
CLUSTERED = Input("clustered", "clustered")
PLANTED = Input("planted pairs", "planted")
SINKS = Input("4 sinks", "sinks", exact_keys=4)
ALPHA = Input("alpha dial = 16", "alpha", {"noise": 0.5})
KAPPA = Input("kappa dial = 16", "kappa")
HEAVY_VALUES = Input("heavy values", "heavy_values", {"mass": 0.5})
REAL = Input("real (MiniLM heads)", "real", exact_keys=1)

INPUTS: Mapping[str, Input] = {
    "gaussian": GAUSSIAN,
    "gaussian-mean": GAUSSIAN_MEAN,
    "clustered": CLUSTERED,
    "planted": PLANTED,
    "sinks": SINKS,
    "alpha": ALPHA,
    "kappa": KAPPA,
    "heavy-values": HEAVY_VALUES,
    "real": REAL,
}
"""By the names that the notebooks' parameter `inputs` takes."""


def chosen(run: Run, default: tuple[Input, ...], *, known: Mapping[str, Input] = INPUTS) -> tuple[Input, ...]:
    """The inputs that the run's parameter `inputs` names, of those that are `known`; without any the default."""
    return tuple(known[name] for name in run.given("inputs", ())) or default


def each_draw(
    run: Run, n: int, default: tuple[Input, ...], *, replicates: int, heads: int, known: Mapping[str, Input] = INPUTS
) -> list[tuple[int, Input, int]]:
    """Cells `(n, input, replicate)` of the `chosen` inputs: `replicates` draws of each, but `heads` of the real one.

    Where the run has a parameter `replicates`, that is the number of both.
    """
    return [
        (n, what, replicate)
        for what in chosen(run, default, known=known)
        for replicate in range(run.given("replicates", heads if what == REAL else replicates))
    ]
