"""The causal recursion seen directly: which entries each level handles, and the error it leaves at each position [HA24,
Algorithm 4]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ....core.backends import asnumpy, to_device
from ....core.exact import attention
from ....lab.run import Run
from ....lab.workloads.inputs import CLUSTERED, GAUSSIAN_MEAN
from ..hyper import Deliver, Problem, hyper_attention
from ..sort_lsh import SortedBlocks


@dataclass(frozen=True)
class RecordingProblem(Problem):
    """HyperAttention on one problem that notes which step handles an entry of A, in two (n, n) arrays.

    Attributes
    ----------
    level : numpy array of int
        0 for the leaves, then the level of the recursion; -1 for entries that are never looked at.
    computed : numpy array of bool
        Whether the entry is exact.
    """

    level: np.ndarray
    computed: np.ndarray

    def exact(self, q: Any, k: Any, v: Any, start: np.ndarray, *, causal: bool, deliver: Deliver) -> None:
        size = q.shape[1]
        for first in start:
            inside = slice(first, first + size), slice(first, first + size)
            self.level[inside] = np.where(np.tri(size, dtype=bool), 0, self.level[inside])
            self.computed[inside] |= np.tri(size, dtype=bool)
        super().exact(q, k, v, start, causal=causal, deliver=deliver)

    def estimate(self, blocks: SortedBlocks, sinks: np.ndarray, deliver: Deliver) -> None:
        depth = self.level.max() + 1
        for q_rows, k_rows in zip(asnumpy(blocks.q_order), asnumpy(blocks.k_order), strict=True):
            self.level[np.ix_(q_rows, k_rows)] = depth
        for group in blocks.groups:
            for q_rows, k_rows in zip(asnumpy(group.q_rows), asnumpy(group.k_rows), strict=True):
                self.computed[np.ix_(q_rows, k_rows)] = True
        super().estimate(blocks, sinks, deliver)


def recursion_map(run: Run, *, n: int, leaf: int, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Level (n, n) that handles each entry, leaves 0, masked -1; and whether it is exact: in a leaf, or in a block
    of the sortLSH mask.

    `n` must be `leaf` times a power of two, so that a level is one batch.
    """
    if n % leaf or (n // leaf) & (n // leaf - 1):
        raise ValueError(f"n must be leaf = {leaf} times a power of two, got {n}")
    xp, rng = run.xp, run.rng("map")
    x = CLUSTERED.draw(n, 64, rng)
    q, k, v = (to_device(a[None].astype(np.float32), xp) for a in (x.q, x.k, x.v))
    recording = RecordingProblem(
        xp, q, k, v, scale=x.scale, shift=True, block_size=block_size, sample_size=block_size, min_exact=leaf, rng=rng,
        level=np.full((n, n), -1), computed=np.zeros((n, n), bool),
    )  # fmt: skip
    recording.causal(0)
    return recording.level, recording.computed


def level_shares(level: np.ndarray, exact: np.ndarray) -> pd.DataFrame:
    """Visible entries of each level, and the share of them that is exact: level, entries, exact_share."""
    rows = [(int(i), int((level == i).sum()), float(exact[level == i].mean())) for i in range(level.max() + 1)]
    return pd.DataFrame(rows, columns=["level", "entries", "exact_share"])


def columns_touched(n: int, leaf: int, per_level: int) -> np.ndarray:
    """Key columns that the recursion touches for each query: its leaf up to itself, and `per_level` for each `A21` it
    lies in."""
    position = np.arange(n)
    levels = np.array([int(p // leaf).bit_count() for p in position])  # a 1 bit: in the later half of that node
    return position % leaf + 1 + levels * per_level


def _uniform_causal(logits: np.ndarray, v: np.ndarray, budget: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exact attention of query i over `budget[i]` keys drawn uniformly from 0..i: the first of them in one random order
    of all keys."""
    n = len(logits)
    order = rng.permutation(n)
    visible = order[None, :] <= np.arange(n)[:, None]
    chosen = visible & (np.cumsum(visible, axis=1) <= budget[:, None])
    a = np.exp(logits[:, order] - logits.max(axis=1, keepdims=True)) * chosen
    return a @ v[order] / np.maximum(a.sum(axis=1, keepdims=True), 1e-300)


def error_by_position(run: Run) -> pd.DataFrame:
    """Error of each output row under the causal mask, for HyperAttention and the yardsticks at the same number of
    key columns.

    Returns
    -------
    DataFrame
        input, n, leaf, method, replicate, position (middle of a bin), error: root mean square over the bin's rows of
        `||out_i - (P V)_i||`, relative to the root mean square row of V.
    """
    xp = run.xp
    n, replicates = run.pick(smoke=(2048, 4), standard=(4096, 10), full=(8192, 10))
    leaf, block_size = n // 16, 32
    edges = np.unique(
        np.concatenate([np.geomspace(16, leaf, 6), np.arange(leaf, n + 1, leaf // 2)]).round().astype(int)
    )
    edges[0] = 0
    rows = []
    for what in (GAUSSIAN_MEAN, CLUSTERED):
        for replicate in range(replicates):
            rng = run.rng("position", what.label, replicate)
            x = what.draw(n, 64, rng, xp)
            q, k, v = (asnumpy(a).astype(np.float64) for a in (x.q, x.k, x.v))
            exact = attention(q, k, v, causal=True, scale=x.scale)
            arrays: dict[str, Any] = {"causal": True, "scale": x.scale}
            how: dict[str, Any] = {"block_size": block_size, "sample_size": block_size, "min_exact": leaf, "rng": rng}
            uniform = _uniform_causal(x.scale * (q @ k.T), v, columns_touched(n, leaf, 2 * block_size), rng)
            outputs = {
                "hyper practical": hyper_attention(x.q, x.k, x.v, **arrays, **how),
                "uniform": uniform.astype(np.float32),
                "zero": np.zeros_like(exact),
                "exact": attention(x.q, x.k, x.v, **arrays),
            }
            unit = np.sqrt((v**2).sum(axis=1).mean())
            for method, out in outputs.items():
                squares = ((asnumpy(out) - exact) ** 2).sum(axis=1)
                for low, high in zip(edges[:-1], edges[1:], strict=True):
                    error = float(np.sqrt(squares[low:high].mean()) / unit)
                    rows.append((what.label, n, leaf, method, replicate, (low + high) / 2, error))
    return pd.DataFrame(rows, columns=["input", "n", "leaf", "method", "replicate", "position", "error"])
