"""The README's table of what ran on a GPU, rendered from the newest record."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..markdown import markdown_table
from . import record as records
from .bench_attention import KEYS

NEVER = "Nothing here has ever run on a GPU."
COLUMNS = ("hyper_attention", "attention", "PyTorch flash", "PyTorch cuDNN")
EXACT = COLUMNS[1:]


def grid(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown: numbers with three digits, a dash where there is nothing."""
    return markdown_table(head, (map(cell, row) for row in rows))


def cell(x: Any) -> str:
    """A value as it stands in a table."""
    if x is None:
        return "-"
    return f"{x:.3g}" if isinstance(x, float) and abs(x) < 1000 else f"{x:.0f}" if isinstance(x, float) else str(x)


def rows_of(record: dict[str, Any], step: str, *keys: str) -> list[dict[str, Any]]:
    """The rows of a step that have all of these keys."""
    return [row for row in record["steps"].get(step, {}).get("rows", []) if all(key in row for key in keys)]


def render(record: dict[str, Any] | None) -> str:
    """The record in Markdown: attention at the largest n, then sentences on everything else."""
    if record is None:
        return NEVER
    parts = [origin(record), _attention(record), *_sentences(record)]
    return "\n".join(part for part in parts if part)


def origin(record: dict[str, Any]) -> str:
    rows = rows_of(record, "environment")
    if not rows:
        return f"Run on {record['started'][:10]}.\n"
    versions, code = rows[0]["versions"], rows[0]["code"]
    named = [f"{label} {versions[key]}" for label, key in (("CuPy", "cupy"), ("PyTorch", "torch")) if key in versions]
    commit = code.get("commit")
    source = f"commit `{commit['sha'][:10]}`" if commit and not commit["dirty"] else f"sources `{code['source']}`"
    return f"{records.card(record)}, {record['started'][:10]}, {', '.join([*named, source])}.\n"


def _attention(record: dict[str, Any]) -> str:
    rows = [row for row in rows_of(record, "attention", "ms") if row["input"] == "gaussian"]
    if not rows:
        return ""
    n = max(row["n"] for row in rows)
    head = [f"milliseconds: n = {n}, {rows[0]['heads']} heads, {rows[0]['dtype']}", *map(title, COLUMNS)]
    cells = []
    for d, causal in sorted({(row["d"], row["causal"]) for row in rows}):
        at = {row["what"]: row["ms"] for row in rows if (row["n"], row["d"], row["causal"]) == (n, d, causal)}
        cells.append([f"d = {d}, {mask(causal)}", *(at.get(name) for name in COLUMNS), times(at)])
    return grid([*head, "`hyper_attention` over the fastest exact one"], cells) + "\n"


def title(what: str) -> str:
    """A contender as a column says it: our functions are code."""
    return what if what.startswith("PyTorch") else f"`{what}`"


def mask(causal: bool) -> str:
    return "causal" if causal else "no mask"


def times(ms: dict[str, float]) -> str | None:
    """How many times as fast as the fastest exact contender `hyper_attention` is; None where one of them is missing."""
    exact = [ms[name] for name in EXACT if name in ms]
    return f"{min(exact) / ms['hyper_attention']:.3g} times" if exact and "hyper_attention" in ms else None


def _sentences(record: dict[str, Any]) -> list[str]:
    said = []
    kernel = [row for row in rows_of(record, "kernel") if "error" in row]
    if kernel:
        by_type = {row["kernel"]: max(r["error"] for r in kernel if r["kernel"] == row["kernel"]) for row in kernel}
        errors = ", ".join(f"{error:.1e} in {name}" for name, error in by_type.items())
        same = (
            "every case twice with the same bits"
            if all(row["bitwise"] for row in kernel)
            else "NOT always the same bits"
        )
        said.append(f"- Kernel against float64, largest relative error: {errors}; {same}.")
    near = [row for row in rows_of(record, "attention") if row.get("input") == "near key"]
    if near:
        errors = "; ".join(f"`{row['what']}`{', causal' if row['causal'] else ''} {row['error']:.2g}" for row in near)
        said.append(f"- Relative error where each query is near one key (answering zero: 1): {errors}.")
    for name, unit in (("copy", "bytes_per_second"), ("gemm", "operations_per_second")):
        row = next((r for r in rows_of(record, "ceilings") if r["ceiling"] == name and unit in r), None)
        if row:
            what = "memory is copied" if name == "copy" else f"{row['dtype']} matrices are multiplied"
            said.append(f"- Measured ceiling: {what} at {row[unit] / 1e12:.3g} T{'B' if name == 'copy' else 'FLOP'}/s.")
    said += _shares(record)
    tests = next((row for row in rows_of(record, "tests") if "counts" in row), None)
    if tests:
        counts = tests["counts"]
        other = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if name != "passed")
        reasons = sorted(set(re.findall(r"^E +(\w+Error: .*)$", tests.get("output", ""), re.MULTILINE)))
        why = f"; the errors: {', '.join(reasons)}" if reasons else ""
        said.append(f"- Tests on CuPy: {counts.get('passed', 0)} passed{', ' + other if other else ''}{why}.")
        if tests.get("unread"):
            said.append(f"- Not read there, for want of {', '.join(tests['lacking'])}: {', '.join(tests['unread'])}.")
    sanitizer = [f"{row['sanitizer']} {row['errors']}" for row in rows_of(record, "sanitizer") if "errors" in row]
    if sanitizer:
        said.append(f"- compute-sanitizer's errors: {', '.join(sanitizer)}.")
    return said


def _shares(record: dict[str, Any]) -> list[str]:
    """Operations of the products of attention without a mask, over those per second of the measured ceiling."""
    ceiling = next((row["operations_per_second"] for row in rows_of(record, "ceilings", "operations_per_second")), None)
    rows = [row for row in rows_of(record, "attention", "ms") if row["input"] == "gaussian" and not row["causal"]]
    if ceiling is None or not rows:
        return []
    n, shares = max(row["n"] for row in rows), []
    for row in rows:
        if row["n"] == n and row["what"] in COLUMNS:
            keys = KEYS if row["what"] == "hyper_attention" else n
            share = 4 * row["heads"] * n * keys * row["d"] / (row["ms"] / 1e3) / ceiling
            shares.append(f"{title(row['what'])} {share:.0%} (d = {row['d']})")
    return [f"- Share of that product's speed, at n = {n} without a mask: {', '.join(shares)}."]
