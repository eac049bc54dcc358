"""The public names of `sublinattn`, each with the module that defines it."""

from importlib.metadata import version

from .core.exact import Partial, attention, partial_attention
from .core.timing import stage_times
from .methods.balancekv.balancekv import BalanceKVCache
from .methods.balancekv.buckets import BucketedBalanceKVCache
from .methods.baselines.kdeformer import kdeformer_attention
from .methods.baselines.nystrom import nystrom_attention
from .methods.baselines.performer import performer_attention
from .methods.baselines.reformer import reformer_attention
from .methods.baselines.thinformer import thinformer_attention
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
    "BalanceKVCache",
    "BucketedBalanceKVCache",
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
    "kdeformer_attention",
    "nystrom_attention",
    "partial_attention",
    "performer_attention",
    "polynomial_attention",
    "reformer_attention",
    "stage_times",
    "thinformer_attention",
    "uniform_attention",
]
