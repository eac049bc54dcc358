"""Sublinear attention: the algorithms of the papers, and what their theorems promise, measured.

Algorithms take and return NumPy, CuPy, PyTorch or JAX arrays of shape `(..., n, d)`. Claims, verdicts and workloads are
in `sublinattn.theory` and `sublinattn.lab`; figures in `sublinattn.plots`; the command line in `sublinattn.cli`.
"""

from importlib.metadata import version

from ._stages import stage_times
from .baselines import uniform_attention
from .caches import ExactCache, HeavyHitterCache, KCenterCache, ReservoirCache, SinkCache, ZeroCache
from .exact import Partial, attention, partial_attention
from .hardness import Hardness, hardness
from .hyper import hyper_attention
from .onepass import OnePassSketch
from .polynomial import PolynomialState, polynomial_attention
from .primitives.recovery import SparseColumns
from .subgen import SubGenCache

__version__ = version("sublinattn")

__all__ = [
    "ExactCache",
    "Hardness",
    "HeavyHitterCache",
    "KCenterCache",
    "OnePassSketch",
    "Partial",
    "PolynomialState",
    "ReservoirCache",
    "SinkCache",
    "SparseColumns",
    "SubGenCache",
    "ZeroCache",
    "attention",
    "hardness",
    "hyper_attention",
    "partial_attention",
    "polynomial_attention",
    "stage_times",
    "uniform_attention",
]
