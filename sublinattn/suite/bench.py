"""Speed and memory of the algorithms beside what they cannot do without, in one run: float32, on the CPU.

Machines are shared and noisy, so contenders run in turn, round after round, and the ratios are the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..core import backends
from ..core.exact import attention
from ..core.timing import best_of, peak_bytes
from ..lab.models import open_model, place
from ..lab.workloads import make
from ..lab.workloads.instance import Instance
from ..methods.caches.exact import ExactCache
from ..methods.hyperattention.hyper import hyper_attention
from ..methods.onepass.onepass import OnePassSketch
from ..methods.polynomial.monomials import Monomials
from ..methods.polynomial.polynomial import PolynomialState
from ..methods.subgen.subgen import SubGenCache

Progress = Callable[[int, int], None]


def nothing(done: int, total: int) -> None:
    """The progress that is not shown."""


@dataclass(frozen=True, eq=False)
class Contender:
    """One call to be timed.

    Attributes
    ----------
    what : str
        Name in the table.
    n : int
        Number of tokens that the call handles.
    call : callable
    yardstick : Contender, optional
        The contender whose tokens per second this one's are divided by.
    repeats : int
        Calls per round, of which the fastest counts: several where one call is short.
    nbytes : int, optional
        Bytes of the state that is kept.
    """

    what: str
    n: int
    call: Callable[[], Any]
    yardstick: Contender | None = None
    repeats: int = 1
    nbytes: int | None = None


def race(contenders: Sequence[Contender], rounds: int = 3, *, progress: Progress = nothing) -> pd.DataFrame:
    """Time all contenders in turn, `rounds` times; `progress(done, total)` is called after each.

    Returns
    -------
    DataFrame
        what, n, seconds (median over rounds), fastest, tokens_per_second (of the fastest), nbytes, ratio (of its tokens
        per second to the yardstick's, median over rounds), yardstick.
    """
    seconds: dict[Contender, list[float]] = {contender: [] for contender in contenders}
    for done in range(rounds):
        for number, (contender, times) in enumerate(seconds.items(), 1):
            times.append(best_of(np, contender.call, contender.repeats))
            progress(done * len(seconds) + number, rounds * len(seconds))
    rows = []
    for contender, times in seconds.items():
        other, ratio = contender.yardstick, np.nan
        if other is not None:
            ratio = float(np.median(np.divide(seconds[other], times))) * contender.n / other.n
        rows.append(
            {
                "what": contender.what,
                "n": contender.n,
                "seconds": np.median(times),
                "fastest": min(times),
                "tokens_per_second": contender.n / min(times),
                "nbytes": contender.nbytes or "",
                "ratio": ratio,
                "yardstick": "" if other is None else other.what,
            }
        )
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------------------------------- sublinattn bench
def hyper(
    n: int = 131072, *, n_exact: int = 16384, d: int = 64, size: int = 256, progress: Progress = nothing
) -> list[pd.DataFrame]:
    """HyperAttention and exact attention of one head; PyTorch's exact attention where the extra `torch` is installed.

    Returns
    -------
    list of DataFrame
        Times, as `race`; and the peak bytes of `hyper_attention` beyond its inputs, its output included.
    """
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((n, d), dtype=np.float32) for _ in range(3))
    short = [x[:n_exact] for x in (q, k, v)]
    floor = Contender("products and exponentials alone", n, partial(_hyper_products, n, d, size), repeats=5)
    contenders, memory = [floor], []
    for causal, name in ((False, ""), (True, ", causal")):
        sublinear = partial(hyper_attention, q, k, v, causal=causal, block_size=size, sample_size=size, rng=0)
        exact = partial(attention, *short, causal=causal)
        torch_long, torch_short = (
            Contender(f"PyTorch SDPA{name}", len(x[0]), call) if (call := _sdpa(*x, causal=causal)) else None
            for x in ((q, k, v), short)
        )
        contenders += [contender for contender in (torch_long, torch_short) if contender]
        contenders.append(Contender(f"attention{name}", n_exact, exact, torch_short, repeats=3))
        contenders.append(Contender(f"hyper_attention{name}", n, sublinear, torch_long, repeats=5))
        memory.append({"causal": causal, "peak_bytes": peak_bytes(np, sublinear), "output_bytes": v.nbytes})
        if not causal:
            contenders.append(Contender("hyper_attention", n, sublinear, floor, repeats=5))
    return [race(contenders, progress=progress), pd.DataFrame(memory)]


def stream(n: int = 2**20, *, n_paper: int = 2**17, d: int = 8, progress: Progress = nothing) -> list[pd.DataFrame]:
    """The streaming state of the polynomial method, and the one-pass sketches with their decoders."""
    contenders = []
    for length in (n_paper, n):
        x = make("compressible", length, d, rng=0)
        floor = Contender("products alone", length, partial(_state_products, length, d))
        state = partial(_state, x)
        contenders += [floor, Contender("streaming state, keys", length, state, floor, nbytes=state().nbytes)]
        for variant in ("fused", "paper") if length == n_paper else ("fused",):
            feed = partial(_sketch, x, variant)
            sketch = feed()
            contenders.append(Contender(f"{variant}, keys and queries", length, feed, nbytes=sketch.nbytes))
            for method in ("identify", "scan"):
                contenders.append(Contender(f"{variant}, {method}", length, partial(sketch.decode, method)))
    return [race(contenders, progress=progress)]


def subgen(n: int = 2**20, *, d: int = 64, clusters: int = 1000, progress: Progress = nothing) -> list[pd.DataFrame]:
    """SubGen's cache on keys in clusters of diameter delta.

    Returns
    -------
    list of DataFrame
        Times of absorbing tokens and of one query, as `race`; and n, nbytes, clusters, share_of_exact (of the exact
        cache's bytes) while tokens arrive.
    """
    x = make("clusterable", n, d, rng=0, clusters=clusters, delta=1.0)
    started, later = _subgen(x, n // 8), range(n // 8, n // 8 + n // 512)
    rows = Contender("SubGen, row by row", len(later), lambda: [started.update(x.k[i], x.v[i]) for i in later])
    absorb = race(
        [
            Contender("products and minima alone", n, partial(_subgen_products, n, d, clusters), rows),
            Contender("SubGen, in chunks", n, partial(_subgen, x, n), rows),
            rows,
        ],
        progress=progress,
    )
    cache, exact, q = _subgen(x, n), ExactCache().update(x.k, x.v), x.q[:1]
    answer = Contender("SubGen, one query", n, partial(cache.attend, q), nbytes=cache.nbytes)
    query = race(
        [
            answer,
            Contender("exact cache, one query", n, partial(exact.attend, q), answer, nbytes=exact.nbytes),
            Contender("NumPy, all BLAS threads", n, partial(_softmax, x, q[0]), answer, nbytes=2 * x.k.nbytes),
        ],
        rounds=9,
        progress=progress,
    )
    memory = []
    for length in (n >> shift for shift in range(4, -1, -1)):
        cache = _subgen(x, length)
        share = cache.nbytes / (2 * x.k[:length].nbytes)
        memory.append({"n": length, "nbytes": cache.nbytes, "clusters": len(cache.counts), "share_of_exact": share})
    return [absorb, query, pd.DataFrame(memory)]


def decoder(
    model: str = "smollm2", *, lengths: Sequence[int] = (2048, 8192), progress: Progress = nothing
) -> list[pd.DataFrame]:
    """Losses of a language model under exact attention; transformers' where the extra `hf` is installed.

    Returns
    -------
    list of DataFrame
        Times of whole passes and of the head alone, as `race`; and n and the peak bytes beyond the weights.

    Raises
    ------
    FileNotFoundError
        The model is not fetched yet.
    """
    opened, contenders, memory = open_model(model), [], []
    transformers = _transformers(place(model))
    for n in lengths:
        tokens, within = opened.beginning(n), opened.decoder.stretched(n)
        *_, last = within.states(tokens)
        theirs = Contender(f"transformers, n = {n}", n, partial(transformers, tokens)) if transformers else None
        ours = partial(within.losses, tokens)
        contenders += [theirs] if theirs else []
        contenders.append(Contender(f"Decoder.losses, n = {n}", n, ours, theirs))
        contenders.append(Contender(f"head alone, n = {n}", n, partial(ours, resume=last)))
        memory.append({"n": n, "peak_bytes": peak_bytes(np, ours)})
    return [race(contenders, progress=progress), pd.DataFrame(memory)]


# ---------------------------------------------------------------------------------------------------------- what is run
def _transformers(path: Path) -> Callable[[np.ndarray], float] | None:
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError:
        return None
    file = {"gguf_file": path.name} if path.is_file() else {}
    model = AutoModelForCausalLM.from_pretrained(path.parent if file else path, dtype=torch.float32, **file)

    def loss(tokens: np.ndarray) -> float:
        ids = torch.from_numpy(np.array(tokens, np.int64))[None]
        with torch.inference_mode():
            return float(model(ids, labels=ids, use_cache=False).loss)

    return loss


def _sdpa(*arrays: np.ndarray, causal: bool) -> Callable[[], Any] | None:
    try:
        import torch
    except ImportError:
        return None
    tensors = [torch.from_numpy(x)[None, None] for x in arrays]
    return partial(torch.nn.functional.scaled_dot_product_attention, *tensors, is_causal=causal)


def _state(x: Instance) -> PolynomialState:
    d = x.k.shape[1]
    return PolynomialState(d, d, degree=4).update(x.k, x.v)


def _sketch(x: Instance, variant: str) -> OnePassSketch:
    (n, d), chunk = x.q.shape, 65536
    sketch = OnePassSketch(n, d, d, degree=4, sparsity=64, eps1=0.5, eps2=0.5, variant=variant, rng=0)
    for rows in backends.cut(n, chunk):
        sketch.absorb_keys(x.k[rows], x.v[rows])
    for rows in backends.cut(n, chunk):
        sketch.absorb_queries(x.q[rows])
    return sketch


def _subgen(x: Instance, n: int) -> SubGenCache:
    cache = SubGenCache(1.0, 8, 256, rng=0)
    for rows in backends.cut(n, 4096):
        cache.update(x.k[rows], x.v[rows])
    return cache


def _softmax(x: Instance, q: np.ndarray) -> np.ndarray:
    logits = x.scale * (x.k @ q)
    weights = np.exp(logits - logits.max())
    return weights @ x.v / weights.sum()


# Floors: the operations that an algorithm cannot do without, on arrays that stay in cache.


def _filled(value: float, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [np.full(shape, value, np.float32) for shape in shapes]


def _hyper_products(n: int, d: int, size: int) -> None:
    """Matrix products and exponentials of HyperAttention without a mask: every query with a block and a sample."""

    def worker(block: int, own: list[np.ndarray]) -> None:
        q, k, logits, out = own
        for _ in ("block", "sample"):
            np.matmul(q, k.T, out=logits)
            np.exp(logits, out=logits)
            np.matmul(logits, k, out=out)

    shapes = (size, d), (size, d), (size, size), (size, d)
    backends.for_tiles(np, range(n // size), worker, lambda: _filled(0.01, *shapes))


def _state_products(n: int, d: int) -> None:
    """Multiplications and matrix products that absorbing n tokens into the streaming state takes."""
    t = Monomials(d, 4).rank
    rows = 2**18 // t  # 1 MiB of features

    def worker(chunk: int, own: list[np.ndarray]) -> None:
        features, column, values, out = own
        np.multiply(features, column, out=out)
        np.matmul(out, values)

    shapes = (t, rows), (rows,), (rows, d + 1), (t, rows)
    backends.for_tiles(np, range(-(-n // rows)), worker, lambda: _filled(0.5, *shapes))


def _subgen_products(n: int, d: int, clusters: int) -> None:
    """Distances of all tokens to all cluster centres, as matrix products and minima."""
    rows = 2**18 // clusters

    def worker(tile: int, own: list[np.ndarray]) -> None:
        x, centres, out = own
        np.matmul(x, centres.T, out=out).argmin(axis=1)

    shapes = (rows, d), (clusters, d), (rows, clusters)
    backends.for_tiles(np, range(-(-n // rows)), worker, lambda: _filled(0.5, *shapes))
