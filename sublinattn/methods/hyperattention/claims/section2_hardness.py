"""`hardness`, the instrument that the other claims read alpha, kappa and srank off, against dense matrices [HA24, 2].

Every definition is written out again on matrices in float64, head by head, with plain loops where the algorithm has
batches, tiles or an iteration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy
import sympy as sp

from ....core.backends import asnumpy, to_device
from ....lab.workloads import real
from ....theory import symbols
from ....theory.claim import Case, Claim, Exact, Sabotage, Trial
from ..hardness import Hardness, hardness
from ..sort_lsh import buckets, default_bits, hyperplanes

DELTAS, CENTERS = (0.0, 2.0, 4.0), (1, 7, 20)


def softmax_matrix(q: np.ndarray, k: np.ndarray, *, scale: float, causal: bool) -> np.ndarray:
    """P of one head."""
    logits = scale * (q @ k.T)
    if causal:
        logits = np.where(np.tri(*logits.shape) > 0, logits, -np.inf)
    return scipy.special.softmax(logits, axis=1)


def kappa_of(
    q: np.ndarray, k: np.ndarray, planes: np.ndarray, scale: float, *, causal: bool, block_size: int, exact_keys: int
) -> float:
    """Largest over smallest row sum outside the sortLSH mask of one head, under these hyperplanes (d, r).

    Under a causal mask: of the later half of the queries over the earlier half of the keys.
    """
    if causal:
        q, k = q[len(k) // 2 :], k[: len(k) // 2]
    k = k[exact_keys:]
    ranks = []
    for x in (q, k):
        rank = np.empty(len(x), int)
        rank[np.argsort(buckets(np, x[None], planes[None])[0], kind="stable")] = np.arange(len(x))
        ranks.append(rank)
    share = -(-block_size * len(q) // len(k))  # queries per block
    inside = ranks[0][:, None] // share == ranks[1][None] // block_size
    sums = scipy.special.logsumexp(np.where(inside, -np.inf, scale * (q @ k.T)), axis=1)
    return float(np.exp(sums.max() - sums.min()))


def clusters(k: np.ndarray) -> list[float]:
    """Numbers of clusters at DELTAS, a token beyond delta of all centers making a new one; radii of CENTERS centers."""
    found = []
    for delta in DELTAS:
        centers: list[np.ndarray] = []
        for x in k:
            if all(np.linalg.norm(x - center) > delta for center in centers):
                centers.append(x)
        found.append(float(len(centers)))
    nearest, radii = np.full(len(k), np.inf), []
    center = k[0]
    for _ in range(max(CENTERS)):
        nearest = np.minimum(nearest, np.linalg.norm(k - center, axis=1))
        radii.append(float(nearest.max()))
        center = k[nearest.argmax()]
    return found + [radii[m - 1] for m in CENTERS]


def deviation(
    rng: np.random.Generator,
    xp: Any,
    *,
    quantity: str,
    heads: int = 2,
    n: int = 96,
    n_q: int | None = None,
    size: float = 1.0,
    times_scale: float = 1.0,
    causal: bool = False,
    exact_keys: int = 0,
    block_size: int = 12,
    encoder: bool = False,
    wrong: Mapping[str, Any] | None = None,
    first_head: bool = False,
) -> Trial:
    """Largest relative deviation of a measured quantity from its definition, over heads that differ in size.

    `times_scale` is the scale over `1/sqrt(d)`. Sabotages: `wrong` replaces arguments of `hardness`; with `first_head`
    all heads are taken for the first.
    """
    q, k, v, scale = _heads(rng, heads, n, n_q or n, size, encoder)
    settings: dict[str, Any] = {"scale": scale * times_scale, "causal": causal, "block_size": block_size}
    settings |= {"exact_keys": exact_keys}
    seed = int(rng.integers(2**31))
    given = (np.broadcast_to(x[:1], x.shape) if first_head else x for x in (q, k, v))
    arrays = (to_device(np.ascontiguousarray(x), xp) for x in given)
    h = hardness(*arrays, **{**settings, **(wrong or {})}, rng=seed)

    seen = n // 2 if causal else n  # the keys that kappa's mask is about
    bits = default_bits(seen - exact_keys, block_size)
    planes = hyperplanes(np.random.default_rng(seed), heads, q.shape[2], bits).astype(np.float64)
    worst = 0.0
    for i in range(heads):
        a = np.array(read(h, i, quantity), dtype=float)
        b = np.array(defined(q[i], k[i], v[i], quantity, planes=planes[i], **settings), dtype=float)
        worst = max(worst, float(np.max(abs(a - b) / np.maximum(abs(b), 1e-12))))
    return Trial(worst, 0.0, facts={"n": n, "heads": heads})


def read(h: Hardness, i: int, quantity: str) -> list[Any]:
    """What `hardness` says of head i."""
    if quantity == "clusters":
        found = [h.cluster_count(delta) for delta in DELTAS] + [h.cluster_radius(m) for m in CENTERS]
    elif quantity == "alpha":
        found = [h.alpha, h.alpha_residual, *h.column_norms.T]
    else:
        found = {
            "kappa": [h.kappa],
            "norms": [h.entry_bound, h.query_norm_max, h.key_norm_max],
            "srank": [h.srank, h.spectral_norm],
        }[quantity]
    return [asnumpy(x)[i] for x in found]


def defined(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    quantity: str,
    *,
    planes: np.ndarray,
    scale: float,
    causal: bool,
    block_size: int,
    exact_keys: int,
) -> list[Any]:
    """The same numbers of one head, as they are defined."""
    if quantity == "clusters":
        return clusters(k)
    if quantity == "kappa":
        return [kappa_of(q, k, planes, scale, causal=causal, block_size=block_size, exact_keys=exact_keys)]
    if quantity == "norms":
        return [max(abs(x).max() for x in (q, k, v)), *(np.linalg.norm(x, axis=1).max() for x in (q, k))]
    p = softmax_matrix(q, k, scale=scale, causal=causal)
    if quantity == "alpha":
        columns = np.linalg.norm(p, axis=0)
        return [len(k) * max(columns) ** 2, len(k) * max(columns[exact_keys:]) ** 2, *columns]
    norm = np.linalg.norm(p, 2)
    return [(np.linalg.norm(p) / norm) ** 2, norm]


def _heads(
    rng: np.random.Generator, heads: int, n: int, n_q: int, size: float, encoder: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Queries (heads, n_q, d), keys and values in float64, and the scale: Gaussian, or random heads of an encoder."""
    if encoder:
        every = real()
        chosen = rng.choice(np.prod(every.q.shape[:2]), heads, replace=False)
        q, k, v = (x.reshape(-1, *x.shape[2:])[chosen, :n].astype(np.float64) for x in (every.q, every.k, every.v))
        return q[:, :n_q], k, v, every.scale
    sizes = size * np.linspace(0.5, 1.5, heads)[:, None, None]
    q, k, v = (sizes * rng.standard_normal((heads, rows, 8)) for rows in (n_q, n, n))
    return q, k, v, 8**-0.5


