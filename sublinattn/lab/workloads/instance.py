"""Attention inputs with their origin: one input in memory (Instance), all heads of a model in a file (Captured)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors.numpy

from ...core import backends, checks
from ...core.backends import asnumpy, to_device
from ...core.files import ENTRY, atomic, open_safetensors

TENSORS = ("q", "k", "v")
_FLOATS = ("F16", "BF16", "F32", "F64")


@dataclass(frozen=True, eq=False)
class Instance:
    """Inputs of one attention call, for one head or for a stack of heads.

    Attributes
    ----------
    q : array, shape (..., n_q, d)
    k : array, shape (..., n_k, d)
    v : array, shape (..., n_k, d_v)
        NumPy or CuPy; the leading axes (batch, layer, head) agree.
    scale : float
        The `s` in `softmax(s Q K^T) V`.
    name : str
        The workload.
    params : mapping
        How it was made (parameters, seed, sizes), as JSON values.
    source : str
        "synthetic", or which model and text the arrays were captured from.

    Raises
    ------
    TypeError, ValueError
        If q, k and v are not arrays of one kind and floating dtype, or their shapes do not fit together; if `scale` is
        not a positive finite number.
    """

    q: Any
    k: Any
    v: Any
    scale: float
    name: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        backends.enter(q=self.q, k=self.k, v=self.v)
        checks.shapes(self.q, self.k, self.v)
        if not isinstance(self.params, Mapping):
            raise TypeError(f"params must be a mapping, got {type(self.params).__name__}")
        if not 0 < checks.real("scale", self.scale) < math.inf:
            raise ValueError(f"scale must be positive and finite, got {self.scale!r}")

    def to(self, xp: ModuleType) -> Instance:
        """The same instance with its arrays in the namespace `xp` (NumPy or CuPy)."""
        return replace(self, **{t: to_device(asnumpy(getattr(self, t)), xp) for t in TENSORS})

    def head(self, *index: int) -> Instance:
        """One head of a stack, `(n, d)` arrays (views): `real().head(layer, head)`.

        Raises
        ------
        ValueError
            If there is not one index for each leading axis, or one is out of range.
        """
        axes = tuple(self.q.shape[:-2])
        if len(index) != len(axes) or not all(-size <= i < size for i, size in zip(index, axes, strict=True)):
            raise ValueError(f"head takes one index for each of the leading axes {axes}, got {index}")
        views = {t: getattr(self, t)[index] for t in TENSORS}
        return replace(self, **views, params={**self.params, "head": list(index)})

    def first(self, n: int) -> Instance:
        """The first `n` tokens (views). Tokens of a captured input were computed in the full context all the same.

        Raises
        ------
        ValueError
            If `n` is not between 1 and the number of tokens.
        """
        longest = min(self.q.shape[-2], self.k.shape[-2])
        if not 1 <= n <= longest:
            raise ValueError(f"n must be between 1 and the {longest} tokens there are, got {n}")
        views = {t: getattr(self, t)[..., :n, :] for t in TENSORS}
        return replace(self, **views, params={**self.params, "n": n})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all; the same instance gives the same bytes.

        Raises
        ------
        TypeError
            If `params` holds something that JSON has no form for.
        """
        try:
            about = {"name": self.name, "scale": float(self.scale), "params": dict(self.params), "source": self.source}
            metadata = {ENTRY: json.dumps(about, sort_keys=True, allow_nan=False)}
        except (TypeError, ValueError) as error:
            raise TypeError(f"params must hold JSON values only: {error}") from None
        tensors = {t: np.ascontiguousarray(asnumpy(getattr(self, t))) for t in TENSORS}
        with atomic(path) as temporary:
            temporary.write_bytes(safetensors.numpy.save(tensors, metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Instance:
        """Read what `save` wrote, as NumPy arrays.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is not a safetensors file, was not written by `save`, lacks a tensor, or its tensors do not fit.
        """
        with open_safetensors(path) as file:
            metadata, names = file.metadata() or {}, set(file.keys())
            if ENTRY not in metadata:
                raise ValueError(f"{path} was not written by Instance.save: it has no {ENTRY!r} metadata")
            if missing := [t for t in TENSORS if t not in names]:
                raise ValueError(f"{path} lacks the tensors {missing}, it has {sorted(names)}")
            tensors = {t: file.get_tensor(t) for t in TENSORS}
        try:
            return cls(**tensors, **json.loads(metadata[ENTRY]))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no valid instance: {error}") from error


@dataclass(frozen=True)
class Captured:
    """Q, K and V of every layer and head of a model on one text, in a safetensors file that is read head by head.

    The file comes from `sublinattn capture`, or from the user. Query head h reads the keys and values of head
    `h // (heads / kv_heads)`. `source` (model and text) and `params` (how the file was made) are empty if it does not
    say.
    """

    path: Path
    layers: int
    heads: int
    kv_heads: int
    tokens: int
    scale: float
    source: str
    params: dict[str, Any]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Captured:
        """Read a file's header; tensors are read by `head`.

        The file holds q (layers, heads, n, d) and k, v (layers, kv_heads, n, d), or one layer without the first axis,
        in float32, float16 or (with ml_dtypes) bfloat16. The scale is `1/sqrt(d)` unless the file says otherwise.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            It is not a safetensors file, lacks a tensor, or its tensors or what it says of itself do not fit.
        ImportError
            bfloat16 without ml_dtypes (the extra `lm`).
        """
        if Path(path).suffix == ".gguf":
            raise ValueError(f"{path} is a model: write what it attends with by `sublinattn capture --model {path}`")
        with open_safetensors(path) as file:
            if missing := [t for t in TENSORS if t not in file.keys()]:  # noqa: SIM118 - a file is no mapping
                names, made_by = sorted(file.keys()), "`sublinattn capture` writes such a file for a model"
                others = f" and {len(names) - 5} more" if len(names) > 5 else ""
                raise ValueError(f"{path} lacks the tensors {missing}, it has {names[:5]}{others}; {made_by}")
            q, k, v = (tuple(file.get_slice(t).get_shape()) for t in TENSORS)
            dtypes = [file.get_slice(t).get_dtype() for t in TENSORS]
            about = _about(path, (file.metadata() or {}).get(ENTRY, "{}"))
        if not set(dtypes) <= set(_FLOATS):
            raise ValueError(f"{path} must hold tensors in one of {_FLOATS}, got {dtypes}")
        alike = q[-2:] == k[-2:] and k[:-1] == v[:-1] and k[:-3] == q[:-3]
        if len(q) not in (3, 4) or len(k) != len(q) or not alike or 0 in (*q, *k, *v) or q[-3] % k[-3]:
            raise ValueError(
                f"{path} must hold q (layers, heads, n, d), k and v (layers, kv_heads, n, d), kv_heads a divisor of "
                f"heads, got {q}, {k}, {v}"
            )
        return cls(
            path=Path(path),
            layers=q[0] if len(q) == 4 else 1,
            heads=q[-3],
            kv_heads=k[-3],
            tokens=q[-2],
            scale=float(about.get("scale", q[-1] ** -0.5)),
            source=str(about.get("source", "")),
            params=about.get("params", {}),
        )

    def head(self, layer: int, head: int) -> Instance:
        """One query head with its keys and values, (n, d) float32.

        Raises
        ------
        ValueError
            If there is no such layer or head.
        """
        if not (0 <= layer < self.layers and 0 <= head < self.heads):
            raise ValueError(f"layer and head must be below {self.layers} and {self.heads}, got {layer} and {head}")
        kv_head = head * self.kv_heads // self.heads
        with open_safetensors(self.path) as file:
            arrays = []
            for tensor, number in zip(TENSORS, (head, kv_head, kv_head), strict=True):
                view = file.get_slice(tensor)
                rows = view[layer, number] if len(view.get_shape()) == 4 else view[number]
                arrays.append(np.asarray(rows).reshape(self.tokens, -1).astype(np.float32))
        q, k, v = arrays
        params = {"layer": layer, "head": head}
        return Instance(q, k, v, scale=self.scale, name="captured", params=params, source=self.source)

    def key_heads(self, places: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Key heads (layer, number), each with the query heads that read it, in float32.

        Returns q (places, heads / kv_heads, n, d), k (places, n, d) and v (places, n, d_v).
        """
        size = self.heads // self.kv_heads
        with open_safetensors(self.path) as file:
            views = [file.get_slice(t) for t in TENSORS]
            whole = len(views[0].get_shape()) == 4
            rows: list[list[np.ndarray]] = [[], [], []]
            for layer, number in places:
                heads = (slice(number * size, (number + 1) * size), number, number)
                for held, view, at in zip(rows, views, heads, strict=True):
                    held.append(np.asarray(view[layer, at] if whole else view[at]).astype(np.float32))
        shapes = ((size, self.tokens, -1), (self.tokens, -1), (self.tokens, -1))
        q, k, v = (np.stack([x.reshape(shape) for x in held]) for held, shape in zip(rows, shapes, strict=True))
        return q, k, v


def _about(path: str | os.PathLike[str], text: str) -> dict[str, Any]:
    """The JSON object in the file's metadata: name, scale, params and source."""
    with suppress(ValueError, TypeError):
        about = json.loads(text)
        if isinstance(about, dict) and np.isfinite(float(about.get("scale", 1.0))):
            return about
    raise ValueError(f"{path} has metadata {ENTRY!r} that is no JSON object with a scale: {text!r}")
