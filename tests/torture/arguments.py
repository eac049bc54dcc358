"""Arguments that callers rarely give or should not give, by role; and what a function must do with each of them."""

from __future__ import annotations

import datetime
import decimal
import fractions
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse

RIGHT, EITHER, REFUSED = "answered", "answered or refused", "refused"

Rng = np.random.Generator
Change = Callable[[np.ndarray, Rng], Any]


class Wrapped:
    """Something that NumPy could turn into an array."""

    def __init__(self, x: np.ndarray) -> None:
        self._x = x

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self._x, dtype=dtype)


class Named(np.ndarray):
    """A subclass that changes nothing."""


# ------------------------------------------------------------------------------------------------------------- arrays
def _put(value: float) -> Change:
    def change(x: np.ndarray, rng: Rng) -> np.ndarray:
        x = x.copy()
        x.flat[rng.integers(x.size)] = value
        return x

    return change


def _times(factor: float) -> Change:
    def change(x: np.ndarray, rng: Rng) -> np.ndarray:
        with np.errstate(over="ignore", under="ignore"):
            return np.nan_to_num(x * x.dtype.type(factor))

    return change


def _unaligned(x: np.ndarray, rng: Rng) -> np.ndarray:
    raw = np.empty(x.nbytes + 1, np.uint8)[1:]
    out = raw.view(x.dtype).reshape(x.shape)
    out[...] = x
    return out


def _read_only(x: np.ndarray, rng: Rng) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def _strided(x: np.ndarray, rng: Rng) -> np.ndarray:
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), 7, x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


LAYOUTS: dict[str, Change] = {  # the same numbers, laid differently: to be answered as ever
    "in Fortran's order": lambda x, rng: np.asfortranarray(x),
    "strided": _strided,
    "reversed view": lambda x, rng: x[..., ::-1, :].copy()[..., ::-1, :],
    "read-only": _read_only,
    "unaligned": _unaligned,
    "a memory map's": lambda x, rng: x.view(np.memmap),
}
VALUES: dict[str, Change] = {  # other numbers, finite ones: to be answered rightly, or refused
    "zeros": lambda x, rng: np.zeros_like(x),
    "equal rows": lambda x, rng: np.broadcast_to(x[..., :1, :], x.shape),
    "negative": lambda x, rng: -np.abs(x),
    "times 30": _times(30),
    "times 1e4": _times(1e4),
    "times 1e18": _times(1e18),
    "times the largest": lambda x, rng: np.sign(x) * np.finfo(x.dtype).max,
    "times the smallest": lambda x, rng: np.sign(x) * np.finfo(x.dtype).tiny,
    "subnormal": lambda x, rng: np.sign(x) * np.finfo(x.dtype).smallest_subnormal,
    "one outlier": lambda x, rng: _put(float(np.finfo(x.dtype).max) / 4)(x, rng),
    "of the other byte order": lambda x, rng: x.astype(x.dtype.newbyteorder()) if x.dtype.kind == "f" else x,
}
NOT_FINITE: dict[str, Change] = {"NaN": _put(np.nan), "Inf": _put(np.inf), "-Inf": _put(-np.inf)}
BAD: dict[str, Change] = {
    **NOT_FINITE,
    "a list": lambda x, rng: x.tolist(),
    "None": lambda x, rng: None,
    "a number": lambda x, rng: 3.0,
    "text": lambda x, rng: "keys",
    "a dict": lambda x, rng: {"x": x},
    "a generator": lambda x, rng: (row for row in x),
    "a function": lambda x, rng: len,
    "bytes": lambda x, rng: x.tobytes(),
    "memoryview": lambda x, rng: memoryview(np.ascontiguousarray(x, np.float32)),
    "what has __array__": lambda x, rng: Wrapped(x),
    "a data frame": lambda x, rng: pd.DataFrame(x.reshape(-1, x.shape[-1])),
    "a sparse matrix": lambda x, rng: scipy.sparse.csr_array(x.reshape(-1, x.shape[-1]).astype(np.float64)),
    "integers": lambda x, rng: np.zeros(x.shape, rng.choice([np.int8, np.int64, np.uint32])),
    "bools": lambda x, rng: np.ones(x.shape, bool),
    "complex": lambda x, rng: x.astype(np.complex64),
    "long double": lambda x, rng: x.astype(np.longdouble),
    "objects": lambda x, rng: x.astype(object),
    "strings": lambda x, rng: np.full(x.shape, "1"),
    "dates": lambda x, rng: np.zeros(x.shape, "datetime64[s]"),
    "structured": lambda x, rng: np.zeros(x.shape, [("a", "f4")]),
    "masked": lambda x, rng: np.ma.array(x, mask=rng.random(x.shape) < 0.2),
    "a subclass": lambda x, rng: x.view(Named),
    "a matrix": lambda x, rng: np.matrix(x.reshape(-1, x.shape[-1])),
    "no axes": lambda x, rng: np.array(1, x.dtype),
    "no rows": lambda x, rng: x[..., :0, :],
    "no columns": lambda x, rng: x[..., :0],
    "more axes": lambda x, rng: x[None],
    "a column less": lambda x, rng: x[..., 1:],
    "another dtype": lambda x, rng: x.astype(np.float64 if x.dtype != np.float64 else np.float16),
}
ARRAYS: dict[str, tuple[Change, str]] = {
    **{name: (change, RIGHT) for name, change in LAYOUTS.items()},
    **{name: (change, EITHER) for name, change in VALUES.items()},
    **{name: (change, REFUSED) for name, change in BAD.items()},
}

