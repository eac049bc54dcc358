"""Which notebook has which parameters: the table that `parameters` reads."""

from __future__ import annotations

from collections.abc import Mapping
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

NOTEBOOKS: Mapping[str, tuple[Parameter, ...]] = {
    "00-explore": (
        Parameter(
            "claims",
            str,
            "claims that the controls offer, as patterns of their ids such as ha24.* sg24.theorem",
            default="*",
        ),
    ),
    "01-sortlsh": (
        N.but(least=64, most=2**13),
        D.but(least=2),
        BLOCK_SIZE.but(most=512),
        LSH_BITS.but(several=True),
        INPUTS,
        Parameter("draws", int, "hashes per point of the curves", 10, 10**6),
        REPLICATES,
    ),
    "02-hardness": (
        N.but(least=64, most=2**15, several=True),
        D,
        BLOCK_SIZE.but(meaning="keys per block of the mask that kappa leaves out"),
        EXACT_KEYS,
        INPUTS.but(meaning="synthetic inputs", choices=SYNTHETIC),
        REPLICATES,
    ),
    "03-spectral-error": (
        N.but(least=64, most=2**14),
        D,
        D_V,
        INPUTS,
        BUDGETS,
        LSH_BITS,
        METHODS,
        REPLICATES,
    ),
    "04-causal-scaling": (
        N.but(meaning="tokens of the picture and the errors", choices=tuple(2**i for i in range(8, 14))),
        D.but(meaning="dimension of queries, keys and values"),
        BLOCK_SIZE.but(meaning="keys per block in the picture and where errors are shown by position", most=512),
        Parameter("lengths", int, "tokens at which time and memory are measured", 2**10, 2**20, several=True),
        REPLICATES.but(least=2),
    ),
    "05-dropped-assumptions": (
        N.but(least=128, most=2**12),
        D.but(least=4, most=256),
        BLOCK_SIZE.but(most=2048),
        Parameter("sample_size", int, "sampled keys", 8, 4096),
        Parameter("eps", float, "a draw fails where its error exceeds eps", 0.2, 2),
        Parameter("delta", float, "failure probability that the number of samples is made for", 0.01, 0.5),
        REPLICATES.but(least=2),
    ),
    "06-degree-and-rank": (
        Parameter("eps", float, "relative error, where R varies", 1e-16, 0.1),
        Parameter("radius", float, "R, the largest logit, where the error varies", 0.25, 40),
        N.but(most=2**15),
        D.but(meaning="dimension of queries, keys and values", most=8),
        Parameter("logits", float, "largest logit, where attention's error is measured", 0.1, 10),
        DEGREE.but(name="degrees", meaning="degrees of the polynomial", most=12, several=True),
        REPLICATES,
    ),
    "07-phase-picture": (
        Parameter("powers", int, "log2 of the n at which the degree is measured", 4, 100, several=True),
        Parameter("points", int, "points along each axis of the pictures", 3, 101),
        Parameter("largest_width", float, "largest d over log n in the pictures", 0.2, 100),
    ),
    "08-sparse-recovery": (
        N.but(meaning="entries of a column", least=64),
        K,
        EPS1.but(several=True),
        Parameter("columns", int, "columns of a signal", 1, 64),
        Parameter("signals", str, "signals", choices=("power law", "spikes over noise", "flat"), several=True),
        REPLICATES,
    ),
    "09-flat-outputs": (
        N.but(least=128, most=2**17),
        D.but(meaning="dimension of queries, keys and values", most=16),
        DEGREE.but(most=8),
        K,
        EPS1,
        EPS2,
        Parameter("decays", float, "decay of the outputs' rows, 0 for flat ones", 0, 4, several=True),
        REPLICATES,
    ),
    "10-streaming-scaling": (
        N.but(least=128, several=True),
        DEGREE.but(most=8),
        K,
        EPS1,
        EPS2,
        REPLICATES,
    ),
    "11-reviewers-questions": (
        N.but(meaning="tokens, of which the first and the last are compared", least=128, most=2**17, several=True),
        D.but(name="widths", meaning="dimensions of queries, keys and values", most=16, several=True),
        DEGREE.but(most=8),
        K,
        EPS1,
        EPS2,
        REPLICATES,
    ),
    "12-clusterability": (
        N.but(meaning="tokens of a synthetic stream", least=64, most=2**15),
        Parameter("lengths", int, "tokens at which clusters are counted", 64, 2**17, several=True),
        D.but(least=16),
        RADII,
        Parameter("parts", int, "tokens per cluster, where delta is found online", 2, 64, several=True),
        REPLICATES,
    ),
    "13-subgen-laws": (
        N.but(most=4096),
        SLOTS.but(most=4096, several=True),
        SAMPLES.but(several=True),
        Parameter("copies", int, "independent caches per point", 10, 10**5),
    ),
    "14-caches-error": (
        N.but(least=256, most=2**17),
        D.but(meaning="dimension of queries, keys and values", least=16),
        INPUTS.but(meaning="streams of tokens, and the heads of a trained encoder", choices=STREAMS),
        SHARES,
        REPLICATES,
    ),
    "15-subgen-scaling": (
        N.but(least=1024, several=True),
        D.but(meaning="dimension of queries, keys and values", least=16),
        SAMPLES,
        SLOTS,
        REPLICATES,
    ),
    "16-subgen-ablation": (
        N.but(least=256, most=2**17),
        D.but(meaning="dimension of queries, keys and values", least=16),
        INPUTS.but(meaning="streams of tokens, and the heads of a trained encoder", choices=STREAMS),
        Parameter("deltas", float, "delta over the first key's norm", 2**-8, 2**6, several=True),
        Parameter("windows", float, "share of the bytes for the last tokens", 0, 0.9, several=True),
        SAMPLES.but(most=64, several=True),
        REPLICATES,
    ),
    "17-model-hardness": (
        MODEL,
        TEXT,
        N.but(meaning="tokens of a passage", least=128, most=2**15, several=True),
        PASSAGES,
        BLOCK_SIZE.but(meaning="keys per block of the mask that kappa leaves out", default=32),
    ),
    "18-model-keys-values": (
        MODEL,
        TEXT,
        N.but(meaning="tokens of a passage", least=128, most=2**15),
        PASSAGES,
        RADII,
    ),
    "19-model-assumptions": (
        MODEL,
        TEXT,
        N.but(meaning="tokens of the passage", least=128, most=2**15),
        TOLERANCE.but(meaning="relative error of a key head's answers that its cache may have"),
    ),
    "20-perplexity": (
        MODEL,
        TEXT,
        N.but(meaning="tokens of a passage", least=128, most=2**15, several=True),
        PASSAGES.but(least=2),
    ),
    "21-line-retrieval": (
        MODEL,
        TEXT,
        N.but(meaning="tokens of a document", least=256, most=2**15, several=True),
        Parameter("documents", int, "documents of each length and budget", 2, 1000),
        SHARES,
    ),
    "22-your-own-claim": (N.but(default=256), D.but(default=16)),
    "23-your-own-data": (
        Parameter(
            "data",
            str,
            "safetensors file with q, k and v; by default one is written from the decoder that ships",
            default="",
        ),
        TOLERANCE,
    ),
    "24-balancekv": (),
    "25-leaderboard": (MODEL, TEXT),
}
