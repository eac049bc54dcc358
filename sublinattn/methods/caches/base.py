"""What all key-value caches share: one protocol, its checks, and its boundary."""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np

from ...core import backends, checkpoint, checks
from ...core.backends import Array


class KVCache:
    """Keys and values come in, queries are answered from what is kept; `caches` and `subgen` say what that is.

    A subclass keeps its arrays in `_held` and implements `_about`, `_absorb` and `_attend`; `_state` and the methods
    after it where that is not all. What a cache holds, what it costs in bytes and what a checkpoint contains are one.

    Attributes
    ----------
    tokens_seen : int
        Tokens so far (of each problem, where there are leading axes).
    nbytes : int
        Bytes of all arrays that the cache holds.
    """

    def __init__(self) -> None:
        self.tokens_seen = 0
        self._held: dict[str, Array] = {}
        self._lead: tuple[int, ...] = ()
        self._width: dict[str, int] = {}  # of the rows of k and v, once they are known, as is their dtype
        self._dtype: np.dtype | None = None

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._about().items())
        return f"<{type(self).__name__}({given}): {self.tokens_seen} tokens seen, {self.nbytes} bytes>"

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays that the cache holds."""
        return sum(int(x.nbytes) for x in self._arrays())

    def update(self, k: Array, v: Array, *, check_finite: bool = True) -> Self:
        """Absorb one key and value, `(d,)` and `(d_v,)`, or a chunk, `(..., c, d)` and `(..., c, d_v)`; returns self.

        Parameters
        ----------
        k, v : array
            NumPy, CuPy, PyTorch or JAX. Leading axes (batch, heads) are separate problems, alike in every chunk: one
            token of each of h heads has shape (h, 1, d), as (h, d) it is h tokens of one head.
        check_finite : bool
            Refuse NaN and Inf.

        Raises
        ------
        TypeError, ValueError
            As `attention`; another width, dtype, device or other leading axes than before. The cache is then as it was.
        """
        xp, (k, v), _ = backends.enter(k=k, v=v)
        k, v = (x.reshape(1, -1) if x.ndim == 1 else x for x in self._rows(k=k, v=v))
        if k.shape[:-1] != v.shape[:-1]:
            raise ValueError(f"v must have the leading axes and rows of k, {tuple(k.shape[:-1])}, got {tuple(v.shape)}")
        lead, width = tuple(k.shape[:-2]), {"k": k.shape[-1], "v": v.shape[-1]}
        dtype = backends.working_dtype(k)
        if self._dtype is not None and dtype != self._dtype:
            raise TypeError(f"k must have the dtype of what is held ({self._dtype}), got {dtype}")
        k, v = (xp.ascontiguousarray(x.astype(dtype, copy=False)).reshape(-1, *x.shape[-2:]) for x in (k, v))
        self._check_rows(xp, check_finite, k=k, v=v)
        self._follow(xp, "k")
        self._lead, self._width, self._dtype = lead, width, dtype
        self._absorb(xp, k, v)
        self.tokens_seen += k.shape[1]
        return self

    def attend(self, q: Array, *, scale: float | None = None, check_finite: bool = True) -> Any:
        """Answer one query `(d,)` or a chunk `(..., c, d)` from all tokens so far.

        Parameters
        ----------
        q : array
            Queries, with the leading axes of the keys.
        scale : float, optional
            Factor of the logits; `1/sqrt(d)` by default.
        check_finite : bool
            Refuse NaN and Inf.

        Returns
        -------
        array, shape (d_v,) or (..., c, d_v)
            Of the caller's kind, device and dtype.

        Raises
        ------
        TypeError, ValueError
            As `attention`; no tokens yet; another width, dtype, device or other leading axes than the keys'.
        """
        if not self.tokens_seen:
            raise ValueError("attend needs a cache with tokens, got an empty one: call update first")
        xp, (q,), leave = backends.enter(q=q)
        (rows,) = self._rows(q=q)
        dtype = backends.working_dtype(q)
        if dtype != self._dtype:
            raise TypeError(f"q must have the dtype of the keys ({self._dtype}), got {dtype}")
        scale = checks.resolve_scale(scale, self._width["k"])
        rows = xp.ascontiguousarray(rows.astype(dtype, copy=False))
        rows = rows.reshape(-1, 1 if q.ndim == 1 else q.shape[-2], q.shape[-1])
        checks.largest_norms(xp, check_finite, q=rows)
        self._follow(xp, "q")
        out = self._attend(xp, rows, scale)
        return leave(out.reshape(*q.shape[:-1], self._width["v"]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the cache to a file, whole or not at all; it continues from there with the same draws."""
        about = {
            "parameters": self._about(),
            "state": self._state(),
            "tokens_seen": self.tokens_seen,
            "lead": self._lead,
            "width": self._width,
            "dtype": self._dtype and str(self._dtype),
        }
        checkpoint.write(
            path, type(self).__name__, about, {name: backends.asnumpy(x) for name, x in self._saved().items()}
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote: the cache continues on the device of the next rows.

        Raises
        ------
        FileNotFoundError, ValueError
            No such file, or not a whole cache of this class.
        """
        about, arrays = checkpoint.read(path, cls.__name__)
        cache = cls(**about["parameters"])
        cache.tokens_seen, cache._lead, cache._width = about["tokens_seen"], tuple(about["lead"]), about["width"]
        cache._dtype = None if about["dtype"] is None else np.dtype(about["dtype"])
        cache._restore(about["state"], arrays)
        return cache

    # ------------------------------------------------------------------------------------------- what a subclass says
    def _about(self) -> dict[str, Any]:
        """Keyword arguments that make a cache like this one, as JSON values; no rng."""
        raise NotImplementedError

    def _state(self) -> dict[str, Any]:
        """What else it is but arrays, as JSON values."""
        return {}

    def _saved(self) -> dict[str, Array]:
        """Arrays that a checkpoint takes."""
        return self._held

    def _restore(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take back what `_state()` and `_saved()` gave."""
        self._held = arrays

    def _arrays(self) -> list[Array]:
        """All arrays that are held."""
        return list(self._held.values())

    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        """Take rows k (B, c, d), v (B, c, d_v), contiguous, in the working dtype; `tokens_seen` is from before them."""
        raise NotImplementedError

    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        """Answers (B, c, d_v) to queries (B, c, d)."""
        raise NotImplementedError

    def _check_rows(self, xp: Any, check_finite: bool, k: Array, v: Array) -> None:
        """Refuse rows before anything changes."""
        checks.largest_norms(xp, check_finite, k=k, v=v)

    # ------------------------------------------------------------------------------------------------------ the checks
    def _rows(self, **named: Array) -> list[Array]:
        """The arrays, as long as they fit what came before."""
        for name, x in named.items():
            width = self._width.get("v" if name == "v" else "k", x.shape[-1] if x.ndim else 0)
            lead = self._lead if self.tokens_seen else tuple(x.shape[:-2])
            said = f"({width},) or " * (not lead) + "(" + "".join(f"{size}, " for size in lead) + f"c, {width})"
            if not x.ndim or x.shape[-1] != width or tuple(x.shape[:-2]) != lead or (x.ndim == 1 and lead):
                raise ValueError(f"{name} must have shape {said}, got {tuple(x.shape)}")
            if 0 in x.shape:
                raise ValueError(f"{name} must not be empty, got shape {tuple(x.shape)}")
        return list(named.values())

    def _follow(self, xp: Any, name: str) -> None:
        """The state's arrays on the device of the new rows."""
        self._held = dict(zip(self._held, backends.follow(xp, name, *self._held.values()), strict=True))

    def _check_mergeable(self, other: Any) -> None:
        """Refuse what cannot be merged into this cache."""
        if type(other) is not type(self):
            raise TypeError(f"other must be a {type(self).__name__}, got {type(other).__name__}")
        if other is self:
            raise ValueError("other must be another cache, got this one")
        if self._width and other._width:
            tokens = self.tokens_seen and other.tokens_seen
            mine, its = ((c._lead if tokens else (), c._width, str(c._dtype)) for c in (self, other))
            if mine != its:
                raise ValueError(f"other must have this cache's leading axes, widths and dtype {mine}, got {its}")
