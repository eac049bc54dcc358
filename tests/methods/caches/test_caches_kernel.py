"""The caches and SubGen on a GPU in half precision: what they store, and their answers through the kernel.

Each is compared with the same cache on the CPU, fed the same half-precision numbers. Without a GPU the kernel's source
runs as g++ builds it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from sublinattn import (
    ExactCache,
    HeavyHitterCache,
    KCenterCache,
    ReservoirCache,
    SinkCache,
    SubGenCache,
)
from sublinattn.core import backends, exact
from sublinattn.core.state import StreamingState

D, HEADS = 32, 2
DTYPES = {"float16": (np.float16, 1.5e-3), "bfloat16": (ml_dtypes.bfloat16, 1e-2)}  # and the error allowed
CACHES: dict[str, Callable[[int], Any]] = {
    "exact": lambda rng: ExactCache(),
    "sink": lambda rng: SinkCache(100, 4),
    "heavy hitter": lambda rng: HeavyHitterCache(90, 30),
    "reservoir": lambda rng: ReservoirCache(100, rng=rng),
    "value-norm": lambda rng: ReservoirCache(100, "value-norm", rng=rng),
    "k-center": lambda rng: KCenterCache(90, 30),
    "SubGen": lambda rng: SubGenCache(3.0, 3, 70, rng=rng),
    "SubGen, window": lambda rng: SubGenCache(3.0, 3, 70, recent=40, rng=rng),
    "SubGen, all in the window": lambda rng: SubGenCache(3.0, 3, 70, recent=400, rng=rng),
    "SubGen, doubling": lambda rng: SubGenCache(0.5, 2, 70, max_clusters=12, rng=rng),
}


def stream(dtype: Any, n: int, n_q: int, seed: int = 0) -> list[np.ndarray]:
    """Queries, and keys in another number of clusters in each head, with values of different norms."""
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((HEADS, n_q, D))
    centres = [1.5 * rng.standard_normal((groups, D)) for groups in (9, 17)]
    k = np.stack([its[rng.integers(len(its), size=n)] for its in centres]) + 0.1 * rng.standard_normal((HEADS, n, D))
    v = rng.standard_normal((HEADS, n, D)) * np.exp(0.5 * rng.standard_normal((HEADS, n, 1)))
    return [x.astype(dtype) for x in (q, k, v)]


def fed(cache: Any, xp: Any, k: np.ndarray, v: np.ndarray, step: int = 90) -> Any:
    for i in range(0, k.shape[1], step):
        cache.update(xp.asarray(k[:, i : i + step]), xp.asarray(v[:, i : i + step]))
    return cache


def error(found: Any, expected: np.ndarray) -> float:
    found, expected = (backends.asnumpy(x).astype(float) for x in (found, expected))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def halves(cache: StreamingState) -> set[str]:
    """Dtypes of the stored rows."""
    return {str(x.dtype) for x in cache.contents().values() if x.ndim > 2}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CACHES)
def test_rows_stay_in_half_precision_and_answers_are_the_cpus(
    kernel_xp: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, dtype: str
) -> None:
    """Keys in one part and in several, of one query and of many; the files are the same, but for rounded scores."""
    half, tolerance = DTYPES[dtype]
    q, k, v = stream(half, 230, 70)
    cache, plain = fed(CACHES[name](0), kernel_xp, k, v), fed(CACHES[name](0), np, k, v)
    assert halves(cache) == {dtype} and halves(plain) == {"float32"}
    for blocks in (1, 2048):
        monkeypatch.setattr(exact, "KERNEL_BLOCKS", blocks)
        monkeypatch.setattr(exact, "KERNEL_KEYS", 16)
        for queries in (q[:, :1], q):
            answer = cache.attend(kernel_xp.asarray(queries))
            assert answer.dtype == half
            assert error(answer, plain.attend(queries.astype(np.float32))) < tolerance
    cache.save(tmp_path / "a")
    plain.save(tmp_path / "b")
    if name == "heavy hitter":
        (one, other) = (backends.asnumpy(x.contents()["scores"]) for x in (cache, plain))
        assert np.abs(one - other).max() < 1e-4 * other.max()
    else:
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    again = type(cache).load(tmp_path / "a")
    assert error(again.attend(q), plain.attend(q)) < tolerance


@pytest.mark.parametrize("name", ["exact", "reservoir", "value-norm", "SubGen, window"])
def test_merging_in_half_precision_and_with_float32(kernel_xp: Any, name: str, tmp_path: Path) -> None:
    q, k, v = stream(np.float16, 150, 3)
    _, k2, v2 = stream(np.float16, 130, 3, seed=1)
    expected = fed(CACHES[name](0), np, k, v).merge(fed(CACHES[name](1), np, k2, v2))
    expected.save(tmp_path / "b")
    for mine, theirs in ((np.float16, np.float16), (np.float32, np.float16), (np.float16, np.float32)):
        one = fed(CACHES[name](0), kernel_xp, k.astype(mine), v.astype(mine))
        other = fed(CACHES[name](1), kernel_xp, k2.astype(theirs), v2.astype(theirs))
        for merged in (one.merge(other),):
            kept = "float16" if mine == theirs == np.float16 else "float32"
            assert halves(merged) == {kept} and halves(other) == {np.dtype(theirs).name}
            merged.save(tmp_path / "a")
            assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
            assert error(merged.attend(kernel_xp.asarray(q)), expected.attend(q)) < 1.5e-3


@pytest.mark.parametrize("name", CACHES)
def test_other_dtypes_make_it_a_float32_state(kernel_xp: Any, name: str, tmp_path: Path) -> None:
    """Queries, or rows, of another dtype than the stored rows: it goes on as on the CPU."""
    q, k, v = stream(np.float16, 150, 3)
    plain = fed(CACHES[name](0), np, k, v)
    for dtype in (np.float32, ml_dtypes.bfloat16):
        cache = fed(CACHES[name](0), kernel_xp, k, v)
        answer = cache.attend(kernel_xp.asarray(q.astype(dtype)))
        assert answer.dtype == dtype and halves(cache) == {"float32"}
        assert error(answer, fed(CACHES[name](0), np, k, v).attend(q.astype(dtype))) < 1e-2
    cache = fed(CACHES[name](0), kernel_xp, k, v)
    for its, xp in ((cache, kernel_xp), (plain, np)):
        fed(its, xp, k.astype(np.float32), v.astype(np.float32))
        its.save(tmp_path / xp.__name__)
    assert halves(cache) == {"float32"}
    assert (tmp_path / "numpy").read_bytes() == (tmp_path / kernel_xp.__name__).read_bytes()


@pytest.mark.parametrize("name", ["exact", "heavy hitter", "value-norm", "SubGen, all in the window"])
def test_logits_of_ten_thousand(kernel_xp: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """In several parts, whose largest logits are far apart."""
    monkeypatch.setattr(exact, "KERNEL_KEYS", 16)
    q, k, v = stream(np.float16, 150, 3)
    cache, plain = (fed(CACHES[name](0), xp, k, v) for xp in (kernel_xp, np))
    for scale in (200.0, -200.0):
        answer = cache.attend(kernel_xp.asarray(q), scale=scale)
        assert error(answer, plain.attend(q, scale=scale)) < 5e-3


def test_values_all_zero(kernel_xp: Any) -> None:
    q, k, v = stream(np.float16, 100, 3)
    for name in ("value-norm", "SubGen", "SubGen, window"):
        cache = fed(CACHES[name](0), kernel_xp, k, 0 * v)
        assert not backends.asnumpy(cache.attend(kernel_xp.asarray(q))).any()
        one_head = v * np.array([0, 1], np.float16)[:, None, None]
        cache, plain = (fed(CACHES[name](0), xp, k, one_head) for xp in (kernel_xp, np))
        assert error(cache.attend(kernel_xp.asarray(q)), plain.attend(q)) < 1.5e-3


def test_dimensions_that_the_kernel_does_not_take_are_stored_as_float32(kernel_xp: Any) -> None:
    q, k, v = (x[..., :20] for x in stream(np.float16, 60, 3))
    cache = fed(ExactCache(), kernel_xp, k, v)
    assert halves(cache) == {"float32"}
    assert error(cache.attend(kernel_xp.asarray(q)), fed(ExactCache(), np, k, v).attend(q)) < 1e-3