# ------------------------------------------------------------------------------------------------------ other arguments
_NO_NUMBERS = ["1", b"1", [1], (), {}, np.array([1, 2]), 1j, object(), len, Wrapped(np.ones(1)), datetime.date.today()]
OTHERS: dict[str, list[tuple[Any, str]]] = {
    "count": [
        *((value, REFUSED) for value in (*_NO_NUMBERS, True, 2.0, 2.5, np.nan, np.inf, -1, -(2**70), np.float32(2))),
        *((value, REFUSED) for value in (decimal.Decimal(2), fractions.Fraction(2), np.True_, np.array(2.0))),
        *((value, EITHER) for value in (0, 1, 2, 7, 16, 100, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**12, 10**400)),
        *((value, EITHER) for value in (None, np.int8(3), np.uint64(5), np.int64(2), np.array(2))),
    ],
    "number": [
        *((value, REFUSED) for value in (*_NO_NUMBERS, True, np.nan, np.inf, -np.inf, 10**400, decimal.Decimal(1))),
        *((value, EITHER) for value in (0, 0.0, -1.0, 1, 2, 1e-3, 5e-324, 1e-300, 1e-38, 1e30, 1e300, 1.7e308, -1e300)),
        *((value, EITHER) for value in (None, fractions.Fraction(1, 3), np.float16(0.5), np.float32(2), np.int8(1))),
        *((value, EITHER) for value in (np.longdouble(0.5), np.longdouble("1e4000"), 10**30)),
    ],
    "flag": [
        *((value, REFUSED) for value in ("no", "", 0, 1, None, [], [True], np.array([True, False]), len, 1.0)),
        (np.True_, EITHER),  # a mask that a method may not have
        (np.False_, RIGHT),
    ],
    "choice": [(value, REFUSED) for value in ("best", "", 3, b"x", [], {}, len, np.array(["a"]), True, 1.0)],
    "rng": [
        *((value, REFUSED) for value in (-1, "seed", 1.5, np.nan, object(), {}, len, [-1], b"1", 1j)),
        *((value, EITHER) for value in (None, 0, 2**200, [1, 2], np.random.SeedSequence(1), np.random.PCG64(1), True)),
        *((value, EITHER) for value in (np.int8(3), np.array([3]), np.random.RandomState(0))),
    ],
    "positions": [
        *((value, REFUSED) for value in ([-1], [0, 0], [0.5], ["a"], "4", {}, len, [10**6], True, [None], -1, 1.0, 1j)),
        *((value, EITHER) for value in (0, 1, [0], np.array([1, 0]), [], range(2), (0,), np.array([], int), 10**30)),
        *((value, EITHER) for value in (np.array(1), [10**30], [[0]], np.uint8([1]), np.array([True, False]))),
    ],
    "path": [
        *((value, REFUSED) for value in (None, 3, [], object(), "/dev/null/x", "x\0y", "/proc/none")),
        *((value, REFUSED) for value in ("", ".", b"", 1.5, "x" * 5000)),
    ],
}
