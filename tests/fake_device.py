"""A device without a GPU: arrays that refuse whatever would move data to the host or mix with host arrays, over NumPy.

This module is itself the array namespace (`xp`) of its arrays. What CuPy does silently (a transfer, an upload) or
refuses raises here; `Array.get` is the one way out, counted in `syncs`; `asarray` is the one way in. Names and keywords
that CuPy lacks raise as they would there (when CuPy is installed: it needs no GPU for that).
"""

from __future__ import annotations

import functools
import inspect
import operator
from types import SimpleNamespace
from typing import Any

import numpy as np

try:
    import cupy
except ImportError:
    cupy = None

syncs = 0
"""Transfers to the host so far."""


def _out(x: Any) -> Any:
    """A result of NumPy's as the device holds it: scalars are 0-d arrays."""
    if type(x) is tuple:  # such as nonzero's
        return tuple(map(_out, x))
    return Array(np.asarray(x)) if isinstance(x, (np.ndarray, np.generic)) else x


def _in(x: Any) -> Any:
    """An operand, unwrapped; host arrays are refused."""
    if isinstance(x, Array):
        return x.host
    if isinstance(x, np.ndarray):
        raise TypeError("a host array is used with a device array")
    if isinstance(x, (tuple, list)):
        return type(x)(_in(part) for part in x)
    if isinstance(x, slice):
        return slice(*(operator.index(part) if part is not None else None for part in (x.start, x.stop, x.step)))
    return x


def _index(key: Any) -> Any:
    if isinstance(key, list):
        raise TypeError("a device array is indexed with a list")
    return tuple(_index(part) for part in key) if isinstance(key, tuple) else _in(key)


@functools.cache
def _keywords(owner: Any, name: str) -> frozenset[str] | None:
    """Keywords CuPy takes for a function, a ufunc or a method; None where that is not known."""
    function = getattr(owner, name)
    if cupy is not None and isinstance(function, cupy.ufunc):
        return frozenset({"out", "dtype", "casting", "where"})
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # Cython: its signature is the first line of the docstring
        head = (function.__doc__ or "").partition("\n")[0]
        if not head.endswith(")") and "->" not in head:
            return None
        inside = head.partition("(")[2].rpartition(")")[0]
        return None if "*" in inside else frozenset(part.split("=")[0].split()[-1] for part in inside.split(","))
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(p.name for p in parameters)


def _check_keywords(owner: Any, name: str, given: dict[str, Any]) -> None:
    if cupy is None:
        return
    known = _keywords(owner, name)
    if known is not None and not known >= set(given):
        raise TypeError(f"CuPy's {name} has no keyword {sorted(set(given) - known)}")


def _binary(name: str) -> tuple[Any, Any, Any]:
    function = getattr(operator, name)

    def forward(self: Array, other: Any) -> Any:
        return _out(function(self.host, _in(other)))

    def backward(self: Array, other: Any) -> Any:
        return _out(function(_in(other), self.host))

    def in_place(self: Array, other: Any) -> Array:
        self.host[...] = getattr(operator, f"i{name.strip('_')}")(self.host.view(), _in(other))
        return self

    return forward, backward, in_place


class Array:
    """An array on the fake device."""

    __array_ufunc__ = None  # NumPy's operators leave mixed operands to ours, which refuse them
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: np.ndarray) -> None:
        self.host = host

    def get(self) -> np.ndarray:
        global syncs
        syncs += 1
        return self.host.copy()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("item", "tolist", "tobytes", "flat", "base", "data"):
            raise AttributeError(f"a device array has no {name!r} without a transfer")
        if cupy is not None and not hasattr(cupy.ndarray, name):
            raise AttributeError(f"CuPy's arrays have no {name!r}")
        value = getattr(self.host, name)
        if not callable(value):
            return _out(value)

        def method(*args: Any, **kwargs: Any) -> Any:
            if cupy is not None:
                _check_keywords(cupy.ndarray, name, kwargs)
            return _out(value(*map(_in, args), **{key: _in(x) for key, x in kwargs.items()}))

        return method

    def __len__(self) -> int:
        return len(self.host)

    def __getitem__(self, key: Any) -> Array:
        return _out(self.host[_index(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.host[_index(key)] = _in(value)

    def __neg__(self) -> Array:
        return _out(-self.host)

    def __abs__(self) -> Array:
        return _out(abs(self.host))

    def __invert__(self) -> Array:
        return _out(~self.host)

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("an implicit transfer from the device to the host")

    __array__ = __float__ = __int__ = __index__ = __bool__ = __complex__ = __iter__ = __contains__ = _refuse
    __array_function__ = _refuse


_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
_BITS = ("and_", "or_", "xor", "lshift", "rshift")
for _name in (*_ARITHMETIC, *_BITS):
    _stem = _name.strip("_")
    _methods = _binary(_name)
    for _method, _prefix in zip(_methods, ("", "r", "i"), strict=True):
        setattr(Array, f"__{_prefix}{_stem}__", _method)
for _name in ("lt", "le", "eq", "ne", "gt", "ge"):
    setattr(Array, f"__{_name}__", _binary(_name)[0])


def asarray(x: Any, dtype: Any = None) -> Array:
    """Copy a host array (or number) to the device."""
    if not isinstance(x, Array):
        return Array(np.array(x, dtype=dtype))
    return x.astype(dtype, copy=False) if dtype else x


def asnumpy(x: Array) -> np.ndarray:
    return x.get()


cuda = SimpleNamespace(
    runtime=SimpleNamespace(memGetInfo=lambda: (2**29, 2**30)),
    get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
)


def __getattr__(name: str) -> Any:
    """A function of NumPy's on device arrays, if CuPy has one of that name."""
    if name.startswith("__"):
        raise AttributeError(name)
    if cupy is not None and not hasattr(cupy, name):
        raise AttributeError(f"CuPy has no {name!r}")
    value = getattr(np, name)
    if not callable(value) or isinstance(value, type):
        return value

    @functools.wraps(value)
    def function(*args: Any, **kwargs: Any) -> Any:
        _check_keywords(cupy, name, kwargs)
        result = value(*map(_in, args), **{key: _in(x) for key, x in kwargs.items()})
        return kwargs["out"] if kwargs.get("out") is not None else _out(result)

    return function
