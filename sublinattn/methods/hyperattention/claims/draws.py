"""The laws of the keys and test queries that HyperAttention draws, read off its outputs [HA24, Algorithms 2 and 3].

Inputs of one dimension with positive entries have one sign pattern, so that sorting leaves them in their order, and
each is made such that the output says which keys were drawn. No trial asks the algorithm for its draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import asnumpy, to_device
from ....primitives.sampling import sample_without_replacement
from ....theory import symbols
from ....theory.claim import Claim, Mean, Sabotage, Trial
from ..estimators import (
    Estimator,
    MakeEstimator,
    SharedSample,
    TheoryDraws,
    TheorySample,
    draw_theory,
    practical_estimator,
    row_norm_law,
    theory_estimator,
)
from ..hyper import Problem
from ..sort_lsh import SortedBlocks

N, BLOCK, M = 8, 2, 4
"""Keys, keys per block, and sampled keys of every problem here."""
SIZES = np.array([1.0, 0.6, 1.4, 0.8, 1.8, 0.5, 1.2, 2.2])
"""Norms of the values of even heads; odd heads have them in reverse order."""


def _answer(
    xp: Any, rng: np.random.Generator, arrays: Sequence[np.ndarray], scale: float, make_estimator: MakeEstimator
) -> tuple[np.ndarray, np.ndarray]:
    """Output (heads, N, d_v) and estimated normaliser (heads, N), on the host."""
    q, k, v = (to_device(np.ascontiguousarray(x, dtype=np.float64), xp) for x in arrays)
    sizes: dict[str, Any] = {"block_size": BLOCK, "sample_size": M, "make_estimator": make_estimator}
    out, lse = Problem(xp, q, k, v, scale=scale, shift=True, rng=rng, **sizes).full(0)
    return asnumpy(out), np.exp(asnumpy(lse))


# -------------------------------------------------------------------------------------------- what the outputs reveal
Seen = Callable[[np.random.Generator, Any, int, Sequence[int], MakeEstimator], np.ndarray]
"""Which keys (or test queries) each head drew, (heads, N). Item `marked[h % 2]` of head h is the one asked about."""


def shared_keys(
    rng: np.random.Generator, xp: Any, heads: int, marked: Sequence[int], make_estimator: MakeEstimator
) -> np.ndarray:
    """*practical*: all entries of A are equal and V is the identity, so row i of the output is the keys' weights."""
    ones = np.ones((heads, N, 1))
    out, _ = _answer(xp, rng, (ones, ones, np.broadcast_to(np.eye(N), (heads, N, N))), 1.0, make_estimator)
    seen = out[:, 0] > 0  # by a query of the first block,
    seen[:, :BLOCK] = out[:, -1, :BLOCK] > 0  # and the keys of this block by one of the last
    return seen


