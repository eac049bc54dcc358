"""The audit of a model: hardness and theorems' sizes of every query head, the error of every cache on every key head.

Under grouped queries several query heads read the keys and values of one *key head*, so that a cache belongs to a key
head; the errors of its query heads are measured one by one. All caches are measured at several shares of the bytes, so
that another tolerance needs no new measurement: `Audit.save` and `Audit.load` keep the tables in a folder.

*Errors* are those of the last queries, whose answers are computed from the keys before them, or from these and their
own: a method that compresses keys has not seen these queries.

*Hardness* is measured on the queries of the later half and the keys of the earlier half of the text, the largest block
without a mask; this is what HyperAttention approximates under a causal mask ([HA24] Algorithm 4). On the whole masked
matrix alpha would say nothing: the first queries see few keys, so that it is of the order of n for every model.

*Sizes* follow from the theorems with what was measured here, with explicit constants where these are known. Every part
of an estimate gets all of the error `EPS` and all of the failure probability `FAILURE`, although a theorem must divide
them among its parts. The sizes are therefore lower bounds of what a theorem needs; where one is not below n, that
theorem says nothing. For [HA24] the size is the number of samples in Lemma 2 (the product), without those of Lemma 1
(the normaliser); for [ALSY23] all hidden constants are taken to be 1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...core import files
from ...core.backends import backend
from ...core.plain import plain
from ...lab.run import generator
from ...lab.workloads.instance import Captured
from .answers import answers, prompts
from .facts import facts
from .group import QUERIES, Group

SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Bytes of a cache over those of the exact one, where nothing else is asked for."""
ABOUT, FORMAT = "audit.json", "sublinattn audit 1"
_KINDS = {
    **dict.fromkeys(("tokens", "layers", "heads", "kv_heads", "queries", "seed"), int),
    **{"source": str, "scale": float, "shares": list},
}
_AT_ONCE = 2**31
"""Bytes of attention weights of the held-out queries that are on a device at once; a CPU takes one layer at a time."""


