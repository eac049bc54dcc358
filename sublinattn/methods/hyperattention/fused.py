"""HyperAttention on half-precision arrays on a GPU: every step is one launch of the attention kernel.

Source: [HA24] as in `hyper.py`, whose Algorithms 3 and 4 these are, with *practical*. A query's own block, the sinks
and the shared sample are one list of keys with log-weights: 0, 0, and `log((n - |B|) / u)` or, for sampled keys inside
the block, `-inf`. The kernel subtracts each query's largest exponent, so that no logit is too large.

Cost: as in `hyper.py`; beyond inputs and outputs the lists, `2 (b + m) / b` numbers per query, and under a causal mask
a float32 partial, `d + 2` numbers per query.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from ...core import backends, timing
from ...core.attend import attend
from ...core.backends import Array
from ...core.exact import Partial
from ...primitives.sampling import sample_without_replacement
from .exact_keys import ExactKeys
from .hyper import Deliver, Problem
from .own_hash import OwnGroup
from .sort_lsh import THREADS, BlockGroup, SortedBlocks


@dataclass(frozen=True)
class FusedProblem(Problem):
    """`Problem` on arrays that the kernel serves; `deliver` is the kernel, with the arrays that it writes to."""

    tile: int | None = 128  # a thread block of the kernel takes no more

    def full(self, exact_keys: ExactKeys, first: int = 0) -> tuple[Array, Array]:
        out, lse = self._results()
        self.unmasked(exact_keys, partial(attend, self.xp, out=out, lse=lse), first)
        return out.reshape(self.q.shape)[:, first:], lse.reshape(self.q.shape[:2])[:, first:]

    def square(self, exact_keys: ExactKeys) -> tuple[Array, Array]:
        xp, (b, n, d) = self.xp, self.q.shape
        total = Partial.unwritten(xp, b * n, d)
        store = partial(attend, xp, total=total)
        add = partial(store, resume=True)
        self.recurse(exact_keys, store, add)
        out, lse = self._results()
        nothing = self.k[:, :0]  # attention over no more keys normalises
        add(self.q, nothing, nothing, scale=self.scale, out=out, lse=lse)
        return out.reshape(b, n, d), lse.reshape(b, n)

    def _results(self) -> tuple[Array, Array]:
        b, n, d = self.q.shape
        return self.xp.empty((b * n, d), self.q.dtype), self.xp.empty(b * n, np.float32)

    def exact(self, q: Array, k: Array, v: Array, start: np.ndarray, *, causal: bool, deliver: Deliver) -> None:
        """As `Problem.exact`; the queries are rows `start..start + t - 1` of all queries."""
        xp = self.xp
        lap = timing.clock(xp)()
        rows = backends.to_device(start[:, None].astype(np.int32), xp) + xp.arange(q.shape[1], dtype=np.int32)
        deliver(self.rows[0], k, v, scale=self.scale, q_rows=rows, causal=causal)
        lap("exact")

    def estimate(self, blocks: SortedBlocks, sinks: Array, deliver: Deliver) -> None:
        xp, (p, n) = self.xp, blocks.k_order.shape
        lap = timing.clock(xp)()
        places = sample_without_replacement(xp, self.rng, p, n, min(self.sample_size, n))
        lap("sample")
        sink_rows = backends.to_device(sinks.astype(np.int32, copy=False), xp)
        for group in blocks.groups:
            k_rows, log_weights = self._lists(group, blocks, places, sink_rows)
            lap("lists")
            deliver(*self.rows, scale=self.scale, q_rows=group.q_rows, k_rows=k_rows, log_weights=log_weights)
            lap("block and sample")

    def _lists(self, group: BlockGroup, blocks: SortedBlocks, places: Array, sinks: Array) -> tuple[Array, Array]:
        """Row numbers and log-weights of every key that the queries of a block meet, (G, c + sinks + m)."""
        xp, (p, n), (count, c) = self.xp, blocks.k_order.shape, group.k_rows.shape
        m, s = places.shape[1], sinks.shape[1]
        k_rows, log_weights = xp.empty((count, c + s + m), np.int32), xp.empty((count, c + s + m), np.float32)
        first = group.first if isinstance(group, OwnGroup) else group.block * blocks.block_size
        given = (blocks.k_order, places, sinks, backends.to_device(first.astype(np.int32), xp))
        arrays = (xp.ascontiguousarray(x, dtype=np.int32) for x in given)
        sizes = (n, m, s, count // p, c)
        files = ("core/gpu.cuh", "methods/hyperattention/lists.cu")
        kernel = backends.cuda_module(*files, options=(f"-DTHREADS={THREADS}",)).get_function("block_lists")
        kernel((count,), (THREADS,), (*arrays, k_rows, log_weights, *map(np.int32, sizes)))
        return k_rows, log_weights
