"""The one-pass algorithm against matrices: its sketches written out, and outputs whose k largest entries are known."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import references
import safetensors
from threadpoolctl import threadpool_limits
from toy_states import contents

from sublinattn import OnePassSketch
from sublinattn.core import backends
from sublinattn.lab.workloads.synthetic import compressible
from sublinattn.methods.countsketch import countsketch
from sublinattn.methods.countsketch.recovery import bit_tables_for, tables_for, width_for
from sublinattn.methods.onepass import variants

TAYLOR = [1, 1, 1 / 2, 1 / 6, 1 / 24]
VARIANTS = ["paper", "fused"]
N, D, D_V = 60, 3, 2


def make(variant: str, n: int = N, **options: Any) -> OnePassSketch:
    plain = {"degree": 4, "sparsity": 3, "eps1": 0.8, "eps2": 0.5, "rng": 0}
    return OnePassSketch(n, D, D_V, variant=variant, **(plain | options))


def rows(xp: Any, seed: int, n: int = N, dtype: Any = np.float64) -> list[Any]:
    return [xp.asarray(x) for x in references.qkv(seed, n, n, d=D, d_v=D_V, size=0.7, dtype=dtype)]


def absorbed(variant: str, q: Any, k: Any, v: Any, **options: Any) -> OnePassSketch:
    return make(variant, len(q), **options).absorb_keys(k, v).absorb_queries(q)


def arrays(sketch: OnePassSketch) -> dict[str, np.ndarray]:
    """All that it has summed."""
    return {key: backends.asnumpy(x) for key, x in sketch.contents().items() if x.size and not key.endswith("hash")}


def assert_close(one: OnePassSketch, other: OnePassSketch, tolerance: float = 1e-12) -> None:
    mine, its = arrays(one), arrays(other)
    assert mine.keys() == its.keys()
    for name, x in mine.items():
        np.testing.assert_allclose(x, its[name], rtol=0, atol=tolerance * max(1.0, abs(x).max()), err_msg=name)


# --------------------------------------------------------------------------------------------- what the sketches are of
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_sketches_written_out_as_matrices(xp: Any, variant: str, dtype: Any) -> None:
    q, k, v = references.qkv(0, N, N, d=D, d_v=D_V, size=0.7, dtype=dtype)
    sketch = absorbed(variant, *(xp.asarray(x) for x in (q, k, v)), scale=-0.6, eps2=1.0)
    kept: Any = sketch.state
    tolerance = 1e-12 if dtype == np.float64 else 1e-4
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    a = np.polynomial.polynomial.polyval(-0.6 * q @ k.T, TAYLOR)
    assert (kept.phi.hash.width, kept.phi.bit_tables) == (width_for(3, 0.8), bit_tables_for(3 * D_V, 0.8))
    phi = references.sketching_matrix(kept.phi.hash, N)
    assert len(phi) == tables_for(N * D_V, 0.8)
    counters = references.counting_matrix(kept.phi.hash, N, kept.phi.bit_tables)
    if variant == "fused":
        product = a @ v
    else:  # p(s <q, k>) = <u1, u2>: U1 (Psi U2)^T Psi V = A Psi^T Psi V
        psi = references.sketching_matrix(kept.psi.hash, N)[0]
        assert np.sum(abs(psi.T @ psi) - np.eye(N)) > 0 and len(psi) == variants.product_width(1.0)
        product = a @ psi.T @ psi @ v
    y = product / a.sum(axis=1, keepdims=True)
    output = kept.output(xp)
    assert output.table.dtype == (np.float64 if dtype == np.float64 else np.float32)
    largest = abs(y).max() * 10
    np.testing.assert_allclose(backends.asnumpy(output.table), phi @ y, rtol=0, atol=tolerance * largest)
    np.testing.assert_allclose(backends.asnumpy(output.bits), counters @ y, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("decoder", ["identify", "scan"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", range(3))
def test_sparse_outputs_come_back_exactly(xp: Any, variant: str, decoder: str, seed: int) -> None:
    """Odd outputs (keys in pairs k, -k, values linear in them) vanish where the query does: all but k rows."""
    n, k = 24, 3
    s = D**-0.5
    q, keys, v = compressible(np.random.default_rng(seed), n, D, D_V, s, decay=0.5)
    heavy = np.random.default_rng(seed).permutation(n)[:k]
    q[np.setdiff1d(np.arange(n), heavy)] = 0
    sketch = make(variant, n, eps1=0.05, eps2=0.1, rng=seed)
    sketch.absorb_keys(xp.asarray(keys), xp.asarray(v)).absorb_queries(xp.asarray(q))
    if variant == "paper":  # Psi is injective on so few rows: no error of the product
        psi = references.sketching_matrix(sketch.state.sketches()["psi"].hash, n)[0]
        assert np.count_nonzero(psi.any(axis=1)) == n
    y = references.polynomial_attention(TAYLOR, q, keys, v)
    assert abs(y[heavy]).min() > 1e-3 and abs(np.delete(y, heavy, axis=0)).max() < 1e-15
    found = sketch.decode(decoder)
    assert found.shape == (n, D_V) and found.indices.dtype == np.int64
    indices, values = backends.asnumpy(found.indices), backends.asnumpy(found.values)
    for column in range(D_V):
        order = heavy[np.argsort(-abs(y[heavy, column]))]
        np.testing.assert_array_equal(indices[column], order)
        np.testing.assert_allclose(values[column], y[order, column], rtol=1e-10)
    np.testing.assert_allclose(backends.asnumpy(found.todense()), y, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("eps2", [1.0, 0.5, 0.3, 0.01])
def test_psi_has_as_many_rows_as_the_variance_asks_for(eps2: float) -> None:
    """Markov's inequality on `E ||error||^2 <= (2 / m2) ||U2||^2 ||V||^2`: the failure probability, and no row more."""
    rows = variants.product_width(eps2)
    assert 2 / (rows * eps2**2) <= variants.AMM_FAILURE < 2 / ((rows - 1) * eps2**2)


