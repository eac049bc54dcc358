"""Read GGUF files: their keys, and their tensors in float32 whatever they are quantised to.

Format: versions 2 and 3 of the GGUF specification of llama.cpp. The header is read here and not by the reader of the
package gguf, which takes seconds for the strings of a vocabulary and does not say where a damaged file ends; the
quantised numbers are that package's.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # by type number


class _Place(NamedTuple):
    shape: tuple[int, ...]
    kind: int
    offset: int


class GGUF:
    """A GGUF file whose header has been read.

    Attributes
    ----------
    path : Path
    fields : dict
        The value of each key: a number, a string or a list.
    shapes : dict
        The shape of each tensor, rows first, as NumPy has it (the file has columns first).

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no GGUF file, it ends too early, or its header makes no sense; the message names the key or tensor.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with open(self.path, "rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError(f"{path} is no GGUF file: it does not begin with GGUF")
        self._data = np.asarray(np.memmap(self.path, np.uint8, "r"))
        try:
            self._read(_Cursor(self._data.data, 4))
        except ValueError as error:  # UnicodeDecodeError is one
            raise ValueError(f"{path}: {error}") from None

    def _read(self, cursor: _Cursor) -> None:
        if (version := cursor.number("I")) not in (2, 3):
            raise ValueError(f"GGUF of version 2 or 3 and little-endian is needed, got version {version}")
        tensors, keys = cursor.number("Q"), cursor.number("Q")
        self.fields: dict[str, Any] = {}
        for i in range(keys):
            name = cursor.name(f"key {i + 1} of {keys}", self.fields)
            cursor.within = f"the key {name!r}"
            self.fields[name] = cursor.value(cursor.number("I"))
        self._places: dict[str, _Place] = {}
        for i in range(tensors):
            name = cursor.name(f"the place of tensor {i + 1} of {tensors}", self._places)
            cursor.within = f"the place of the tensor {name!r}"
            if not 1 <= (axes := cursor.number("I")) <= 4:
                raise ValueError(f"the tensor {name!r} must have 1 to 4 axes, got {axes}")
            shape = tuple(cursor.number("Q") for _ in range(axes))[::-1]
            self._places[name] = _Place(shape, cursor.number("I"), cursor.number("Q"))
        self.shapes = {name: place.shape for name, place in self._places.items()}
        alignment = self.fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"general.alignment must be an integer of at least 1, got {alignment!r}")
        self._start = cursor.at + -cursor.at % alignment

    def tensor(self, name: str) -> np.ndarray:
        """A tensor in float32; one that is stored so is mapped, not read.

        Raises
        ------
        ValueError
            It is of a type that the package gguf cannot dequantise, or the file ends within it.
        ImportError
            The package gguf is missing.
        """
        try:
            from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
        except ImportError as error:
            raise ImportError(f"{self.path} needs the package gguf: pip install 'sublinattn[lm]'") from error
        shape, kind, offset = self._places[name]
        if kind not in set(GGMLQuantizationType):
            raise ValueError(f"{name!r} in {self.path} is of type {kind}, which the package gguf does not know")
        kind = GGMLQuantizationType(kind)
        numbers, size = GGML_QUANT_SIZES[kind]  # of one block
        if shape[-1] % numbers:
            raise ValueError(f"{name!r} in {self.path} must have rows of {numbers} numbers each, got {shape[-1]}")
        begin = self._start + offset
        end = begin + math.prod(shape) // numbers * size
        if end > len(self._data):
            raise ValueError(f"{self.path} ends within the tensor {name!r}: {len(self._data)} bytes of {end} or more")
        blocks = self._data[begin:end].reshape(*shape[:-1], shape[-1] // numbers * size)
        try:
            with np.errstate(all="ignore"):  # numbers that are not finite are for the caller to refuse
                return dequantize(blocks, kind)
        except NotImplementedError as error:
            message = f"{name!r} in {self.path} is of type {kind.name}, which the package gguf cannot dequantise"
            raise ValueError(message) from error


class _Cursor:
    """A place in the header; `within` says what is being read there."""

    def __init__(self, data: memoryview, at: int) -> None:
        self.data, self.at, self.within = data, at, "its first numbers"

    def take(self, size: int) -> memoryview:
        if size > len(self.data) - self.at:
            raise ValueError(f"the file ends within {self.within}, at byte {len(self.data)}")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def text(self) -> str:
        try:
            return str(self.take(self.number("Q")), "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.within} is no UTF-8: {error}") from None

    def name(self, within: str, taken: dict[str, Any]) -> str:
        self.within = within
        if (name := self.text()) in taken:
            raise ValueError(f"{name!r} is there twice")
        return name

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind != _ARRAY:
            raise ValueError(f"{self.within} is of type {kind}, which GGUF does not have")
        kind, count = self.number("I"), self.number("Q")
        if kind == _STRING:
            return [self.text() for _ in range(count)]
        if kind not in _SCALARS:
            raise ValueError(f"{self.within} holds a list of type {kind}, which is not implemented")
        dtype = np.dtype(f"<{_SCALARS[kind]}")
        return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()
