"""Step `probes`: every call form of the package that CuPy might take differently, each alone, against NumPy.

A probe's name says the form; no probe stops the next. `tests/suite/test_dossier.py` holds that every function that the
package calls on its array namespace is in some probe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...core import backends
from .device import Device

Call = Callable[..., Any]
RNG = np.random.default_rng(0)


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def ints(high: int, *shape: int) -> np.ndarray:
    return RNG.integers(high, size=shape)


def order(*shape: int) -> np.ndarray:
    """A permutation as row numbers of this shape."""
    return RNG.permutation(int(np.prod(shape))).reshape(shape)


def changed(a: Any, change: Callable[[Any], Any]) -> Any:
    """The array after a change in place."""
    change(a)
    return a


PROBES: dict[str, tuple[list[np.ndarray], Call]] = {
    # ------------------------------------------------------------------------------------------------ products
    "matmul 3-d out, k transposed": (
        [f32(4, 5, 8), f32(4, 7, 8)],
        lambda xp, q, k: xp.matmul(q, k.swapaxes(-1, -2), out=xp.empty((4, 5, 7), np.float32)),
    ),
    "matmul 3-d out, broadcast keys": (
        [f32(4, 5, 8), f32(1, 7, 8)],
        lambda xp, q, k: xp.matmul(q, k.swapaxes(-1, -2), out=xp.empty((4, 5, 7), np.float32)),
    ),
    "matmul row sums, counts (1, c, 1)": (
        [f32(4, 5, 7), f32(1, 7)],
        lambda xp, e, c: xp.matmul(e, c[..., None], out=xp.empty((4, 5, 1), np.float32))[..., 0],
    ),
    "matmul no value columns": (
        [f32(2, 5, 7), f32(2, 7, 0)],
        lambda xp, e, v: xp.matmul(e, v, out=xp.empty((2, 5, 0), np.float32)),
    ),
    "matmul 2-d out, transposed": (
        [f32(5, 8), f32(7, 8)],
        lambda xp, q, k: xp.matmul(q, k.T, out=xp.empty((5, 7), np.float32)),
    ),
    "matmul 1-d @ 2-d slice": ([f32(5), f32(9, 7)], lambda xp, y, p: y @ p[:5]),
    "matmul (r, w, t) @ (t, c)": ([f32(3, 4, 5), f32(5, 2)], lambda xp, a, b: xp.matmul(a, b)),
    "squares of 70000 rows": ([f32(70000, 64)], backends.row_squares),
    "squares of columns, 3-d": ([f32(3, 50, 8)], lambda xp, a: backends.row_squares(xp, a.swapaxes(1, 2))),
    "squares of float16 rows": ([f32(50, 64).astype(np.float16)], backends.row_squares),
    # ------------------------------------------------------------------------------------- rows by their numbers
    "take out, 2-d rows": (
        [f32(20, 8), ints(20, 3, 5)],
        lambda xp, a, i: xp.take(a, i, axis=0, out=xp.empty((3, 5, 8), np.float32)),
    ),
    "scatter rows": ([f32(20, 8), order(3, 5), f32(3, 5, 8)], lambda xp, a, i, v: changed(a, lambda a: put(a, i, v))),
    "scatter scalars": ([f32(20), order(3, 5), f32(3, 5)], lambda xp, a, i, v: changed(a, lambda a: put(a, i, v))),
    "take_along_axis broadcast": (
        [f32(2, 9, 4), ints(9, 2, 3, 1)],
        lambda xp, a, i: xp.take_along_axis(a, i, axis=-2),
    ),
    "boolean mask assignment": ([f32(6, 7)], lambda xp, a: changed(a, lambda a: put(a, a > 0, np.inf))),
    "two index arrays, assignment": (
        [f32(6, 7), ints(6, 4), ints(7, 4)],
        lambda xp, a, i, j: changed(a, lambda a: put(a, (i, j), 3)),
    ),
    "two index arrays, uint16 assignment": (
        [ints(9, 6, 7).astype(np.uint16), ints(6, 4), ints(7, 4)],
        lambda xp, a, i, j: changed(xp.minimum(a, np.uint16(6)), lambda a: put(a, (i, j), 2**16 - 1)),
    ),
    "add through row numbers": (
        [f32(9, 4), order(9)[:5], f32(5, 4)],
        lambda xp, a, i, v: changed(a, lambda a: put(a, i, a[i] + v)),
    ),
    "diagonal of the last two axes": ([f32(2, 3, 5, 5)], lambda xp, a: a[..., xp.arange(5), xp.arange(5)]),
    "columns of a slice, by row numbers": ([f32(3, 2, 9), ints(9, 4, 5)], lambda xp, a, i: a[:, 1][:, i]),
    "remainder of negative int32": (
        [ints(20, 50).astype(np.int32)],
        lambda xp, a: ((a - 10) % 7 < 3).astype(np.float32),
    ),
    "empty slice assignment": (
        [f32(2, 4, 3), f32(4, 3)],
        lambda xp, a, b: changed(a, lambda a: put(a, (0, slice(4, None)), b[:1])),
    ),
    "copysign of 1, out a row": (
        [f32(4, 9)],
        lambda xp, a: changed(xp.zeros(a.shape, a.dtype), lambda out: xp.copysign(1, a[2], out=out[2])),
    ),
    # ------------------------------------------------------------------------------------------ sorting, counting
    "argsort uint16 rows, stable": (
        [ints(9, 4, 500).astype(np.uint16)],
        lambda xp, a: xp.argsort(a, axis=-1, kind="stable"),
    ),
    "argsort bool rows, stable": (
        [ints(2, 4, 500).astype(bool)],
        lambda xp, a: xp.argsort(~a, axis=1, kind="stable"),
    ),
    "argsort float64 ties": ([ints(9, 4, 500).astype(float)], lambda xp, a: xp.argsort(a, axis=1, kind="stable")),
    "argsort one key, 1-d uint32": ([ints(9, 2000).astype(np.uint32)], lambda xp, a: xp.argsort(a, kind="stable")),
    "argsort rows as one key, uint32": (
        [ints(9, 4, 500).astype(np.uint16)],
        lambda xp, a: xp.argsort(((xp.arange(4, dtype=np.uint32) << 16)[:, None] | a).ravel(), kind="stable"),
    ),
    "sort rows": ([ints(99, 4, 50)], lambda xp, a: xp.sort(a, axis=1)),
    "sort in place, rows": ([ints(99, 4, 50)], lambda xp, a: changed(a, lambda a: a.sort(axis=1))),
    "partition two middles": ([f32(50, 3, 8)], lambda xp, a: xp.partition(a, [3, 4], axis=-1)[..., 3:5]),
    "argpartition, negative": (
        [f32(4, 2000).T.copy().T],
        lambda xp, a: xp.sort(xp.take_along_axis(a, xp.argpartition(a, -7, axis=1)[:, -7:], axis=1), axis=1),
    ),
    "count_nonzero axis": ([ints(2, 4, 9)], lambda xp, a: xp.count_nonzero(a, axis=1)),
    "searchsorted, both sides": (
        [np.sort(ints(9, 40)).astype(np.uint64), ints(9, 7).astype(np.uint64)],
        lambda xp, a, b: xp.stack([xp.searchsorted(a, b, side=side) for side in ("left", "right")]),
    ),
    "bincount minlength": ([ints(9, 40)], lambda xp, a: xp.bincount(a, minlength=12)),
    "nonzero, 2-d": ([ints(2, 4, 9)], lambda xp, a: xp.stack(xp.nonzero(a))),
    "flatnonzero": ([ints(2, 40)], lambda xp, a: xp.flatnonzero(a)),
    "cumsum axis 0, 3-d": ([f32(3, 4, 5)], lambda xp, a: xp.cumsum(a, axis=0)),
    "cumsum of counts": ([ints(9, 40)], lambda xp, a: xp.cumsum(a) - a),
    "argsort int32, 3-d, stable": (
        [ints(9, 2, 3, 500).astype(np.int32)],
        lambda xp, a: xp.argsort(a, axis=-1, kind="stable").astype(np.int32),
    ),
    "argmax of both signs": ([f32(2, 40, 3, 4)], lambda xp, a: xp.concatenate([a, -a], axis=-1).argmax(axis=-1)),
    "argmin of rows": ([f32(40, 9)], lambda xp, a: a.argmin(axis=1)),
    # ------------------------------------------------------------------------------------- elements, types, masks
    "where scalars": ([f32(5, 5)], lambda xp, a: xp.where(a > 0, -np.inf, 0).astype(np.float32)),
    "where scalar and float32": ([f32(5)], lambda xp, a: xp.where(a == -np.inf, 0, a)),
    "where int8": ([f32(5), ints(2, 5).astype(np.int8)], lambda xp, a, b: xp.where(a > 0, b, 0)),
    "isfinite, all": ([f32(5, 4)], lambda xp, a: xp.isfinite(a).all()),
    "abs, sqrt, log, tanh, exp": ([f32(50)], lambda xp, a: xp.tanh(xp.exp(-xp.sqrt(xp.abs(a)))) + xp.log(1 + a * a)),
    "exp out, in place": ([f32(50)], lambda xp, a: xp.exp(a, out=a)),
    "multiply by a scalar, out": ([f32(5, 4)], lambda xp, a: xp.multiply(a, 0.125, out=xp.empty((5, 4), np.float32))),
    "maximum of two": ([f32(50), f32(50)], lambda xp, a, b: xp.maximum(a, b)),
    "times a power of two": ([f32(50)], lambda xp, a: xp.ldexp(a, np.int32(-3))),
    "clip between arrays": ([f32(3, 4), f32(3, 1)], lambda xp, a, b: xp.clip(a, -abs(b), abs(b))),
    "ufunc out on a view": ([f32(9, 4)], lambda xp, a: changed(a, lambda a: xp.minimum(a[2:5], 0, out=a[2:5]))),
    "in place on a corner": ([f32(2, 5, 9), f32(5, 4)], lambda xp, a, m: changed(a, lambda a: a[:, :, 5:].__iadd__(m))),
    "subtract into int32": (
        [ints(99, 4, 9), ints(9, 4, 1)],
        lambda xp, a, b: xp.subtract(a, b, out=xp.empty((4, 9), np.int32), casting="same_kind"),
    ),
    "packbits, little": ([ints(2, 7, 9).astype(bool)], lambda xp, a: xp.packbits(a, bitorder="little")),
    "copyto a view, where": (
        [f32(3, 4), ints(2, 3, 2).astype(bool)],
        lambda xp, a, at: changed(a, lambda a: xp.copyto(a[:, 1:3], -np.inf, where=at)),
    ),
    "fill -inf": ([f32(3, 4)], lambda xp, a: changed(a, lambda a: a.fill(-np.inf))),
    "0-d index of a device array": ([f32(9)], lambda xp, a: xp.stack([a[a.argmax()]])),
    "stack of 0-d": ([f32(9)], lambda xp, a: xp.stack([a.max(), a.min()])),
    "max over two axes": ([f32(3, 4, 5)], lambda xp, a: abs(a).max(axis=(1, 2))),
    "sum to float64": ([f32(3, 400)], lambda xp, a: a.sum(axis=1, dtype=np.float64)),
    "shift uint16": ([ints(2**16, 40).astype(np.uint16)], lambda xp, a: a ^ (a >> 4)),
    "1 << arange": ([], lambda xp: 1 << xp.arange(9)),
    "powers of two in float32": ([], lambda xp: 2.0 ** xp.arange(9, dtype=np.float32)),
    "uint64 with 0-d uint64": (
        [ints(2**31, 40).astype(np.uint64)],
        lambda xp, a: (
            (a * a & xp.asarray(2**31 - 1, dtype=np.uint64)) + (a >> xp.asarray(31, dtype=np.uint64))
        ),
    ),
    "float16 overflow": ([1e6 * f32(5)], lambda xp, a: a.astype(np.float16)),
    "float16 to float64 and back": ([f32(5, 4)], lambda xp, a: a.astype(np.float16).astype(np.float64)),
    # --------------------------------------------------------------------------------------------- making, joining
    "asarray of broadcast_to": ([], lambda xp: xp.asarray(np.broadcast_to(np.arange(5), (3, 5)))),
    "broadcast_to, made contiguous": ([f32(1, 4)], lambda xp, a: xp.ascontiguousarray(xp.broadcast_to(a, (3, 4)))),
    "repeat along an axis": ([f32(2, 3)], lambda xp, a: xp.repeat(a, 4, axis=0)),
    "moveaxis, made contiguous": ([f32(2, 3, 4)], lambda xp, a: xp.ascontiguousarray(xp.moveaxis(a, 0, -1))),
    "concatenate with an empty part": ([f32(2, 3), f32(2, 0)], lambda xp, a, b: xp.concatenate([a, b], axis=1)),
    "zeros, ones, full, and like another": (
        [f32(2, 3)],
        lambda xp, a: xp.stack([
            xp.zeros((2, 3), np.float32), xp.ones((2, 3), np.float32), xp.full((2, 3), np.inf, dtype=np.float32),
            xp.zeros_like(a), xp.ones_like(a),
        ]),
    ),
    "a multiple of the identity": ([f32(2, 5, 5)], lambda xp, a: 13 * xp.eye(5, dtype=np.float32) - a),
    "from_dlpack of its own kind": ([f32(2, 3)], lambda xp, a: xp.from_dlpack(a)),
}  # fmt: skip


def put(a: Any, index: Any, value: Any) -> None:
    a[index] = value


def rows(device: Device) -> Iterator[dict[str, Any]]:
    """One row per probe."""
    for name, (arrays, call) in PROBES.items():
        start = time.perf_counter()
        row = compare(device.xp, arrays, call)
        yield {"probe": name, **row, "seconds": time.perf_counter() - start}


def compare(xp: Any, arrays: list[np.ndarray], call: Call) -> dict[str, Any]:
    """Whether a call gives the same on `xp` as on NumPy: dtype, shape, and values to 1e-4."""
    try:
        with np.errstate(all="ignore"):
            wanted = np.asarray(call(np, *(a.copy() for a in arrays)))
            result = backends.asnumpy(call(xp, *(xp.asarray(a.copy()) for a in arrays)))
    except Exception as error:
        return {"ok": False, "output": f"{type(error).__name__}: {error}"[:300]}
    if (result.dtype, result.shape) != (wanted.dtype, wanted.shape):
        return {"ok": False, "output": f"{result.dtype}{result.shape} in place of {wanted.dtype}{wanted.shape}"}
    same = np.allclose(result, wanted, rtol=1e-4, atol=1e-4, equal_nan=True)
    return {"ok": bool(same)} | ({} if same else {"output": "other values"})
