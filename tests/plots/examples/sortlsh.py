"""Collisions, a sorted matrix and shares of the mask, as `sortlsh` measures them."""

from examples import table
from sublinattn.methods.hyperattention.studies import sortlsh

RATES = table(
    "event bits angle rate low high",
    *((e, b, a, 0.4, 0.3, 0.5) for e in sortlsh.LAWS for b in (1, 8) for a in (20.0, 90.0)),
)
LAWS = table(
    "event bits angle law", *((e, b, a, 0.45) for e in sortlsh.LAWS for b in (1, 8) for a in (0.0, 90.0, 180.0))
)
ENTRIES = table("query key query_place key_place p", (0, 1, 2, 3, 0.5), (3, 2, 1, 0, 0.01))
SHARES = table("input mask heavy_share mass_share", *((i, m, 0.5, 0.2) for i in "ab" for m in ("sortLSH", "random")))

RECALL = table(
    "angle bits rate low high collision",
    *((angle, bits, 0.5, 0.4, 0.6, 0.9**bits) for angle in (3.6, 18.0) for bits in (1, 4, 8)),
)

FIGURES = {
    sortlsh.draw_collisions: lambda: sortlsh.draw_collisions(RATES, LAWS),
    sortlsh.draw_matrix: lambda: sortlsh.draw_matrix(ENTRIES, n=4, block_size=2),
    sortlsh.draw_recall: lambda: sortlsh.draw_recall(RECALL),
    sortlsh.draw_shares: lambda: sortlsh.draw_shares(SHARES),
}
THEORY = (sortlsh.draw_collisions, sortlsh.draw_recall)
