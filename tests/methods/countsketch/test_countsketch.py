"""CountSketch: the tables, chunks, merging, products, estimates, memory; against a loop over rows and tables."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import references

from sublinattn.core import backends
from sublinattn.methods.countsketch import countsketch
from sublinattn.methods.countsketch.countsketch import CountSketch, bit_length

SHAPES = [  # n, p, tables, width, bit tables
    (300, 3, 7, 16, 3),
    (300, 2, 5, 1000, 5),  # more buckets than rows
    (64, 1, 3, 1, 1),  # one bucket
    (65, 2, 1, 4, 0),
    (1, 2, 3, 4, 2),  # one row
]


def empty(xp: Any, shape: tuple[int, ...], dtype: Any = np.float64, seed: int = 0) -> CountSketch:
    n, p, tables, width, bit_tables = shape
    rng = np.random.default_rng([seed, *shape])
    sketch = CountSketch.seeded(n, p, tables=tables, width=width, rng=rng, bit_tables=bit_tables)
    sketch.allocate(xp, dtype)
    return sketch


def filled(xp: Any, shape: tuple[int, ...], dtype: Any = np.float64) -> tuple[np.ndarray, CountSketch]:
    """A random matrix, and its sketch."""
    x = np.random.default_rng(1).standard_normal(shape[:2]).astype(dtype)
    sketch = empty(xp, shape, dtype)
    sketch.add(0, xp.asarray(x))
    return x, sketch


def where(sketch: CountSketch) -> tuple[np.ndarray, np.ndarray]:
    """Buckets and signs of all indices, on the host, shape (r, n)."""
    return sketch.hash(np, np.arange(sketch.n)[None])


def plain(sketch: CountSketch, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tables and bit counters, row by row."""
    bucket, sign = where(sketch)
    r, w, length = len(bucket), sketch.hash.width, bit_length(sketch.n)
    table, bits = np.zeros((r, w, x.shape[1])), np.zeros((sketch.bit_tables, w, length, x.shape[1]))
    for j in range(r):
        np.add.at(table[j], bucket[j], sign[j][:, None] * x)
        if j < sketch.bit_tables:
            for bit in range(length):
                one = (np.arange(sketch.n) >> bit) % 2
                np.add.at(bits[j, :, bit], bucket[j], (one * sign[j])[:, None] * x)
    return table, bits


def assert_equals(sketch: CountSketch, expected: CountSketch | np.ndarray, rtol: float = 1e-15) -> None:
    """The tables and bit counters of another sketch, or of a matrix's."""
    if isinstance(expected, CountSketch):
        table, bits = backends.asnumpy(expected.table), backends.asnumpy(expected.bits)
    else:
        table, bits = plain(sketch, expected)
    np.testing.assert_allclose(backends.asnumpy(sketch.table), table, rtol=0, atol=rtol * 300)
    np.testing.assert_allclose(backends.asnumpy(sketch.bits), bits, rtol=0, atol=rtol * 300)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-15), (np.float32, 1e-7)])
@pytest.mark.parametrize("shape", [*SHAPES, (500, 1, 3, 40000, 2)])  # the last: past 65536 (table, bucket) pairs
def test_tables_and_bit_counters(xp: Any, shape: tuple[int, ...], dtype: Any, rtol: float) -> None:
    x, sketch = filled(xp, shape, dtype)
    assert sketch.table.shape == (shape[2], shape[3], shape[1]) and sketch.table.dtype == dtype
    assert sketch.bits.shape == (shape[4], shape[3], bit_length(shape[0]), shape[1]) and sketch.bits.dtype == dtype
    assert_equals(sketch, x, rtol)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_chunks_rows_and_any_order(xp: Any, shape: tuple[int, ...]) -> None:
    """In uneven chunks, out of order, row by row, into one sketch or into merged ones: as at once."""
    x, whole = filled(xp, shape)
    cuts = [0, 1, 2, 17, 40, shape[0]]
    spans = list(zip(cuts[:-1], cuts[1:], strict=True))
    for parts in (spans, spans[::-1], [(i, i + 1) for i in range(shape[0])]):
        sketch, merged = empty(xp, shape), empty(xp, shape)
        for start, stop in parts:
            part = empty(xp, shape)
            for one in (sketch, part):
                one.add(start, xp.asarray(x[start:stop]))
            merged.merge(part)
        assert_equals(sketch, whole)
        assert_equals(merged, whole)