SHAPES: tuple[Case, ...] = (
    {},
    {"heads": 3, "n": 97, "n_q": 61, "size": 2.0, "times_scale": 1.7, "exact_keys": 3},
    {"causal": True, "exact_keys": 2, "times_scale": 0.5},
    {"n": 30, "n_q": 2300},
    {"encoder": True, "exact_keys": 1},
)


def _cases(*quantities: str) -> tuple[dict[str, Any], ...]:
    return tuple({"quantity": quantity, **shape} for quantity in quantities for shape in SHAPES)


SABOTAGES = (
    Sabotage("mask ignored", "a causal problem is measured without its mask", {"wrong": {"causal": False}}),
    Sabotage("scale ignored", "the scale is 1/sqrt(d) whatever is given", {"wrong": {"scale": None}}),
    Sabotage("one head", "all heads are measured on the first one's queries and keys", {"first_head": True}),
)
FACTS: dict[str, Any] = {
    "paper": "HA24",
    "source": "Section 2 (alpha, kappa) and Lemma 2 (srank)",
    "basis": "implementation",
    "trial": deviation,
    "restated": "1bd8460: no instance had more queries than the 2048 that one round of the softmax matrix takes",
}
MEASURED, DENSE = (sp.Symbol(name, positive=True) for name in (r"\mathrm{measured}", r"\mathrm{dense}"))

CLAIMS = (
    Claim(
        id="ha24.hardness-dense",
        title="alpha, kappa, column norms, largest entries and norms, clusters and radii are those of dense matrices",
        statement=sp.Eq(MEASURED, DENSE),
        kind=Exact("==", rtol=1e-9),
        cases={"smoke": _cases("alpha", "kappa", "norms", "clusters")},
        max_trials={"smoke": 3, "standard": 20},
        sabotages=(
            *SABOTAGES,
            Sabotage("sinks left in", "the exact keys are sampled like all others", {"wrong": {"exact_keys": 0}}),
            Sabotage("block left in", "kappa of blocks of one key: of almost whole rows", {"wrong": {"block_size": 1}}),
        ),
        remark=(
            "The largest relative deviation, in float64: several heads, other scales, fewer queries than keys, n that "
            "no block divides, a causal mask, exact keys; heads of a trained encoder."
        ),
        **FACTS,
    ),
    Claim(
        id="ha24.hardness-srank",
        title="The stable rank and the norm of the softmax matrix are those of dense matrices, to 0.1 percent",
        statement=sp.Eq(symbols.srank, DENSE),
        kind=Exact("==", rtol=1e-3),
        cases={"smoke": _cases("srank")},
        max_trials={"smoke": 3, "standard": 20},
        sabotages=SABOTAGES,
        remark="Lanczos' method stops when its residual says that the norm is within 1e-4, from below.",
        **FACTS,
    ),
)
