"""Sublinear attention: the algorithms of the papers, and what their theorems promise, measured.

Algorithms take and return NumPy, CuPy, PyTorch or JAX arrays of shape `(..., n, d)`. Claims, verdicts and workloads are
in `sublinattn.theory` and `sublinattn.lab`; figures in `sublinattn.plots`; the command line in `sublinattn.cli`.
"""

from importlib.metadata import version

from ._stages import stage_times
from .baselines import uniform_attention
from .exact import Partial, attention, partial_attention
from .hardness import Hardness, hardness
from .hyper import hyper_attention

__version__ = version("sublinattn")

__all__ = [
    "Hardness",
    "Partial",
    "attention",
    "hardness",
    "hyper_attention",
    "partial_attention",
    "stage_times",
    "uniform_attention",
]
