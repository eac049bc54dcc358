"""Streaming states fed from data larger than memory: memory maps, safetensors files, iterators; with checkpoints.

Rows are read in order, each once, and handed to the state in chunks cut at multiples of `rows` from row 0 of the
stream. The cuts do not depend on the source's own chunks, nor on where an earlier run was stopped, and checkpoints are
written at cuts only: a run that was killed and resumed does the same sums in the same order, and ends in the same bits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from .core import checks
from .core.backends import Array
from .core.sources import Source, open_source

State = TypeVar("State")
Rows = Any
"""A source of rows: an array, a path, a pair (path, tensor's name), or an iterable of chunks."""


def absorb(
    state: State,
    *,
    keys: Rows,
    values: Rows,
    queries: Rows | None = None,
    rows: int = 65536,
    checkpoint: str | os.PathLike[str] | None = None,
    every: float = 30.0,
    progress: bool = True,
) -> State:
    """Feed keys and values, then queries, to a streaming state; each row is read once, and few are in memory.

    Parameters
    ----------
    state : PolynomialState, OnePassSketch or key-value cache (`SubGenCache`, those of `caches`)
        Changed in place. The rows that it has seen are skipped at the source, so that the same call continues a stream
        from a loaded checkpoint: a source is always the whole stream, from its row 0.
    keys, values : source of n rows of d, and of d_v, numbers
        One of

        - an array `(n, d)`, or what has its shape and slices: a NumPy memory map, an HDF5 data set;
        - a path to a `.npy` file, which is mapped, not loaded;
        - a pair (path to a `.safetensors` file, name of the tensor), which is read slice by slice;
        - an iterable of chunks `(c, d)` or rows `(d,)`, of any sizes: those of `keys` and `values` need not match.
    queries : source, optional
        For a `OnePassSketch`, which must have all n keys by then.
    rows : int
        Rows per chunk: a few chunks of each source are in memory at a time. The sums are rounded chunk by chunk, so
        their last bits depend on it.
    checkpoint : path, optional
        File that `state.save` writes, whole or not at all: at the first cut `every` seconds after the last time, after
        the last key, and at the end. It is written over: a state that is not loaded from the file starts anew.
    every : float
        Seconds between checkpoints.
    progress : bool
        Show rows done, rows per second and the time left, on stderr if that is a terminal.

    Returns
    -------
    state
        The same object.

    Raises
    ------
    TypeError
        Not a source, no floating dtype, mixed dtypes, bfloat16 in a file without the package `ml_dtypes`; a state that
        takes no queries; anything the state refuses.
    ValueError
        Sources of different lengths or of fewer rows than the state has seen, more rows than a sketch takes, fewer keys
        than it takes before queries; shapes that do not fit; a file that is not whole. Arrays and files are checked
        before any work; an iterable when the rows show it. The state and the checkpoint then hold what came before.
    FileNotFoundError
        No such file.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import PolynomialState
    >>> from sublinattn.streams import absorb
    >>> k, v = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 1000, 4))
    >>> chunks = (k[start : start + 300] for start in range(0, 1000, 300))  # or a path, or (path, tensor)
    >>> state = absorb(PolynomialState(4, 4, degree=4), keys=chunks, values=v)
    >>> state.tokens_seen
    1000
    """
    rows = checks.integer("rows", rows, minimum=1)
    saver = _Saver(state, checkpoint, every)
    streams = _streams(state, keys, values, queries)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn()]
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (progress and console.is_terminal)) as bars:
        for stream in streams:
            _feed(stream, rows, saver, bars)
            saver.save()
    return state


