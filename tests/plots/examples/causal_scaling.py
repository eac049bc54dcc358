"""The recursion's levels, errors by position, seconds, bytes and stages, as `causal_scaling` measures them."""

import numpy as np

from examples import table
from sublinattn.methods.hyperattention.studies import causal_scaling

LEVEL = np.where(np.tri(8, dtype=bool), 0, -1)
LEVEL[4:, :4] = 1
POSITIONS = table(
    "input n leaf method replicate position error",
    *(
        ("a", 64, 8, name, 0, position, 1e-7 if name == "exact" else 0.3)
        for name in ("exact", "zero", "uniform", "hyper practical")
        for position in (4.0, 20.0, 50.0)
    ),
)
BOTH = [(name, causal) for name in ("hyper practical", "exact") for causal in (False, True)]
COSTS = table(
    "quantity method causal n replicate value",
    *(
        (quantity, name, causal, n, 0, unit * n)
        for quantity, unit in (("time", 1e-6), ("memory", 100.0))
        for name, causal in BOTH
        for n in (1024, 4096, 16384)
        if name != "exact" or n < 10000
    ),
)
EXPONENTS = table("method causal exponent lower upper theory", *((*key, 1.0, 0.9, 1.1, 1.1) for key in BOTH))
STAGES = table(
    "causal n stage seconds",
    *((causal, n, stage, 0.1) for causal in (False, True) for n in (1024, 4096) for stage in causal_scaling.STAGES),
)

FIGURES = {
    causal_scaling.draw_recursion: lambda: causal_scaling.draw_recursion(LEVEL, LEVEL == 0),
    causal_scaling.draw_error_by_position: lambda: causal_scaling.draw_error_by_position(POSITIONS),
    causal_scaling.draw_cost: lambda: causal_scaling.draw_cost(COSTS, EXPONENTS),
    causal_scaling.draw_stages: lambda: causal_scaling.draw_stages(STAGES),
}
YARDSTICKS = (causal_scaling.draw_error_by_position,)
THEORY = (causal_scaling.draw_cost,)
