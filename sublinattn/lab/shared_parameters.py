"""What a parameter of notebooks is, and those that several notebooks have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """One parameter of notebooks.

    Attributes
    ----------
    name : str
        As in the notebooks, in Python and on the command line.
    kind : type
        int, float or str.
    meaning : str
        What it is, with its unit. No equals sign: papermill would not read the line.
    least, most : number, optional
        The range of a number, ends included.
    choices : tuple
        The values that it may have, if they are few.
    several : bool
        It takes one value or several.
    default : optional
        None: as the effort says.
    """

    name: str
    kind: type[int] | type[float] | type[str]
    meaning: str
    least: float | None = None
    most: float | None = None
    choices: tuple[Any, ...] = ()
    several: bool = False
    default: Any = None

    def but(self, **changes: Any) -> Parameter:
        """The same parameter, where a notebook gives it another range, meaning or default."""
        return replace(self, **changes)


EFFORTS = ("smoke", "standard", "full")
COMMON = (
    Parameter("effort", str, "how much is measured; sets what is None below", choices=EFFORTS, default="smoke"),
    Parameter("seed", int, "seed of all draws", 0, default=0),
    Parameter("backend", str, "library of the arrays", choices=("auto", "numpy", "cupy"), default="auto"),
    Parameter("out", str, "folder of the results, apart from those of a run", default="out/by-hand"),
)
"""What every notebook takes."""

N = Parameter("n", int, "tokens", 16, 2**20)
D = Parameter("d", int, "dimension of queries and keys", 1, 1024)
BLOCK_SIZE = Parameter("block_size", int, "keys per block of the mask", 1, 4096)
DEGREE = Parameter("degree", int, "degree of the polynomial", 1, 16)
K = Parameter("k", int, "entries kept of a column", 1, 4096)
EPS1 = Parameter("eps1", float, "excess over the best sparse answer that is promised", 0.05, 1)
EPS2 = Parameter("eps2", float, "share of the values' norms that is promised", 0.05, 1)
REPLICATES = Parameter("replicates", int, "repetitions with fresh draws", 1, 1000)
D_V = Parameter("d_v", int, "dimension of the values", 1, 1024)
SYNTHETIC = ("gaussian", "gaussian-mean", "clustered", "planted", "sinks", "alpha", "kappa", "heavy-values")
INPUTS = Parameter(
    "inputs",
    str,
    "synthetic inputs, and the heads of a trained encoder",
    choices=(*SYNTHETIC, "real"),
    several=True,
)
EXACT_KEYS = Parameter("exact_keys", int, "first keys in the exact part", 1, 64)
BUDGETS = Parameter("budgets", int, "key columns per query", 16, 2**14, several=True)
LSH_BITS = Parameter("lsh_bits", int, "hyperplanes of the hash", 1, 16)
SHARES = Parameter("shares", float, "bytes of a cache over those of all keys and values", 1 / 64, 0.5, several=True)
SAMPLES = Parameter("samples", int, "t, SubGen's samples per cluster", 1, 1024)
SLOTS = Parameter("slots", int, "s, SubGen's slots for values", 1, 2**16)
STREAMS = (
    *("clusters", "clusters-mean", "sqrt-n-clusters", "n-clusters", "drifting", "norms-rising", "clusters-in-turn"),
    *("needles", "heavy-values", "gaussian", "gaussian-mean", "real"),
)
RADII = Parameter("radii", int, "values of delta", 2, 100)
PASSAGES = Parameter("passages", int, "passages of text", 1, 1000)
TOLERANCE = Parameter(
    "tolerance", float, "largest relative error of an attention output that you accept", 0, 1, default=0.1
)
METHODS = Parameter(
    "methods",
    str,
    "methods compared with uniform sampling",
    choices=("HyperAttention", "KDEformer", "Reformer", "Performer", "Nystrom", "Thinformer"),
    several=True,
)
MODEL = Parameter(
    "model",
    str,
    "tiny (ships), smollm2 (fetched), a folder in Llama's Hugging Face layout, or a GGUF file",
    default="tiny",
)
TEXT = Parameter(
    "text",
    str,
    "code, prose or a UTF-8 file; by default code for tiny, and both for any other model",
    default="",
)
