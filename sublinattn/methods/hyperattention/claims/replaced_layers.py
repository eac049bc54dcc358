"""A decoder in which some layers attend approximately: the methods that are compared, and what they cost and lose."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ....core import backends
from ....core.backends import Array, namespace
from ....core.exact import Partial, attention, partial_attention
from ....core.timing import timed
from ....lm.attend import Attend, Method, causal, replacing
from ..exact_keys import heavy_keys
from ..hyper import hyper_attention

if TYPE_CHECKING:
    from ....lm.decoder import Decoder

HYPER, LOCAL, WINDOW, UNIFORM, ZERO = "hyper practical", "own block", "sinks", "uniform", "zero"
SINKS = 4
"""First keys that `WINDOW` keeps, as [SINK24] does, and that `HYPER_SINKS` and `UNIFORM_SINKS` compute exactly."""
UNIFORM_SINKS = f"{UNIFORM}, first {SINKS} exact"
BEFORE, AFTER = 5.6, 6.3
"""[HA24] Figure 3 and abstract: perplexities of ChatGLM2-6B at 32k tokens, exact and approximate. Their public code
takes 2 to the power of the loss in nats; the ratio of the logarithms does not depend on the base."""


def hyper_exempting(keys: int) -> str:
    """Name of HyperAttention with the first `keys` keys in every query's exact part."""
    return f"{HYPER}, first {keys} exact" if keys else HYPER


HYPER_SINKS, HYPER_HEAVY = hyper_exempting(SINKS), f"{HYPER}, heaviest {SINKS} exact"


def block(n: int) -> int:
    """Keys per block, and sampled keys: a sixteenth of the tokens, 256 as in [HA24] from 4096 tokens on."""
    return min(256, n // 16)


def methods(n: int, rng: np.random.Generator) -> dict[str, Method]:
    """HyperAttention and what it is to be compared with, for `n` tokens.

    HyperAttention's recursion ends at leaves of two blocks; it is there with no, 1, 4 and 64 first keys exact, and in
    `HYPER_HEAVY` with those 4 keys of each head that a sample of all queries, later ones too, attends to most. `LOCAL`
    is exact within the leaves, without an estimate of the keys before them. HyperAttention looks at a block of keys
    on average within its leaf, and at a block and a sample at every other level of its recursion: `UNIFORM` estimates
    the keys before a leaf from as many drawn uniformly (in `UNIFORM_SINKS` all but the first 4, which are exact), and
    `WINDOW` sees as many last keys, and the first 4. `ZERO` leaves out the layer's attention.
    """
    b = block(n)
    leaf, levels = 2 * b, round(np.log2(n / (2 * b)))
    hyper = partial(hyper_attention, causal=True, block_size=b, sample_size=b, min_exact=leaf, rng=rng)
    return {
        **{hyper_exempting(keys): partial(hyper, exact_keys=keys) for keys in (0, 1, SINKS, 64)},
        HYPER_HEAVY: lambda q, k, v: hyper(q, k, v, exact_keys=heavy_keys(q, k, SINKS, causal=True)),
        LOCAL: partial(own_block, rows=leaf),
        WINDOW: partial(sinks_and_window, sinks=SINKS, rows=b, blocks=1 + levels),
        UNIFORM: partial(uniform_before, rows=leaf, size=b * levels, sinks=0, rng=rng),
        UNIFORM_SINKS: partial(uniform_before, rows=leaf, size=b * levels, sinks=SINKS, rng=rng),
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


def uniform_before(
    q: Array, k: Array, v: Array, *, rows: int, size: int, sinks: int, rng: np.random.Generator
) -> Array:
    """As `own_block`, and `size` keys from before the block, drawn uniformly without replacement, stand for all.

    The first `sinks` are not drawn from but exact.
    """
    see, outs = partial(partial_attention, check_finite=False), []
    for start in range(0, q.shape[2], rows):
        own = slice(start, start + rows)
        x = q[:, :, own]
        seen = see(x, k[:, :, own], v[:, :, own], causal=True)
        if start:
            before = start - sinks
            chosen = sinks + rng.choice(before, min(size, before), replace=False)
            at = backends.to_device(chosen, namespace(q))
            drawn = see(x, k[:, :, at], v[:, :, at])
            # Each sampled key stands for before / size keys, in the normaliser and in the product alike.
            drawn.l, drawn.o = (y * (before / len(chosen)) for y in (drawn.l, drawn.o))
            seen.merge(drawn)
            if sinks:
                seen.merge(see(x, k[:, :, :sinks], v[:, :, :sinks]))
        outs.append(seen.output())
    return namespace(q).concatenate(outs, axis=2)


# ------------------------------------------------------------------------------------------------------ whole passes
class Clock:
    """An attention that adds up the seconds spent in it."""

    def __init__(self, attend: Attend) -> None:
        self.attend, self.seconds = attend, 0.0

    def __call__(self, layer: int, q: Array, k: Array, v: Array) -> Array:
        out, seconds = timed(namespace(q), partial(self.attend, layer, q, k, v))
        self.seconds += seconds
        return out


class Pass(NamedTuple):
    """What a pass through the decoder gave: nats per token, seconds of all layers' attention, and of the whole pass."""

    nats: float
    attention: float
    forward: float


class Passage:
    """A text that is read again and again, each time with other layers replaced.

    Layers before the first replaced one are the same in all passes: they are computed once, when this is made, and
    their seconds count for each pass. One state of the decoder is kept for each layer in `firsts`, by default for all.
    """

    def __init__(self, decoder: Decoder, tokens: np.ndarray, firsts: Collection[int] | None = None) -> None:
        self._decoder, self._tokens = decoder.stretched(len(tokens)), tokens
        kept = {decoder.config.layers, *(range(decoder.config.layers) if firsts is None else firsts)}
        self._before = {}
        clock, forward = Clock(causal), 0.0
        states = self._decoder.states(tokens, attend=clock)
        for _ in range(decoder.config.layers + 1):
            state, seconds = timed(decoder.xp, partial(next, states))
            forward += seconds
            if state.layer in kept:
                self._before[state.layer] = state, clock.seconds, forward

    def read(self, methods: Mapping[int, Method]) -> Pass:
        """With these layers replaced; with none, by exact attention."""
        state, attention, forward = self._before[min(methods, default=self._decoder.config.layers)]
        clock = Clock(replacing(methods))
        read = partial(self._decoder.losses, self._tokens, attend=clock, resume=state)
        nats, seconds = timed(self._decoder.xp, read)
        return Pass(float(nats.mean(dtype=np.float64)), attention + clock.seconds, forward + seconds)
