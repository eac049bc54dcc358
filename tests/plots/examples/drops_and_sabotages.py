"""Rates of failure and trials until refuted, as `drops_and_sabotages` reads them from verdicts."""

from examples import table
from sublinattn.lab.comparison import drops_and_sabotages

RATES = table(
    "place assumption variant rate low high", *(("HA24 Lemma 1", "a", v, 0.1, 0.0, 0.2) for v in ("kept", "dropped"))
)
SABOTAGED = table(
    "place kind caught trials",
    *((f"HA24 Lemma {i}", kind, True, 4) for kind in ("exact", "growth", "growth") for i in (1, 2)),
    ("SG24 Theorem 1", "mean", False, 40),
)

FIGURES = {
    drops_and_sabotages.draw_dropped: lambda: drops_and_sabotages.draw_dropped(RATES),
    drops_and_sabotages.draw_sabotages: lambda: drops_and_sabotages.draw_sabotages(SABOTAGED),
}
