"""Bytes and times of SubGen, as `scaling` measures them."""

from examples import table
from sublinattn.methods.subgen.studies import scaling

COSTS = table(
    "quantity method n replicate value",
    *(
        (quantity, method, n, r, 1.0 + n * r)
        for quantity in ("bytes", "token", "query")
        for method in ("64 clusters", "n clusters", "exact")
        for n in (16, 64)
        for r in (0, 1)
    ),
)
CHUNKS = table("rows replicate tokens_per_second", *((rows, r, rows + r) for rows in (1, 8) for r in (1.0, 2.0)))

FIGURES = {
    scaling.draw_over_n: lambda: scaling.draw_over_n(COSTS),
    scaling.draw_chunks: lambda: scaling.draw_chunks(CHUNKS),
}
THEORY = (scaling.draw_over_n,)
