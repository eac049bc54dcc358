"""Theory's assumptions against reality: an audit of a trained decoder on a passage that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.backends import Array, asnumpy
from ...lab.run import Run
from ...lab.workloads.instance import Instance
from .advice import advice
from .measure import HYPER, SIZES, Audit, audit


@dataclass(frozen=True)
class Passage:
    """Queries, keys and values in memory, as `lab.captured.Captured` has them in a file."""

    q: Array
    k: Array
    v: Array
    source: str

    @property
    def layers(self) -> int:
        return int(self.q.shape[0])

    @property
    def heads(self) -> int:
        return int(self.q.shape[1])

    @property
    def kv_heads(self) -> int:
        return int(self.k.shape[1])

    @property
    def tokens(self) -> int:
        return int(self.q.shape[2])

    @property
    def scale(self) -> float:
        return float(self.q.shape[3] ** -0.5)

    def head(self, layer: int, head: int) -> Instance:
        """One query head with the keys and values that it reads."""
        own = head * self.kv_heads // self.heads
        rows = (self.q[layer, head], self.k[layer, own], self.v[layer, own])
        q, k, v = (np.ascontiguousarray(asnumpy(x)) for x in rows)
        return Instance(q, k, v, scale=self.scale, source=self.source)


def measured(run: Run) -> Audit:
    """The audit of one passage."""
    n, share = run.pick(smoke=(512, 1 / 8), standard=(2048, 1 / 8), full=(8192, 1 / 16))
    opened = run.open_model()
    tokens = opened.passage(run.rng("audit"), n)
    return audit(Passage(*opened.qkv(tokens), f"{opened.name}, {opened.source}"), share=share, seed=run.seed)


def biting(found: Audit) -> str:
    """On how many heads each theorem says something, and the size that comes closest, over n."""
    heads, words = found.heads, []
    for size, paper in SIZES.items():
        ratio = heads[size] / heads["n"]
        words.append(f"{paper} on {(ratio < 1).sum()} (least size over n: {ratio.min():.3g})")
    return f"{', '.join(words)} of {len(heads)} heads"


def best(found: Audit) -> str:
    """How often each cache is the best one, with the median error of these and of the yardsticks."""
    told = advice(found)
    medians = found.errors.groupby("method")["relative"].median()
    counts = ", ".join(f"{name} on {count}" for name, count in told["best"].value_counts().items())
    others = ", ".join(f"{name} {medians[name]:.2g}" for name in ("uniform", HYPER, "subgen", "zero"))
    return f"best cache: {counts} of {len(told)} heads (median error {told['best_relative'].median():.2g}); {others}"
