"""Degrees, ranks and errors of polynomials, as `degree_and_rank` measures them."""

from examples import table
from sublinattn.methods.polynomial.approximants import BASES
from sublinattn.methods.polynomial.studies import degree_and_rank

BY_DEGREE = table(
    "method degree rank n error bound",
    *((m, g, 5 * g, 64, 0.1, 0.5) for m in ("taylor", "chebyshev", "minimax", "uniform", "zero") for g in (1, 2)),
)
DEGREES = table(
    "varies what eps radius degree",
    *((v, w, e, r, 3) for v in ("eps", "R") for w in (*BASES, "explicit") for e, r in ((0.1, 1.0), (0.01, 2.0))),
)
DEGREE_LAWS = table(
    "varies eps radius degree", *((v, e, r, 2.0) for v in ("eps", "R") for e, r in ((0.1, 1), (0.01, 2)))
)
CONSTANTS = table("radius ratio constant", *((r, x, 0.5 * r) for r in (1.0, 2.0, 4.0, 8.0) for x in (2.0, 20.0)))
RANKS = table("d degree rank bound", *((d, g, 10 * d * g, 100 * d * g) for d in (2, 4, 64) for g in (1, 2, 4)))

FIGURES = {
    degree_and_rank.draw_degrees: lambda: degree_and_rank.draw_degrees(DEGREES, DEGREE_LAWS, CONSTANTS, CONSTANTS),
    degree_and_rank.draw_ranks: lambda: degree_and_rank.draw_ranks(RANKS, keys=100),
    degree_and_rank.draw_errors: lambda: degree_and_rank.draw_errors(BY_DEGREE),
}
THEORY = (degree_and_rank.draw_degrees, degree_and_rank.draw_errors)
