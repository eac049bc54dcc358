"""The caches of `registry` in a decoder, in equal bytes: one for each layer, and the yardsticks beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core.backends import Array, asnumpy
from ...lm.retrieval import Document
from ...methods.caches.base import KVCache
from ...methods.caches.exact import ExactCache, ZeroCache
from ...methods.caches.k_center import KCenterCache
from ..models import Model
from ..workloads.instance import Instance
from .documents import pieces
from .registry import competing, row_bytes


class ClusteredOnce(KCenterCache):
    """Greedy k-center of the prompt, once, and the last tokens, as in the experiments of [SG24].

    Tokens after the prompt only pass through the window.
    """

    def _chosen(self, xp: Any, k: Array) -> np.ndarray:
        if self.tokens_seen > self.budget:  # the prompt has been clustered, and its centers come first
            return np.tile(np.arange(self.budget - self.recent), (len(k), 1))
        return super()._chosen(xp, k)


def first_tokens(model: Model, document: Document) -> list[Instance]:
    """Key and value of a document's first token, which is the same for all, in the head of each layer with the
    shortest key.
    """
    k, v = (asnumpy(x) for x in model.qkv(pieces(model, document)[0][:1])[1:])
    heads = np.linalg.norm(k[:, :, 0], axis=-1).argmin(axis=1)
    return [Instance(k[i, h], k[i, h], v[i, h], scale=1.0) for i, h in enumerate(heads)]


def caches_within(first: Sequence[Instance], nbytes: int, rng: np.random.Generator) -> dict[str, list[KVCache]]:
    """Empty caches of at most `nbytes` for each key-value head of each layer, by method: one per layer.

    SubGen starts from the `first_tokens`. "exact" and "zero" have no budget.
    """
    layers = [competing(nbytes, x, rng) for x in first]
    tokens = nbytes // row_bytes(first[0])
    return {
        "exact": [ExactCache() for _ in layers],
        "zero": [ZeroCache() for _ in layers],
        **{name: [made[name] for made in layers] for name in layers[0]},
        "k-center": [ClusteredOnce(tokens, tokens // 2) for _ in layers],
    }
