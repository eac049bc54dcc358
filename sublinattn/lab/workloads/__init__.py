"""Attention inputs by name: synthetic ones, streams of tokens, and one captured from a trained encoder."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ...core import checks
from ...core.names import suggestion
from .instance import Instance
from .synthetic import (
    Arrays,
    Rng,
    alpha,
    clustered,
    compressible,
    gaussian,
    heavy_values,
    index,
    kappa,
    planted,
    sinks,
)
from .token_streams import clusterable, drifting, needles

__all__ = ["Instance", "make", "names", "real"]

_SYNTHETIC: dict[str, Callable[..., Arrays]] = {
    f.__name__: f
    for f in (
        gaussian, clustered, planted, sinks, alpha, kappa, heavy_values, compressible, index,
        clusterable, drifting, needles,
    )
}  # fmt: skip


def names() -> tuple[str, ...]:
    """Names of the workloads that `make` knows.

    Examples
    --------
    >>> from sublinattn.lab.workloads import names
    >>> names()[:4]
    ('gaussian', 'clustered', 'planted', 'sinks')
    """
    return (*_SYNTHETIC, "real")


def make(
    name: str,
    n: int,
    d: int,
    *,
    rng: None | int | Rng,
    d_v: int | None = None,
    dtype: DTypeLike = np.float32,
    scale: float | None = None,
    **knobs: Any,
) -> Instance:
    """Draw one head of a workload, as NumPy arrays: q and k of shape (n, d), v of shape (n, d_v).

    Parameters
    ----------
    name : str
        One of `names()`.
    n, d : int
        Tokens and head dimension.
    rng : None, int or numpy.random.Generator
        The same seed gives the same arrays; "real" draws nothing.
    d_v : int, optional
        Columns of the values, `d` by default.
    dtype : floating dtype
        Dtype of the result; draws are made in float64.
    scale : float, optional
        `1/sqrt(d)` by default. Only in "gaussian", "clustered", "clusterable" and "drifting" do logits depend on it.
    **knobs
        The workload's parameters: the keyword arguments of the function of that name in `synthetic` or `token_streams`.

    Raises
    ------
    ValueError
        If the workload or a parameter does not exist, or a value is out of range; the message lists what exists.

    Notes
    -----
    O(n (d + d_v)) time and memory.

    Examples
    --------
    >>> from sublinattn.lab.workloads import make
    >>> x = make("clustered", 512, 16, rng=0)
    >>> x.q.shape, x.q.dtype.name, x.scale
    ((512, 16), 'float32', 0.25)
    """
    if not isinstance(name, str) or name not in names():
        nearest = suggestion(name, names()) if isinstance(name, str) else ""
        raise ValueError(f"name must be that of a workload, {', '.join(names())}, got {name!r}{nearest}")
    sizes = {"n": n, "d": d, "d_v": d if d_v is None else d_v}
    for key, size in sizes.items():
        checks.count(key, size)
    sizes = {key: int(size) for key, size in sizes.items()}  # products of small integers of NumPy's overflow
    for key, size in sizes.items():
        checks.fits_memory(key, size, 8 * sizes["n"] * size if key != "n" else 8 * size)
    try:
        kind = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype must be a floating dtype, got {dtype!r}") from None
    if kind.kind != "f":
        raise ValueError(f"dtype must be a floating dtype, got {kind}")
    s = 1 / np.sqrt(d) if scale is None else scale
    checks.between("scale", s, 0, open_ends=True)
    draw = _SYNTHETIC.get(name, _real_head)
    defaults = {p.name: p.default for p in inspect.signature(draw).parameters.values() if p.kind is p.KEYWORD_ONLY}
    if unknown := sorted(set(knobs) - set(defaults)):
        known = ", ".join(f"{key}={value}" for key, value in defaults.items())
        nearest = suggestion(unknown[0], defaults)
        raise ValueError(f"workload {name!r} has no knob {', '.join(unknown)}; it has {known}{nearest}")

    knobs = {key: x.item() if isinstance(x, np.generic) else x for key, x in knobs.items()}
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found afterwards
        drawn = draw(checks.generator(rng), *sizes.values(), s, **knobs)
        q, k, v = (x.astype(dtype) for x in drawn)
    if not all(np.isfinite(x).all() for x in (q, k, v)):
        given = ", ".join(f"{key}={value}" for key, value in {**knobs, "scale": scale}.items())
        raise ValueError(f"q, k and v must fit in {kind}: {given} makes numbers that are too large")
    made_with = {**sizes, **defaults, **knobs, "seed": int(rng) if isinstance(rng, int | np.integer) else None}
    return Instance(
        q,
        k,
        v,
        scale=float(s),
        name=name,
        params=made_with,
        source=real().source if name == "real" else "synthetic",
    )


def real() -> Instance:
    """Queries, keys and values of every layer and head of the encoder all-MiniLM-L6-v2 on one text, from a file.

    q, k, v are float16 of shape (6, 12, 512, 32): layer, head, token, head dimension. Tokens 0 and 511 are the
    encoder's [CLS] and [SEP]. The encoder is not causal. `sublinattn/data/README.md` says how the file was made.

    Examples
    --------
    >>> from sublinattn.lab.workloads import real
    >>> real().q.shape
    (6, 12, 512, 32)
    >>> real().head(2, 5).q.shape
    (512, 32)
    """
    with resources.as_file(resources.files("sublinattn") / "data" / "minilm.safetensors") as path:
        return Instance.load(path)


def _real_head(rng: Rng, n: int, d: int, d_v: int, s: float, *, layer: int = 0, head: int = 0) -> Arrays:
    """The first n tokens of one head of `real()`."""
    stack = real()
    here = stack.q.shape[-1]
    if (d, d_v) != (here, here) or not np.isclose(s, stack.scale):
        raise ValueError(f"the real input has d = d_v = {here} and scale 1/sqrt({here}), got {d}, {d_v} and {s:.4g}")
    one = stack.head(layer, head).first(n)
    return one.q, one.k, one.v
