"""Read a decoder's weights from a local folder: one safetensors file or shards, in float32, float16 or bfloat16.

Weights in float32 are mapped and not copied: processes share them, and the system may drop their pages.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..core import backends
from ..core.backends import Array
from ..core.files import open_safetensors
from .config import Config

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_IGNORED = ("rotary_emb.inv_freq",)  # older checkpoints store the frequencies, which follow from the config
_QUANTISED = ("qweight", "qzeros", "scales", "g_idx", "weight_scale", "absmax", "quant_map")
_FLOATS = ("F32", "F16", "BF16")


def read_weights(folder: str | os.PathLike[str], config: Config, xp: Any) -> dict[str, Array]:
    """Every tensor of a checkpoint of these sizes, in float32, on the device of `xp`; on the host it may be read-only.

    Raises
    ------
    FileNotFoundError
        There are no weights in the folder, or a shard is missing.
    ValueError
        A file is not whole; a tensor is missing, of another shape, of no floating dtype or not finite; or a Llama of
        this configuration has no such tensor. The message names the file or tensor.
    ImportError
        bfloat16 weights without the package ml_dtypes.
    """
    shapes, weights = config.shapes(), {}
    for path, listed in _files(Path(folder)).items():
        for name, tensor in _tensors(path, listed, shapes, tied=config.tied):
            weights[name] = backends.to_device(tensor, xp)
    if missing := [name for name in shapes if name not in weights]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{folder} lacks the tensor {missing[0]!r}{more}")
    return weights


def _files(folder: Path) -> dict[Path, set[str] | None]:
    """The files of weights in a folder, each with the tensors that it gives: those of the index, or all of one file.

    A shard may hold more than the index says, left over from an earlier writing of the folder: that is not read.
    """
    if (folder / INDEX).exists():
        paths: dict[Path, set[str] | None] = {}
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            for shard in sorted(set(index.values())):
                paths[folder / shard] = {name for name, where in index.items() if where == shard}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{folder / INDEX} is not an index of shards: {error!r}") from error
    else:
        paths = {folder / WHOLE: None}
    for path in paths:
        if not path.exists():
            expected = f"weights come as {WHOLE}, or as {INDEX} and its shards"
            raise FileNotFoundError(f"{folder} has no {path.name}: {expected}")
    return paths


def _tensors(
    path: Path, listed: set[str] | None, shapes: dict[str, tuple[int, ...]], *, tied: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and float32 arrays of the tensors in a file, each checked against `shapes`; of a shard, those `listed`."""
    with open_safetensors(path) as file:
        places = _places(path)
        for name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
            if listed is not None and name not in listed:
                continue
            if name.endswith(_IGNORED) or (tied and name == "lm_head.weight"):
                continue
            if name not in shapes:
                if name.endswith(_QUANTISED):
                    raise ValueError(f"{path} holds {name!r}, of quantised weights, which only a GGUF file may have")
                raise ValueError(f"{path} holds {name!r}, which a Llama of this configuration does not have")
            view = file.get_slice(name)
            shape, dtype = tuple(view.get_shape()), view.get_dtype()
            if shape != shapes[name] or dtype not in _FLOATS:
                raise ValueError(
                    f"{name!r} in {path} must be {shapes[name]} in one of {_FLOATS}, got {shape} in {dtype}"
                )
            if dtype == "F32":
                tensor = np.require(np.memmap(path, "<f4", "r", places[name], shape), requirements=["A", "E"])
            else:
                tensor = file.get_tensor(name).astype(np.float32)
            if not np.isfinite(tensor).all():
                raise ValueError(f"{name!r} in {path} must be finite, got NaN or Inf")
            yield name, tensor


def _places(path: Path) -> dict[str, int]:
    """Where the tensors of a safetensors file begin, which the library does not say."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")  # of the header, which follows
        header = json.loads(file.read(size))
    return {name: 8 + size + about["data_offsets"][0] for name, about in header.items() if name != "__metadata__"}
