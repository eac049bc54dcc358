"""The normaliser under a causal mask: what the recursion adds up is as good as its parts [HA24, Algorithm 4].

Algorithm 4 (CausalApproxD) returns the sum of exact leaves and of one ApproxD for each square `A21` below the diagonal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import Array, asnumpy, to_device
from ....core.exact import Partial
from ....theory import symbols
from ....theory.adversary import Arrays, Search
from ....theory.claim import Assumption, Claim, Exact, Sabotage, Trial
from ..estimators import Estimator
from ..hyper import ESTIMATORS, Deliver, Problem
from ..sort_lsh import SortedBlocks
from .algorithm4_causal import RECURSIONS, ForgetsTheTop
from .algorithms2_3_estimators import PRACTICAL


def _arrays(rng: np.random.Generator, heads: int, n: int) -> list[np.ndarray]:
    return [rng.standard_normal((heads, n, 3)) for _ in range(3)]


def causal_mean(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    block_size: int,
    sample_size: int,
    exact_keys: int = 0,
    variant: str = "paper",
    recursion: str = "paper",
) -> Trial:
    """Largest relative bias of causal normaliser and product, two heads, *practical*.

    The samples of a square are enumerated. Squares of unequal size have lists of unequal length, which are repeated up
    to a common length: expectations add up, whatever the squares' joint law.
    """
    arrays = _arrays(rng, 2, n)
    subsets = {size: list(combinations(range(size), min(sample_size, size))) for size in range(1, n + 1)}
    lengths: set[int] = set()

    def estimator(problem: Problem, blocks: SortedBlocks, *, run: int) -> Estimator:
        problems, size = blocks.k_order.shape
        lengths.add(len(subsets[size]))
        positions = np.tile(subsets[size][run % len(subsets[size])], (problems, 1))
        return PRACTICAL[variant](problem, blocks, positions)

    def sums(run: int) -> np.ndarray:
        """Estimated normaliser and product, (2, n, 1 + 3)."""
        sizes: dict[str, Any] = {"block_size": block_size, "sample_size": sample_size}
        how: dict[str, Any] = {"make_estimator": partial(estimator, run=run), "rng": np.random.default_rng(0), **sizes}
        kind, call = RECURSIONS[recursion]
        out, lse = call(kind(xp, *(to_device(x, xp) for x in arrays), scale=1.0, shift=False, **how), exact_keys)
        normaliser = np.exp(asnumpy(lse))[..., None]
        return np.concatenate([normaliser, normaliser * asnumpy(out)], axis=-1)

    first = sums(0)
    mean = (first + sum(sums(run) for run in range(1, math.lcm(*lengths)))) / math.lcm(*lengths)
    q, k, v = arrays
    a = np.exp(q @ k.swapaxes(1, 2)) * np.tri(n)
    exact = a @ np.concatenate([np.ones((2, n, 1)), v], axis=-1)
    bias = abs(mean - exact) / exact[..., :1]
    facts = {"n": n, "b": block_size, "m": sample_size, "draws": math.lcm(*lengths)}
    return Trial(float(bias.max()), 0.0, facts=facts)


# ---------------------------------------------------------------------------------------------- errors of the squares
@dataclass(frozen=True)
class _Noting(Problem):
    """Notes the relative error of the normaliser of each row of each square `A21`."""

    errors: list[np.ndarray] = field(default_factory=list)

    def estimate(self, blocks: SortedBlocks, sinks: np.ndarray, deliver: Deliver) -> None:
        q, k, _ = (asnumpy(x) for x in self.rows)
        exact = np.empty(len(q))
        for rows, keys in zip(asnumpy(blocks.q_order), asnumpy(blocks.k_order), strict=True):
            exact[rows] = np.exp(self.scale * (q[rows] @ k[keys].T)).sum(axis=1)

        def noted(rows: Array, p: Partial) -> None:
            self.errors.append(np.exp(asnumpy(p.lse())).ravel() / exact[asnumpy(rows).ravel()] - 1)
            deliver(rows, p)

        super().estimate(blocks, sinks, noted)


class _NotingAllButTheTop(ForgetsTheTop, _Noting):
    """Sabotage: the topmost `A21` is left out."""


@dataclass(frozen=True)
class _Doubled(_Noting):
    """Sabotage: the sums of a square are added twice."""

    def estimate(self, blocks: SortedBlocks, sinks: np.ndarray, deliver: Deliver) -> None:
        def twice(rows: Array, p: Partial) -> None:
            copy = Partial(p.m.copy(), p.l.copy(), p.o.copy())
            deliver(rows, p)
            deliver(rows, copy)

        super().estimate(blocks, sinks, twice)


NOTING = {"paper": _Noting, "top left out": _NotingAllButTheTop, "square added twice": _Doubled}


def causal_error(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    block_size: int,
    sample_size: int,
    estimator: str,
    exact_keys: int = 0,
    shift: bool = False,
    recursion: str = "paper",
) -> Trial:
    """Largest relative error of a causal normaliser, against the largest of a square's."""
    how: dict[str, Any] = {"block_size": block_size, "sample_size": sample_size, "estimator": estimator}
    return error_of(rng, xp, _arrays(rng, 2, n), exact_keys=exact_keys, shift=shift, recursion=recursion, **how)


