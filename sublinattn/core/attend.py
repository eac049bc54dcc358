"""Attention over lists of rows in half precision on a GPU: one CUDA kernel (`attend.cu`) under every method here.

Source: [RS21] Rabe, Staats, *Self-attention does not need O(n^2) memory*, arXiv 2112.05682, Section 2, on tensor cores.
It takes float16 and bfloat16 arrays of head dimension 32, 64, 96, 128 or 256 (`d = d_v`) on NVIDIA GPUs of compute
capability 8.0 and later. Everything else (float32, float64, other dimensions, the CPU) takes the tiles of `exact.py`.

Cost: `O(G t c d)` operations for G groups of t queries and c keys; no memory beyond its results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from . import backends
from .backends import Array

if TYPE_CHECKING:
    from .exact import Partial

DIMENSIONS = (32, 64, 96, 128, 256)
TYPES = {"float16": "Float16", "bfloat16": "BFloat16"}  # of a dtype: the class in gpu.cuh
SOURCES = ("core/gpu.cuh", "core/attend.cu")

Launch = Callable[[int, int, tuple[Any, ...]], None]
"""Runs the kernel for a number of groups, queries in each, and the kernel's arguments."""


def build(dtype: str, d: int) -> Any:
    """The module whose function `attend` is the kernel for a dtype and head dimension, on the GPU in use."""
    return backends.cuda_module(*SOURCES, options=(f"-DT={TYPES[dtype]}", f"-DD={d}"))


@functools.cache
def _compiled(dtype: str, d: int, device: int) -> Launch | None:
    """The kernel for a dtype and head dimension on a GPU; None where that GPU cannot run it."""
    capability, memory = backends.device_limits(device)
    if capability < 80:  # mma.sync of bfloat16, cp.async
        return None
    module = build(dtype, d)
    rows, threads, shared = backends.cuda_constants(module, "SHAPE", 3)
    if shared > memory:
        return None
    kernel = module.get_function("attend")
    kernel.max_dynamic_shared_size_bytes = shared

    def launch(groups: int, t: int, arguments: tuple[Any, ...]) -> None:
        kernel((groups * -(-t // rows),), (threads,), arguments, shared_mem=shared)

    return launch


LAUNCHERS: dict[str, Callable[[str, int], Launch | None]] = {
    "cupy": lambda dtype, d: _compiled(dtype, d, backends.current_device())
}
"""Where the kernel runs, by the name of the array library; the tests add a build for the CPU."""


def serves(xp: Any, *arrays: Array) -> bool:
    """Whether `attend` takes these queries, keys and values: their dtype, their dimension, and where they are."""
    if xp.__name__ not in LAUNCHERS:
        return False
    d, dtype = arrays[0].shape[-1], str(arrays[0].dtype)
    if d not in DIMENSIONS or dtype not in TYPES:
        return False
    alike = all(x.shape[-1] == d and str(x.dtype) == dtype for x in arrays)
    return alike and LAUNCHERS[xp.__name__](dtype, d) is not None


def attend(
    xp: Any,
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    q_rows: Array | None = None,
    k_rows: Array | None = None,
    log_weights: Array | None = None,
    causal: bool = False,
    total: Partial | None = None,
    resume: bool = False,
    out: Array | None = None,
    lse: Array | None = None,
) -> None:
    """Attention of groups of queries over lists of keys, written to `total`, or normalised to `out`.

    Parameters
    ----------
    q : array, shape (G, t, d), or (N, d) with `q_rows`
        Queries that `serves` accepts. No query may be in two groups of one call.
    k, v : array, shape (G', c, d), or (N_k, d) with `k_rows`
        Keys and values. G is a multiple of G'; as many groups in a row as that says share one list of keys.
    scale : float
        Factor of the logits.
    q_rows, k_rows : array of int32, shapes (G, t) and (G', c), optional
        Row numbers; without them, groups have the rows of q or k in order. Negative numbers at the end of a group of
        queries are no queries.
    log_weights : array of float32, shape (G, c), optional
        Key j counts `exp(log_weights[g, j])` times for the queries of group g; `-inf` leaves it out.
    causal : bool
        Query i of a group sees keys 0..i of its list.
    total : Partial, of float32 arrays (N,), (N,), (N, d), optional
        Indexed like the rows of q. Read as what the queries have seen before if `resume`; written if `out` is None.
    out : array, shape (N, d), of q's dtype, optional
        The answers `o / l`; 0 where no key counts.
    lse : array of float32, shape (N,), optional
        Log of the normalisers.

    Raises
    ------
    ValueError
        A scale past the largest float32.
    """
    if abs(scale) > float(np.finfo(np.float32).max):
        raise ValueError(f"scale must fit in float32 for arrays in half precision on a GPU, got {scale:.3g}")
    groups, t = q.shape[:2] if q_rows is None else q_rows.shape
    lists, c = k.shape[:2] if k_rows is None else k_rows.shape
    d = q.shape[-1]
    if not groups or not t:
        return
    launch = LAUNCHERS[xp.__name__](str(q.dtype), d)
    assert launch is not None, "serves() is asked first"
    state = (None, None, None) if total is None else (total.m, total.l, total.o)
    inputs = [backends.aligned(xp, x) for x in (q, k, v)]
    index = [None if x is None else xp.ascontiguousarray(x, dtype=np.int32) for x in (q_rows, k_rows)]
    weights = None if log_weights is None else xp.ascontiguousarray(log_weights, dtype=np.float32)
    arrays = (*inputs, *index, weights, *state, out, lse)
    sizes = (np.int32(t), np.int32(c), np.int32(groups // max(lists, 1)), np.float32(scale))
    launch(groups, t, (*(np.uint64(0) if x is None else x for x in arrays), *sizes, np.int32(causal), np.int32(resume)))
