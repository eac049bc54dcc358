"""The estimators in the two public repositories of HyperAttention's authors, as small dense code, and their bias.

They are the objects studied here, not options of `hyper_attention`. Both sort and cut like [HA24, Algorithm 1], compute
a query's own block exactly and add some columns of A for the rest:

- *sampled keys*: `m` keys drawn uniformly with replacement, at weight n/m. One path (`masked`) leaves out the sampled
  keys of the query's own block; the path that calls a fused kernel (`kernel`) does not. Where `b` does not divide `n`,
  the last block is filled with rows of zeros, which enter its softmax with logit 0.
- *first keys*: the first `m` keys, at weight 1, those of the own block included.

Both sort by `place ^ (place >> 1)` of the sign bits, the Gray code, where the paper's order is its inverse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import combinations, product
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import asnumpy, to_device
from ....theory import symbols
from ....theory.claim import Claim, Exact, Sabotage, Trial
from ..sort_lsh import gray_rank
from .algorithm1_mask import mask

Sums = tuple[np.ndarray, np.ndarray]
"""Estimates of the normalisers `A 1` (n_q,) and of the product `A V` (n_q, d_v)."""


def columns(a: np.ndarray, v: np.ndarray, own: np.ndarray, sample: np.ndarray, *, weight: float, masked: bool) -> Sums:
    """The own block exactly, and the columns `sample` at one weight; `masked` leaves out those of the own block.

    `a` (n_q, n_k) is `exp(s Q K^T)`, `own` the mask of Algorithm 1.
    """
    block, rest = a * own, weight * a[:, sample]
    if masked:
        rest = rest * ~own[:, sample]
    return block.sum(axis=1) + rest.sum(axis=1), block @ v + rest @ v[sample]


def filled(a: np.ndarray, v: np.ndarray, own: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`a`, `v` and `own` with the last block filled by rows of zeros; every other block has `block_size` keys."""
    short = block_size - own.sum(axis=1)  # rows that a query's own block lacks
    count = int(short.max())
    return (
        np.hstack([a, np.ones((len(a), count))]),
        np.vstack([v, np.zeros((count, v.shape[1]))]),
        np.hstack([own, np.arange(count) < short[:, None]]),
    )


def sampled_keys(a: np.ndarray, v: np.ndarray, own: np.ndarray, m: int, rng: np.random.Generator, **path: bool) -> Sums:
    """One draw of the repository with sampled keys."""
    n = a.shape[1]
    return columns(a, v, own, rng.integers(n, size=m), weight=n / m, **path)


def first_keys(a: np.ndarray, v: np.ndarray, own: np.ndarray, m: int, rng: np.random.Generator) -> Sums:
    """The other repository's estimate; it draws nothing."""
    return columns(a, v, own, np.arange(m), weight=1.0, masked=False)


