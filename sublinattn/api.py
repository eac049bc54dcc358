"""The public names of `sublinattn`, each with the module that defines it."""

from importlib.metadata import version

from .core.exact import Partial, attention, partial_attention
from .core.timing import stage_times
from .methods.baselines.uniform import uniform_attention
from .methods.caches.exact import ExactCache, ZeroCache
from .methods.caches.heavy_hitter import HeavyHitterCache
from .methods.caches.k_center import KCenterCache
from .methods.caches.reservoir import ReservoirCache
from .methods.caches.sink import SinkCache
from .methods.countsketch.recovery import SparseColumns
from .methods.hyperattention.exact_keys import heavy_keys
from .methods.hyperattention.hardness import Hardness, hardness
from .methods.hyperattention.hyper import hyper_attention
from .methods.onepass.onepass import OnePassSketch
from .methods.polynomial.polynomial import PolynomialState, polynomial_attention
from .methods.subgen.subgen import SubGenCache

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
    "heavy_keys",
    "hyper_attention",
    "partial_attention",
    "polynomial_attention",
    "stage_times",
    "uniform_attention",
]