@dataclass(frozen=True)
class _Stream:
    """Sources that are read side by side, and where their rows go."""

    sources: list[Source]
    seen: Callable[[], int]
    take: Callable[[list[Array], int], Any]  # chunks of the sources, index of their first row
    minimum: int = 0  # rows it must have
    maximum: int | None = None

    @property
    def label(self) -> str:
        return " and ".join(source.name for source in self.sources)

    def check(self) -> None:
        """Compare the lengths, as far as they are known, with each other and with what the state needs."""
        seen = self.seen()
        for source in self.sources:
            if source.total == 0:
                raise ValueError(f"{source.name} must not be empty")
            if source.total is not None and source.total < seen:
                raise ValueError(
                    f"{source.name} has {source.total} rows, and the state has seen {seen}: a source is the whole "
                    "stream, from its row 0"
                )
            if self.maximum is not None and max(source.total or 0, source.position) > self.maximum:
                raise ValueError(f"{source.name} must have {self.maximum} rows, as the state says, got {source.length}")
            if source.total is not None and source.total < self.minimum:
                raise ValueError(f"{source.name} must have {self.minimum} rows before queries, got {source.total}")
        totals = {source.total for source in self.sources} - {None}
        if len(totals) > 1 or len({source.position for source in self.sources}) > 1:
            lengths = " and ".join(source.length for source in self.sources)
            raise ValueError(f"{self.label} must have as many rows as each other, got {lengths}")


def _streams(state: Any, keys: Rows, values: Rows, queries: Rows | None) -> list[_Stream]:
    """What goes where; whatever can be known before the first row is read is checked."""
    pair = [open_source("keys", keys), open_source("values", values)]
    if hasattr(state, "absorb_keys"):
        minimum = 0 if queries is None else state.n

        def take_keys(chunks: list[Array], start: int) -> None:
            state.absorb_keys(*chunks, start=start)

        def take_queries(chunks: list[Array], start: int) -> None:
            state.absorb_queries(*chunks, start=start)

        streams = [_Stream(pair, lambda: state.keys_seen, take_keys, minimum, state.n)]
        if queries is not None:
            source = open_source("queries", queries)
            streams.append(_Stream([source], lambda: state.queries_seen, take_queries, maximum=state.n))
            if None not in (source.width, pair[0].width) and source.width != pair[0].width:
                raise ValueError(f"queries must be as wide as keys, {pair[0].width}, got {source.width}")
    elif hasattr(state, "update") and hasattr(state, "tokens_seen"):
        if queries is not None:
            raise TypeError(f"queries: a {type(state).__name__} absorbs none, call its attend(q)")
        streams = [_Stream(pair, lambda: state.tokens_seen, lambda chunks, start: state.update(*chunks))]
    else:
        raise TypeError(
            f"state must be a PolynomialState, a OnePassSketch or a key-value cache, got {type(state).__name__}"
        )
    for stream in streams:
        stream.check()
    return streams


def _feed(stream: _Stream, rows: int, saver: _Saver, bars: Progress) -> None:
    """Hand a stream to the state, from the first row that it has not seen."""
    done = stream.seen()
    total = next((source.total for source in stream.sources if source.total is not None), stream.maximum)
    bar = bars.add_task(stream.label, total=total, completed=done)
    for source in stream.sources:
        source.skip(done)
    while True:
        start = stream.sources[0].position
        count = rows - start % rows  # after a stop between two cuts: up to the next one
        chunks = [source.read(count) for source in stream.sources]
        stream.check()
        done = stream.sources[0].position
        if done > start:
            try:
                stream.take(chunks, start)
            except Exception as error:
                error.add_note(f"in rows {start} to {done - 1} of {stream.label}")
                raise
            bars.advance(bar, done - start)
        if done < start + count:
            bars.update(bar, total=done)
            return
        saver.save_if_due()


class _Saver:
    """Writes the checkpoint: when asked, or when it is time."""

    def __init__(self, state: Any, path: str | os.PathLike[str] | None, every: Any) -> None:
        if not checks.real("every", every) >= 0:
            raise ValueError(f"every must be a number of seconds, at least 0, got {every!r}")
        if path is not None:
            if not isinstance(path, (str, os.PathLike)):
                raise TypeError(f"checkpoint must be a path, got {type(path).__name__}")
            if Path(path).is_dir():
                raise ValueError(f"checkpoint must be the path of a file, got the folder {path}")
            if not hasattr(state, "save"):
                raise TypeError(f"checkpoint: a {type(state).__name__} cannot be saved")
        self._state, self._path, self._every = state, path, every
        self._last = time.monotonic()

    def save(self) -> None:
        if self._path is not None:
            self._state.save(self._path)
            self._last = time.monotonic()

    def save_if_due(self) -> None:
        if time.monotonic() - self._last >= self._every:
            self.save()


class _Speed(ProgressColumn):
    """Rows per second of the last half minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} rows/s", style="progress.data.speed")
