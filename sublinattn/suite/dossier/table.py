"""The README's table of what ran on a GPU, rendered from the newest record."""

from __future__ import annotations

import re
from typing import Any

from ...core.files import write_text
from . import record as records
from .device import ROOT

NEVER = "Nothing here has ever run on a GPU."
BEGIN, END = "<!-- gpu: written by scripts/check_gpu -->", "<!-- /gpu -->"
PLACE = re.compile(re.escape(BEGIN) + r"\n(.*?)\n?" + re.escape(END), re.DOTALL)
COLUMNS = ("hyper_attention", "attention", "PyTorch flash", "PyTorch cuDNN")
EXACT = COLUMNS[1:]


def write_readme() -> None:
    """Put the table of the newest record between the two comments in the README, if it has them."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    write_text(path, PLACE.sub(lambda _: f"{BEGIN}\n{render(records.newest())}\n{END}", text))


def render(record: dict[str, Any] | None) -> str:
    """The record in Markdown: attention at the largest n, then sentences on everything else."""
    if record is None:
        return NEVER
    parts = [_origin(record), _attention(record), *_sentences(record)]
    return "\n".join(part for part in parts if part)


def _rows(record: dict[str, Any], step: str) -> list[dict[str, Any]]:
    return record["steps"].get(step, {}).get("rows", [])


def _origin(record: dict[str, Any]) -> str:
    rows = _rows(record, "environment")
    if not rows:
        return f"Run on {record['started'][:10]}.\n"
    versions, code = rows[0]["versions"], rows[0]["code"]
    named = [f"{label} {versions[key]}" for label, key in (("CuPy", "cupy"), ("PyTorch", "torch")) if key in versions]
    commit = code.get("commit")
    source = f"commit `{commit['sha'][:10]}`" if commit and not commit["dirty"] else f"sources `{code['source']}`"
    return f"{records.card(record)}, {record['started'][:10]}, {', '.join([*named, source])}.\n"


def _attention(record: dict[str, Any]) -> str:
    rows = [row for row in _rows(record, "attention") if row.get("input") == "gaussian" and "ms" in row]
    if not rows:
        return ""
    n = max(row["n"] for row in rows)
    heads, dtype = rows[0]["heads"], rows[0]["dtype"]
    names = [f"`{name}`" if name in COLUMNS[:2] else name for name in COLUMNS]
    head = [f"milliseconds: n = {n}, {heads} heads, {dtype}", *names, "`hyper_attention` over the fastest exact one"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for d, causal in sorted({(row["d"], row["causal"]) for row in rows}):
        at = {row["what"]: row["ms"] for row in rows if (row["n"], row["d"], row["causal"]) == (n, d, causal)}
        exact = [at[name] for name in EXACT if name in at]
        ratio = f"{min(exact) / at['hyper_attention']:.3g} times as fast" if exact and "hyper_attention" in at else "-"
        cells = [f"{at[name]:.3g}" if name in at else "-" for name in COLUMNS]
        lines.append(f"| d = {d}, {'causal' if causal else 'no mask'} | {' | '.join([*cells, ratio])} |")
    return "\n".join(lines) + "\n"


def _sentences(record: dict[str, Any]) -> list[str]:
    said = []
    kernel = [row for row in _rows(record, "kernel") if "error" in row]
    if kernel:
        by_type = {row["kernel"]: max(r["error"] for r in kernel if r["kernel"] == row["kernel"]) for row in kernel}
        errors = ", ".join(f"{error:.1e} in {name}" for name, error in by_type.items())
        same = (
            "every case twice with the same bits"
            if all(row["bitwise"] for row in kernel)
            else "NOT always the same bits"
        )
        said.append(f"- Kernel against float64, largest relative error: {errors}; {same}.")
    near = [row for row in _rows(record, "attention") if row.get("input") == "near key"]
    if near:
        errors = "; ".join(f"`{row['what']}`{', causal' if row['causal'] else ''} {row['error']:.2g}" for row in near)
        said.append(f"- Relative error where each query is near one key (answering zero: 1): {errors}.")
    for name, unit in (("copy", "bytes_per_second"), ("gemm", "operations_per_second")):
        row = next((r for r in _rows(record, "ceilings") if r["ceiling"] == name and unit in r), None)
        if row:
            what = "memory is copied" if name == "copy" else f"{row['dtype']} matrices are multiplied"
            said.append(f"- Measured ceiling: {what} at {row[unit] / 1e12:.3g} T{'B' if name == 'copy' else 'FLOP'}/s.")
    tests = next((row for row in _rows(record, "tests") if "counts" in row), None)
    if tests:
        counts = tests["counts"]
        other = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if name != "passed")
        said.append(f"- Tests on CuPy: {counts.get('passed', 0)} passed{', ' + other if other else ''}.")
    sanitizer = [f"{row['sanitizer']} {row['errors']}" for row in _rows(record, "sanitizer") if "errors" in row]
    if sanitizer:
        said.append(f"- compute-sanitizer's errors: {', '.join(sanitizer)}.")
    return said
