"""Exponents of the polynomial method over its regimes, as `phase_picture` measures them."""

from examples import table
from sublinattn.methods.polynomial.studies import phase_picture

PHASES = table(
    "polynomial size log_n entries width exponent",
    *(
        (p, size, x, b, w, b + w)
        for p, sizes in (("minimax", ("2^20", "2^30", "2^40")), ("explicit", ("10^100", "10^(10^4)", "10^(10^6)")))
        for size, x in zip(sizes, (14.0, 20.0, 2.3e6), strict=True)
        for b in (0.1, 1.0)
        for w in (0.1, 1.0)
    ),
)
REGIMES = table(
    "regime polynomial log_n exponent",
    *((r, p, x, 1.2) for r, _, _ in phase_picture.REGIMES for p in ("explicit", "minimax") for x in (10.0, 1000.0)),
)

FIGURES = {
    phase_picture.draw_maps: lambda: phase_picture.draw_maps(PHASES),
    phase_picture.draw_curves: lambda: phase_picture.draw_curves(REGIMES),
}