def test_pieces_and_tiles_change_nothing(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every split of a chunk into pieces, and of the tables into tiles."""
    x, whole = filled(xp, SHAPES[0])
    for piece_rows, piece, together in ((1, 2**22, 1), (7, 2**22, 14), (64, 2**22, 150), (300, 10, 10**6)):
        monkeypatch.setattr(countsketch, "PIECE_ROWS", piece_rows)
        monkeypatch.setattr(countsketch, "PIECE", piece)  # 10: three rows of three numbers
        monkeypatch.setattr(countsketch, "TOGETHER", together)
        monkeypatch.setattr(CountSketch, "pairs_on_device", together)
        assert_equals(filled(xp, SHAPES[0])[1], whole)
    monkeypatch.setattr(countsketch, "PIECE", 2**22)
    assert_equals(filled(xp, SHAPES[0])[1], whole)


def test_times_is_the_sketch_of_the_product(xp: Any) -> None:
    x, sketch = filled(xp, SHAPES[0])
    m = np.random.default_rng(5).standard_normal((3, 4))
    product = sketch.times(xp.asarray(m))
    assert (product.n, product.p, product.bit_tables) == (300, 4, 3) and product.hash is sketch.hash
    assert_equals(product, x @ m, 1e-12)
    np.testing.assert_allclose(
        references.on(xp, estimates(product), [np.arange(300)]), medians(sketch, x @ m), atol=1e-12
    )


def estimates(sketch: CountSketch) -> partial[Any]:
    return partial(sketch.estimates, backends.namespace(sketch.table))


def medians(sketch: CountSketch, x: np.ndarray) -> np.ndarray:
    """Estimates of all rows, table by table."""
    bucket, sign = where(sketch)
    table, _ = plain(sketch, x)
    return np.median([sign[j][:, None] * table[j][bucket[j]] for j in range(len(table))], axis=0)


@pytest.mark.parametrize("shape", [*SHAPES, (100, 2, 4, 8, 0)])  # the last: a median of an even number
def test_estimates_are_medians_over_tables(xp: Any, shape: tuple[int, ...]) -> None:
    """Of whole rows, and of one entry in each place of a (c, p) array of indices."""
    x, sketch = filled(xp, shape)
    expected = medians(sketch, x)
    rng = np.random.default_rng(6)
    index, entries = rng.integers(shape[0], size=20), rng.integers(shape[0], size=(20, shape[1]))
    for which, rows in ((index, expected[index]), (entries, expected[entries, np.arange(shape[1])])):
        np.testing.assert_allclose(references.on(xp, estimates(sketch), [which]), rows, atol=1e-12)


def test_nbytes_is_what_the_arrays_take(xp: Any) -> None:
    rng = np.random.default_rng(0)
    sketch = CountSketch.seeded(300, 3, tables=7, width=16, rng=rng, bit_tables=3)
    assert sketch.nbytes == sketch.hash.coefficients.nbytes == 7 * 4 * 8
    sketch.allocate(xp, np.float32)
    assert sketch.nbytes == 7 * 4 * 8 + sketch.table.nbytes + sketch.bits.nbytes
    assert sketch.nbytes == 7 * 4 * 8 + 4 * (7 * 16 * 3 + 3 * 16 * 9 * 3)


def test_allocate_moves_tables_to_the_device_and_keeps_what_they_hold(xp: Any) -> None:
    x, sketch = filled(np, SHAPES[0])
    sketch.allocate(xp, np.float32)  # the dtype is that of the first allocation
    assert backends.namespace(sketch.table, sketch.bits) is xp and sketch.table.dtype == np.float64
    assert_equals(sketch, x)


@pytest.mark.parametrize(("n", "length"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (2**20, 20), (2**20 + 1, 21)])
def test_bit_length(n: int, length: int) -> None:
    assert bit_length(n) == length
    assert (n - 1) >> length == 0


def test_one_seed_one_sketch(xp: Any) -> None:
    a, b, c = (empty(xp, SHAPES[0], seed=seed).hash.coefficients for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
