"""The page `docs/gpu.md`, and the README's part on GPUs: everything in the newest record, as tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ...core.files import write_text
from . import record as records
from .device import ROOT
from .steps import STEPS
from .table import COLUMNS, NEVER, grid, mask, origin, render, rows_of, times, title

BEGIN, END = "<!-- gpu: written by scripts/check_gpu -->", "<!-- /gpu -->"
PLACE = re.compile(re.escape(BEGIN) + r"\n(.*?)\n?" + re.escape(END), re.DOTALL)

SHOWN_ERRORS = ("hyper_attention", "uniform_attention", "attention")


def write_pages() -> None:
    """Put what the newest record says between the two comments of each page that has them."""
    record = records.newest()
    for name, text in PAGES.items():
        path = ROOT / name
        before, *rest = PLACE.split(path.read_text("utf-8"), maxsplit=1)
        if rest:
            write_text(path, f"{before}{BEGIN}\n{text(record)}\n{END}{rest[-1]}")


def tables(record: dict[str, Any] | None) -> str:
    """The record in Markdown, whole."""
    if record is None:
        return NEVER
    parts = [origin(record).strip(), *(part(record) for part in PARTS)]
    return "\n\n".join(part for part in parts if part)


def _steps(record: dict[str, Any]) -> str:
    steps = [(name, record["steps"][name]) for name in STEPS if name in record["steps"]]
    cells = [[name, step["outcome"], step.get("seconds"), len(step["rows"])] for name, step in steps]
    return grid(["step", "outcome", "seconds", "rows"], cells)


def _kernel(record: dict[str, Any]) -> str:
    rows = rows_of(record, "kernel", "error")
    keys = ("kernel", "d", "error", "lse", "joined", "resumed", "split", "bitwise", "registers", "local_bytes")
    head = ["type", "d", "relative error", "of lse, absolute", "gathered, weighted", "resumed", "split keys"]
    return _section(
        "The kernel against float64",
        "Largest errors over the cases; each case ran twice, and `same bits` says that both gave the same.",
        [*head, "same bits", "registers", "bytes of local memory"],
        [[_scientific(row.get(key)) for key in keys] for row in rows],
    )


def _attention(record: dict[str, Any]) -> str:
    rows = [row for row in rows_of(record, "attention", "ms") if row["input"] == "gaussian"]
    cells = []
    for d, causal, n in sorted({(row["d"], row["causal"], row["n"]) for row in rows}):
        at = {row["what"]: row for row in rows if (row["d"], row["causal"], row["n"]) == (d, causal, n)}
        ms = {what: row["ms"] for what, row in at.items()}
        errors = [at[what]["error"] if what in at else None for what in SHOWN_ERRORS]
        peak = at.get("hyper_attention", {}).get("peak_bytes")
        megabytes = None if peak is None else peak / 1e6
        cells.append([d, mask(causal), n, *(ms.get(what) for what in COLUMNS), times(ms), *errors, megabytes])
    head = [
        "d",
        "mask",
        "n",
        *map(title, COLUMNS),
        "faster than exact",
        *(f"error of `{name}`" for name in SHOWN_ERRORS),
    ]
    return _section(
        "Attention",
        "Milliseconds between CUDA events, on standard normal data: there every method that samples keys is off by "
        "more than answering zero would be (an error of 1).",
        [*head, "MB of `hyper_attention` at its peak"],
        cells,
    )


def _near_key(record: dict[str, Any]) -> str:
    rows = [row for row in rows_of(record, "attention", "error") if row["input"] == "near key"]
    cells = [[title(row["what"]), row["n"], row["d"], mask(row["causal"]), row["error"]] for row in rows]
    head = ["", "n", "d", "mask", "relative error"]
    return _section(
        "Where each query is twice one key",
        "Without a mask every key is some query's. Answering zero has the error 1.",
        head,
        cells,
    )


def _stages(record: dict[str, Any]) -> str:
    rows = rows_of(record, "attention", "stages_ms")
    cells = [[mask(row["causal"]), stage, ms] for row in rows for stage, ms in row["stages_ms"].items()]
    words = "Milliseconds by stage; every stage waits for the device, so that they add up to more than a call takes."
    return _section("Where the time of `hyper_attention` goes", words, ["mask", "stage", "milliseconds"], cells)


def _profile(record: dict[str, Any]) -> str:
    parts = []
    for key, name, count, whole in (
        ("kernels", "The kernels that take longest", "launches", "device_ms"),
        ("functions", "The functions that take longest on the host", "calls", "host_ms"),
    ):
        rows = rows_of(record, "profile", key)
        totals = [
            f"{row[whole]:.3g} ms, beside {row['ms']:.3g} ms unprofiled ({mask(row['causal'])}, n = {row['n']})"
            for row in rows
        ]
        cells = [
            [mask(row["causal"]), f"`{entry['name'][:60].replace('|', ' ')}`", entry["count"], entry["ms"]]
            for row in rows
            for entry in row[key][:8]
        ]
        parts.append(_section(name, f"In all: {', '.join(totals)}.", ["mask", "", count, "milliseconds"], cells))
    return "\n\n".join(filter(None, parts))


def _decoding(record: dict[str, Any]) -> str:
    cells = []
    for row in rows_of(record, "decoding", "ms"):
        rate = row["tokens"] / row["update_seconds"] if "update_seconds" in row else None
        cells.append([row["cache"], row["tokens"], row["ms"], rate, row.get("bytes"), row.get("error")])
    head = ["cache", "tokens seen", "milliseconds a query", "tokens/s taken in", "bytes", "relative error"]
    return _section(
        "One token over every cache", "32 heads of dimension 64; keys and values in 64 clusters.", head, cells
    )


def _streams(record: dict[str, Any]) -> str:
    rows = rows_of(record, "streams", "ms")
    cells = [[row["what"], row["n"], row["ms"], row["peak_bytes"]] for row in rows]
    return _section("Streams and hardness", "", ["", "n", "milliseconds", "bytes at the peak"], cells)


def _section(name: str, words: str, head: list[str], cells: list[list[Any]]) -> str:
    return f"## {name}\n\n{words + chr(10) + chr(10) if words else ''}{grid(head, cells)}" if cells else ""


def _scientific(x: Any) -> Any:
    return f"{x:.1e}" if isinstance(x, float) else x


PARTS: tuple[Callable[[dict[str, Any]], str], ...] = (
    _steps, _attention, _near_key, _stages, _profile, _kernel, _decoding, _streams,
)  # fmt: skip
PAGES: dict[str, Callable[[dict[str, Any] | None], str]] = {"README.md": render, "docs/gpu.md": tables}
"""Pages, and what stands between their two comments."""
