"""Which method suits which head of a model: hardness, whose theorem bites, and every method's error, head by head.

Errors are those of the last queries over the keys before them, so that whatever compresses the keys has not seen the
queries. Hardness is that of the largest block without a mask, the later half of the queries over the earlier half of
the keys: it is what HyperAttention approximates under a causal mask ([HA24] Algorithm 4), and alone says something, for
under the mask the first rows have few keys, and alpha is at least of the order of n whatever the model does.

Sizes that a theorem asks for are computed from what was measured, with explicit constants where there are any. Each
part of an estimate is given all of `EPS` and all of `FAILURE`: a theorem that has to share them asks for more. So they
are what is needed at the least, and where they are not below n the theorem says nothing; of [HA24] it is the product's
size (Lemma 2), without the normaliser's, of [ALSY23] without the constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from ...core.backends import asnumpy
from ...core.exact import attention
from ...core.softmax_matrix import SoftmaxMatrix
from ...lab.comparison.error_over_bytes import unbudgeted
from ...lab.comparison.registry import WINDOW, Stream, competing_online, feed, row_bytes
from ...lab.run import generator
from ...lab.workloads.instance import Instance
from ...methods.caches.sink import SINKS
from ...methods.hyperattention import studies  # noqa: F401  registers HyperAttention's look in figures
from ...methods.hyperattention.hardness import hardness
from ...methods.hyperattention.hyper import hyper_attention
from ...methods.polynomial.approximants import taylor_degree
from ...primitives.kcenter import greedy_k_center
from ...theory.symbols import amm_sample_size

EPS, FAILURE = 0.5, 0.1
QUERIES = 256
"""Last queries of a head, whose answers are compared; of a short text a quarter."""
PARTS = (256, 64, 32)
"""Clusters are measured at n over these many centres."""
BLOCK = 256
"""Keys per block of HyperAttention's mask, or half of the budget where that is less."""
KEPT = 64
"""n over this many rows of the output are kept where its compressibility is measured."""
PREFIXES = (1 / 4, 1 / 2, 1)
"""Shares of the text over which alpha's growth is measured."""
HYPER = "hyper practical"
SIZES = {"hyper_size": "HA24", "subgen_size": "SG24", "onepass_size": "ALSY23", "polynomial_size": "AS23"}
"""Column of a theorem's size, and the paper: samples, held rows, rows of the sketch, monomials."""


class Model(Protocol):
    """Queries, keys and values of every layer and head on one text: `captured.Captured`, or the same in memory."""

    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def scale(self) -> float: ...
    @property
    def source(self) -> str: ...
    def head(self, layer: int, head: int) -> Instance: ...


@dataclass(frozen=True)
class Audit:
    """What was measured.

    Attributes
    ----------
    about : mapping
        source, tokens, layers, heads, kv_heads, scale; share and queries of the errors.
    heads : DataFrame
        One line per layer and head: layer, head, n;
        of the block: alpha, alpha_residual (first `SINKS` keys exact), alpha_exponent (of alpha_residual, over the
        text's first quarter, half and whole), kappa, srank;
        of the whole: entry_bound, query_norm, key_norm, radius (of n/32 clusters), delta_r (radius times the longest
        query, times the scale), delta_r_log (over log n), tail (relative error of the best n/64 rows per column of the
        output), window_mass and heavy_mass (share of the last queries' attention on the first `SINKS` and the last
        keys, and on the heaviest: as many as the budget has);
        and the columns of `SIZES`.
    errors : DataFrame
        layer, head, method, nbytes (held), error (in the theorem's norm, mean over queries), relative
        (`||out - Attn||_F / ||Attn||_F`).
    radii : DataFrame
        layer, head, m, radius: greedy k-center on the keys.
    """

    about: dict[str, Any]
    heads: pd.DataFrame
    errors: pd.DataFrame
    radii: pd.DataFrame

    @property
    def budget(self) -> str:
        """The share of the bytes in percent."""
        return f"{100 * self.about['share']:.3g}%"


