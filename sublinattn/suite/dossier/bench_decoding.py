"""Step `decoding`: one new token's query over every cache, and the tokens per second that each cache takes in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from ...core import backends
from ...core.backends import Array
from ...methods.caches.exact import ExactCache
from ...methods.caches.heavy_hitter import HeavyHitterCache
from ...methods.caches.k_center import KCenterCache
from ...methods.caches.reservoir import ReservoirCache
from ...methods.caches.sink import SinkCache
from ...methods.subgen.subgen import SubGenCache
from .device import Device
from .exact_reference import Reference

HEADS, CHUNK, BUDGET, CLUSTERS = 32, 4096, 1024, 64
SECONDS = 3.0
"""A cache stops taking tokens in after this time; its row says how many it has taken."""
CACHES: dict[str, Callable[[], Any]] = {
    "ExactCache": ExactCache,
    "SinkCache": partial(SinkCache, BUDGET - 4),
    "ReservoirCache": partial(ReservoirCache, BUDGET, rng=0),
    "ReservoirCache, value norms": partial(ReservoirCache, BUDGET, "value-norm", rng=0),
    "HeavyHitterCache": partial(HeavyHitterCache, BUDGET, 64),
    "SubGenCache": partial(SubGenCache, 3.0, 8, 256, rng=0),
    "KCenterCache": partial(KCenterCache, BUDGET, 64),
}


def rows(device: Device) -> Iterator[dict[str, Any]]:
    """One row per cache: attend and update times, bytes stored, and the error against all tokens it has taken."""
    heads, n, chunk = device.pick(HEADS, 2), device.pick(131072, 2048), device.pick(CHUNK, 512)
    keys, values, q = clustered(device, heads, n)
    if device.torch is not None:
        sdpa = device.torch.nn.functional.scaled_dot_product_attention
        tensors = [device.tensor(x)[None] for x in (q, keys, values)]
        yield {"cache": "PyTorch SDPA", "tokens": n, "heads": heads, **device.milliseconds(lambda: sdpa(*tensors))}
    for name, make in CACHES.items():
        try:
            yield {"cache": name, "heads": heads, "d": 64, **_row(device, make(), keys, values, q, chunk)}
        except Exception as error:  # the other caches' rows are worth having
            yield {"cache": name, "ok": False, "output": f"{type(error).__name__}: {error}"[:500]}
        device.free()


def clustered(device: Device, heads: int, n: int) -> tuple[Array, Array, Array]:
    """Keys in clusters of diameter about 1.5, which is what SubGen is for, values in as many; one query per head."""
    dtype, xp = device.low_precision(), device.xp
    turn = xp.asarray(np.random.default_rng(0).integers(CLUSTERS, size=n))

    def rows(seed: int) -> Array:
        centers = device.normal(heads, CLUSTERS, 64, seed=seed)
        return (centers[:, turn] + 0.1 * device.normal(heads, n, 64, seed=seed + 1)).astype(dtype)

    return rows(1), rows(3), device.normal(heads, 1, 64, seed=5).astype(dtype)


def _row(device: Device, cache: Any, keys: Array, values: Array, q: Array, chunk: int) -> dict[str, Any]:
    xp, start, taken = device.xp, time.perf_counter(), 0
    while taken < keys.shape[1] and time.perf_counter() - start < SECONDS:
        cache.update(keys[:, taken : taken + chunk], values[:, taken : taken + chunk])
        taken += chunk
        backends.synchronize(xp)
    seconds = time.perf_counter() - start
    error = Reference(xp, q, keys[:, :taken], values[:, :taken], causal=False).error(cache.attend(q))
    time_row = device.milliseconds(lambda: cache.attend(q))
    return {"tokens": taken, "update_seconds": seconds, "bytes": cache.nbytes, "error": error, **time_row}