def recursion(a: np.ndarray, v: np.ndarray, leaf: int, below: Callable[[slice, slice], Sums]) -> Sums:
    """Their causal recursion, for n = leaf times a power of two: sums of `A * tril(1)`, and of its product with V.

    `below(rows, columns)` estimates the square of later queries and earlier keys; the sums add up.
    """
    n = len(a)
    if n <= leaf:
        return np.tril(a).sum(axis=1), np.tril(a) @ v
    upper, lower = slice(n // 2), slice(n // 2, n)

    def shifted(rows: slice, keys: slice) -> Sums:
        half = n // 2
        return below(slice(rows.start + half, rows.stop + half), slice(keys.start + half, keys.stop + half))

    first = recursion(a[upper, upper], v[upper], leaf, below)
    second = recursion(a[lower, lower], v[lower], leaf, shifted)
    square = below(lower, slice(0, n // 2))
    sums = (np.concatenate([x, y + z]) for x, y, z in zip(first, second, square, strict=True))
    normaliser, outputs = sums
    return normaliser, outputs


# ------------------------------------------------------------------------------------------------------- by enumeration
def _problem(rng: np.random.Generator, xp: Any, n: int, block_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`A`, `V` and the mask of a Gaussian problem."""
    q, k, v = (rng.standard_normal((n, 3)) for _ in range(3))
    return np.exp(q @ k.T / math.sqrt(3)), v, mask(rng, xp, q[None], k[None], block_size=block_size)[0] > 0


def _mean(estimates: Iterable[Sums]) -> np.ndarray:
    """The average normaliser."""
    return np.mean([normaliser for normaliser, _ in estimates], axis=0)


def sampled_bias(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    block_size: int,
    sample_size: int,
    masked: bool,
    broken: str = "nothing",
) -> Trial:
    """Largest relative deviation of the mean normaliser over all `n^m` samples from the law of its bias."""
    a, v, own = _problem(rng, xp, n, block_size)
    wide = (a, v, own) if broken == "filling masked" else filled(a, v, own, block_size)
    weight = 1.0 if broken == "no weight" else n / sample_size
    path = masked != (broken == "other path")
    samples = (np.array(s) for s in product(range(n), repeat=sample_size))
    mean = _mean(columns(*wide, s, weight=weight, masked=path) for s in samples)
    exact, block = a.sum(axis=1), (a * own).sum(axis=1)
    law = exact + (block_size - own.sum(axis=1)) + (0 if masked else block)
    facts = {"n": n, "b": block_size, "m": sample_size, "bias": float((law / exact - 1).max())}
    return Trial(float(abs(mean / law - 1).max()), 0.0, facts=facts)


def first_bias(
    rng: np.random.Generator, xp: Any, *, n: int, block_size: int, sample_size: int, broken: str = "nothing"
) -> Trial:
    """The same over all sets of keys that may stand first, the mask held fixed."""
    a, v, own = _problem(rng, xp, n, block_size)
    weight = n / sample_size if broken == "n/m weight" else 1.0
    sets = (np.array(s) for s in combinations(range(n), sample_size))
    mean = _mean(columns(a, v, own, s, weight=weight, masked=broken == "masked") for s in sets)
    exact = a.sum(axis=1)
    law = (a * own).sum(axis=1) + sample_size / n * exact
    facts = {"n": n, "b": block_size, "m": sample_size, "bias": float((law / exact - 1).min())}
    return Trial(float(abs(mean / law - 1).max()), 0.0, facts=facts)


def causal_bias(
    rng: np.random.Generator, xp: Any, *, half: int, block_size: int, sample_size: int, broken: str = "nothing"
) -> Trial:
    """The same of one step of the causal recursion: two leaves of `half` tokens and the square below them."""
    square, v, own = _problem(rng, xp, half, block_size)
    a = np.exp(rng.standard_normal((2 * half, 2 * half)))
    a[half:, :half] = square
    weight = half / sample_size if broken == "n/m weight" else 1.0

    def below(rows: slice, keys: slice, *, sample: np.ndarray) -> Sums:
        return columns(a[rows, keys], v, own, sample, weight=weight, masked=broken == "masked")

    values = np.concatenate([v, v])
    sets = (np.array(s) for s in combinations(range(half), sample_size))
    mean = _mean(recursion(a, values, half, partial(below, sample=s)) for s in sets)
    exact = np.tril(a).sum(axis=1)
    law = exact.copy()
    law[half:] -= square.sum(axis=1) - (square * own).sum(axis=1) - sample_size / half * square.sum(axis=1)
    facts = {"n": half, "b": block_size, "m": sample_size, "bias": float((law / exact - 1).min())}
    return Trial(float(abs(mean / law - 1).max()), 0.0, facts=facts)


def neighbours(rng: np.random.Generator, xp: Any, *, bits: int, order: str = "released") -> Trial:
    """Most sign bits in which two buckets that follow each other differ."""
    pattern = np.arange(2**bits, dtype=np.uint16)
    place = pattern ^ (pattern >> 1) if order == "released" else asnumpy(gray_rank(to_device(pattern, xp)))
    in_order = np.argsort(place).astype(np.uint16)
    most = np.bitwise_count(in_order[1:] ^ in_order[:-1]).max()
    return Trial(float(most), float(-(-bits // 2)), facts={"r": bits})


SIZES = (
    {"n": 6, "block_size": 2, "sample_size": 2},
    {"n": 7, "block_size": 3, "sample_size": 3},
    {"n": 5, "block_size": 4, "sample_size": 3},
)
D_II, D_TILDE, BLOCK = (sp.Symbol(name) for name in ("D_{ii}", r"\tilde{D}_{ii}", r"\langle M_i, A_i\rangle"))
FILLED, TWICE = sp.Symbol("f_i", nonnegative=True), sp.Symbol("c", nonnegative=True)
LEAF, SQUARE = sp.Symbol(r"D_{ii}^{A_{22}}", positive=True), sp.Symbol(r"D_{ii}^{A_{21}}", positive=True)
MEAN = symbols.E(D_TILDE)
SOURCE = "the authors' two public repositories (their code, not the paper)"

CLAIMS = (
    Claim(
        id="ha24.released-sampled",
        paper="HA24",
        source=SOURCE,
        basis="property",
        title="Released code, sampled keys: E D~ exceeds D by the rows of zeros and, on the kernel's path, the block",
        statement=sp.Eq(MEAN, D_II + FILLED + TWICE * BLOCK),
        kind=Exact("==", rtol=1e-10),
        trial=sampled_bias,
        cases={"smoke": tuple({**size, "masked": masked} for masked in (True, False) for size in SIZES)},
        max_trials={"smoke": 3},
        sabotages=(
            Sabotage("no weight", "sampled columns at weight 1", {"broken": "no weight"}),
            Sabotage("filling masked", "the rows of zeros are left out", {"broken": "filling masked"}),
            Sabotage("other path", "masked where the path is not, and the reverse", {"broken": "other path"}),
        ),
        remark=(
            "By enumeration of all n^m samples. f_i: rows of zeros in the block of query i, at most b - 1; c = 1 on "
            "the path that calls the fused kernel, 0 on the other, which is unbiased where b divides n."
        ),
    ),
    Claim(
        id="ha24.released-first-keys",
        paper="HA24",
        source=SOURCE,
        basis="property",
        title="Released code, first keys: E D~ over the keys' orders is the block and m/n of D, not D",
        statement=sp.Eq(MEAN, BLOCK + symbols.m / symbols.n * D_II),
        kind=Exact("==", rtol=1e-10),
        trial=first_bias,
        cases={"smoke": SIZES},
        max_trials={"smoke": 3},
        sabotages=(
            Sabotage("n/m weight", "the first columns at weight n/m", {"broken": "n/m weight"}),
            Sabotage("masked", "those of the own block are left out", {"broken": "masked"}),
        ),
        remark=(
            "By enumeration of all sets of keys that may come first. Weight 1 cancels in the output where the block "
            "weighs little and the keys come in random order; where partial results merge, as in the causal recursion, "
            "it is the weight of the whole square against the exact leaves."
        ),
    ),
    Claim(
        id="ha24.released-causal",
        paper="HA24",
        source=SOURCE,
        basis="property",
        title="Released code, first keys: the causal recursion merges a square's block and m/n of it with exact leaves",
        statement=sp.Eq(MEAN, LEAF + BLOCK + symbols.m / symbols.n * SQUARE),
        kind=Exact("==", rtol=1e-10),
        trial=causal_bias,
        cases={
            "smoke": (
                {"half": 6, "block_size": 2, "sample_size": 2},
                {"half": 7, "block_size": 3, "sample_size": 1},
            )
        },
        max_trials={"smoke": 3},
        sabotages=(
            Sabotage("n/m weight", "the first columns at weight n/m", {"broken": "n/m weight"}),
            Sabotage("masked", "those of the own block are left out", {"broken": "masked"}),
        ),
        remark=(
            "As ha24.released-first-keys, for one square of n earlier keys: no factor cancels here, since the leaves "
            "are exact."
        ),
    ),
    Claim(
        id="ha24.released-order",
        paper="HA24",
        source=SOURCE,
        basis="property",
        title="Released code, order of buckets: neighbours differ in up to ceil(r/2) sign bits, in the paper's in one",
        statement=sp.Eq(sp.Symbol(r"\max_p |h^{-1}(p) \oplus h^{-1}(p+1)|"), sp.ceiling(symbols.r / 2)),
        kind=Exact("==", rtol=0.0),
        trial=neighbours,
        cases={"smoke": tuple({"bits": bits} for bits in (3, 5, 7, 8, 10, 16))},
        max_trials={"smoke": 1},
        sabotages=(Sabotage("inverse", "the place in the Gray code, as in the paper", {"order": "inverse"}),),
        remark=(
            "Enumerates all buckets. The released table holds the Gray code of each pattern, not the pattern's place "
            "in it, so that an increment which changes j bits of the place changes every other one of j sides. It "
            "costs little: the mask's recall of planted pairs falls by 0.1 to 0.3 percent (6 clusters, r = 4), and by "
            "0.5 to 2.4 percent in binary order."
        ),
    ),
)
