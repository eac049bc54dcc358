"""Error, bytes and seconds over n, as `streaming_scaling` measures them."""

from examples import table
from sublinattn.methods.onepass.studies import streaming_scaling

STREAMS = table(
    "quantity method n replicate value",
    *(
        (q, m, n, r, 1.0 + r)
        for q, methods in {
            "error": ("one-pass paper", "one-pass fused", "streaming state", "best k-sparse", "uniform"),
            "bytes": ("one-pass paper", "one-pass fused", "streaming state", "exact"),
            "absorb": ("one-pass paper", "one-pass fused", "streaming state", "exact"),
            "decode": ("one-pass fused, identify", "one-pass fused, scan"),
        }.items()
        for m in methods
        for n in (1024, 4096)
        for r in (0, 1)
    ),
)

FIGURES = {streaming_scaling.draw: lambda: streaming_scaling.draw(STREAMS)}
THEORY = (streaming_scaling.draw,)
