"""Mathematics that needs neither a network nor a script."""

from __future__ import annotations

import html

from latex2mathml import converter


def mathml(latex: str, display: bool = False) -> str:
    """LaTeX as MathML; what cannot be converted is shown as it was written."""
    try:
        return converter.convert(latex, display="block" if display else "inline")
    except Exception:  # latex2mathml raises a family of its own, and IndexError on some input
        return f"<code>{html.escape(latex)}</code>"
