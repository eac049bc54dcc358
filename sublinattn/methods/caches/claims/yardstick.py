"""The exact cache, beside which all others are shown, is attention over all tokens, also where caches merge."""

from __future__ import annotations

from typing import Any

import sympy as sp
from numpy.random import Generator

from ....core.backends import Array, to_device
from ....theory.claim import Claim, Exact, Sabotage, Trial
from ..exact import ExactCache
from .answers import HEADS, SCALE, apart, cuts, fed, softmax, tokens


class MixedUp(ExactCache):
    """Merging takes over as many tokens as this cache has, not as the other one has."""

    def _take(self, xp: Any, other: ExactCache, theirs: dict[str, Array]) -> None:
        self._absorb(xp, *(theirs[name][:, : max(self.tokens_seen, 1)] for name in ("keys", "values")))


def exact_answer(rng: Generator, xp: Any, *, n: int, streams: int, chunks: int, own_count: bool = True) -> Trial:
    """Distance of merged caches to attention over all tokens. Sabotage: the caches' counts are mixed up."""
    q, k, v = tokens(rng, n)
    whole = ExactCache() if own_count else MixedUp()
    for i in range(streams):
        part = slice(i * n // streams, (i + 1) * n // streams)
        one = type(whole)()
        fed(one, xp, k[:, part], v[:, part], cuts(rng, part.stop - part.start, chunks))
        whole.merge(one)
    expected = [softmax(q[h, :5], k[h]) @ v[h] for h in range(HEADS)]
    return Trial(apart(whole.attend(to_device(q[:, :5], xp), scale=SCALE), expected), 0.0, facts={"n": n})


CLAIMS = (
    Claim(
        id="rs21.cache",
        paper="RS21",
        source="none: the yardstick of all caches",
        basis="derived",
        title="Exact caches of disjoint streams, merged, answer with attention over all tokens",
        statement=sp.Eq(sp.Symbol(r"\mathrm{out}"), sp.Symbol(r"\mathrm{Attn}(q, K, V)")),
        kind=Exact("==", rtol=1e-11),
        trial=exact_answer,
        cases={"smoke": tuple({"n": 200, "streams": streams, "chunks": 40} for streams in (1, 2, 5))},
        max_trials={"smoke": 3, "standard": 20},
        sabotages=(
            Sabotage("counts mixed up", "merging takes over as many tokens as this cache has", {"own_count": False}),
        ),
        remark="Tokens come in small chunks, so that the arrays have room to spare.",
        restated="88e56c5: with chunks above an eighth of the tokens there was no room to spare",
    ),
)
