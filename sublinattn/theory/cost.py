"""What claims about time and memory share."""

from __future__ import annotations

from typing import Any


def lengths(*sizes: int, **fixed: Any) -> tuple[dict[str, Any], ...]:
    """One case per number of tokens."""
    return tuple({"variable": "n", "n": n, **fixed} for n in sizes)
