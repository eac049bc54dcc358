"""The audit of a model, head by head: hardness, the size that each theorem needs, and the error of every method.

*Errors* are those of the last queries, whose answers are computed from the keys before them: a method that compresses
keys has not seen these queries.

*Hardness* is measured on the queries of the later half and the keys of the earlier half of the text, the largest block
without a mask; this is what HyperAttention approximates under a causal mask ([HA24] Algorithm 4). On the whole masked
matrix alpha would say nothing: the first queries see few keys, so that it is of the order of n for every model.

*Sizes* follow from the theorems with what was measured here, with explicit constants where these are known. Every part
of an estimate gets all of the error `EPS` and all of the failure probability `FAILURE`, although a theorem must divide
them among its parts. The sizes are therefore lower bounds of what a theorem needs; where one is not below n, that
theorem says nothing. For [HA24] the size is the number of samples in Lemma 2 (the product), without those of Lemma 1
(the normaliser); for [ALSY23] all hidden constants are taken to be 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...core.backends import Array, asnumpy, backend, to_device
from ...core.exact import attention
from ...core.softmax_matrix import SoftmaxMatrix
from ...lab.comparison.error_over_bytes import unbudgeted
from ...lab.comparison.registry import REGISTRY, Stream, competing, feed, row_bytes
from ...lab.run import generator
from ...lab.workloads.instance import Captured, Instance
from ...methods.caches.sink import SINKS
from ...methods.hyperattention import studies  # noqa: F401  registers HyperAttention's look in figures
from ...methods.hyperattention.hardness import hardness
from ...methods.hyperattention.hyper import hyper_attention
from ...methods.polynomial.approximants import taylor_degree
from ...primitives.kcenter import greedy_k_center
from ...theory.symbols import amm_sample_size

EPS, FAILURE = 0.5, 0.1
QUERIES = 256
"""Number of last queries that are compared: at most this many, and at most a quarter of the text."""
PARTS = (256, 64, 32)
"""The radius is measured for n/256, n/64 and n/32 clusters of the keys."""
BLOCK = 256
"""Block size of HyperAttention: at most this, and at most half of the budget in keys."""
KEPT = 64
"""Every column of the output is compressed to n over this many entries."""
PREFIXES = (1 / 4, 1 / 2, 1)
"""Fractions of the text over which the growth of alpha is fitted."""
HYPER = "hyper practical"
SIZES = {"hyper_size": "HA24", "subgen_size": "SG24", "onepass_size": "ALSY23", "polynomial_size": "AS23"}
"""Columns of the sizes that theorems need, and their papers: samples, stored rows, rows of the sketch, monomials."""


@dataclass(frozen=True)
class Audit:
    """The measurements of an audit.

    Attributes
    ----------
    about : mapping
        source, tokens, layers, heads, kv_heads, scale; share (the memory budget) and queries (how many are compared).
    heads : DataFrame
        One row per head with the columns layer, head, n, and problem: why the head could not be audited (its other
        columns are NaN then, and it is in no other table), or "";

        - of the block without a mask: alpha, alpha_residual (the first `SINKS` keys computed exactly), alpha_exponent
          (exponent of n in alpha_residual, fitted over such blocks of the text's first quarter, first half and whole),
          kappa, srank;
        - of the whole text: entry_bound, query_norm and key_norm (largest), radius (of n/32 clusters of keys), delta_r
          (radius times scale times query_norm), delta_r_log (delta_r over log n), tail (relative error of every column
          of the output if only its n/64 largest entries are kept);
        - of the last queries: window_mass and heavy_mass, their share of attention on as many keys as the budget has
          tokens, namely the first `SINKS` and the latest keys, or the keys with the most attention;
        - the columns of `SIZES`.
    errors : DataFrame
        layer, head, method, nbytes (stored), error (mean over queries of
        `||out - Attn||_2 / (||softmax(K q)||_2 ||V||)`), relative (`||out - Attn||_F / ||Attn||_F`).
    radii : DataFrame
        layer, head, m (number of clusters), radius (of greedy k-center on the keys).
    """

    about: dict[str, Any]
    heads: pd.DataFrame
    errors: pd.DataFrame
    radii: pd.DataFrame

    @property
    def budget(self) -> str:
        """The memory budget in percent of the exact cache."""
        return f"{100 * self.about['share']:.3g}%"


def audit(
    captured: Captured,
    *,
    share: float = 1 / 16,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Audit:
    """Measure every layer and head of a causal model.

    Parameters
    ----------
    captured : Captured
    share : float
        Memory budget of a cache as a fraction of the exact cache; for HyperAttention, the fraction of the keys that it
        reads per query.
    seed : int
    progress : callable
        Called after each head with the number of heads done and the number of all heads.

    Raises
    ------
    ValueError
        Fewer than 128 tokens; a share that leaves the caches fewer than 16 tokens; no head that can be audited.

    Notes
    -----
    About 20 passes over each head's softmax matrix, `O(n^2 d)` operations each, on a GPU where there is one; the
    methods run on the CPU. Only one head is in memory at a time.
    """
    n, xp = captured.tokens, backend()
    if n < 128:
        raise ValueError(f"an audit needs at least 128 tokens, got {n}")
    if not 16 <= share * n <= n:
        raise ValueError(f"share must be between {16 / n:.2g} (16 tokens of {n}) and 1, got {share}")
    heads, errors, radii = [], [], []
    places = [(layer, head) for layer in range(captured.layers) for head in range(captured.heads)]
    for done, (layer, head) in enumerate(places, 1):
        place = {"layer": layer, "head": head}
        try:
            measured = _Head(captured.head(layer, head), share, generator(seed, "audit", layer, head), xp)
            facts, answers = measured.facts(), list(measured.errors())
        except ValueError as error:  # one bad head must not cost the others
            heads.append(place | {"n": n, "problem": str(error)})
        else:
            heads.append(place | {"n": n, "problem": ""} | facts)
            errors += [place | row for row in answers]
            radii += [place | {"m": m, "radius": radius} for m, radius in measured.radii.items()]
        progress(done, len(places))
    if not errors:
        raise ValueError(f"no head can be audited; layer 0, head 0: {heads[0]['problem']}")
    about = {name: getattr(captured, name) for name in ("source", "tokens", "layers", "heads", "kv_heads", "scale")}
    about |= {"share": share, "queries": _queries(n)}
    return Audit(about, *map(pd.DataFrame, (heads, errors, radii)))


def _queries(n: int) -> int:
    return min(QUERIES, n // 4)


class _Head:
    """One head: its hardness and its theorems' sizes, and the errors of the methods on its last queries."""

    def __init__(self, x: Instance, share: float, rng: np.random.Generator, xp: Any) -> None:
        self.x, self.n, self.rng, self.xp = x, len(x.k), rng, xp
        self.stream = _last_queries(x, _queries(self.n))
        self.budget = int(share * self.stream.cache_bytes)
        self.tokens = self.budget // row_bytes(x)  # that fit in the budget
        self.block = min(BLOCK, self.tokens // 2)
        counts = [max(2, self.n // part) for part in PARTS]
        radii = greedy_k_center(xp, to_device(x.k, xp), max(counts))[1]
        # With fewer keys than clusters the last radius is 0.
        self.radii = {m: float(radii[min(m, len(radii)) - 1]) for m in counts}

    def facts(self) -> dict[str, float]:
        """The columns of `Audit.heads`."""
        x, n = self.x, self.n
        h = hardness(*self._block(n), scale=x.scale, block_size=self.block, exact_keys=SINKS, rng=self.rng)
        alpha, alpha_residual, kappa, srank = map(float, map(asnumpy, (h.alpha, h.alpha_residual, h.kappa, h.srank)))
        query_norm, key_norm = (math.sqrt(np.einsum("ij,ij->i", rows, rows).max()) for rows in (x.q, x.k))
        r, radius = x.scale * query_norm, self.radii[max(2, n // min(PARTS))]
        q, k, v = (to_device(rows, self.xp) for rows in (x.q, x.k, x.v))
        tails = _tails(attention(q, k, v, scale=x.scale, causal=True))
        window, heavy = self._masses()
        return {
            "alpha": alpha,
            "alpha_residual": alpha_residual,
            "alpha_exponent": self._growth(alpha_residual),
            "kappa": kappa,
            "srank": srank,
            "entry_bound": float(max(abs(rows).max() for rows in (x.q, x.k, x.v))),
            "query_norm": query_norm,
            "key_norm": key_norm,
            "radius": radius,
            "delta_r": r * radius,
            "delta_r_log": r * radius / math.log(n),
            "tail": float(tails[n // KEPT]),
            "window_mass": window,
            "heavy_mass": heavy,
            # [HA24] Lemma 2 says how many of the block's n/2 keys to sample: twice as many are the same share of n.
            "hyper_size": 2 * amm_sample_size(x.v.shape[1], srank, eps=EPS, delta=FAILURE),
            "subgen_size": self._subgen_size(r),
            # [ALSY23]: k log n rows, k the least number of entries per column of the output that leaves a tail <= EPS.
            "onepass_size": max(1, int((tails > EPS).sum())) * math.ceil(math.log2(n)),
            "polynomial_size": _monomials(x.k.shape[1], r * key_norm),
        }

    def errors(self) -> Iterator[dict[str, Any]]:
        """Error of every method on the last queries.

        The caches that compress store at most the budget. HyperAttention stores all keys, and reads as many per query
        as the budget has tokens: its block, the sinks and the samples.
        """
        stream, x = self.stream, self.stream.x
        for answers in unbudgeted(stream, self.budget):
            yield self._row(*answers)
        out = hyper_attention(
            stream.late, x.k, x.v, scale=x.scale, block_size=self.block,
            sample_size=self.tokens - self.block - SINKS, min_exact=0, exact_keys=SINKS, rng=self.rng,
        )  # fmt: skip
        yield self._row(HYPER, out, stream.cache_bytes)
        for method, cache in competing(self.budget, x, self.rng).items():
            if not REGISTRY[method].of:  # methods, not their variants
                out = feed(method, cache, stream, self.budget).attend(stream.late, scale=x.scale)
                yield self._row(method, out, cache.nbytes)

    def _row(self, method: str, out: Any, nbytes: int) -> dict[str, Any]:
        error, relative = self.stream.errors(out)
        return {"method": method, "nbytes": nbytes, "error": error, "relative": relative}

    def _growth(self, alpha: float) -> float:
        """Exponent of n in alpha_residual by least squares over prefixes of the text; `alpha` is that of the whole."""
        sizes = [int(part * self.n) for part in PREFIXES]
        alphas = [self._alpha(size) for size in sizes[:-1]] + [alpha]
        return float(np.polyfit(np.log(sizes), np.log(alphas), 1)[0])

    def _block(self, n: int) -> tuple[Array, Array, Array]:
        """Queries of the later half of the first n tokens; keys and values of the earlier half."""
        x = self.x
        return tuple(to_device(rows, self.xp) for rows in (x.q[n // 2 : n], x.k[: n // 2], x.v[: n // 2]))

    def _alpha(self, n: int) -> float:
        """alpha_residual of the block of the first n tokens: (n/2) max ||P e_j||^2 over its keys j but the sinks."""
        q, k, _ = self._block(n)
        p = SoftmaxMatrix(self.xp, q[None], k[None], scale=self.x.scale, causal=False)
        return float(len(k) * asnumpy(p.column_squares())[0, SINKS:].max())

    def _masses(self) -> tuple[float, float]:
        """Mean share of the last queries' attention on `tokens` keys: the first and the latest, and the heaviest."""
        stream, x = self.stream, self.stream.x
        logits = x.scale * stream.late @ x.k.T
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        mass = (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)
        window = mass[:SINKS].sum() + mass[len(mass) - self.tokens + SINKS :].sum()
        return float(window), float(np.sort(mass)[len(mass) - self.tokens :].sum())

    def _subgen_size(self, r: float) -> float:
        """[SG24] Theorem 1: stored rows, `m (1 + t) + s`, for the m of `radii` that needs fewest.

        A sample of a cluster of radius delta has relative variance at most sinh(delta r)^2, so that by Chebyshev's
        inequality `t = sinh(delta r)^2 / (EPS^2 FAILURE)` samples suffice, and `s = srank(V) / (EPS^2 FAILURE)` slots.
        """
        v = self.x.v
        squared_norm = np.linalg.norm(v.T @ v, 2)
        slots = float((v**2).sum() / squared_norm) / (EPS**2 * FAILURE) if squared_norm else 1.0
        # sinh(300)^2 is below the largest float
        variances = {m: math.sinh(min(radius * r, 300.0)) ** 2 for m, radius in self.radii.items()}
        return min(m * (1 + max(1.0, variance / (EPS**2 * FAILURE))) for m, variance in variances.items()) + slots


def _last_queries(x: Instance, count: int) -> Stream:
    """The tokens before the last `count`, whose queries are held out; the cache may see every earlier query."""
    n = len(x.k) - count
    before = Instance(x.q[:n], x.k[:n], x.v[:n], scale=x.scale, name=x.name, params=x.params, source=x.source)
    return Stream.over(before, early=before.q, asked=np.ones(n, bool), late=x.q[n:])


def _tails(out: np.ndarray) -> np.ndarray:
    """Relative error if only the k largest entries of every column of the output are kept, for k = 0..n."""
    squares = -np.sort(-(asnumpy(out).astype(np.float64) ** 2), axis=0)
    kept = np.concatenate([[0.0], squares.sum(axis=1).cumsum()])
    return np.sqrt(np.maximum(0, kept[-1] - kept) / (kept[-1] or 1.0))  # an output of 0 leaves no tail


def _monomials(d: int, radius: float) -> float:
    """Monomials of d variables up to the degree at which Taylor's polynomial of exp has relative error EPS for logits
    up to `radius`."""
    degree = taylor_degree(math.log(EPS), radius)
    log_count = math.lgamma(d + degree + 1) - math.lgamma(d + 1) - math.lgamma(degree + 1)  # log binomial(d + g, g)
    return math.exp(log_count) if log_count < 700 else math.inf
