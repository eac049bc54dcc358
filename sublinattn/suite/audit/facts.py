"""What is measured of every query head before any method runs: hardness, where the attention is, theorems' sizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...core.backends import Array, asnumpy, row_squares
from ...core.exact import attention
from ...core.softmax_matrix import SoftmaxMatrix
from ...methods.caches.sink import SINKS
from ...methods.hyperattention.hardness import hardness
from ...methods.polynomial.approximants import taylor_degree
from ...primitives.kcenter import each_greedy_k_center
from ...theory.symbols import amm_sample_size
from .group import Group

EPS, FAILURE = 0.5, 0.1
PARTS = (256, 64, 32)
"""The radius is measured for n/256, n/64 and n/32 clusters of the keys."""
KEPT = 64
"""Every column of the output is compressed to n over this many entries."""
PREFIXES = (1 / 4, 1 / 2, 1)
"""Fractions of the text over which the growth of alpha is fitted."""
BLOCK = 64
"""Block size for kappa: n/16, and at most this."""
MASS = 0.9
"""`keys_90` is the number of keys that this share of the attention is on."""
SIZES = {"hyper_size": "HA24", "subgen_size": "SG24", "onepass_size": "ALSY23", "polynomial_size": "AS23"}
"""Columns of the sizes that theorems need, and their papers: samples, stored rows, rows of the sketch, monomials."""


def facts(group: Group, rng: np.random.Generator) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of `Audit.heads` and of `Audit.radii`.

    Columns of a query head:

    - of the block without a mask: alpha, alpha_residual (the first `SINKS` keys computed exactly), alpha_exponent
      (exponent of n in alpha_residual, fitted over such blocks of the text's first quarter, first half and whole),
      kappa, srank;
    - of the whole text: entry_bound, query_norm and key_norm (largest), radius (of n/32 clusters of keys), delta_r
      (radius times scale times query_norm), delta_r_log (delta_r over log n), tail (relative error of every column of
      the output if only its n/64 largest entries are kept);
    - of the held-out queries: sink_mass (share of their attention on the first `SINKS` keys), heaviest and
      heaviest_mass (the key that gets most, and its share), keys_90 (how many keys get 90 percent together);
    - the columns of `SIZES`.
    """
    (b, g), n, xp, scale = group.shape, group.k.shape[1], group.xp, group.scale
    k, v = group.per_query_head(group.k), group.per_query_head(group.v)
    q = group.q.reshape(b * g, n, -1)
    half = n // 2
    h = hardness(
        *(q[:, half:], k[:, :half], v[:, :half]),
        scale=scale, block_size=min(BLOCK, n // 16), exact_keys=SINKS, rng=rng, check_finite=False,
    )  # fmt: skip
    alpha, residual, kappa, srank = (asnumpy(x) for x in (h.alpha, h.alpha_residual, h.kappa, h.srank))
    query_norm, key_norm = (np.sqrt(asnumpy(row_squares(xp, x).max(axis=1))).astype(float) for x in (q, k))
    bounds = xp.stack([abs(x).max(axis=(1, 2)) for x in (q, k, v)]).max(axis=0)
    counts = [max(2, n // part) for part in PARTS]
    radii = [_radii(found, counts) for _, found in each_greedy_k_center(xp, group.k, max(counts))]
    of_head = [radii[i // g] for i in range(b * g)]
    radius, r = np.array([its[max(counts)] for its in of_head]), scale * query_norm
    tails = _tails(xp, attention(q, k, v, scale=scale, causal=True, check_finite=False))
    slots = np.repeat(_value_ranks(xp, group.v) / (EPS**2 * FAILURE), g)
    columns: dict[str, Any] = {
        "alpha": alpha,
        "alpha_residual": residual,
        "alpha_exponent": _growth(group, q, k, residual),
        "kappa": kappa,
        "srank": srank,
        "entry_bound": asnumpy(bounds),
        "query_norm": query_norm,
        "key_norm": key_norm,
        "radius": radius,
        "delta_r": r * radius,
        "delta_r_log": r * radius / math.log(n),
        "tail": tails[:, n // KEPT],
        **_masses(group),
        # [HA24] Lemma 2 says how many of the block's n/2 keys to sample: twice as many are the same share of n.
        "hyper_size": [2 * amm_sample_size(v.shape[2], x, eps=EPS, delta=FAILURE) for x in srank],
        "subgen_size": [_subgen_size(*its) for its in zip(of_head, r, slots, strict=True)],
        # [ALSY23]: k log n rows, k the least number of entries per column of the output that leaves a tail <= EPS.
        "onepass_size": np.maximum(1, (tails > EPS).sum(axis=1)) * math.ceil(math.log2(n)),
        "polynomial_size": [_monomials(k.shape[2], x) for x in r * key_norm],
    }
    table = {name: np.asarray(x) for name, x in columns.items()}
    heads = []
    for i in range(b * g):
        layer, key_head = group.places[i // g]
        place = {"layer": layer, "head": key_head * g + i % g, "key_head": key_head, "n": n, "problem": ""}
        heads.append(place | {name: x[i].item() for name, x in table.items()})
    rows = [
        {"layer": layer, "key_head": key_head, "m": m, "radius": radius}
        for (layer, key_head), its in zip(group.places, radii, strict=True)
        for m, radius in its.items()
    ]
    return heads, rows


def _radii(found: np.ndarray, counts: list[int]) -> dict[int, float]:
    """Radius by number of clusters; with fewer keys than clusters the last radius is 0."""
    return {m: float(found[min(m, len(found)) - 1]) for m in counts}


def _growth(group: Group, q: Array, k: Array, whole: np.ndarray) -> np.ndarray:
    """Exponent of n in alpha_residual by least squares over prefixes of the text; `whole` is that of all of it."""
    n = q.shape[1]
    sizes = [int(part * n) for part in PREFIXES]
    alphas = [_alpha(group, q[:, size // 2 : size], k[:, : size // 2]) for size in sizes[:-1]] + [whole]
    return np.polyfit(np.log(sizes), np.log(np.stack(alphas)), 1)[0]


def _alpha(group: Group, q: Array, k: Array) -> np.ndarray:
    """alpha_residual of blocks: n_k max ||P e_j||^2 over the keys j but the sinks."""
    p = SoftmaxMatrix(group.xp, q, k, scale=group.scale, causal=False)
    return k.shape[1] * asnumpy(p.column_squares()[:, SINKS:].max(axis=1)).astype(float)


def _masses(group: Group) -> dict[str, np.ndarray]:
    """Where the attention of the held-out queries is, per query head: see `facts`."""
    xp, (b, g), n = group.xp, group.shape, group.tokens
    mass = xp.empty((b, g, n), np.float64)
    late = group.late.reshape(b, g, group.queries, -1)
    for i in range(g):
        logits = xp.matmul(group.scale * late[:, i], group.prompt[1].swapaxes(1, 2))
        weights = xp.exp(logits - logits.max(axis=2)[..., None])
        mass[:, i] = (weights / weights.sum(axis=2)[..., None]).mean(axis=1)
    falling = xp.cumsum(xp.sort(mass, axis=2)[:, :, ::-1], axis=2)
    found = {
        "sink_mass": mass[:, :, :SINKS].sum(axis=2),
        "heaviest": mass.argmax(axis=2),
        "heaviest_mass": mass.max(axis=2),
        "keys_90": (falling < MASS).sum(axis=2) + 1,
    }
    return {name: asnumpy(x).reshape(b * g) for name, x in found.items()}


def _value_ranks(xp: Any, v: Array) -> np.ndarray:
    """`||V||_F^2 / ||V||^2` of every key head; `EPS^2 FAILURE`, of which one slot is made, where all values are 0."""
    squares = np.linalg.eigvalsh(asnumpy(xp.matmul(v.swapaxes(1, 2), v)).astype(float))
    whole, largest = squares.sum(axis=1), squares[:, -1]
    return np.divide(whole, largest, out=np.full(len(squares), EPS**2 * FAILURE), where=largest > 0)


def _subgen_size(radii: dict[int, float], r: float, slots: float) -> float:
    """[SG24] Theorem 1: stored rows, `m (1 + t) + s`, for the m of `radii` that needs fewest.

    A sample of a cluster of radius delta has relative variance at most sinh(delta r)^2, so that by Chebyshev's
    inequality `t = sinh(delta r)^2 / (EPS^2 FAILURE)` samples suffice, and `s = srank(V) / (EPS^2 FAILURE)` slots.
    """
    # sinh(300)^2 is below the largest float
    variances = {m: math.sinh(min(radius * r, 300.0)) ** 2 for m, radius in radii.items()}
    return min(m * (1 + max(1.0, variance / (EPS**2 * FAILURE))) for m, variance in variances.items()) + slots


def _tails(xp: Any, out: Array) -> np.ndarray:
    """Relative error of outputs (B, n, d_v) if only the k largest entries of every column are kept, for k = 0..n."""
    squares = xp.sort(out.astype(np.float64) ** 2, axis=1).sum(axis=2)[:, ::-1]  # the k largest of each column, summed
    kept = asnumpy(xp.cumsum(squares, axis=1))
    kept = np.concatenate([np.zeros((len(kept), 1)), kept], axis=1)
    whole = np.where(kept[:, -1:] == 0, 1.0, kept[:, -1:])  # an output of 0 leaves no tail
    return np.sqrt(np.maximum(0, kept[:, -1:] - kept) / whole)


def _monomials(d: int, radius: float) -> float:
    """Monomials of d variables up to the degree at which Taylor's polynomial of exp has relative error EPS for logits
    up to `radius`."""
    degree = taylor_degree(math.log(EPS), radius)
    log_count = math.lgamma(d + degree + 1) - math.lgamma(d + 1) - math.lgamma(degree + 1)  # log binomial(d + g, g)
    return math.exp(log_count) if log_count < 700 else math.inf
