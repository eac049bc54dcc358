"""What each algorithm may cost on a GPU, counted on the fake device: launches, host syncs, copied operands, uploads.

The package's own kernels run as g++ builds them; rows that end in "half" are float16, which takes the fused kernel.

A budget is an upper bound that is kept tight: a cost more than a fifth below it fails too, so whoever lowers a cost
lowers its row. `python tests/test_budgets.py` writes the present costs into the table below.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fake_device
import numpy as np
import pytest
import references

from sublinattn import (
    BalanceKVCache,
    BucketedBalanceKVCache,
    ExactCache,
    HeavyHitterCache,
    KCenterCache,
    OnePassSketch,
    PolynomialState,
    ReservoirCache,
    SinkCache,
    SubGenCache,
    attention,
    hardness,
    hyper_attention,
    kdeformer_attention,
    nystrom_attention,
    partial_attention,
    performer_attention,
    polynomial_attention,
    reformer_attention,
    thinformer_attention,
    uniform_attention,
)

HEADS, N, D = 4, 2048, 16
Call = Callable[[], Any]


def device(*arrays: np.ndarray) -> list[Any]:
    return [fake_device.asarray(x) for x in arrays]


def qkv(
    n: int = N, n_q: int | None = None, *, heads: int = HEADS, d: int = D, size: float = 1.0, dtype: Any = np.float32
) -> list[Any]:
    lead = (heads,) if heads else ()
    return device(*references.qkv(0, n_q or n, n, lead=lead, d=d, d_v=d, size=size, dtype=dtype))


def half(n_q: int = 512) -> list[Any]:
    return qkv(512, n_q, heads=2, d=32, dtype=np.float16)


def of_qkv(function: Callable[..., Any], make: Callable[[], list[Any]] = qkv, **options: Any) -> Call:
    return partial(function, *make(), **options)


def of_hyper(make: Callable[[], list[Any]] = qkv, **options: Any) -> Call:
    return of_qkv(hyper_attention, make, **{"rng": 0, "block_size": 64, "sample_size": 64, "min_exact": 256, **options})


def polynomial(step: str, rows: int) -> Call:
    state, (q, k, v) = PolynomialState(8, 8, degree=4), qkv(rows, heads=0, d=8, size=0.5)
    state.update(*qkv(64, heads=0, d=8, size=0.5)[1:])
    return partial(state.update, k, v) if step == "update" else partial(state.attend, q)


def one_pass(variant: str, step: str) -> Call:
    q, k, v = qkv(1024, heads=0, d=4, size=0.5)
    sketch = OnePassSketch(1024, 4, 4, degree=4, sparsity=16, eps1=0.5, eps2=0.5, variant=variant, rng=0)
    steps = {"absorb_keys": partial(sketch.absorb_keys, k, v), "absorb_queries": partial(sketch.absorb_queries, q)}
    for name, call in steps.items():
        if name == step:
            return call
        call()
    return partial(sketch.decode, step)


def clustered(n: int, d: int = D, dtype: Any = np.float32) -> list[Any]:
    """Keys in 20 clusters of radius below 1 per head, and Gaussian values."""
    rng = np.random.default_rng(1)
    centers = 4 * rng.standard_normal((HEADS, 20, d))
    k = np.stack([x[rng.integers(20, size=n)] for x in centers]) + 0.1 * rng.standard_normal((HEADS, n, d))
    return device(k.astype(dtype), rng.standard_normal((HEADS, n, d)).astype(dtype))


def cache(make: Callable[[], Any], step: str, rows: int, d: int = D, dtype: Any = np.float32) -> Call:
    """A step of `rows` tokens or queries on a cache that has 600 tokens of each head, and one answer, behind it."""
    filled = make().update(*clustered(600, d, dtype))
    (q, _, _) = qkv(1, rows, d=d, dtype=dtype)
    filled.attend(q)
    k, v = (x[:, 600 : 600 + rows] for x in clustered(600 + rows, d, dtype))
    return partial(filled.update, k, v) if step == "update" else partial(filled.attend, q)


CACHES: dict[str, Callable[[], Any]] = {
    "ExactCache": ExactCache,
    "SinkCache": partial(SinkCache, 100),
    "HeavyHitterCache": partial(HeavyHitterCache, 128, 32),
    "ReservoirCache": partial(ReservoirCache, 128, rng=0),
    "ReservoirCache value-norm": partial(ReservoirCache, 128, "value-norm", rng=0),
    "ReservoirCache priority": partial(ReservoirCache, 128, "priority", rng=0),
    "KCenterCache": partial(KCenterCache, 128, 32),
    "BalanceKVCache": partial(BalanceKVCache, 128, rng=0),
    "BalanceKVCache pairs": partial(BalanceKVCache, 128, pairs=True, rng=0),
    "BucketedBalanceKVCache": partial(BucketedBalanceKVCache, 128, rng=0),
    "SubGenCache": partial(SubGenCache, 2.0, 4, 64, rng=0),
    "SubGenCache recent": partial(SubGenCache, 2.0, 4, 64, recent=64, rng=0),
    "SubGenCache slots": partial(SubGenCache, value_samples=64, normaliser="slots", rng=0),
    "SubGenCache distance": partial(SubGenCache, value_samples=64, normaliser="slots", law="distance", rng=0),
}

CALLS: dict[str, Callable[[], Call]] = {
    "attention": partial(of_qkv, attention),
    "attention causal": partial(of_qkv, attention, causal=True),
    "attention of one query": lambda: partial(attention, *qkv(N, 1)),
    "partial_attention": partial(of_qkv, partial_attention),
    "hyper_attention": of_hyper,
    "hyper_attention sinks": partial(of_hyper, exact_keys=4),
    "hyper_attention causal": partial(of_hyper, causal=True),
    "hyper_attention own hash": partial(of_hyper, causal=True, block_by="own-hash"),
    "hyper_attention theory": partial(of_hyper, estimator="theory"),
    "hyper_attention theory causal": partial(of_hyper, estimator="theory", causal=True),
    "hyper_attention theory own hash": partial(of_hyper, estimator="theory", causal=True, block_by="own-hash"),
    "uniform_attention": partial(of_qkv, uniform_attention, sample_size=64, rng=0),
    "uniform_attention causal": partial(of_qkv, uniform_attention, sample_size=64, causal=True, rng=0),
    "performer_attention": partial(of_qkv, performer_attention, rng=0),
    "performer_attention causal": partial(of_qkv, performer_attention, causal=True, rng=0),
    "nystrom_attention": partial(of_qkv, nystrom_attention),
    "reformer_attention": partial(of_qkv, reformer_attention, rng=0),
    "reformer_attention causal": partial(of_qkv, reformer_attention, causal=True, rng=0),
    "kdeformer_attention": partial(of_qkv, kdeformer_attention, block_size=64, sample_size=64, rng=0),
    "thinformer_attention": partial(of_qkv, thinformer_attention, rng=0),
    "polynomial_attention": lambda: partial(polynomial_attention, *qkv(d=8, size=0.5), degree=4),
    "polynomial_attention causal": lambda: partial(polynomial_attention, *qkv(d=8, size=0.5), degree=4, causal=True),
    **{
        f"PolynomialState.{step} {rows}": partial(polynomial, step, rows)
        for step in ("update", "attend")
        for rows in (1, N)
    },
    **{
        f"OnePassSketch {variant} {step}": partial(one_pass, variant, step)
        for variant in ("paper", "fused")
        for step in ("absorb_keys", "absorb_queries", "identify", "scan")
    },
    **{
        f"{name}.{step} {rows}": partial(cache, make, step, rows)
        for name, make in CACHES.items()
        for step in ("update", "attend")
        for rows in (1, 300)
    },
    "attention half": partial(of_qkv, attention, half),
    "attention causal half": partial(of_qkv, attention, half, causal=True),
    "attention of one query half": lambda: partial(attention, *half(1)),
    "partial_attention half": partial(of_qkv, partial_attention, half),
    "hyper_attention half": partial(of_hyper, half),
    "hyper_attention sinks half": partial(of_hyper, half, exact_keys=4),
    "hyper_attention causal half": partial(of_hyper, half, causal=True, min_exact=128),
    "hyper_attention own hash half": partial(of_hyper, half, causal=True, block_by="own-hash", min_exact=128),
    "uniform_attention half": partial(of_qkv, uniform_attention, half, sample_size=64, rng=0),
    "hardness half": lambda: partial(hardness, *half(), block_size=64, rng=0),
    **{f"{name}.attend 1 half": partial(cache, make, "attend", 1, 32, np.float16) for name, make in CACHES.items()},
    "hardness": lambda: partial(hardness, *qkv(1024, heads=2), block_size=64, rng=0),
    "hardness causal": lambda: partial(hardness, *qkv(1024, heads=2), block_size=64, rng=0, causal=True),
    "Hardness.cluster_count": lambda: partial(hardness(clustered(600)[0], clustered(600)[0], rng=0).cluster_count, 2.0),
    "Hardness.cluster_radius": lambda: partial(hardness(*qkv(256)[:2], rng=0).cluster_radius, 8),
}

# Launches, syncs, copies, uploaded bytes.
BUDGETS: dict[str, tuple[int, int, int, int]] = {
    "attention": (26, 1, 1, 0),
    "attention causal": (47, 1, 3, 0),
    "attention of one query": (26, 1, 1, 0),
    "partial_attention": (23, 1, 1, 0),
    "hyper_attention": (64, 1, 2, 4416),
    "hyper_attention sinks": (108, 1, 4, 5568),
    "hyper_attention causal": (202, 1, 7, 12224),
    "hyper_attention own hash": (373, 1, 7, 22304),
    "hyper_attention theory": (103, 2, 4, 11584),
    "hyper_attention theory causal": (319, 4, 13, 56768),
    "hyper_attention theory own hash": (562, 7, 13, 88416),
    "uniform_attention": (40, 2, 1, 1024),
    "uniform_attention causal": (56, 1, 1, 1024),
    "performer_attention": (49, 1, 3, 65536),
    "performer_attention causal": (1231, 1, 96, 65536),
    "nystrom_attention": (140, 3, 5, 0),
    "reformer_attention": (371, 1, 4, 32768),
    "reformer_attention causal": (406, 1, 4, 32768),
    "kdeformer_attention": (97, 3, 3, 4416),
    "thinformer_attention": (1956, 1, 9, 63328),
    "polynomial_attention": (92, 2, 1, 3960),
    "polynomial_attention causal": (111, 2, 2, 3960),
    "PolynomialState.update 1": (46, 1, 0, 0),
    "PolynomialState.update 2048": (46, 1, 0, 0),
    "PolynomialState.attend 1": (46, 2, 0, 0),
    "PolynomialState.attend 2048": (46, 2, 0, 0),
    "OnePassSketch paper absorb_keys": (120, 3, 0, 1152),
    "OnePassSketch paper absorb_queries": (126, 4, 1, 928),
    "OnePassSketch paper identify": (109, 1, 2, 1152),
    "OnePassSketch paper scan": (95, 2, 2, 1856),
    "OnePassSketch fused absorb_keys": (30, 1, 0, 3360),
    "OnePassSketch fused absorb_queries": (108, 4, 1, 928),
    "OnePassSketch fused identify": (103, 1, 0, 1152),
    "OnePassSketch fused scan": (89, 2, 0, 1856),
    "ExactCache.update 1": (12, 1, 0, 0),
    "ExactCache.update 300": (12, 1, 0, 0),
    "ExactCache.attend 1": (32, 1, 1, 0),
    "ExactCache.attend 300": (28, 2, 1, 0),
    "SinkCache.update 1": (10, 1, 0, 16),
    "SinkCache.update 300": (10, 1, 0, 1600),
    "SinkCache.attend 1": (32, 1, 1, 0),
    "SinkCache.attend 300": (28, 2, 1, 0),
    "HeavyHitterCache.update 1": (20, 1, 0, 0),
    "HeavyHitterCache.update 300": (20, 1, 0, 0),
    "HeavyHitterCache.attend 1": (15, 1, 1, 0),
    "HeavyHitterCache.attend 300": (15, 1, 1, 0),
    "ReservoirCache.update 1": (6, 1, 0, 0),
    "ReservoirCache.update 300": (10, 1, 0, 4200),
    "ReservoirCache.attend 1": (32, 1, 1, 0),
    "ReservoirCache.attend 300": (28, 2, 1, 0),
    "ReservoirCache value-norm.update 1": (13, 2, 0, 48),
    "ReservoirCache value-norm.update 300": (13, 2, 0, 4104),
    "ReservoirCache value-norm.attend 1": (24, 1, 1, 0),
    "ReservoirCache value-norm.attend 300": (24, 1, 1, 0),
    "ReservoirCache priority.update 1": (13, 2, 0, 24),
    "ReservoirCache priority.update 300": (13, 2, 0, 4176),
    "ReservoirCache priority.attend 1": (27, 1, 1, 544),
    "ReservoirCache priority.attend 300": (27, 1, 1, 544),
    "KCenterCache.update 1": (695, 2, 0, 4096),
    "KCenterCache.update 300": (695, 2, 0, 4096),
    "KCenterCache.attend 1": (32, 1, 1, 0),
    "KCenterCache.attend 300": (28, 2, 1, 0),
    "BalanceKVCache.update 1": (9, 1, 0, 0),
    "BalanceKVCache.update 300": (911, 1, 16, 8192),
    "BalanceKVCache.attend 1": (18, 1, 1, 0),
    "BalanceKVCache.attend 300": (18, 1, 1, 0),
    "BalanceKVCache pairs.update 1": (9, 1, 0, 0),
    "BalanceKVCache pairs.update 300": (507, 1, 8, 4096),
    "BalanceKVCache pairs.attend 1": (18, 1, 1, 0),
    "BalanceKVCache pairs.attend 300": (18, 1, 1, 0),
    "BucketedBalanceKVCache.update 1": (42, 2, 0, 32),
    "BucketedBalanceKVCache.update 300": (7734, 2, 92, 22912),
    "BucketedBalanceKVCache.attend 1": (122, 1, 2, 16),
    "BucketedBalanceKVCache.attend 300": (122, 1, 2, 16),
    "SubGenCache.update 1": (20, 3, 0, 16),
    "SubGenCache.update 300": (68, 4, 1, 2976),
    "SubGenCache.attend 1": (102, 2, 2, 2340),
    "SubGenCache.attend 300": (94, 4, 2, 2340),
    "SubGenCache recent.update 1": (28, 3, 0, 16),
    "SubGenCache recent.update 300": (77, 4, 1, 3184),
    "SubGenCache recent.attend 1": (143, 2, 3, 2340),
    "SubGenCache recent.attend 300": (131, 5, 3, 2340),
    "SubGenCache slots.update 1": (9, 2, 0, 0),
    "SubGenCache slots.update 300": (19, 2, 0, 1200),
    "SubGenCache slots.attend 1": (54, 1, 1, 36),
    "SubGenCache slots.attend 300": (54, 1, 1, 36),
    "SubGenCache distance.update 1": (10, 2, 0, 16),
    "SubGenCache distance.update 300": (16, 2, 0, 1472),
    "SubGenCache distance.attend 1": (49, 1, 1, 2052),
    "SubGenCache distance.attend 300": (49, 1, 1, 2052),
    "attention half": (5, 1, 0, 0),
    "attention causal half": (5, 1, 0, 0),
    "attention of one query half": (19, 1, 0, 0),
    "partial_attention half": (5, 1, 0, 0),
    "hyper_attention half": (23, 1, 0, 1376),
    "hyper_attention sinks half": (28, 1, 0, 1408),
    "hyper_attention causal half": (44, 1, 0, 2496),
    "hyper_attention own hash half": (154, 1, 0, 2432),
    "uniform_attention half": (9, 1, 0, 512),
    "hardness half": (199, 4, 0, 848),
    "ExactCache.attend 1 half": (17, 1, 0, 0),
    "SinkCache.attend 1 half": (7, 1, 0, 0),
    "HeavyHitterCache.attend 1 half": (15, 1, 0, 0),
    "ReservoirCache.attend 1 half": (7, 1, 0, 0),
    "ReservoirCache value-norm.attend 1 half": (13, 1, 0, 0),
    "ReservoirCache priority.attend 1 half": (16, 1, 0, 544),
    "KCenterCache.attend 1 half": (7, 1, 0, 0),
    "BalanceKVCache.attend 1 half": (7, 1, 0, 0),
    "BalanceKVCache pairs.attend 1 half": (7, 1, 0, 0),
    "BucketedBalanceKVCache.attend 1 half": (127, 1, 2, 16),
    "SubGenCache.attend 1 half": (53, 1, 0, 384),
    "SubGenCache recent.attend 1 half": (69, 1, 0, 384),
    "SubGenCache slots.attend 1 half": (43, 1, 0, 36),
    "SubGenCache distance.attend 1 half": (38, 1, 0, 2052),
    "hardness": (188, 4, 1, 16976),
    "hardness causal": (306, 8, 3, 8720),
    "Hardness.cluster_count": (73, 6, 2, 25344),
    "Hardness.cluster_radius": (81, 2, 0, 32),
}


def cost(name: str) -> tuple[int, int, int, int]:
    """Of the call on arrays on device 1, while device 0 is the current one: a launch on the wrong one is refused."""
    with fake_device.cuda.Device(1):
        call = CALLS[name]()
    fake_device.counts.reset()
    result = call()
    parts = (
        result.contents().values() if hasattr(result, "contents") else getattr(result, "__dict__", {0: result}).values()
    )
    assert {x.number for x in parts if isinstance(x, fake_device.Array)} <= {1}
    spent = fake_device.counts
    return spent.launches, spent.syncs, spent.copies, spent.uploads


@pytest.mark.parametrize("name", CALLS)
def test_cost_is_the_budget_and_not_much_less(emulated: Any, name: str) -> None:
    spent, budget = cost(name), BUDGETS[name]
    row = f'"{name}": {spent},'
    assert all(x <= most for x, most in zip(spent, budget, strict=True)), f"above the budget {budget}: {row}"
    assert all(x >= 0.8 * most for x, most in zip(spent, budget, strict=True)), f"the budget is loose, lower it: {row}"


if __name__ == "__main__":
    import emulator

    from sublinattn.core import backends

    backends.NAMESPACES["fake_device"] = "fake_device"
    for owner, attribute, value in emulator.patches():
        setattr(owner, attribute, value)
    this, rows = Path(__file__), "".join(f'    "{name}": {cost(name)},\n' for name in CALLS)
    this.write_text(re.sub(r"(?ms)(^BUDGETS: .*? = \{\n).*?(?=^\})", lambda at: at[1] + rows, this.read_text()))
