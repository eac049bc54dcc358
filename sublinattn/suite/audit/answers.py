"""What an audit measures of the methods: every cache at every share, and HyperAttention on the prompt."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ...core.backends import Array, asnumpy, cut
from ...core.exact import attention
from ...lab.comparison.registry import CHUNK, REGISTRY, Contender
from ...lm.mixed_caches import Kept
from ...methods.caches.base import KVCache
from ...methods.caches.exact import ExactCache, ZeroCache
from ...methods.caches.sink import SINKS
from ...methods.hyperattention import studies  # noqa: F401  registers HyperAttention's look in figures
from ...methods.hyperattention.exact_keys import heavy_keys
from ...methods.hyperattention.hyper import hyper_attention
from ...methods.polynomial.approximants import MAX_RADIUS
from ...methods.polynomial.polynomial import PolynomialState
from .group import Group

HYPER, STATE = "hyper practical", "streaming state"
BLOCK = 256
"""Block size of HyperAttention for the held-out queries: at most this, and at most half of the budget in keys."""
PART = 16
"""On the prompt, HyperAttention has blocks and samples of n over this many keys."""
EXACT_KEYS = (0, 1, 4, 16)
"""Keys that HyperAttention computes exactly on the prompt: so many are tried, for each query head its heaviest ones."""

CACHES = {name: row for name, row in REGISTRY.items() if not row.of and not row.hindsight}
"""The caches that are measured: methods, not their variants."""
EXACT = Contender(lambda nbytes, x, rng: ExactCache())
YARDSTICKS = {"exact": EXACT, "zero": Contender(lambda nbytes, x, rng: ZeroCache())}


def filled(row: Contender, cache: KVCache, q: Array, k: Array, v: Array, scale: float) -> KVCache:
    """The contender's cache of B key heads after their prompt: k, v (B, n, ...), q (B, G, n, d) for one that asks."""
    b, _, n, d = q.shape
    step = row.rows(cache, n)
    for part in cut(n, step):
        cache.update(k[:, part], v[:, part], check_finite=False)
        if row.asks:
            cache.attend(q[:, :, part].reshape(b, -1, d), scale=scale, check_finite=False)
    return cache


