"""Errors, seconds and bytes of every method on the same inputs: synthetic ones, a trained encoder's, a decoder's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ...core.backends import Array, asnumpy, namespace, to_device
from ...core.exact import attention
from ...core.timing import peak_bytes, timed
from ...lab.comparison.batch import BATCH
from ...lab.comparison.error_over_bytes import CLUSTERS_MEAN
from ...lab.comparison.registry import CHUNK, QUERIES, REGISTRY, D, Stream, feed
from ...lab.progress import tracked
from ...lab.run import Run
from ...lab.workloads.inputs import CLUSTERED, GAUSSIAN_MEAN, HEAVY_VALUES, PLANTED, REAL, SINKS
from ...lab.workloads.instance import Instance
from ...lab.workloads.reference import Reference
from ..audit.answers import YARDSTICKS
from .contenders import BATCHES, CACHES, EXACT, SHARE, ZERO, names

INPUTS = (GAUSSIAN_MEAN, CLUSTERED, CLUSTERS_MEAN, PLANTED, HEAVY_VALUES, SINKS)
SYNTHETIC, ENCODER, DECODER = "synthetic", "MiniLM", "decoder"
GROUPS = (SYNTHETIC, ENCODER, DECODER)
Answer = tuple[Array | None, float, float]
"""Outputs for all queries (None: it has no parameters for the budget), seconds, bytes over those of keys and values."""


@dataclass(frozen=True)
class Problem:
    """Keys, values and queries of one head, and which rows of the queries are judged.

    Attributes
    ----------
    group, label : str
        One of GROUPS, and the input.
    replicate : int
    stream : Stream
        The queries that come between the tokens are none of those judged.
    judged : ndarray of int
        Rows of `stream.x.q`.
    """

    group: str
    label: str
    replicate: int
    stream: Stream
    judged: np.ndarray

    @property
    def cache_bytes(self) -> int:
        """Bytes of all keys and values."""
        return self.stream.cache_bytes


def size(run: Run) -> int:
    """Tokens of a synthetic input."""
    return run.pick(smoke=1024, standard=4096, full=16384)


def heads(run: Run) -> int:
    """Random heads of a trained model, of which no two are alike."""
    return run.pick(smoke=16, standard=36, full=72)


def problems(run: Run) -> Iterator[Problem]:
    """Fresh inputs, and random heads of the encoder and of the decoder that the run names."""
    for what in (*INPUTS, REAL):
        for replicate in range(heads(run) if what == REAL else run.pick(smoke=4, standard=12, full=24)):
            rng = run.rng("leaderboard", what.label, replicate)
            x = what.draw(size(run), D, rng, run.xp)
            judged = np.sort(rng.permutation(len(x.q))[:QUERIES])
            asked = np.ones(len(x.q), bool)
            asked[judged] = False
            stream = Stream.over(x, early=x.q, asked=asked, late=x.q[to_device(judged, run.xp)])
            yield Problem(ENCODER if what == REAL else SYNTHETIC, what.label, replicate, stream, judged)
    yield from _of_decoder(run)


def _of_decoder(run: Run) -> Iterator[Problem]:
    """Queries of a passage's later half on the keys of its earlier half: the largest block without a mask.

    A cache that learns from queries is asked those of the earlier half.
    """
    opened, n = run.open_model(), run.pick(smoke=512, standard=1024, full=4096)
    in_layer = opened.decoder.config.heads
    q, k, v = opened.qkv(opened.passage(run.rng("leaderboard", "passage"), 2 * n))
    chosen = run.rng("leaderboard", "heads").permutation(len(q) * in_layer)
    for replicate in range(min(heads(run), len(chosen))):
        layer, head = divmod(int(chosen[replicate]), in_layer)
        kv = head * k.shape[1] // in_layer
        x = Instance(q[layer, head, n:], k[layer, kv, :n], v[layer, kv, :n], scale=q.shape[-1] ** -0.5)
        judged = np.sort(run.rng("leaderboard", "judged", replicate).permutation(n)[:QUERIES])
        late = x.q[to_device(judged, namespace(x.q))]
        stream = Stream.over(x, early=q[layer, head, :n], asked=np.ones(n, bool), late=late)
        yield Problem(DECODER, f"{DECODER} heads ({opened.name})", replicate, stream, judged)


def measure(run: Run) -> pd.DataFrame:
    """Error of the judged queries' answers, seconds and bytes, of every method on every input at the budget.

    Returns
    -------
    DataFrame
        kind, method, group, input, n, replicate (fresh input, or another head), spectral (`||out - PV|| / (||P||
        ||V||)`, operator norms), relative (`||out - PV||_F / ||PV||_F`), seconds (to answer all queries; of a cache, to
        read all tokens besides), held (bytes over those of all keys and values: what a cache stores, or the most that
        a batch method's call allocates at once beside them, measured on the first input alone). nan where a method has
        no parameters for the budget.
    """
    found: list[tuple[Any, ...]] = []
    peaks: dict[str, float] = {}
    whole = list(problems(run))
    for problem in tracked(whole, f"{len(whole)} inputs of the leaderboard"):
        x = problem.stream.x
        reference = Reference(Instance(problem.stream.late, x.k, x.v, x.scale))
        base = (problem.group, problem.label, len(x.k), problem.replicate)
        for kind, name, answer in _contenders(run, problem, peaks):
            out, seconds, held = answer()
            error = relative = np.nan
            if out is not None:
                late = asnumpy(out[to_device(problem.judged, namespace(out))])
                relative = problem.stream.errors(late)[1]
                error = reference.error(late) if np.isfinite(late).all() else np.inf
            found.append((kind, name, *base, error, relative, seconds, held))
    columns = ["kind", "method", "group", "input", "n", "replicate", "spectral", "relative", "seconds", "held"]
    return pd.DataFrame(found, columns=columns)


def _contenders(run: Run, problem: Problem, peaks: dict[str, float]) -> Iterator[tuple[str, str, Callable[[], Answer]]]:
    """Kind, name and a function that answers; draws of one method do not depend on which others there are."""

    def rng(kind: str, name: str) -> np.random.Generator:
        return run.rng("leaderboard", problem.label, problem.replicate, kind, name)

    for name in (EXACT, ZERO, *names(BATCHES)):
        yield BATCHES, name, partial(_batch, problem, name, partial(rng, BATCHES, name), peaks)
    for name in (EXACT, ZERO, *names(CACHES)):
        yield CACHES, name, partial(_cache, problem, name, rng(CACHES, name))


def _batch(problem: Problem, name: str, rng: Callable[[], np.random.Generator], peaks: dict[str, float]) -> Answer:
    x = problem.stream.x
    xp, (q, k, v) = namespace(x.q), (x.q, x.k, x.v)

    def call() -> Array | None:
        if name == EXACT:
            return attention(q, k, v, scale=x.scale)
        if name == ZERO:
            return xp.zeros((len(q), v.shape[1]), v.dtype)
        return BATCH[name].answer(q, k, v, budget=int(SHARE * len(k)), scale=x.scale, rng=rng())

    if name not in peaks:
        call()  # what is compiled or imported first is not the method's
        peaks[name] = peak_bytes(xp, call) / problem.cache_bytes
    out, seconds = timed(xp, call)
    return out, seconds, peaks[name]


def _cache(problem: Problem, name: str, rng: np.random.Generator) -> Answer:
    stream, budget = problem.stream, int(SHARE * problem.cache_bytes)
    x = stream.x
    contender = YARDSTICKS.get(name) or REGISTRY[name]
    try:
        cache = contender.within(budget, x, rng)
    except ValueError:  # there is none in so few bytes
        return None, np.nan, np.nan

    def call() -> Array:
        if name in YARDSTICKS:
            stream.feed(cache, CHUNK)
        else:
            feed(name, cache, stream, budget)
        return cache.attend(x.q, scale=x.scale, check_finite=False)

    out, seconds = timed(namespace(x.q), call)
    return out, seconds, cache.nbytes / problem.cache_bytes
