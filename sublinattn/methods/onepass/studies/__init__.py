"""Experiments on the one-pass algorithm, one per notebook, and how its variants look in figures."""

from ....lab import comparison  # noqa: F401  registers the streaming state, which it is compared with
from ....plots.style import register, variant

register("one-pass paper", "one pass, paper", "sky")
register("one-pass fused", "one pass, fused", "violet")
variant("uniform, state's bytes", "uniform sampling, bytes of the state", of="uniform")