def product_keys(
    rng: np.random.Generator, xp: Any, heads: int, marked: Sequence[int], make_estimator: MakeEstimator
) -> np.ndarray:
    """*theory*, product: the same with values of norms `SIZES`."""
    ones = np.ones((heads, N, 1))
    v = np.stack([np.diag(SIZES), np.diag(SIZES[::-1])] * (heads // 2))
    out, _ = _answer(xp, rng, (ones, ones, v), 1.0, make_estimator)
    return out[:, 0] > 0


def normaliser_keys(
    rng: np.random.Generator, xp: Any, heads: int, marked: Sequence[int], make_estimator: MakeEstimator
) -> np.ndarray:
    """*theory*, normaliser: `A_ij = (M + 1)^(N - j)`, so the counts of the drawn keys are the digits of a sum."""
    powers = np.arange(N, 0, -1.0)
    a = (M + 1.0) ** powers
    ones = np.ones((heads, N, 1))
    k = np.broadcast_to(powers[:, None], ones.shape)
    _, normaliser = _answer(xp, rng, (ones, k, ones), math.log(M + 1), make_estimator)
    seen = np.empty((heads, N), bool)
    for query, own in ((-1, slice(N - BLOCK, N)), (0, slice(BLOCK))):  # the second sees all but the first block
        drawn = np.rint((normaliser[:, query] - a[own].sum()) * M / N)  # sum of count_j A_ij outside the block
        outside = np.setdiff1d(np.arange(N), np.arange(N)[own])
        seen[:, outside] = np.floor_divide(drawn[:, None], a[outside]) % (M + 1) > 0
    return seen


def tau_queries(
    rng: np.random.Generator, xp: Any, heads: int, marked: Sequence[int], make_estimator: MakeEstimator
) -> np.ndarray:
    """*theory*, tau: the marked query has the largest row sum, so tau, a floor of all rows, says if it is in T."""
    q = np.ones((heads, N, 1))
    for parity in (0, 1):
        q[parity::2, marked[parity]] = 2
    ones = np.ones((heads, N, 1))
    _, normaliser = _answer(xp, rng, (q, ones, ones), 1.0, make_estimator)
    # A query that is not marked has <M_i, A_i> = BLOCK e, and tau = (N - BLOCK) e or (N - BLOCK) e^2.
    tau = normaliser.min(axis=1) - BLOCK * math.e
    seen = np.zeros((heads, N), bool)
    for parity in (0, 1):
        seen[parity::2, marked[parity]] = tau[parity::2] > (N - BLOCK) * (math.e + math.e**2) / 2
    return seen


# ------------------------------------------------------------------------------------------------- how keys are drawn
def _first(drawn: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.arange(M), drawn.shape)


def _one_for_all(drawn: np.ndarray) -> np.ndarray:
    return np.broadcast_to(drawn[:1], drawn.shape)


BREAK: dict[str, Callable[[np.ndarray], np.ndarray]] = {"first": _first, "one for all": _one_for_all}


def practical(problem: Problem, blocks: SortedBlocks, *, broken: str) -> Estimator:
    """*practical* as it is, or with its sample altered."""
    if broken == "nothing":
        return practical_estimator(problem, blocks)
    p, n = blocks.k_order.shape
    positions = sample_without_replacement(np, problem.rng, p, n, problem.sample_size)
    return SharedSample(problem, blocks, BREAK[broken](positions))


def theory(problem: Problem, blocks: SortedBlocks, *, broken: str, kappa: float, eps: float) -> Estimator:
    """*theory* as it is, or with its three draws altered; "first head's law" and "norms" alter the law of the product.

    A large `eps` lifts the cap; a large `kappa` lowers the floor.
    """
    if broken == "nothing":
        return theory_estimator(problem, blocks, kappa=kappa, eps=eps)
    law = row_norm_law(problem.xp, problem.rows[2], blocks.k_order)
    if broken == "first head's law":
        law = np.broadcast_to(law[:1], law.shape)
    elif broken == "norms":
        law = np.sqrt(law) / np.sqrt(law).sum(axis=1, keepdims=True)
    draws = draw_theory(problem.rng, blocks, M, law)
    if broken in BREAK:
        alter = BREAK[broken]
        by_norm = alter(draws.by_norm)
        probability = np.take_along_axis(law, by_norm, axis=1)
        draws = TheoryDraws(alter(draws.queries), alter(draws.uniform), by_norm, probability)
    return TheorySample(problem, blocks, draws, kappa=kappa, eps=eps)


# ------------------------------------------------------------------------------------------------------------ the laws
def without_replacement(items: Sequence[int], parity: int) -> float:
    """Probability that M of N keys, all subsets alike, hold these: `C(N - c, M - c) / C(N, M)`."""
    return math.comb(N - len(items), M - len(items)) / math.comb(N, M)


def with_replacement(items: Sequence[int], parity: int, weights: np.ndarray | None = None) -> float:
    """Probability that M independent draws hold all of these, by inclusion and exclusion."""
    p = np.full(N, 1 / N)
    if weights is not None:
        p = weights[:: 1 - 2 * parity] / weights.sum()
    missed = [(-1) ** c * (1 - p[list(s)].sum()) ** M for c in range(len(items) + 1) for s in combinations(items, c)]
    return float(sum(missed))


DRAWS: dict[str, tuple[Seen, Callable[..., Estimator], Callable[[Sequence[int], int], float]]] = {
    "shared keys": (shared_keys, practical, without_replacement),
    "product's keys": (
        product_keys, partial(theory, kappa=1.0, eps=1.0), partial(with_replacement, weights=SIZES**2)
    ),
    "normaliser's keys": (normaliser_keys, partial(theory, kappa=1e12, eps=1e9), with_replacement),
    "test queries": (tau_queries, partial(theory, kappa=1.0, eps=1e-9), with_replacement),
}  # fmt: skip


def inclusion(
    rng: np.random.Generator, xp: Any, *, draw: str, even: list[int], odd: list[int], heads: int = 600,
    broken: str = "nothing",
) -> Trial:  # fmt: skip
    """Share of pairs of heads of which the first drew all of `even` and the second all of `odd`."""
    seen, estimator, law = DRAWS[draw]
    marked = [(items or [0])[0] for items in (even, odd)]
    drawn = seen(rng, xp, heads, marked, partial(estimator, broken=broken))
    both = drawn[::2, even].all(axis=1) & drawn[1::2, odd].all(axis=1)
    p = law(even, 0) * law(odd, 1)
    return Trial(float(both.mean()), p, scale=math.sqrt(2 * p * (1 - p) / heads), facts={"n": N, "m": M})


def _cases(draw: str, *events: tuple[list[int], list[int]]) -> tuple[dict[str, Any], ...]:
    return tuple({"draw": draw, "even": even, "odd": odd} for even, odd in events)


ONE_KEY: tuple[tuple[list[int], list[int]], ...] = (([0], []), ([N - 1], []))
TWO_KEYS: tuple[list[int], list[int]] = ([2, 3], [])
TWO_HEADS: tuple[list[int], list[int]] = ([5], [5])
Pr = sp.Function(r"\Pr")
IN, BOTH, TWO = sp.Symbol(r"j \in S_h"), sp.Symbol(r"j, l \in S_h"), sp.Symbol(r"j \in S_h, j \in S_{h'}")
n, m, p_j, p_l = symbols.n, symbols.m, sp.Symbol("p_j", positive=True), sp.Symbol("p_l", positive=True)
REPLACED = sp.And(
    sp.Eq(Pr(IN), 1 - (1 - p_j) ** m),
    sp.Eq(Pr(BOTH), 1 - (1 - p_j) ** m - (1 - p_l) ** m + (1 - p_j - p_l) ** m),
    sp.Eq(Pr(TWO), Pr(IN) ** 2),
)
FIRST = Sabotage("first keys", "the first m places in place of m random ones", {"broken": "first"})
ONE_FOR_ALL = Sabotage("one draw for all heads", "every head takes the first head's draws", {"broken": "one for all"})
READ_OFF = (
    "Read off the outputs, on inputs from which they tell which {} were drawn: first, last and middle ones, two at "
    "once, and the same in two heads. 600 heads per trial; the share's variance is known exactly."
)

law_claim = partial(
    Claim, paper="HA24", kind=Mean(resolution=0.15), trial=inclusion, max_trials={"smoke": 200, "standard": 1000}
)

CLAIMS = (
    law_claim(
        id="ha24.draws-shared",
        source="Algorithm 3, with one sample for normaliser and product",
        basis="implementation",
        title="The shared sample holds every key and every pair of keys equally often, and heads draw by themselves",
        statement=sp.And(
            sp.Eq(Pr(IN), m / n), sp.Eq(Pr(BOTH), m * (m - 1) / (n * (n - 1))), sp.Eq(Pr(TWO), (m / n) ** 2)
        ),
        cases={"smoke": _cases("shared keys", *ONE_KEY, TWO_KEYS, TWO_HEADS)},
        sabotages=(FIRST, ONE_FOR_ALL),
        remark=READ_OFF.format("keys") + " Ours: without replacement; the public code draws with replacement.",
    ),
    law_claim(
        id="ha24.draws-product",
        source="Lemma 2 (row-norm sampling)",
        basis="implementation",
        title="The product's keys are drawn independently by each head's own squared row norms",
        statement=sp.And(sp.Eq(p_j, symbols.norm("v_j") ** 2 / symbols.norm("V", "F") ** 2), REPLACED),
        cases={"smoke": _cases("product's keys", *ONE_KEY, ([], [N - 1]), TWO_KEYS, TWO_HEADS)},
        sabotages=(
            ONE_FOR_ALL,
            Sabotage("first head's law", "every head draws by the first head's norms", {"broken": "first head's law"}),
            Sabotage("norms not squared", "keys are drawn by norm, not by its square", {"broken": "norms"}),
        ),
        remark=READ_OFF.format("keys") + " Odd heads have the even heads' norms in reverse order.",
        restated="3ce6d9b: a norm in the formula was misprinted",
    ),
    law_claim(
        id="ha24.draws-normaliser",
        source="Algorithm 2, lines 2 and 3",
        basis="implementation",
        title="ApproxD's keys and test queries are drawn uniformly and independently, and heads draw by themselves",
        statement=sp.And(sp.Eq(p_j, 1 / n), REPLACED),
        cases={
            "smoke": _cases("normaliser's keys", *ONE_KEY, TWO_KEYS, TWO_HEADS)
            + _cases("test queries", *ONE_KEY, TWO_HEADS)
        },
        sabotages=(FIRST, ONE_FOR_ALL),
        remark=READ_OFF.format("keys and queries") + " T shows its largest row sum only: no pairs of queries.",
    ),
)
