"""One attention input: queries, keys, values, the scale, and where they came from. Saved as safetensors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np
import safetensors.numpy

from ...core.backends import asnumpy, to_device
from ...core.files import ENTRY, atomic, open_safetensors

TENSORS = ("q", "k", "v")


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
        What made it (knobs, seed, sizes): JSON values only.
    source : str
        "synthetic", or which model and text the arrays were captured from.

    Raises
    ------
    ValueError
        If the shapes do not fit together, or `scale` is not a positive finite number.
    """

    q: Any
    k: Any
    v: Any
    scale: float
    name: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        q, k, v = (tuple(x.shape) for x in (self.q, self.k, self.v))
        if min(len(q), len(k), len(v)) < 2 or not q[:-2] == k[:-2] == v[:-2] or q[-1] != k[-1] or k[-2] != v[-2]:
            raise ValueError(f"q, k, v must be (..., n_q, d), (..., n_k, d), (..., n_k, d_v), got {q}, {k}, {v}")
        if not (np.isfinite(self.scale) and self.scale > 0):
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
        lead = self.q.shape[:-2]
        if len(index) != len(lead) or not all(-size <= i < size for i, size in zip(index, lead, strict=True)):
            raise ValueError(f"head takes one index for each of the leading axes {tuple(lead)}, got {index}")
        views = {t: getattr(self, t)[index] for t in TENSORS}
        return replace(self, **views, params={**self.params, "head": list(index)})

    def first(self, n: int) -> Instance:
        """The first `n` tokens (views). A captured input keeps what its tokens saw: they were computed in full context.

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

        Shapes and dtypes are kept; scale, name, params and source go into the file's metadata.

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
