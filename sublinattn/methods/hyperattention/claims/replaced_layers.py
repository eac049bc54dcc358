"""A decoder in which some layers attend approximately: the methods that are compared, and the loss."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from ....core import backends
from ....core.backends import Array, namespace
from ....core.exact import Partial, attention, partial_attention
from ....lab.models import Model
from ....lm.attend import Method, replacing
from ..hyper import hyper_attention

HYPER, LOCAL, WINDOW, UNIFORM, ZERO = "hyper practical", "own block", "sinks", "uniform", "zero"
SINKS = 4
"""First keys that `WINDOW` keeps, as [SINK24] does, and that HyperAttention computes exactly in `HYPER_SINKS`."""
BEFORE, AFTER = 5.6, 6.3
"""[HA24] Figure 3 and abstract: perplexities of ChatGLM2-6B at 32k tokens, exact and approximate. Their public code
takes 2 to the power of the loss in nats; the ratio of the logarithms does not depend on the base."""


def hyper_exempting(keys: int) -> str:
    """Name of HyperAttention with the first `keys` keys in every query's exact part."""
    return f"{HYPER}, first {keys} exact" if keys else HYPER


HYPER_SINKS = hyper_exempting(SINKS)


def block(n: int) -> int:
    """Keys per block, and sampled keys: a sixteenth of the tokens, 256 as in [HA24] from 4096 tokens on."""
    return min(256, n // 16)


def methods(n: int, rng: np.random.Generator) -> dict[str, Method]:
    """HyperAttention and what it is to be compared with, for `n` tokens.

    HyperAttention's recursion ends at leaves of two blocks; it is there with no, 1, 4 and 64 first keys exact. `LOCAL`
    is exact within those leaves, without an estimate of the keys before them. HyperAttention looks at a block of keys
    on average within its leaf, and at a block and a sample at every other level of its recursion: `UNIFORM` estimates
    the keys before a leaf from as many drawn uniformly, `WINDOW` sees as many last keys, and the first 4. `ZERO` leaves
    out the layer's attention.
    """
    b = block(n)
    leaf, levels = 2 * b, round(np.log2(n / (2 * b)))
    hyper = partial(hyper_attention, causal=True, block_size=b, sample_size=b, min_exact=leaf, rng=rng)
    return {
        **{hyper_exempting(keys): partial(hyper, exact_keys=keys) for keys in (0, 1, SINKS, 64)},
        LOCAL: partial(own_block, rows=leaf),
        WINDOW: partial(sinks_and_window, sinks=SINKS, rows=b, blocks=1 + levels),
        UNIFORM: partial(uniform_before, rows=leaf, size=b * levels, rng=rng),
        ZERO: lambda q, k, v: namespace(v).zeros_like(v),
    }


def own_block(q: Array, k: Array, v: Array, *, rows: int) -> Array:
    """Exact causal attention within consecutive blocks of `rows` tokens: shapes (b, heads, n, d), `rows` divides n."""
    b, heads, n, d = q.shape
    parts = (x.reshape(b, heads * n // rows, rows, d) for x in (q, k, v))
    return attention(*parts, causal=True, check_finite=False).reshape(q.shape)


def sinks_and_window(q: Array, k: Array, v: Array, *, sinks: int, rows: int, blocks: int) -> Array:
    """Each token sees the last `blocks * rows` keys, its own among them, and the first `sinks` [SINK24].

    Shapes (b, heads, n, d), `rows` divides n. In blocks of `rows` tokens these are the keys of the own block up to the
    token, those of `blocks - 1` whole blocks before it, and of one more block the keys past the token's own place.
    """
    b, heads, n, d = q.shape
    parts = [x.reshape(b, heads, n // rows, rows, d) for x in (q, k, v)]
    seen = partial_attention(*parts, causal=True, check_finite=False)

    def add(queries: tuple[slice, ...], keys: tuple[slice, ...], *, causal: bool = False) -> None:
        x, y, z = parts[0][queries], parts[1][keys], parts[2][keys]
        found = partial_attention(x, y, z, causal=causal, check_finite=False)
        Partial(seen.m[queries], seen.l[queries], seen.o[queries]).merge(found)  # views: in place

    for back in range(1, min(blocks, n // rows)):
        add(np.s_[:, :, back:], np.s_[:, :, :-back])
    if (start := blocks * rows) < n:
        # Both counted from the end, a key past a query's place stands before it: queries from the second on and keys up
        # to the last but one, which is a causal mask.
        add(np.s_[:, :, blocks:, rows - 2 :: -1], np.s_[:, :, :-blocks, :0:-1], causal=True)
        # From token `start` on the window has left the first keys behind, one more with each token.
        first = (x[:, :, :sinks] for x in (k, v))
        past = partial_attention(q[:, :, start:], *first, causal=True, check_finite=False)
        m, l, o = (x.reshape(b, heads, n, *x.shape[4:])[:, :, start:] for x in (seen.m, seen.l, seen.o))  # noqa: E741
        Partial(m, l, o).merge(past)
    return seen.output().reshape(q.shape)


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
