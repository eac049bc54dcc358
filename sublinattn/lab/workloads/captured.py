"""Queries, keys and values of a whole model in a safetensors file: from `sublinattn capture`, or dumped by a user."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.files import ENTRY, open_safetensors
from .instance import TENSORS, Instance

_FLOATS = ("F16", "BF16", "F32", "F64")


@dataclass(frozen=True)
class Captured:
    """Q, K and V of every layer and head on one text; a head is read when it is asked for.

    Attributes
    ----------
    path : Path
    layers, heads, kv_heads, tokens : int
        Query head h reads the keys and values of head `h // (heads / kv_heads)`.
    scale : float
        Factor of the logits.
    source : str
        Which model and text, as far as the file says.
    params : mapping
        What else the file says of how it was made.
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
        """Look into a file; no row is read.

        It holds q (layers, heads, n, d) and k, v (layers, kv_heads, n, d), or the same of one layer without the first
        axis, in float32, float16 or (with ml_dtypes) bfloat16. The scale is `1/sqrt(d)` unless the file says otherwise.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            It is not a safetensors file, lacks a tensor, or its tensors or what it says of itself do not fit.
        ImportError
            bfloat16 without ml_dtypes (the extra `lm`).
        """
        with open_safetensors(path) as file:
            if missing := [t for t in TENSORS if t not in file.keys()]:  # noqa: SIM118 - a file is no mapping
                raise ValueError(f"{path} lacks the tensors {missing}, it has {sorted(file.keys())}")
            q, k, v = (tuple(file.get_slice(t).get_shape()) for t in TENSORS)
            dtypes = [file.get_slice(t).get_dtype() for t in TENSORS]
            about = _about(path, (file.metadata() or {}).get(ENTRY, "{}"))
        if not set(dtypes) <= set(_FLOATS):
            raise ValueError(f"{path} must hold tensors in one of {_FLOATS}, got {dtypes}")
        lead = q[:-3]
        alike = q[-2:] == k[-2:] and k[:-1] == v[:-1] and k[:-3] == lead
        if len(q) not in (3, 4) or len(k) != len(q) or not alike or 0 in (*q, *k, *v) or q[-3] % k[-3]:
            raise ValueError(
                f"{path} must hold q (layers, heads, n, d), k and v (layers, kv_heads, n, d), kv_heads a divisor of "
                f"heads, got {q}, {k}, {v}"
            )
        return cls(
            path=Path(path),
            layers=lead[0] if lead else 1,
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
        own = head * self.kv_heads // self.heads
        with open_safetensors(self.path) as file:
            found = []
            for tensor, number in zip(TENSORS, (head, own, own), strict=True):
                view = file.get_slice(tensor)
                rows = view[layer, number] if len(view.get_shape()) == 4 else view[number]
                found.append(np.asarray(rows).reshape(self.tokens, -1).astype(np.float32))
        q, k, v = found
        params = {"layer": layer, "head": head}
        return Instance(q, k, v, scale=self.scale, name="captured", params=params, source=self.source)


def _about(path: str | os.PathLike[str], text: str) -> dict[str, Any]:
    """What the file says of how it was made."""
    with suppress(ValueError, TypeError):
        about = json.loads(text)
        if isinstance(about, dict) and np.isfinite(float(about.get("scale", 1.0))):
            return about
    raise ValueError(f"{path} has metadata {ENTRY!r} that is no JSON object with a scale: {text!r}")
