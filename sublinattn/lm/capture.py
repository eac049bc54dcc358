"""Capture a decoder's queries, keys and values on a text, in a file that is written while the text is processed.

The text goes through the model in chunks, and the file itself is the key-value cache: keys and values of earlier chunks
are read back from it. Memory does not depend on the length of the text: it holds the weights, the hidden states of one
chunk, and one block of keys and values (the file is memory-mapped, so the system may drop its pages).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..core import backends
from ..core.backends import Array
from ..core.exact import partial_attention
from ..core.files import ENTRY, atomic
from .decoder import Decoder
from .tokens import checked

CHUNK = 2048
"""Tokens that go through the model at once."""
BLOCK = 8192
"""Earlier tokens that are read back at once."""
DTYPES = {"float16": "F16", "float32": "F32"}
"""NumPy's names of the dtypes of a captured file, and safetensors' names."""


def capture(
    decoder: Decoder,
    tokens: np.ndarray,
    path: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    source: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write q (layers, heads, n, d) and k, v (layers, kv_heads, n, d), queries and keys after their rotation.

    The file is a safetensors file, written whole or not at all. `sublinattn audit` reads it, and so does
    `Instance.load` where heads and kv_heads are equal.

    Parameters
    ----------
    decoder : Decoder
        Attends exactly; its context must be n or more (`Decoder.stretched`).
    tokens : integer array, shape (n,)
        The text.
    path : path
        Where to write.
    dtype : {"float32", "float16"}
        Dtype of the tensors in the file. With float16, keys and values of earlier chunks are rounded when read back.
    source : str
        Which model and text; written into the file.
    progress : callable
        `progress(done, total)` is called after each chunk with numbers of tokens.

    Raises
    ------
    TypeError, ValueError
        As `Decoder.logits`, before any work; several texts; more tokens than the context; another dtype; numbers that
        float16 cannot hold.
    OSError
        The disk has no room for the file, before any work; nothing is left of it.

    Notes
    -----
    `O(n^2 d)` operations per head: exact attention.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sublinattn.lab.models import open_model
    >>> from sublinattn.lab.workloads import Instance
    >>> from sublinattn.lm.capture import capture
    >>> model = open_model()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     capture(model.decoder, model.beginning(64), Path(folder) / "qkv.safetensors")
    ...     captured = Instance.load(Path(folder) / "qkv.safetensors")
    >>> captured.q.shape
    (4, 4, 64, 64)
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {tuple(DTYPES)}, got {dtype!r}")
    config = decoder.config
    if len(checked(tokens, config.vocabulary)) > 1:
        raise ValueError(f"tokens must be those of one text, shape (n,), got {np.shape(tokens)}")
    tokens = np.ravel(tokens)
    n = len(tokens)
    if n > config.context:
        raise ValueError(f"tokens must be at most the model's context ({config.context}), got {n}")
    heads = {"q": config.heads, "k": config.kv_heads, "v": config.kv_heads}
    shapes = {name: (config.layers, count, n, config.head_dim) for name, count in heads.items()}
    about = {
        "name": "captured",
        "scale": config.head_dim**-0.5,
        "params": {"context": config.context, "trained_context": decoder.trained},
        "source": source,
    }
    with atomic(path) as temporary:
        arrays = create(temporary, shapes, dtype, about)
        for start in range(0, n, CHUNK):
            attend = partial(_recorded, decoder.xp, arrays, start)
            decoder.logits(tokens[start : start + CHUNK], attend=attend, start=start, last=1)
            progress(min(start + CHUNK, n), n)
        for array in arrays.values():
            array.flush()


def _recorded(xp: Any, arrays: dict[str, np.memmap], start: int, layer: int, q: Array, k: Array, v: Array) -> Array:
    """Exact attention of the chunk at `start`, which goes to the file; earlier keys and values come from there."""
    store(arrays, layer, start, {name: backends.asnumpy(x[0]) for name, x in (("q", q), ("k", k), ("v", v))})
    total = partial_attention(q, k, v, causal=True, grouped=True, check_finite=False)
    for past in backends.cut(start, BLOCK):
        earlier = (arrays[name][layer, None, :, past].astype(np.float32) for name in "kv")
        k, v = (backends.to_device(x, xp) for x in earlier)
        total.merge(partial_attention(q, k, v, grouped=True, check_finite=False))
    return total.output()


def store(arrays: Mapping[str, np.memmap], layer: int, start: int, rows: Mapping[str, np.ndarray]) -> None:
    """Write a layer's rows (heads, c, d) from token `start` on into the file that `create` made.

    ValueError where its dtype cannot hold them.
    """
    for name, x in rows.items():
        with np.errstate(over="ignore"):
            stored = x.astype(arrays[name].dtype)
        if not np.isfinite(stored).all():
            raise ValueError(f"{name} of layer {layer} does not fit in {stored.dtype}: write it as float32")
        arrays[name][layer, :, start : start + x.shape[1]] = stored


def create(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str, about: dict) -> dict[str, np.memmap]:
    """Create a safetensors file of zeros and map its tensors for writing: the library writes only arrays in memory.

    `dtype` is one of `DTYPES`. OSError where the disk has no room.
    """
    item, offset = np.dtype(dtype).itemsize, 0
    header: dict = {"__metadata__": {ENTRY: json.dumps(about, sort_keys=True)}}
    for name, shape in shapes.items():
        end = offset + item * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    # The format: the header's length in 8 bytes, the header in JSON, the tensors one after another.
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        size = 8 + len(text) + offset
        if hasattr(
            os, "posix_fallocate"
        ):  # a hole in the file would be a bus error when the disk is full, not an OSError
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    return {
        name: np.memmap(path, dtype, "r+", 8 + len(text) + header[name]["data_offsets"][0], shape)
        for name, shape in shapes.items()
    }
