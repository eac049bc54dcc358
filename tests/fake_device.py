"""A device without a GPU: arrays that refuse whatever would move data to the host or mix with host arrays, over NumPy.

This module is itself the array namespace (`xp`) of its arrays. What CuPy does silently (a transfer, an upload) or
refuses raises here; `Array.get` is the one way out, `asarray` the one way in. Names and keywords that CuPy lacks raise
as they would there (when CuPy is installed: it needs no GPU for that).

Every call adds to `counts` what it would cost in CuPy. There are several devices: what launches a kernel is refused
unless its arrays lie on the current one (`with cuda.Device(1):`), where the result lies then.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import cupy_costs
import numpy as np

try:
    import cupy
except ImportError:
    cupy = None

counts = cupy_costs.Counts()
"""Spent since the last `counts.reset()`."""


class Device:
    """A device by its number; inside `with` the current one."""

    current = 0

    def __init__(self, id: int | None = None) -> None:
        self.id, self._before = Device.current if id is None else id, list[int]()

    def __enter__(self) -> Device:
        self._before.append(Device.current)
        Device.current = self.id
        return self

    def __exit__(self, *error: Any) -> None:
        Device.current = self._before.pop()

    def __repr__(self) -> str:
        return f"<Fake Device {self.id}>"


def launch(arrays: list[Array], launches: int = 1) -> None:
    """Charge launches on arrays, all of which must lie on the current device."""
    if elsewhere := {x.number for x in arrays} - {Device.current}:
        raise ValueError(f"arrays on device {sorted(elsewhere)} are used while device {Device.current} is current")
    counts.launches += launches


def _call(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A call of NumPy's on what the device arrays hold, at the price of CuPy's of that name."""
    operands, given = tuple(map(_in, args)), {key: _in(x) for key, x in kwargs.items()}
    arrays = [*_arrays(args), *_arrays(tuple(kwargs.values()))]
    result, out = function(*operands, **given), kwargs.get("out")
    made = [np.asarray(x) if isinstance(x, np.generic) else x for x in (result if type(result) is tuple else (result,))]
    launches = cupy_costs.launches(name, [x.host for x in arrays], made, out)
    if launches:
        launch(arrays, launches)
    counts.syncs += cupy_costs.syncs(name, operands)
    if name in ("matmul", "dot"):
        counts.copies += cupy_costs.matmul_copies(*operands[:2], given.get("out"))
    return out if out is not None else _out(result, arrays[0].number if arrays and not launches else Device.current)


def _arrays(x: Any) -> Iterator[Array]:
    """The device arrays among arguments."""
    if isinstance(x, Array):
        yield x
    elif isinstance(x, (tuple, list)):
        for part in x:
            yield from _arrays(part)


def _out(x: Any, number: int) -> Any:
    """A result of NumPy's as a device holds it: scalars are 0-d arrays."""
    if type(x) is tuple:  # such as nonzero's
        return tuple(_out(part, number) for part in x)
    return Array(np.asarray(x), number) if isinstance(x, (np.ndarray, np.generic)) else x


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
        return _call(name, function, self, other)

    def backward(self: Array, other: Any) -> Any:
        return _call(name, function, other, self)

    def in_place(self: Array, other: Any) -> Array:
        self.host[...] = getattr(operator, f"i{name.strip('_')}")(self.host.view(), _in(other))
        if self.host.size:
            launch([self, *_arrays(other)])
        return self

    return forward, backward, in_place


