"""Step `kernel`: the attention kernel by type and head dimension, against float64 on the host, each case twice.

One row per build: the largest relative errors (Frobenius norm) over the cases of each kind, whether every case gave the
same bits twice, and the registers and bytes of local memory (spills) of a thread.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...core import backends
from ...core.attend import DIMENSIONS, TYPES, attend, build, serves
from ...core.backends import Array
from ...core.exact import Partial
from .device import Device

SHAPES = ((1, 1), (5, 70), (64, 64), (100, 131), (300, 1000))
"""Queries and keys of the plain cases: less than a tile, exactly one, and ragged ends."""
LIMITS = {"float16": 1e-3, "bfloat16": 8e-3}
"""Relative errors that are still right: two units in the last place of the type."""

Twice = Callable[[Callable[[], list[Array]]], list[np.ndarray]]
"""Runs a case twice, notes whether the bits agree, and returns its results in float64."""


def rows(device: Device) -> Iterator[dict[str, Any]]:
    """One row per type and head dimension; few of them in a rehearsal, where the kernel is built for the CPU."""
    if device.rehearsal:
        yield from _small(device)
        return
    for name in TYPES:
        for d in DIMENSIONS:
            yield _row(device, name, d, SHAPES)


def sanitized(device: Device) -> Iterator[dict[str, Any]]:
    """A few small cases, for compute-sanitizer: it makes a kernel hundreds of times slower."""
    if not device.rehearsal:
        device.xp.cuda.set_allocator(
            None
        )  # each array an allocation of its own: a pool would hide what is past its end
    yield from _small(device)


def _small(device: Device) -> Iterator[dict[str, Any]]:
    for name, d in (("bfloat16", 64), ("float16", 96), ("bfloat16", 128)):
        yield _row(device, name, d, SHAPES[1:2])


def _row(device: Device, name: str, d: int, shapes: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    row: dict[str, Any] = {"kernel": name, "d": d}
    dtype, xp = device.half(name), device.kernel_xp()
    if dtype is None:
        return row | {"not_run": "ml_dtypes is not installed"}
    if not serves(xp, xp.zeros((1, 1, d), dtype)):
        return row | {"not_run": "the kernel does not serve this type and dimension here"}
    same = [True]

    def twice(call: Callable[[], list[Array]]) -> list[np.ndarray]:
        results = call()
        for x, again in zip(results, call(), strict=True):
            first, second = (backends.asnumpy(y.view(np.uint8)) for y in (x, again))
            same[0] &= np.array_equal(first, second)
        return [backends.asnumpy(x.astype(np.float32)).astype(np.float64) for x in results]

    errors: dict[str, float] = defaultdict(float)
    for kind, error in _cases(xp, dtype, d, shapes, twice):
        errors[kind] = error if not error <= errors[kind] else errors[kind]  # NaN stays
    row |= {**errors, "bitwise": same[0]}
    if not device.rehearsal:
        kernel = build(name, d).get_function("attend")
        row |= {"registers": kernel.num_regs, "local_bytes": kernel.local_size_bytes}
    right = all(error <= LIMITS[name] for kind, error in errors.items() if kind != "lse")
    return row | {"ok": right and errors["lse"] <= 1e-4 and same[0]}


def _cases(
    xp: Any, dtype: np.dtype, d: int, shapes: tuple[tuple[int, int], ...], twice: Twice
) -> Iterator[tuple[str, float]]:
    """Kind and error of every case."""
    scale, rng = d**-0.5, np.random.default_rng(0)

    def half(*shape: int) -> tuple[Array, np.ndarray]:
        x = xp.asarray(rng.standard_normal(shape, dtype=np.float32)).astype(dtype)
        return x, backends.asnumpy(x.astype(np.float32)).astype(np.float64)

    def answer(q: Array, k: Array, v: Array, **options: Any) -> list[Array]:
        n = q.size // d
        out, lse = xp.zeros((n, d), dtype), xp.zeros(n, np.float32)
        attend(xp, q, k, v, scale=scale, out=out, lse=lse, **options)
        return [out, lse]

    for t, c in shapes:  # 1. two groups, each with its own rows in order
        (q, q64), (k, k64), (v, v64) = half(2, t, d), half(2, c, d), half(2, c, d)
        for causal in (False, True):
            out, lse = twice(lambda q=q, k=k, v=v, causal=causal: answer(q, k, v, causal=causal))  # type: ignore[misc]
            exact = [_reference(q64[g], k64[g], v64[g], scale, causal=causal) for g in range(2)]
            yield "error", _relative(out, np.concatenate([o for o, _ in exact]))
            yield "lse", float(abs(lse - np.concatenate([normaliser for _, normaliser in exact])).max())

    # 2. Groups of gathered rows, each over its own keys and a weighted sample that all groups share.
    groups, t, c, m = 3, 70, 70, 40
    n = groups * t
    (q, q64), (k, k64), (v, v64) = half(n, d), half(n, d), half(n, d)
    q_rows, k_rows = (rng.permutation(n).astype(np.int32).reshape(groups, t) for _ in range(2))
    sample = rng.permutation(n)[:m].astype(np.int32)
    inside = np.stack([np.isin(sample, own) for own in k_rows])
    weights = np.where(inside, -np.inf, np.log(3.7)).astype(np.float32)  # a key of the group's own counts once
    both = np.concatenate([k_rows, np.broadcast_to(sample, (groups, m))], axis=1)
    both_weights = np.concatenate([np.zeros((groups, c), np.float32), weights], axis=1)
    wanted = np.empty((n, d))
    for g in range(groups):
        keys, queries = both[g], q_rows[g]
        wanted[queries], _ = _reference(q64[queries], k64[keys], v64[keys], scale, both_weights[g])
    at, own, all_keys, shared = (xp.asarray(x) for x in (q_rows, k_rows, both, sample[None]))
    w, w_all = xp.asarray(weights), xp.asarray(both_weights)
    out, _ = twice(lambda: answer(q, k, v, q_rows=at, k_rows=all_keys, log_weights=w_all))
    yield "joined", _relative(out, wanted)

    def resumed() -> list[Array]:  # the same in two calls: own keys to a partial, then the sample on top of it
        total = Partial.empty(xp, (n,), d, np.dtype(np.float32))
        attend(xp, q, k, v, scale=scale, q_rows=at, k_rows=own, total=total)
        return answer(q, k, v, q_rows=at, k_rows=shared, log_weights=w, total=total, resume=True)

    yield "resumed", _relative(twice(resumed)[0], wanted)

    # 3. One query over split keys: a group per segment, whose partials are merged afterwards.
    segments, c = 4, 150
    (q, q64), (k, k64), (v, v64) = half(1, d), half(segments, c, d), half(segments, c, d)

    def split() -> list[Array]:
        repeated = xp.ascontiguousarray(xp.broadcast_to(q[:, None], (segments, 1, d)))
        parts = Partial.empty(xp, (segments,), d, np.dtype(np.float32))
        attend(xp, repeated, k, v, scale=scale, total=parts)
        whole = Partial(parts.m[:1].copy(), parts.l[:1].copy(), parts.o[:1].copy())
        for s in range(1, segments):
            whole.merge(Partial(parts.m[s : s + 1], parts.l[s : s + 1], parts.o[s : s + 1]))
        return [whole.output()]

    wanted, _ = _reference(q64, k64.reshape(-1, d), v64.reshape(-1, d), scale)
    yield "split", _relative(twice(split)[0], wanted)


def _reference(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    scale: float,
    weights: np.ndarray | None = None,
    *,
    causal: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Answers and log normalisers in float64."""
    logits = scale * q @ k.T + (0 if weights is None else weights)
    if causal:
        logits[np.arange(len(k)) > np.arange(len(q))[:, None]] = -np.inf
    m = logits.max(axis=1, keepdims=True)
    e = np.exp(logits - m)
    total = e.sum(axis=1, keepdims=True)
    return e @ v / total, (m + np.log(total))[:, 0]


def _relative(x: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(x - wanted) / np.linalg.norm(wanted))