def error_of(
    rng: np.random.Generator,
    xp: Any,
    arrays: Sequence[np.ndarray],
    *,
    block_size: int,
    sample_size: int,
    estimator: str,
    exact_keys: int = 0,
    shift: bool = False,
    recursion: str = "paper",
) -> Trial:
    """The same of these queries, keys and values (heads, n, 3)."""
    n = arrays[0].shape[1]
    how: dict[str, Any] = {"make_estimator": ESTIMATORS[estimator], "block_size": block_size, "rng": rng}
    problem = NOTING[recursion](
        xp, *(to_device(x, xp) for x in arrays), scale=1.0, shift=shift, sample_size=sample_size, **how
    )
    _, lse = problem.causal(exact_keys)
    q, k, _ = arrays
    exact = (np.exp(q @ k.swapaxes(1, 2)) * np.tri(n)).sum(axis=-1)
    error = float(abs(np.exp(asnumpy(lse)) / exact - 1).max())
    worst = max(float(abs(e).max()) for e in problem.errors)
    return Trial(error, worst, scale=1.0, facts={"n": n, "b": block_size, "m": sample_size})


def causal_start(rng: np.random.Generator, **case: Any) -> Arrays:
    q, k, _ = _arrays(rng, 1, 24)
    return {"q": q[0], "k": k[0]}


def causal_kept(arrays: Arrays, **case: Any) -> Arrays:
    """Logits of at most 27."""
    return {name: np.clip(a, -3, 3) for name, a in arrays.items()}


def causal_measured(xp: Any, arrays: Arrays, **case: Any) -> Trial:
    """One fixed sample of every square."""
    q, k = (arrays[name][None] for name in ("q", "k"))
    return error_of(np.random.default_rng(0), xp, [q, k, k], **case)


ENUMERATED = (
    {"n": 8, "block_size": 2, "sample_size": 3},
    {"n": 11, "block_size": 2, "sample_size": 3},
    {"n": 12, "block_size": 3, "sample_size": 4, "exact_keys": 1},
)
SQUARES: tuple[dict[str, Any], ...] = (
    {"n": 128, "block_size": 8, "sample_size": 64, "estimator": "practical"},
    {"n": 203, "block_size": 8, "sample_size": 16, "estimator": "practical", "exact_keys": 3, "shift": True},
    {"n": 150, "block_size": 7, "sample_size": 32, "estimator": "theory"},
)
D_TILDE, D_II, O_TILDE, AV = (sp.Symbol(name) for name in (r"\tilde{D}_{ii}", "D_{ii}", r"\tilde{o}_i", "(AV)_i"))
WORST, WORST_SQUARE = (
    sp.Symbol(rf"\max_i |\tilde{{D}}_{{ii}}/D_{{ii}} - 1|{of}", positive=True) for of in ("", r"_{A_{21}}")
)
TOP = Sabotage("top left out", "the topmost off-diagonal square is never added", {"recursion": "top left out"})

CLAIMS = (
    Claim(
        id="ha24.causal-unbiased",
        paper="HA24",
        source="Algorithm 4, with one sample for normaliser and product",
        basis="derived",
        title="The causal recursion's normaliser and product are unbiased",
        statement=sp.And(sp.Eq(symbols.E(D_TILDE), D_II), sp.Eq(symbols.E(O_TILDE), AV)),
        kind=Exact("==", rtol=1e-10),
        trial=causal_mean,
        cases={"smoke": ENUMERATED},
        max_trials={"smoke": 2},
        assumptions=(Assumption("a sampled key outside the block is certain", symbols.m > symbols.b),),
        sabotages=(
            Sabotage("merging weight 1", "a sampled key weighs 1 in the merged sums", {"variant": "no weight"}),
            Sabotage(
                "own block counted", "sampled keys of the own block count again", {"variant": "own block counted"}
            ),
            TOP,
        ),
        remark="By enumeration of the samples of every square; two heads, odd sizes, a sink in the exact part.",
    ),
    Claim(
        id="ha24.causal-error",
        paper="HA24",
        source="Algorithm 4 (its induction, for each row)",
        basis="derived",
        title="The causal normaliser is relatively no worse than the worst of its squares",
        statement=sp.Le(WORST, WORST_SQUARE),
        kind=Exact("<=", rtol=1e-10),
        trial=causal_error,
        cases={"smoke": SQUARES},
        max_trials={"smoke": 10, "standard": 50},
        search=Search(
            causal_start,
            causal_measured,
            causal_kept,
            cases=tuple({"block_size": 3, "sample_size": 6, "estimator": kind} for kind in ("practical", "theory")),
            steps={"smoke": 200, "standard": 4000},
        ),
        sabotages=(
            TOP,
            Sabotage("square added twice", "each square's sums enter twice", {"recursion": "square added twice"}),
        ),
        remark=(
            "A sum of positive parts, the leaves exact: if ApproxD is within (1 +- eps) on every square, CausalApproxD "
            "is so on every row. Both estimators."
        ),
    ),
)
