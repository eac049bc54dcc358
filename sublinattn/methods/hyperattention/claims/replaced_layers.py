"""A decoder in which some layers attend approximately: the methods that are compared, and the loss."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from ....core import backends
from ....core.backends import Array, namespace
from ....core.exact import attention, partial_attention
from ....lab.models import Model
from ....lm.attend import Method, replacing
from ..hyper import hyper_attention

HYPER, LOCAL, UNIFORM, ZERO = "hyper practical", "own block", "uniform", "zero"
BEFORE, AFTER = 5.6, 6.3
"""[HA24] Figure 3 and abstract: perplexities of ChatGLM2-6B at 32k tokens, exact and approximate. Their public code
takes 2 to the power of the loss in nats; the ratio of the logarithms does not depend on the base."""


def block(n: int) -> int:
    """Keys per block, and sampled keys: a sixteenth of the tokens, 256 as in [HA24] from 4096 tokens on."""
    return min(256, n // 16)


def methods(n: int, rng: np.random.Generator) -> dict[str, Method]:
    """HyperAttention and what it is to be compared with, for `n` tokens.

    HyperAttention's recursion ends at leaves of two blocks. `LOCAL` is exact within those leaves, without an estimate
    of the keys before them. `UNIFORM` estimates these from as many keys as HyperAttention looks at on average: a block
    and a sample at every other level of its recursion. `ZERO` leaves out the layer's attention.
    """
    leaf = 2 * block(n)
    hyper = partial(hyper_attention, causal=True, block_size=block(n), sample_size=block(n), min_exact=leaf, rng=rng)
    return {
        HYPER: hyper,
        LOCAL: partial(own_block, rows=leaf),
        UNIFORM: partial(uniform_before, rows=leaf, size=block(n) * round(np.log2(n / leaf)), rng=rng),
        ZERO: lambda q, k, v: namespace(v).zeros_like(v),
    }


def own_block(q: Array, k: Array, v: Array, *, rows: int) -> Array:
    """Exact causal attention within consecutive blocks of `rows` tokens: shapes (b, heads, n, d), `rows` divides n."""
    b, heads, n, d = q.shape
    parts = (x.reshape(b, heads * n // rows, rows, d) for x in (q, k, v))
    return attention(*parts, causal=True, check_finite=False).reshape(q.shape)


def uniform_before(q: Array, k: Array, v: Array, *, rows: int, size: int, rng: np.random.Generator) -> Array:
    """As `own_block`, and `size` keys from before the block, drawn uniformly without replacement, stand for all."""
    outs = []
    for start in range(0, q.shape[2], rows):
        part = slice(start, start + rows)
        kept = partial_attention(q[:, :, part], k[:, :, part], v[:, :, part], causal=True, check_finite=False)
        if start:
            chosen = backends.to_device(rng.choice(start, min(size, start), replace=False), namespace(q))
            before = partial_attention(q[:, :, part], k[:, :, chosen], v[:, :, chosen], check_finite=False)
            # Each sampled key stands for start / size keys, in the normaliser and in the product alike.
            before.l, before.o = (x * (start / len(chosen)) for x in (before.l, before.o))
            kept.merge(before)
        outs.append(kept.output())
    return namespace(q).concatenate(outs, axis=2)


def losses(model: Model, tokens: np.ndarray, replaced: Mapping[int, Method] | None = None) -> float:
    """Mean nats per token with these layers replaced."""
    decoder = model.decoder.stretched(len(tokens))
    return float(decoder.losses(tokens, attend=replacing(replaced or {})).mean(dtype=np.float64))