class Array:
    """An array on the fake device of that number."""

    __array_ufunc__ = None  # NumPy's operators leave mixed operands to ours, which refuse them
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: np.ndarray, number: int) -> None:
        self.host, self.number = host, number

    @property
    def device(self) -> Device:
        return Device(self.number)

    def get(self) -> np.ndarray:
        counts.syncs += 1
        return self.host.copy()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("item", "tolist", "tobytes", "flat", "base", "data"):
            raise AttributeError(f"a device array has no {name!r} without a transfer")
        if cupy is not None and not hasattr(cupy.ndarray, name):
            raise AttributeError(f"CuPy's arrays have no {name!r}")
        value = getattr(self.host, name)
        if not callable(value):
            return _out(value, self.number)
        if name in ("sort", "partition") and not self.host.flags.c_contiguous:
            raise NotImplementedError("CuPy sorts no array in place that is not contiguous")

        def method(*args: Any, **kwargs: Any) -> Any:
            if cupy is not None:
                _check_keywords(cupy.ndarray, name, kwargs)
            return _call(name, getattr(np.ndarray, name), self, *args, **kwargs)

        return method

    def __len__(self) -> int:
        return len(self.host)

    def __getitem__(self, key: Any) -> Array:
        index = _index(key)
        counts.syncs += cupy_costs.masks(index)
        return _call("getitem", lambda x, *_: x[_view(index)], self, *_arrays(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        index, source = _index(key), _in(value)
        counts.syncs += cupy_costs.masks(index)
        into = self.host[_view(index)]
        into_itself = isinstance(source, np.ndarray) and into.__array_interface__ == source.__array_interface__
        self.host[index] = source
        if into.size and not into_itself:  # `x[...] += y` assigns to itself: CuPy then does nothing
            launch([self, *_arrays(key), *_arrays(value)])

    def __neg__(self) -> Array:
        return _call("negative", operator.neg, self)

    def __abs__(self) -> Array:
        return _call("absolute", abs, self)

    def __invert__(self) -> Array:
        return _call("invert", operator.invert, self)

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("an implicit transfer from the device to the host")

    __array__ = __float__ = __int__ = __index__ = __bool__ = __complex__ = __iter__ = __contains__ = _refuse
    __array_function__ = _refuse


def _view(index: Any) -> Any:
    """An index whose result is a view where that is possible: a 0-d array is one, NumPy's scalar is not."""
    parts = index if isinstance(index, tuple) else (index,)
    return parts if any(part is ... or isinstance(part, np.ndarray) for part in parts) else (*parts, ...)


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
    """Copy a host array (or number) to the current device."""
    if isinstance(x, Array):
        return x.astype(dtype, copy=False) if dtype else x
    made = Array(np.array(x, dtype=dtype), Device.current)
    if made.host.ndim:
        counts.uploads += made.host.nbytes
    else:
        counts.launches += 1  # a number is filled in
    return made


def asnumpy(x: Array) -> np.ndarray:
    return x.get()


class ReductionKernel:
    """CuPy's, as far as it sums an expression that is both C++ and Python."""

    def __init__(self, x: str, y: str, mapped: str, reduced: str, after: str, identity: str, name: str) -> None:
        assert (x, y, reduced, after, identity) == ("T x", "A y", "a + b", "y = a", "0")
        self.mapped, self.name = mapped, name

    def __call__(self, x: Array, y: Array, axis: int) -> Array:
        def into(x: np.ndarray, out: np.ndarray) -> np.ndarray:
            return eval(self.mapped, {"x": x, "A": lambda x: x.astype(out.dtype)}).sum(axis=axis, out=out)

        return _call(self.name, into, x, out=y)


cuda = SimpleNamespace(
    Device=Device,
    get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
)


def __getattr__(name: str) -> Any:
    """A function of NumPy's on device arrays, if CuPy has one of that name."""
    if name.startswith("__"):
        raise AttributeError(name)
    if cupy is not None and not hasattr(cupy, name):
        raise AttributeError(f"CuPy has no {name!r}")
    if name in cupy_costs.NOT_COUNTED:
        raise AttributeError(f"CuPy's {name!r} may wait for the device, which is not counted here")
    if name == "einsum":
        raise AttributeError("CuPy's einsum multiplies a matrix per common index: see backends.row_squares")
    value = getattr(np, name)
    if not callable(value) or isinstance(value, type):
        return value

    @functools.wraps(value)
    def function(*args: Any, **kwargs: Any) -> Any:
        _check_keywords(cupy, name, kwargs)
        return _call(name, value, *args, **kwargs)

    return function
