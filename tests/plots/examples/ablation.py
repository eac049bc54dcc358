"""Errors of SubGen's parts and settings, as `ablation` measures them."""

from examples import table
from sublinattn.methods.subgen.studies import ablation

PARTS = table(
    "input source replicate normaliser numerator relative",
    *(("a", "real", r, t, z, 0.1 + r) for r in (0, 1) for t in ("clusters", "exact") for z in ("uniform", "exact")),
    *(("a", "real", 0, t, z, x) for t, z, x in (("exact", "exact", 0.0), ("zero", "zero", 1.0))),
)
CURVES = table(
    "varies replicate x what error law",
    *((v, r, x, w, 1.0 / x, 2.0 / x) for v in "st" for r in (0, 1) for x in (2, 8) for w in ("answer", "part")),
)
SETTINGS = table(
    "input varies x relative clusters uniform",
    *((i, v, x, x, 0.1, 0.3) for i in "ab" for v in ("delta", "window", "t") for x in (0.5, 1.0)),
)

FIGURES = {
    ablation.draw_parts: lambda: ablation.draw_parts(PARTS),
    ablation.draw_curves: lambda: ablation.draw_curves(CURVES),
    ablation.draw_settings: lambda: ablation.draw_settings(SETTINGS),
}
THEORY = (ablation.draw_curves,)
