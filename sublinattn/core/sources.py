"""Sources of a stream's rows: arrays, `.npy` and `.safetensors` files, iterables of chunks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from . import backends
from .backends import Array
from .files import open_safetensors

_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}  # safetensors' and NumPy's names


class Source:
    """Rows that are read in order, each once; `name` is that of the caller's argument.

    `total` and `width` are the number of rows and of numbers per row, None while an iterable has not yet shown them;
    `position` is the number of rows read or skipped.
    """

    def __init__(self, name: str, total: int | None = None, width: int | None = None) -> None:
        self.name, self.total, self.width, self.position = name, total, width, 0

    @property
    def length(self) -> str:
        """Number of rows as far as it is known, for messages."""
        return f"at least {self.position}" if self.total is None else str(self.total)

    def read(self, count: int) -> Array | None:
        """The next `count` rows, shape (count, width), fewer at the end only; None after the end."""
        raise NotImplementedError

    def skip(self, count: int) -> None:
        """Skip the next `count` rows, fewer at the end only."""
        raise NotImplementedError

    def _entered(self, x: Any) -> Array:
        """A chunk as a NumPy or CuPy array."""
        return backends.enter(**{self.name: x})[1][0]


class _Sliced(Source):
    """An array or file that gives slices of rows. No slice goes past the end, because not every kind clips it."""

    def __init__(self, name: str, slices: Any, shape: tuple[int, ...]) -> None:
        if len(shape) != 2:
            raise ValueError(f"{name} must have shape (n, d), got {shape}")
        if 0 in shape:
            raise ValueError(f"{name} must not be empty, got shape {shape}")
        super().__init__(name, *shape)
        self._slices, self._end = slices, shape[0]

    def read(self, count: int) -> Array | None:
        start = self.position
        self.skip(count)
        return None if self.position == start else self._entered(self._slices[start : self.position])

    def skip(self, count: int) -> None:
        self.position = min(self.position + count, self._end)


class _Chunks(Source):
    """An iterable of chunks. The next chunk is taken only when all rows of the last one have been read."""

    def __init__(self, name: str, chunks: Iterable[Any]) -> None:
        super().__init__(name)
        self._chunks = iter(chunks)
        self._rest: Array | None = None
        self._dtype: Any = None

    def read(self, count: int) -> Array | None:
        pieces = []
        while count and (piece := self._next(count)) is not None:
            pieces.append(piece.copy())  # the iterable may yield one buffer again and again
            count -= len(piece)
        if len(pieces) < 2:
            return pieces[0] if pieces else None
        return backends.namespace(*pieces).concatenate(pieces)

    def skip(self, count: int) -> None:
        while count and (piece := self._next(count)) is not None:
            count -= len(piece)

    def _next(self, maximum: int) -> Array | None:
        """At most `maximum` rows of the current chunk, or of the next one that has any."""
        while self._rest is None or not len(self._rest):
            try:
                chunk = next(self._chunks)
            except StopIteration:
                self.total = self.position
                return None
            self._rest = self._checked(chunk)
        piece, self._rest = self._rest[:maximum], self._rest[maximum:]
        self.position += len(piece)
        return piece

    def _checked(self, chunk: Any) -> Array:
        x = self._entered(chunk)
        if x.ndim == 1:
            x = x.reshape(1, -1)
        if x.ndim != 2 or not x.shape[1] or self.width not in (None, x.shape[1]):
            width = "d" if self.width is None else self.width
            shape = tuple(x.shape)
            raise ValueError(f"{self.name} must come in chunks (c, {width}) or rows ({width},), got shape {shape}")
        # Concatenation would promote chunks of two dtypes, and which rows that affects would depend on the chunks.
        if self._dtype is not None and self._dtype != x.dtype:
            raise TypeError(f"{self.name} must be of one dtype, got a chunk of {x.dtype} after {self._dtype}")
        self.width, self._dtype = x.shape[1], x.dtype
        return x


def open_source(name: str, rows: Any) -> Source:
    """The source that the argument `name` stands for; files are opened, no rows are read. Errors: `streams.absorb`."""
    if isinstance(rows, tuple) and len(rows) == 2 and isinstance(rows[0], (str, os.PathLike)):
        return _safetensors(name, *rows)
    if isinstance(rows, (str, os.PathLike)):
        rows = _npy(name, Path(rows))
    if hasattr(rows, "shape") and hasattr(rows, "__getitem__"):
        source = _Sliced(name, rows, tuple(rows.shape))
        source._entered(rows[:0])  # its kind and dtype are checked before any work
        return source
    if isinstance(rows, Iterable):
        return _Chunks(name, rows)
    raise TypeError(
        f"{name} must be an array, a path to a .npy file, a pair (path to a .safetensors file, tensor's name) or an "
        f"iterable of chunks, got {type(rows).__name__}"
    )


def _npy(name: str, path: Path) -> np.ndarray:
    if path.suffix == ".safetensors":
        raise ValueError(f"{name}: of a .safetensors file, name the tensor: ({str(path)!r}, name)")
    if path.suffix != ".npy":
        raise ValueError(f"{name} must be a .npy file, or a .safetensors file with the tensor's name, got {path}")
    try:
        return np.asarray(np.load(path, mmap_mode="r"))  # as a plain array, still mapped
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy parses the header as Python, and fails as that does
        raise ValueError(f"{name}: {path} is not a whole .npy file of numbers: {error}") from error


def _safetensors(name: str, path: str | os.PathLike[str], tensor: Any) -> Source:
    try:
        file = open_safetensors(path)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    except ImportError as error:
        raise TypeError(f"{name}: {error}") from error
    tensors = sorted(file.keys())
    if tensor not in tensors:
        raise ValueError(f"{name}: {path} has no tensor {tensor!r}, it has {tensors}")
    slices = file.get_slice(tensor)
    dtype = _DTYPES.get(slices.get_dtype())
    if dtype is None:
        got = slices.get_dtype()
        raise TypeError(f"{name} must have a floating dtype {(*_DTYPES.values(),)}, got {got} in {path}")
    return _Sliced(name, slices, tuple(slices.get_shape()))