@dataclass(frozen=True)
class Audit:
    """The measurements of an audit.

    Attributes
    ----------
    about : mapping
        format, source, tokens, layers, heads, kv_heads, scale, seed; shares (of the exact cache's bytes, which were
        measured), queries (how many are held out).
    heads : DataFrame
        One row per query head with the columns layer, head, key_head, n, and problem: why the head could not be audited
        (its other columns are NaN then, and it is in no other table), or ""; the columns that `facts.facts` says.
    caches : DataFrame
        layer, key_head, method, share (the budget, as a fraction of the exact cache's bytes; NaN without a budget),
        nbytes (stored), cache and parameters (class and arguments, as JSON).
    errors : DataFrame
        layer, head, key_head, method, share, error (mean over queries of `||out - Attn||_2 / (||softmax(K q)||_2
        ||V||)`) and relative (`||out - Attn||_F / ||Attn||_F`), of answers from the prompt alone; decoded (the relative
        error when the queries see their own tokens exactly as well, as in decoding; NaN for what is no cache).
    prompts : DataFrame
        layer, head, exact (number of keys computed exactly), positions (which, heaviest first, as JSON), gap and size
        (`||out - Attn||_F` and `||Attn||_F` over the last queries): HyperAttention on the whole causal text.
    radii : DataFrame
        layer, key_head, m (number of clusters), radius (of greedy k-center on the keys).
    """

    about: dict[str, Any]
    heads: pd.DataFrame
    caches: pd.DataFrame
    errors: pd.DataFrame
    prompts: pd.DataFrame
    radii: pd.DataFrame

    @property
    def where(self) -> str:
        """The model's size in words, for captions."""
        about = self.about
        return f"{about['layers']} layers of {about['heads']} query and {about['kv_heads']} key heads, " + (
            f"{about['tokens']} tokens"
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `audit.json` and the tables, as CSV and as Parquet."""
        folder = Path(folder)
        for name in self._tables():
            write_table(getattr(self, name), folder / name)
        files.write_json(folder / ABOUT, plain(self.about))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Audit:
        """Read what `save` wrote; FileNotFoundError if it is not there, ValueError if another version wrote it."""
        path = Path(folder) / ABOUT
        with files.reading(path, "what an audit says of itself"):
            about = dict(files.read_json(path))
            if about.get("format") != FORMAT:
                raise ValueError(
                    f"{folder} holds an audit in the format {about.get('format')!r}, not {FORMAT!r}: audit anew"
                )
            for name, kind in _KINDS.items():
                if not isinstance(about[name], kind) or isinstance(about[name], bool):
                    raise ValueError(f"{name} must be of type {kind.__name__}, got {about[name]!r}")
        return cls(about, *(files.read_rows(path.with_name(f"{name}.parquet")) for name in cls._tables()))

    @classmethod
    def _tables(cls) -> list[str]:
        return [field.name for field in fields(cls) if field.name != "about"]


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV and as Parquet."""
    with files.atomic(path.with_suffix(".csv")) as temporary:
        table.to_csv(temporary, index=False)
    with files.atomic(path.with_suffix(".parquet")) as temporary:
        table.to_parquet(temporary, index=False)


def audit(
    captured: Captured,
    *,
    shares: Sequence[float] | None = None,
    seed: int = 0,
    backend_name: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Audit:
    """Measure every layer and head of a causal model.

    Parameters
    ----------
    captured : Captured
    shares : sequence of float
        Memory budgets of a cache as fractions of the exact cache; for HyperAttention, the fractions of the keys that it
        reads per query. By default those of `SHARES` that leave a cache 16 tokens.
    seed : int
    backend_name : "auto", "numpy" or "cupy"
        Where the arrays live.
    progress : callable
        Called now and then with the number of query heads done and the number of all.

    Raises
    ------
    ValueError
        Fewer than 128 tokens; a share that leaves the caches fewer than 16 tokens; no head that can be audited.

    Notes
    -----
    About 20 passes over each head's softmax matrix, `O(n^2 d)` operations each, and each cache once per share and key
    head. Only one layer is in memory at a time; on a GPU, as many as fit.
    """
    n, xp = captured.tokens, backend(backend_name)
    if n < 128:
        raise ValueError(f"an audit needs at least 128 tokens, got {n}")
    shares = [share for share in SHARES if share * n >= 16] if shares is None else shares
    for share in shares:
        if not 16 <= share * n <= n:
            raise ValueError(f"share must be between {16 / n:.2g} (16 tokens of {n}) and 1, got {share}")
    queries, total = min(QUERIES, n // 4), captured.layers * captured.heads
    step = 1 if xp is np else max(1, _AT_ONCE // (captured.heads * n * queries * 4))
    places = [(layer, head) for layer in range(captured.layers) for head in range(captured.kv_heads)]
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in ("heads", "caches", "errors", "prompts", "radii")}
    for first in range(0, len(places), step * captured.kv_heads):
        part = places[first : first + step * captured.kv_heads]
        for name, rows in _measured(captured, part, shares, queries, seed, xp).items():
            tables[name] += rows
        progress(len(tables["heads"]), total)
    if not tables["errors"]:
        raise ValueError(f"no head can be audited; layer 0, head 0: {tables['heads'][0]['problem']}")
    about = {name: getattr(captured, name) for name in ("source", "tokens", "layers", "heads", "kv_heads", "scale")}
    about |= {"format": FORMAT, "shares": list(shares), "queries": queries, "seed": seed}
    return Audit(about, **{name: pd.DataFrame(rows) for name, rows in tables.items()})


def _measured(
    captured: Captured, places: list[tuple[int, int]], shares: Sequence[float], queries: int, seed: int, xp: Any
) -> dict[str, list[dict[str, Any]]]:
    """The rows of all tables for key heads that are measured together; one bad head must not cost the others."""
    try:
        group = Group.load(captured, places, queries, xp)
        rng = generator(seed, "audit", *places[0])
        heads, radii = facts(group, rng)
        caches, errors = answers(group, shares, rng)
        return {
            "heads": heads,
            "radii": radii,
            "caches": caches,
            "errors": errors,
            "prompts": prompts(group, rng),
        }
    except ValueError as error:
        if len(places) == 1:
            (layer, key_head), size = places[0], captured.heads // captured.kv_heads
            numbers = range(key_head * size, (key_head + 1) * size)
            bad = {"n": captured.tokens, "problem": str(error)}
            return {"heads": [{"layer": layer, "head": head, "key_head": key_head, **bad} for head in numbers]}
    parts = [_measured(captured, [place], shares, queries, seed, xp) for place in places]
    return {name: [row for part in parts for row in part.get(name, [])] for name in max(parts, key=len)}
