"""Lengths from which on a sketch is smaller than the cache, as the one-pass `questions` count them."""

from examples import table
from sublinattn.methods.onepass.studies import questions

CROSSINGS = table(
    "method d n", *((m, d, 50 * d) for m in ("one-pass paper", "one-pass fused", "streaming state") for d in (2, 4))
)

FIGURES = {questions.draw_crossings: lambda: questions.draw_crossings(CROSSINGS)}