def audit(
    captured: Model,
    *,
    share: float = 1 / 16,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Audit:
    """Measure every layer and head of a causal model.

    Parameters
    ----------
    captured : Captured, or what has its attributes and `head`
    share : float
        Of the exact cache's bytes (of the keys, for HyperAttention) that a method may use.
    seed : int
    progress : callable
        Told the number of heads done, and of all.

    Raises
    ------
    ValueError
        Fewer than 128 tokens, or a share that leaves no room for the caches; what is wrong with a head's arrays, with
        its layer and number.

    Notes
    -----
    About 20 passes over each head's softmax matrix, `O(n^2 d)` operations each; one head's arrays at a time.
    """
    n = captured.tokens
    if n < 128:
        raise ValueError(f"an audit needs at least 128 tokens, got {n}")
    if not 16 <= share * n <= n:
        raise ValueError(f"share must be between {16 / n:.2g} (16 tokens of {n}) and 1, got {share}")
    heads, errors, radii = [], [], []
    every = [(layer, head) for layer in range(captured.layers) for head in range(captured.heads)]
    for done, (layer, head) in enumerate(every):
        x, where = captured.head(layer, head), {"layer": layer, "head": head}
        rng = generator(seed, "audit", layer, head)
        try:
            found = _Head(x, share, rng)
            heads.append({**where, **found.facts()})
            errors += [{**where, **row} for row in found.errors()]
        except ValueError as error:
            raise ValueError(f"layer {layer}, head {head}: {error}") from error
        radii += [{**where, "m": m, "radius": radius} for m, radius in found.radii.items()]
        progress(done + 1, len(every))
    about = {
        "source": captured.source,
        "tokens": n,
        "layers": captured.layers,
        "heads": captured.heads,
        "kv_heads": captured.kv_heads,
        "scale": captured.scale,
        "share": share,
        "queries": _queries(n),
    }
    return Audit(about, *map(pd.DataFrame, (heads, errors, radii)))


def _queries(n: int) -> int:
    return min(QUERIES, n // 4)


class _Head:
    """One head: its hardness over the whole text, and the errors of its last queries over the keys before them."""

    def __init__(self, x: Instance, share: float, rng: np.random.Generator) -> None:
        self.x, self.n, self.rng = x, len(x.k), rng
        self.stream = _last_queries(x, _queries(self.n))
        self.budget = int(share * self.stream.cache_bytes)
        self.tokens = self.budget // row_bytes(x)
        self.block = min(BLOCK, self.tokens // 2)
        most = max(2, self.n // min(PARTS))
        centres = greedy_k_center(np, x.k, most)[1]
        self.radii = {m: float(centres[min(m, len(centres)) - 1]) for m in (max(2, self.n // part) for part in PARTS)}

    def facts(self) -> dict[str, float]:
        x, n = self.x, self.n
        h = hardness(*_block(x, n), scale=x.scale, block_size=self.block, exact_keys=SINKS, rng=self.rng)
        query_norm, key_norm = (math.sqrt(np.einsum("ij,ij->i", rows, rows).max()) for rows in (x.q, x.k))
        r = x.scale * query_norm
        delta_r = r * self.radii[max(2, n // min(PARTS))]
        out = attention(x.q, x.k, x.v, scale=x.scale, causal=True)
        tails = _tails(out)
        window, heavy = self._masses()
        return {
            "n": n,
            "alpha": float(h.alpha),
            "alpha_residual": float(h.alpha_residual),
            "alpha_exponent": self._growth(float(h.alpha_residual)),
            "kappa": float(h.kappa),
            "srank": float(h.srank),
            "entry_bound": float(max(abs(rows).max() for rows in (x.q, x.k, x.v))),
            "query_norm": query_norm,
            "key_norm": key_norm,
            "radius": self.radii[max(2, n // min(PARTS))],
            "delta_r": delta_r,
            "delta_r_log": delta_r / math.log(n),
            "tail": float(tails[n // KEPT]),
            "window_mass": window,
            "heavy_mass": heavy,
            # The block has half of the keys to sample from: as many of n.
            "hyper_size": 2 * amm_sample_size(x.v.shape[1], float(h.srank), eps=EPS, delta=FAILURE),
            "subgen_size": self._subgen_size(r),
            "onepass_size": int((tails > EPS).sum()) * math.ceil(math.log2(n)),
            "polynomial_size": _monomials(x.k.shape[1], r * key_norm),
        }

    def errors(self) -> Iterator[dict[str, Any]]:
        """Every method on the last queries. Cached methods hold at most the budget; HyperAttention holds all keys, and
        touches as many per query as the budget has."""
        stream, x = self.stream, self.stream.x
        for found in unbudgeted(stream, self.budget):
            yield self._row(*found)
        out = hyper_attention(
            stream.late, x.k, x.v, scale=x.scale, block_size=self.block,
            sample_size=self.tokens - self.block - SINKS, min_exact=0, exact_keys=SINKS, rng=self.rng,
        )  # fmt: skip
        yield self._row(HYPER, out, stream.cache_bytes)
        for method, cache in competing_online(self.budget, x, self.rng).items():
            if method != WINDOW:
                yield self._row(
                    method, feed(cache, stream, self.budget).attend(stream.late, scale=x.scale), cache.nbytes
                )

    def _row(self, method: str, out: Any, nbytes: int) -> dict[str, Any]:
        error, relative = self.stream.errors(out)
        return {"method": method, "nbytes": nbytes, "error": error, "relative": relative}

    def _growth(self, alpha: float) -> float:
        """Exponent of alpha, sinks exact, over the text's prefixes."""
        sizes = [int(part * self.n) for part in PREFIXES]
        alphas = [_alpha(self.x, size) for size in sizes[:-1]] + [alpha]
        return float(np.polyfit(np.log(sizes), np.log(alphas), 1)[0])

    def _masses(self) -> tuple[float, float]:
        """Share of the last queries' attention on the sinks and the window, and on the heaviest keys."""
        stream, x = self.stream, self.stream.x
        logits = x.scale * stream.late @ x.k.T
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        mass = (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)
        window = mass[:SINKS].sum() + mass[len(mass) - self.tokens + SINKS :].sum()
        return float(window), float(np.sort(mass)[len(mass) - self.tokens :].sum())

    def _subgen_size(self, r: float) -> float:
        """Least rows over the numbers of clusters: m centres with t samples each, and s slots (THEORY, section 5)."""
        spread = float((self.x.v**2).sum() / np.linalg.norm(self.x.v.T @ self.x.v, 2))
        relative = {m: math.sinh(min(radius * r, 300.0)) ** 2 for m, radius in self.radii.items()}
        samples = {m: max(1.0, variance / (EPS**2 * FAILURE)) for m, variance in relative.items()}
        return min(m * (1 + t) for m, t in samples.items()) + spread / (EPS**2 * FAILURE)


def _last_queries(x: Instance, count: int) -> Stream:
    """The last queries, held out, over the keys before them; all queries before those may be asked on the way."""
    n = len(x.k) - count
    before = Instance(x.q[:n], x.k[:n], x.v[:n], scale=x.scale, name=x.name, params=x.params, source=x.source)
    return Stream.over(before, early=before.q, asked=np.ones(n, bool), late=x.q[n:])


def _block(x: Instance, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the first n tokens the later half's queries, and the earlier half's keys and values."""
    return x.q[n // 2 : n], x.k[: n // 2], x.v[: n // 2]


def _alpha(x: Instance, n: int) -> float:
    q, k, _ = _block(x, n)
    p = SoftmaxMatrix(np, q[None], k[None], scale=x.scale, causal=False)
    return float(len(k) * p.column_squares()[0, SINKS:].max())


def _tails(out: np.ndarray) -> np.ndarray:
    """Relative error of the best k entries of every column of the output, for k = 0..n."""
    squares = -np.sort(-(asnumpy(out).astype(np.float64) ** 2), axis=0)
    kept = np.concatenate([[0.0], squares.sum(axis=1).cumsum()])
    return np.sqrt(np.maximum(0, kept[-1] - kept) / kept[-1])


def _monomials(d: int, radius: float) -> float:
    """Monomials of d variables up to the degree of Taylor's polynomial with relative error EPS on [-radius, radius]."""
    degree = taylor_degree(math.log(EPS), radius)
    log = math.lgamma(d + degree + 1) - math.lgamma(d + 1) - math.lgamma(degree + 1)
    return math.exp(log) if log < 700 else math.inf