# ----------------------------------------------------------------------------------------------------------- the stream
@pytest.mark.parametrize("variant", VARIANTS)
def test_chunks_and_their_order_do_not_matter(xp: Any, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = rows(xp, 1)
    whole = absorbed(variant, q, k, v)
    single = make(variant)
    for i in range(N):
        assert single.absorb_keys(k[i], v[i]) is single and single.keys_seen == i + 1
    for i in range(N):
        assert single.absorb_queries(q[i]) is single and single.queries_seen == i + 1
    backwards = make(variant)
    starts = range(0, N, 7)
    for i in reversed(starts):
        backwards.absorb_keys(k[i : i + 7], v[i : i + 7], start=i)
    for i in reversed(starts):
        backwards.absorb_queries(q[i : i + 7], start=i)
    for name, value in (("PIECE", 50), ("PIECE_ROWS", 5), ("TOGETHER", 9)):
        monkeypatch.setattr(countsketch, name, value)
    monkeypatch.setattr(countsketch.CountSketch, "pairs_on_device", 9)
    monkeypatch.setattr(variants, "PIECE", 200)
    monkeypatch.setattr(backends, "feature_rows", lambda xp, features, dtype: 3)
    pieces = absorbed(variant, q, k, v)
    for other in (single, backwards, pieces):
        assert_close(whole, other)
        assert other.keys_seen == other.queries_seen == N


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_follow_each_other_unless_told(variant: str, tmp_path: Path) -> None:
    q, k, v = rows(np, 2)
    sketch = make(variant).absorb_keys(k[20:30], v[20:30], start=20)
    sketch.save(tmp_path / "x")
    sketch = OnePassSketch.load(tmp_path / "x").absorb_keys(k[30:35], v[30:35])  # goes on at 30
    sketch.absorb_keys(k[:10], v[:10], start=0).absorb_keys(k[10:20], v[10:20])  # and at 10
    sketch.absorb_keys(k[35:], v[35:])  # past what has been read
    sketch.absorb_queries(q[5:], start=5).absorb_queries(q[:5], start=0)
    assert_close(sketch, absorbed(variant, q, k, v))


@pytest.mark.parametrize("variant", VARIANTS)
def test_bytes_do_not_grow_with_the_rows(xp: Any, variant: str) -> None:
    sizes = []
    for n in (64, 4096):
        sketch = make(variant, n)
        held = [sketch.nbytes]
        for side in "kq":
            for _ in range(0, n, 32):
                q, k, v = rows(xp, 4, 32, np.float32)
                sketch.absorb_keys(k, v) if side == "k" else sketch.absorb_queries(q)
                held.append(sketch.nbytes)
        keys, queries = held[1 : 1 + n // 32], held[1 + n // 32 :]
        assert len(set(keys)) == len(set(queries)) == 1 and keys[0] < queries[0]  # they do not grow
        sizes.append(sketch.nbytes)
    assert sizes[1] < 2 * sizes[0]  # 64 times the rows: 12 bit counters, not 6, and more tables


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_threads_change_no_bit(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "feature_rows", lambda xp, features, dtype: 200)
    q, k, v = rows(np, 5, 4000)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            sketch = absorbed(variant, q, k, v, sparsity=20)
            found.append([*arrays(sketch).values(), sketch.decode("scan").values, sketch.decode().values])
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


# -------------------------------------------------------------------------------------------------------------- merging
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_merging_shards_of_keys_then_of_queries(xp: Any, variant: str, dtype: Any) -> None:
    q, k, v = rows(xp, 6, dtype=dtype)
    edges = list(itertools.pairwise((0, 13, 14, 50, N)))
    shards = [make(variant).absorb_keys(k[a:b], v[a:b], start=a) for a, b in edges]
    first = make(variant)  # empty: a merge brings the dtype and the tables
    for shard in (shards[2], shards[0], shards[3], shards[1], make(variant)):
        assert first.merge(shard) is first
    assert first.keys_seen == N
    copies = [copy.deepcopy(first).absorb_queries(q[a:b], start=a) for a, b in edges]
    second = copy.deepcopy(first)
    for one in (copies[3], copies[1], first, copies[0], copies[2]):
        second.merge(one)
    assert second.queries_seen == N
    assert_close(second, absorbed(variant, q, k, v), 1e-12 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_keys_in_another_order_are_the_same(variant: str, dtype: Any) -> None:
    n = 2000
    q, k, v = (x.astype(dtype) for x in compressible(np.random.default_rng(0), n, D, D_V, D**-0.5))
    one = make(variant, n).absorb_keys(k, v).absorb_queries(q[:1000])
    other = make(variant, n)
    for start in range(n - 100, -1, -100):
        other.absorb_keys(k[start : start + 100], v[start : start + 100], start=start)
    assert one.merge(other.absorb_queries(q[1000:], start=1000)).queries_seen == n


# ------------------------------------------------------------------------------------------------- ranges and refusals
def ranges(sketch: OnePassSketch, folder: Path) -> list[tuple[int, int]]:
    """Ranges of the keys that have been read, as the file tells."""
    sketch.save(folder / "ranges")
    with safetensors.safe_open(folder / "ranges", framework="np") as file:
        (header,) = file.metadata().values()
    return [(a, b) for a, b in json.loads(header)["about"]["ranges"]["k"]]


@pytest.mark.parametrize("seed", range(30))
def test_ranges_are_the_set_of_the_indices_read(seed: int, tmp_path: Path) -> None:
    """Of the first sketch, and of two that merge; ranges are in order, none is empty, no two touch."""
    n, rng = 12, np.random.default_rng(seed)
    _, k, v = rows(np, seed, n)
    sketches, read = [make("fused", n, degree=1) for _ in range(2)], [set(), set()]  # type: ignore[var-annotated]
    for _ in range(40):
        start, which = int(rng.integers(n)), int(rng.integers(2))
        stop = start + int(rng.integers(1, 5))
        new = set(range(start, stop))
        chunk = k[:1].repeat(stop - start, axis=0), v[:1].repeat(stop - start, axis=0)
        if stop > n or new & read[which]:
            message = "have its rows below n = 12" if stop > n else "bring each index once"
            with pytest.raises(ValueError, match=rf"^k must {message}, got rows {start} to {stop - 1}"):
                sketches[which].absorb_keys(*chunk, start=start)
        elif not new & read[1 - which]:
            sketches[which].absorb_keys(*chunk, start=start)
            read[which] |= new
        for sketch, indices in zip(sketches, read, strict=True):
            stored = ranges(sketch, tmp_path)
            assert sketch.keys_seen == len(indices) and {i for a, b in stored for i in range(a, b)} == indices
            edges = [edge for pair in stored for edge in pair]
            assert edges == sorted(set(edges))
    one, other = sketches
    merged = copy.deepcopy(one).merge(other)
    assert ranges(merged, tmp_path) == ranges(copy.deepcopy(other).merge(one), tmp_path)
    assert merged.keys_seen == len(read[0] | read[1]) > n // 2
    if read[1]:
        with pytest.raises(ValueError, match="^k must bring each index once"):
            merged.merge(other)


def refuses(sketch: OnePassSketch, folder: Path, message: str, method: str, *rows: Any, **options: Any) -> None:
    """The call is refused, and the sketch is as it was."""
    before = contents(sketch, folder), sketch.nbytes
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        getattr(sketch, method)(*rows, **options)
    assert (contents(sketch, folder), sketch.nbytes) == before


@pytest.mark.parametrize("variant", VARIANTS)
def test_merging_refuses_what_does_not_add_up(variant: str, tmp_path: Path) -> None:
    q, k, v = rows(np, 7)
    one, whole = make(variant).absorb_keys(k[:30], v[:30]), make(variant).absorb_keys(k, v)
    for other, message in (
        (make(variant).absorb_keys(k[29:], v[29:], start=29), "k must bring each index once"),
        (absorbed(variant, q, k, v), "other must have absorbed all 60 keys .* queries, got 30"),
    ):
        refuses(one, tmp_path, message, "merge", other)
    one = copy.deepcopy(whole).absorb_queries(q[:30])
    other_keys = "other must have absorbed the same keys .* sums that differ"  # the normaliser sees the keys only
    for other, message in (
        (make(variant), "other must have absorbed all 60 keys once there are queries, got 0"),
        (whole.absorb_queries(q[29:], start=29), "q must bring each index once"),
        (make(variant).absorb_keys(k[::-1] * 1.01, v).absorb_queries(q[30:], start=30), other_keys),
        (make(variant).absorb_keys(k, v * 1.01).absorb_queries(q[30:], start=30), other_keys),
    ):
        refuses(one, tmp_path, message, "merge", other)


@pytest.mark.parametrize("variant", VARIANTS)
def test_order(variant: str, tmp_path: Path) -> None:
    q, k, v = rows(np, 8)
    sketch = make(variant)
    refuses(sketch, tmp_path, "start must be at least 0", "absorb_keys", k, v, start=-1)
    refuses(sketch, tmp_path, "start must be an integer", "absorb_keys", k, v, start=1.0)
    sketch.absorb_keys(k[:59], v[:59])
    refuses(sketch, tmp_path, "absorb_queries needs all 60 keys first, got 59", "absorb_queries", q)
    refuses(sketch, tmp_path, "decode needs all 60 queries first, got 0", "decode")
    refuses(sketch, tmp_path, "k must have its rows below n", "absorb_keys", k[:2], v[:2])
    sketch.absorb_keys(k[59:], v[59:]).absorb_queries(q[:40])
    refuses(sketch, tmp_path, "absorb_keys must come before all queries, got keys after 40", "absorb_keys", k, v)
    refuses(sketch, tmp_path, "q must bring each index once, got rows 39 to 40", "absorb_queries", q[39:41], start=39)
    refuses(sketch, tmp_path, "q must have its rows below n = 60", "absorb_queries", q[:30])
    refuses(sketch, tmp_path, "decode needs all 60 queries first, got 40", "decode")
    refuses(sketch, tmp_path, r"method must be one of \('identify', 'scan'\), got 'guess'", "decode", "guess")
    sketch.absorb_queries(q[40:])
    assert_close(sketch, absorbed(variant, q, k, v))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_normaliser_that_is_not_positive(xp: Any, variant: str, tmp_path: Path) -> None:
    q, k, v = rows(xp, 9)
    sketch = make(variant, degree=1).absorb_keys(k * 0 + 1, v)
    bad = q * 1
    bad[30] = -5.0
    message = "degree must be high enough .* got 1 and a row sum of -"
    refuses(sketch, tmp_path, message, "absorb_queries", bad)
    sketch.absorb_queries(q * 0.1)
    assert_close(sketch, absorbed(variant, q * 0.1, k * 0 + 1, v, degree=1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_that_would_overflow(variant: str, tmp_path: Path) -> None:
    q, k, v = rows(np, 10, dtype=np.float32)
    message = r"must have rows whose norm to the power of the degree \(4\) is below"
    refuses(make(variant), tmp_path, f"k {message}", "absorb_keys", np.float32(1e12) * k, v)
    sketch = make(variant).absorb_keys(k, v)
    refuses(sketch, tmp_path, f"q {message}", "absorb_queries", np.float32(1e12) * q)
