"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A row of titles and one for each of `rows`, without a newline at the end; a bar in a cell is escaped."""
    lines = [" | ".join(cell.replace("|", r"\|") for cell in row) for row in (head, *rows)]
    lines = [f"| {line} |" for line in lines]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
