"""What every streaming state shares: its file, its arrays and their bytes, its device, and what it refuses to merge."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any, ClassVar, Self

import numpy as np
import safetensors
import safetensors.numpy

from . import backends
from .backends import Array
from .files import atomic, open_safetensors

_ENTRY = "sublinattn.checkpoint"  # the file's one metadata entry: safetensors writes several in no fixed order
VERSION = 2


def _digest(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of a checkpoint: of its header, and of the names, dtypes, shapes and bytes of its arrays."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True, allow_nan=False).encode())
    for name, x in sorted(arrays.items()):
        digest.update(f"{name} {x.dtype} {x.shape}".encode())
        digest.update(x.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


class StreamingState:
    """A state that absorbs the rows of a stream: `PolynomialState`, `OnePassSketch` and the key-value caches.

    A subclass names its parameters, keeps its arrays in `_stored`, and overrides `_about`, `_restore`, `contents` and
    `_arrays` as far as it consists of more than these.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = ()
    """Names of the constructor's arguments that the state keeps as attributes: all but `rng`."""

    def __init__(self) -> None:
        self._stored: dict[str, Array] = {}
        self._dtype: np.dtype | None = None  # of the rows, once there are any

    def parameters(self) -> dict[str, Any]:
        """Keyword arguments that make an empty state like this one, but for its random draws."""
        return {name: getattr(self, name) for name in self.PARAMETERS}

    def contents(self) -> dict[str, Array]:
        """The arrays that `save` writes, by name. They are the state's own, not copies."""
        return dict(self._stored)

    def _on_file(self) -> dict[str, Array]:
        """What `save` writes of `contents()`."""
        return self.contents()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays of the state."""
        return sum(int(x.nbytes) for x in self._arrays())

    # ------------------------------------------------------------------------------------------------------- the file
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to one safetensors file, whole or not at all. Equal states give equal bytes.

        Raises
        ------
        OSError
            If the disk does not take it: the file that was at `path` is then still there.
        """
        header = {"kind": type(self).__name__, "version": VERSION, "about": self._about()}
        # asarray, not ascontiguousarray: an array without axes keeps its shape.
        arrays = {name: np.asarray(backends.asnumpy(x), order="C") for name, x in self._on_file().items()}
        header["sha256"] = _digest(header, arrays)
        metadata = {_ENTRY: json.dumps(header, sort_keys=True, allow_nan=False)}
        with atomic(path) as temporary:
            try:
                safetensors.numpy.save_file(arrays, temporary, metadata)
            except safetensors.SafetensorError as error:
                raise OSError(f"{path} could not be written: {error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote. The state goes on with the same draws, on the device of the next rows.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            Not a whole safetensors file, or not a state of this class, written by this version of the format; or its
            header and arrays are not those that were written.
        """
        with open_safetensors(path) as file:
            note = (file.metadata() or {}).get(_ENTRY)
            if note is None:
                raise ValueError(f"{path} is not a checkpoint of a streaming state: it has no {_ENTRY!r} metadata")
            try:
                header = dict(json.loads(note))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path} is a damaged checkpoint: its header is no JSON object") from error
            if (version := header.get("version")) != VERSION:
                raise ValueError(f"{path} is a checkpoint of version {version}, this is version {VERSION}")
            if (kind := header.get("kind")) != cls.__name__:
                raise ValueError(f"{path} is a checkpoint of a {kind}, not of a {cls.__name__}")
            names: list[str] = file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
        if header.pop("sha256", None) != _digest(header, arrays):
            raise ValueError(f"{path} is a damaged checkpoint: its header and arrays are not those that were written")
        about = header["about"]
        parameters = about.get("parameters", about)  # the caches write them as an entry of their own
        known = [name for name in cls.PARAMETERS if name in parameters]  # a former version knew fewer
        state = cls(**{name: parameters[name] for name in known})
        state._restore(about, arrays)
        return state

    def _about(self) -> dict[str, Any]:
        """All that `load` needs beside the arrays, as JSON values."""
        return self.parameters()

    def _restore(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Make a new state what `_about()` and `contents()` of the saved one say."""
        self._stored = arrays

    # ------------------------------------------------------------------------------------------- device and merging
    def _arrays(self) -> list[Array]:
        """All arrays of the state, with those that `save` need not write."""
        return list(self._stored.values())

    def _follow(self, xp: Any, name: str) -> None:
        """Move the arrays to the device of the new rows `name`. Host to device only; the reverse is a TypeError."""
        self._stored = dict(zip(self._stored, backends.follow(xp, name, *self._stored.values()), strict=True))

    def _check_dtype(self, name: str, dtype: np.dtype) -> None:
        """Refuse rows of another accumulation dtype than those before them."""
        if self._dtype is not None and dtype != self._dtype:
            raise TypeError(f"{name} must have the dtype of the rows before it ({self._dtype}), got {dtype}")

    def _meet(self, other: StreamingState) -> Any:
        """Move this state's arrays to the device on which either state is; returns its namespace."""
        on_gpu = [x for x in (*self._arrays(), *other._arrays()) if not isinstance(x, np.ndarray)]
        if len(devices := {str(x.device) for x in on_gpu}) > 1:
            raise TypeError(f"other must be on the device of this state, got states on {sorted(devices)}")
        xp = backends.namespace(on_gpu[0]) if on_gpu else np
        self._follow(xp, "other")
        return xp

    def _check_mergeable(self, other: Any) -> None:
        """Refuse to merge what is not another state of the same class, with the same parameters."""
        if type(other) is not type(self):
            raise TypeError(f"other must be a {type(self).__name__}, got {type(other).__name__}")
        if other is self:
            raise ValueError("other must be another state, got this one")
        if self.parameters() != other.parameters():
            raise ValueError(f"other must have this state's parameters {self.parameters()}, got {other.parameters()}")
        if self._dtype is not None and other._dtype is not None and self._dtype != other._dtype:
            raise TypeError(f"other must have rows of dtype {self._dtype}, got {other._dtype}")
