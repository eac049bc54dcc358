"""Checks of arguments, made before any work: shapes, empty input, NaN, Inf, parameters out of range."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from numbers import Real
from typing import Any

import numpy as np

from . import backends
from .backends import Array

LARGEST = 2**62
"""Of a number of rows, slots or rounds, so that the sum of two is an index still."""


def integer(name: str, value: Any, *, minimum: int, maximum: int = LARGEST) -> int:
    """`value` as an int; TypeError if it is no integer, ValueError if it is not in [minimum, maximum]."""
    if not _is_integer(value):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    if value > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {_shown(value)}")
    return int(value)


def _shown(value: Any) -> str:
    """An integer for a message; Python refuses to write out those of thousands of digits."""
    return str(value) if abs(value) < 10**30 else f"an integer of {int(value).bit_length()} bits"


def fits_memory(name: str, value: float, nbytes: float) -> None:
    """ValueError where the arrays that an argument asks for are larger than the memory that this process may have.

    Before they are made: a system that promises more memory than it has would end the process when it is used.
    """
    if nbytes > (memory := _memory()):
        there, size = (f"{min(x, 2**200) / 2**30:.3g} GiB" for x in (memory, nbytes))
        raise ValueError(f"{name} must fit in the {there} of memory here: {_shown(value)} takes {size}")


@functools.cache
def _memory() -> int:
    """Bytes of this machine, or of this process if that is less; as good as none where the system does not say."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return sys.maxsize
    import resource  # which the same systems have

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return machine if limit == resource.RLIM_INFINITY else min(limit, machine)


def choice(name: str, value: Any, options: Iterable[str]) -> None:
    """ValueError unless `value` is one of these strings."""
    known = tuple(options)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {known}, got {value!r}")


