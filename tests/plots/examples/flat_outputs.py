"""Errors and tails of outputs from flat to steep, as `flat_outputs` measures them."""

from examples import kit, table
from sublinattn.methods.onepass.studies import flat_outputs

DECAYS = table(
    "decay n replicate method error rows_zero nbytes keys",
    *(
        (decay, 64, r, m, 1e-7 if m == "exact" else 0.5, 0.9, 1e3, 32)
        for decay in (0.0, 1.0)
        for r in (0, 1)
        for m in (
            *("one-pass paper", "one-pass fused", "best k-sparse", "streaming state", "uniform"),
            *("uniform, state's bytes", "exact", "zero"),
        )
    ),
)
TAILS = table(
    "input source n share tail",
    *((i, s, 64, x, 0.5) for i, s in (("a", "synthetic"), ("r", "real")) for x in (0.01, 0.5)),
)
FALLING = table(
    "output n error nbytes cache", *((o, n, 0.5, 900.0, 56.0 * n) for o in ("compressible", "flat") for n in (8, 64))
)
FALLING_RATES = table("output measured wanted", ("compressible", 0.0, -0.1), ("flat", 0.0, -0.1))

FIGURES = {
    flat_outputs.draw_decay: lambda: flat_outputs.draw_decay(DECAYS),
    flat_outputs.draw_profiles: lambda: flat_outputs.draw_profiles(TAILS),
    flat_outputs.draw_falling: lambda: flat_outputs.draw_falling(FALLING, FALLING_RATES),
    flat_outputs.draw_psi_rows: lambda: flat_outputs.draw_psi_rows(kit.SIZES.query("claim == 'b'"), kit.FITS.iloc[2:]),
}
YARDSTICKS = (flat_outputs.draw_decay,)
THEORY = (flat_outputs.draw_decay, flat_outputs.draw_profiles, flat_outputs.draw_falling)
