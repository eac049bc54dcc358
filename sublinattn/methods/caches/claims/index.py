"""How many bits of an INDEX instance a cache can hold: the counting bound behind [HO25]'s lower bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ....core.backends import to_device
from ....lab.comparison.registry import REGISTRY, Stream, directions, feed
from ....lab.workloads import make
from ....lab.workloads.bits import PACKED, decoded, packed
from ....theory.claim import Claim, Probability, Sabotage, Trial

FAILURE = 0.05


def counting(
    rng: Generator,
    xp: Any,
    *,
    method: str,
    n: int,
    d: int,
    d_v: int,
    nbytes: int,
    bits_per_byte: int = 8,
    peeks: bool = False,
) -> Trial:
    """Bits told from a state of at most `nbytes`, after a stream of random bits, over what so few states can tell.

    Sabotage: `peeks`, answers come from the values themselves, not from the state; `bits_per_byte` is too small.
    """
    x = make("index", n, d, rng=rng, d_v=d_v)
    if method == PACKED:
        out = packed(x, n * d_v if peeks else nbytes)
    else:
        stream = Stream.of(x, rng, xp, early=directions(rng, x))
        cache = feed(method, REGISTRY[method].within(nbytes, stream.x, rng), stream, nbytes)
        out = to_device(x.v, xp) if peeks else cache.attend(stream.x.q, scale=x.scale)
    bits = decoded(x, out)[1]
    bound = bits_per_byte * nbytes + 1 + np.log2(1 / FAILURE)
    return Trial(bits, bound, facts={"n": n, "d_v": d_v, "nbytes": nbytes, "bits": bits})


_SMALL: dict[str, Any] = {"n": 2048, "d": 16, "d_v": 1, "nbytes": 192}  # 1536 bits of 2048, but two tokens

CLAIMS = (
    Claim(
        id="ho25.counting",
        paper="HO25",
        source="none: the counting argument behind its lower bound, with constants",
        basis="derived",
        title="No cache of N bytes tells more than 8 N bits of an INDEX instance, plus 1 + log2(1/p)",
        statement=sp.Le(
            sp.Symbol(r"n\,d_v\,(1-h(e))"), 8 * sp.Symbol("N") + 1 + sp.log(1 / sp.Symbol("p")) / sp.log(2)
        ),
        kind=Probability(FAILURE),
        trial=counting,
        cases={
            "smoke": (
                *({"method": PACKED, "n": 512, "d": 32, "d_v": 1, "nbytes": nbytes} for nbytes in (32, 64)),
                {"method": PACKED, "n": 64, "d": 32, "d_v": 8, "nbytes": 64},
                *({"method": name, **_SMALL} for name in ("uniform", "k-center")),
            )
        },
        max_trials={"smoke": 150, "standard": 1000},
        sabotages=(
            Sabotage("answers from the values", "answers come from what is not counted as held", {"peeks": True}),
            Sabotage("half of the bits", "a byte is said to hold 4 bits", {"bits_per_byte": 4}, breaks="bound"),
        ),
        remark="Proof: given the keys and all random draws, fewer than 2^(8N+1) states of at most N bytes exist, and "
        "the n d_v answers are a function of the state. At most 2^(n d_v h(e)) strings of bits differ from given "
        "answers in a share e of at most 1/2, so all states together come within e of fewer than "
        "2^(8N + 1 + n d_v h(e)) of the 2^(n d_v) equally likely strings: where n d_v (1 - h(e)) is 8N + 1 + t or "
        "more, with probability at most 2^-t. Keys and draws are apart from the bits. "
        "The state of the bits alone reaches the bound; [HO25] proves that order n d bits are needed for attention.",
        restated="4321871: heavy hitters of two tokens, asked after each token, took a quarter of a second a trial",
    ),
)