def answers(
    group: Group, shares: Sequence[float], rng: np.random.Generator
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of `Audit.caches` and `Audit.errors`: every method's answers to the held-out queries.

    The caches that compress store at most their share. HyperAttention stores all keys, and reads as many per query as
    the share has tokens: its block, the sinks and the samples. The streaming state is given the largest logit.
    """
    caches, errors = [], []
    for method, share, nbytes, cache, out in (*_each(group, shares, rng), *_states(group, shares)):
        error, relative = group.errors(out)
        decoded = group.decoded(Kept(cache)) if cache else np.full_like(relative, np.nan)
        parameters = json.dumps(cache.parameters() if cache else {})
        about = {"cache": type(cache).__name__ if cache else "", "parameters": parameters}
        for i, (layer, key_head) in enumerate(group.places):
            if np.isnan(relative[i]).any():  # there is no such state
                continue
            place = {"layer": layer, "key_head": key_head, "method": method, "share": share}
            caches.append({**place, "nbytes": nbytes, **about})
            for j in range(group.shape[1]):
                head = {"head": key_head * group.shape[1] + j}
                errors.append({**place, **head, "error": error[i, j].item()})
                errors[-1] |= {"relative": relative[i, j].item(), "decoded": decoded[i, j].item()}
    return caches, errors


def _each(
    group: Group, shares: Sequence[float], rng: np.random.Generator
) -> Iterator[tuple[str, float, int, KVCache | None, Array]]:
    """Method, share, bytes per key head, the cache if it is one, answers."""
    b, scale, late, (q, k, v) = group.shape[0], group.scale, group.late, group.prompt
    yardsticks: dict[str, KVCache] = {"exact": ExactCache(), "zero": ZeroCache()}
    for name, cache in yardsticks.items():
        filled(EXACT, cache, q, k, v, scale)
        yield name, math.nan, cache.nbytes // b, cache, cache.attend(late, scale=scale, check_finite=False)
    first = group.first
    for share in shares:
        nbytes = int(share * group.cache_bytes)
        tokens = nbytes // (group.cache_bytes // group.tokens)
        block = min(BLOCK, tokens // 2)
        out = hyper_attention(
            group.q[:, :, group.tokens :].reshape(-1, group.queries, q.shape[-1]),
            *map(group.per_query_head, (k, v)), scale=scale, block_size=block,
            sample_size=tokens - block - SINKS, min_exact=0, exact_keys=SINKS, rng=rng, check_finite=False,
        )  # fmt: skip
        yield HYPER, share, group.cache_bytes, None, out.reshape(b, -1, v.shape[-1])
        for method, contender in CACHES.items():
            try:
                cache = contender.within(nbytes, first, rng)
            except ValueError:  # the method has no cache in so few bytes
                continue
            filled(contender, cache, q, k, v, scale)
            if cache.nbytes > b * nbytes:
                raise AssertionError(f"{method} holds {cache.nbytes} bytes for {b} key heads of {nbytes} each")
            yield method, share, cache.nbytes // b, cache, cache.attend(late, scale=scale, check_finite=False)


def _states(group: Group, shares: Sequence[float]) -> Iterator[tuple[str, float, int, None, Array]]:
    """The streaming state in at most each share, given the largest logit; NaN for a key head that it cannot serve.

    It has the highest degree that fits, and cannot serve where a logit is beyond `MAX_RADIUS`, nor where its
    polynomial's normaliser is not positive.
    """
    (b, g), xp, (_, k, v), (d, d_v) = group.shape, group.xp, group.prompt, (group.k.shape[2], group.v.shape[2])
    sizes = {degree: math.comb(d + degree, degree) * (d_v + 2) * 8 for degree in (1, 2, 3)}
    degrees = {share: [g for g, size in sizes.items() if size < share * group.cache_bytes] for share in shares}
    radii = _largest_logits(group) if any(degrees.values()) else np.zeros(0)
    for degree in {max(its) for its in degrees.values() if its}:
        out, nbytes = xp.full((b, g * group.queries, d_v), np.nan, k.dtype), 0
        for i in np.flatnonzero(radii <= MAX_RADIUS):
            state = PolynomialState(d, d_v, degree=degree, scale=group.scale, basis="minimax", radius=float(radii[i]))
            for rows in cut(group.tokens, CHUNK):
                state.update(k[i, rows], v[i, rows], check_finite=False)
            nbytes = state.nbytes
            with suppress(ValueError):  # the normaliser is not positive
                out[i] = state.attend(group.late[i])
        for share, its in degrees.items():
            if its and max(its) == degree:
                yield STATE, share, nbytes, None, out


def _largest_logits(group: Group) -> np.ndarray:
    """Of every key head: the largest absolute logit of any query with any key of the prompt."""
    xp, k, largest = group.xp, group.prompt[1].swapaxes(1, 2), []
    for i in range(group.shape[1]):
        for rows in cut(group.q.shape[2], CHUNK):
            largest.append(abs(xp.matmul(group.scale * group.q[:, i, rows], k)).max(axis=(1, 2)))
    return asnumpy(xp.stack(largest).max(axis=0)).astype(float)


def prompt_parameters(n: int) -> dict[str, Any]:
    """Arguments of HyperAttention on a prompt of n tokens, but for the exact keys."""
    part = max(16, n // PART)
    return {"block_size": part, "sample_size": part, "min_exact": 2 * part}


def prompts(group: Group, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Rows of `Audit.prompts`: HyperAttention on the whole causal text, with more and more heavy keys exact."""
    (b, g), n = group.shape, group.q.shape[2]
    last, scale = slice(n - group.queries, n), group.scale
    q, k, v = group.q.reshape(b * g, n, -1), group.per_query_head(group.k), group.per_query_head(group.v)
    exact = attention(q, k, v, scale=scale, causal=True, check_finite=False)[:, last].astype(np.float64)
    heavy = asnumpy(heavy_keys(q, k, max(EXACT_KEYS), causal=True, scale=scale, check_finite=False))
    rows = []
    for count in EXACT_KEYS:
        out = hyper_attention(
            q, k, v, scale=scale, causal=True, exact_keys=heavy[:, :count] if count else 0, rng=rng,
            check_finite=False, **prompt_parameters(n),
        )  # fmt: skip
        squares = [((out[:, last] - exact) ** 2).sum(axis=(1, 2)), (exact**2).sum(axis=(1, 2))]
        norms = np.sqrt(asnumpy(group.xp.stack(squares)))
        for i in range(b * g):
            layer, key_head = group.places[i // g]
            place = {"layer": layer, "head": key_head * g + i % g, "exact": count}
            positions = json.dumps(heavy[i, :count].tolist())
            rows.append({**place, "positions": positions, "gap": norms[0, i].item(), "size": norms[1, i].item()})
    return rows