def count(name: str, value: Any, *, minimum: int = 1, maximum: float = np.inf) -> None:
    """ValueError unless `value` is an integer in [minimum, maximum]."""
    if not _is_integer(value) or not minimum <= value <= min(maximum, LARGEST):
        raise ValueError(f"{name} must be an integer between {minimum} and {maximum}, got {value!r}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def flags(**named: Any) -> None:
    """TypeError unless every argument is a bool: a string or an array would otherwise be taken by its truth."""
    for name, value in named.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def between(name: str, value: Any, minimum: float, maximum: float = np.inf, *, open_ends: bool = False) -> None:
    """ValueError unless `value` is a finite number in [minimum, maximum], or in (minimum, maximum)."""
    inside = isinstance(value, int | float | np.number) and math.isfinite(real(name, value))
    inside = inside and minimum <= value <= maximum
    if not inside or (open_ends and value in (minimum, maximum)):
        strictly = "strictly " if open_ends else ""
        raise ValueError(f"{name} must be {strictly}between {minimum} and {maximum}, got {value!r}")


def real(name: str, value: Any) -> float:
    """`value` as a float, or a TypeError that names it."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, got {type(value).__name__}")
    with suppress(OverflowError):
        number = float(value)
        if not math.isinf(number) or abs(value) == math.inf:  # NumPy's long double overflows without a word
            return number
    raise ValueError(f"{name} must fit in a float, got {type(value).__name__} beyond the largest")


def resolve_scale(scale: Any, d: int) -> float:
    """The logits' scale: `1/sqrt(d)` for None."""
    if scale is None:
        return 1 / math.sqrt(d)
    if isinstance(scale, bool) or not isinstance(scale, Real):
        raise TypeError(f"scale must be a real number or None, got {type(scale).__name__}")
    if not math.isfinite(factor := real("scale", scale)):
        raise ValueError(f"scale must be finite, got {scale}")
    return factor


def generator(rng: np.random.Generator | int | None) -> np.random.Generator:
    """The generator that `rng` stands for: itself, one with this seed, or one with fresh entropy."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(f"rng must be a numpy.random.Generator, an int of at least 0 or None, got {rng!r}") from error


def shapes(q: Array, k: Array, v: Array | None = None, *, grouped: bool = False) -> None:
    """Shapes `(..., n_q, d)`, `(..., n_k, d)`, `(..., n_k, d_v)` with equal leading axes and nothing empty.

    The last of the leading axes, the heads, may be shorter in k and v if `grouped`, and must divide that of q.
    """
    named = {"q": q, "k": k} | ({} if v is None else {"v": v})
    for name, x in named.items():
        if x.ndim < 2:
            raise ValueError(f"{name} must have shape (..., n, d), got {tuple(x.shape)}")
        if 0 in x.shape:
            raise ValueError(f"{name} must not be empty, got shape {tuple(x.shape)}")
        if grouped and x.ndim == q.ndim > 2 and x.shape[:-3] == q.shape[:-3]:
            if q.shape[-3] % x.shape[-3]:
                heads = f"a number of heads that divides that of q ({q.shape[-3]})"
                raise ValueError(f"{name} must have {heads}, got {x.shape[-3]}")
        elif x.shape[:-2] != q.shape[:-2]:
            raise ValueError(f"{name} must have the leading axes of q {tuple(q.shape[:-2])}, got {tuple(x.shape[:-2])}")
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(f"k must have the last axis of q (d = {q.shape[-1]}), got {k.shape[-1]}")
    if v is not None and v.shape[:-2] != k.shape[:-2]:
        raise ValueError(f"v must have the leading axes of k {tuple(k.shape[:-2])}, got {tuple(v.shape[:-2])}")
    if v is not None and v.shape[-2] != k.shape[-2]:
        raise ValueError(f"v must have as many rows as k (n_k = {k.shape[-2]}), got {v.shape[-2]}")


def largest_norms(xp: Any, check_finite: bool, **named: Array) -> list[float]:
    """Largest row norm of each `(B, n, d)` array, in one transfer to the host; ValueError for NaN or Inf.

    TypeError if `check_finite` is no bool. Where squares overflow or underflow, it is the bound `sqrt(d) max|x|`, and
    entries are scanned there, and only there. On a GPU two launches for each array.
    """
    flags(check_finite=check_finite)
    tiles, slots = list(named.values()), list(range(len(named)))
    if xp is np:
        flat, step = [x.reshape(-1, x.shape[-1]) for x in tiles], 32768
        slots = [slot for slot, x in enumerate(flat) for _ in range(0, len(x), step)]
        tiles = [x[start : start + step] for x in flat for start in range(0, len(x), step)]
    largest = xp.empty(len(tiles), backends.working_dtype(tiles[0]))

    def worker(i: int) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # per thread
            backends.row_squares(xp, tiles[i]).max(out=largest[i, ...])

    if sum(map(len, tiles)) <= 32768:  # the threads' hand-over alone would take longer
        for i in range(len(tiles)):
            worker(i)
    else:
        backends.for_tiles(xp, range(len(tiles)), worker)
    values = backends.asnumpy(largest).astype(float)
    squares = [values[np.equal(slots, slot)].max() for slot in range(len(named))]
    norms = [math.sqrt(square) for square in squares]
    for i, ((name, x), square) in enumerate(zip(named.items(), squares, strict=True)):
        if not float(np.finfo(backends.working_dtype(x)).tiny) * 2.0**24 < square < math.inf:
            largest_entry = float(backends.asnumpy(xp.abs(x).max()))
            if check_finite and not math.isfinite(largest_entry):
                raise ValueError(f"{name} must be finite, got NaN or Inf entries")
            norms[i] = min(largest_entry * math.sqrt(x.shape[-1]), sys.float_info.max)
    return norms


@contextmanager
def finite(xp: Any, check_finite: bool, **named: Array) -> Iterator[None]:
    """ValueError for NaN or Inf, if `check_finite`, which must be a bool, at the end of the `with` block.

    The device looks for them first; it is waited for, in one transfer, when all work of the block is under way.
    """
    flags(check_finite=check_finite)
    found = xp.zeros(len(named), np.int32)
    for i, x in enumerate(named.values() if check_finite else ()):
        backends.find_not_finite(xp, x, found[i : i + 1])
    yield
    for name, bad in zip(named, backends.asnumpy(found) if check_finite else (), strict=check_finite):
        if bad:
            raise ValueError(f"{name} must be finite, got NaN or Inf entries")


def representable(xp: Any, out: Array, *given: Array, name: str = "the answer", state: Any = None) -> None:
    """ValueError if what was computed of finite input is past the largest float of its dtype, or was on the way.

    Input are the arrays `given` and, if there is one, the `contents()` of a state, where an infinity may stand for an
    empty slot. On the CPU: a GPU would be waited for.
    """
    if xp is not np or np.isfinite(out).all():
        return
    stored = () if state is None else state.contents().values()
    if all(np.isfinite(x).all() for x in given) and not any(np.isnan(x).any() for x in stored):
        raise ValueError(f"{name} must fit in {out.dtype}: these logits or values are too large for it")


def rows(width: dict[str, int], **named: Array) -> list[Array]:
    """Rows of a stream as `(c, width)` arrays: one row `(width,)` or a chunk of them, as many in each array."""
    out = []
    for name, x in named.items():
        if x.ndim not in (1, 2) or x.shape[-1] != width[name]:
            shape = tuple(x.shape)
            raise ValueError(f"{name} must have shape ({width[name]},) or (c, {width[name]}), got {shape}")
        if x.ndim == 2 and not len(x):
            raise ValueError(f"{name} must not be empty, got shape {tuple(x.shape)}")
        out.append(x.reshape(-1, width[name]))
    first = next(iter(named))
    for name, x in zip(named, out, strict=True):
        if named[name].ndim != named[first].ndim or len(x) != len(out[0]):
            both = f"{tuple(named[name].shape)} and {tuple(named[first].shape)}"
            raise ValueError(f"{name} must have as many rows as {first}, got {both}")
    return out


def check_squares(name: str, x: Array, norm: float) -> None:
    """ValueError if squared distances between rows of `x`, whose largest norm is `norm`, or their sums overflow."""
    dtype = backends.working_dtype(x)
    largest = float(np.finfo(dtype).max) / max(32, x.shape[-1])
    largest = min(largest, float(np.finfo(np.float64).max) / 2.0**63)  # sums over up to 2^63 tokens are in float64
    if not norm * norm < largest:
        raise ValueError(f"{name} must have rows whose squared norms are finite in {dtype}, got norm {norm:.3g}")
