"""Checkpoints of streaming states: one safetensors file each, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from .files import atomic

ENTRY = "sublinattn.checkpoint"  # the file's one metadata entry: safetensors writes several in no fixed order
VERSION = 1


def write(path: str | os.PathLike[str], kind: str, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a state's arrays (dtypes and shapes are kept) and what describes them; equal states give equal bytes.

    Parameters
    ----------
    kind : str
        Name of the state's class.
    about : mapping
        JSON values; integers of any size are exact.

    Raises
    ------
    TypeError
        If `about` holds something that JSON has no form for, or an array anything but booleans, integers and reals.
    OSError
        If the disk does not take it: what lay at `path` is then still there.
    """
    header = {"kind": kind, "version": VERSION, "about": dict(about)}
    try:
        metadata = {ENTRY: json.dumps(header, sort_keys=True, allow_nan=False)}
    except (TypeError, ValueError) as error:
        raise TypeError(f"about must hold JSON values only: {error}") from error
    tensors = {name: np.asarray(x, order="C") for name, x in arrays.items()}  # not ascontiguousarray: 0-d stays 0-d
    for name, x in tensors.items():
        if x.dtype.kind not in "biuf":
            raise TypeError(f"array {name!r} must be of booleans, integers or reals, got {x.dtype}")
    with atomic(path) as temporary:
        try:
            safetensors.numpy.save_file(tensors, temporary, metadata)
        except safetensors.SafetensorError as error:
            raise OSError(f"{path} could not be written: {error}") from error


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `write` wrote: `about`, and the arrays, in memory of their own.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a whole safetensors file, no checkpoint, of another kind or of another version.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            note = (file.metadata() or {}).get(ENTRY)
            if note is None:
                raise ValueError(f"{path} is not a checkpoint of a streaming state: it has no {ENTRY!r} metadata")
            header = json.loads(note)
            if header["version"] != VERSION:
                raise ValueError(f"{path} is a checkpoint of version {header['version']}, this is version {VERSION}")
            if header["kind"] != kind:
                raise ValueError(f"{path} is a checkpoint of a {header['kind']}, not of a {kind}")
            names: list[str] = file.keys()
            return header["about"], {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
