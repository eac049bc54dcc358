"""Mathematics that needs neither a network nor a script."""

from __future__ import annotations

import html
import re
from xml.etree import ElementTree

from latex2mathml import converter

_NAMESPACE = "{http://www.w3.org/1998/Math/MathML}"
_ROOT = re.compile(r"\\sqrt\[(\d+)\]\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
"""A tenth root: its 10 is too small to read, as are fractions in exponents."""
_ELEMENTS = (
    *("math", "merror", "mfenced", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover", "mpadded", "mphantom"),
    *("mprescripts", "mroot", "mrow", "mspace", "msqrt", "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext"),
    *("mtr", "munder", "munderover", "none", "menclose"),
)


def mathml(latex: str, display: bool = False) -> str:
    """LaTeX as MathML; what cannot be converted, or is more than mathematics, is shown as it was written."""
    latex = re.sub(r"\d\.\d{5,}", lambda found: f"{float(found[0]):.4g}", latex)  # no more digits than one reads
    latex = re.sub(r"\^\{\\frac\{(\d+)\}\{(\d+)\}\}", r"^{\1/\2}", _ROOT.sub(r"{\2}^{1/\1}", latex))
    latex = re.sub(r"_\{([A-Za-z]{3,}(?: [A-Za-z]+)*)\}", r"_{\\text{\1}}", latex)  # words, no products of letters
    try:
        converted = converter.convert(latex, display="block" if display else "inline")
        if _is_mathematics(converted):
            return converted
    except Exception:  # latex2mathml raises a family of its own, and IndexError on some input
        pass
    return f"<code>{html.escape(latex)}</code>"


def _is_mathematics(converted: str) -> bool:
    r"""Whether there are only elements of MathML, and no links: `\text` and `\href` let other things through."""
    for element in ElementTree.fromstring(converted).iter():
        name = element.tag.removeprefix(_NAMESPACE)
        if name not in _ELEMENTS or any(key.startswith("on") or "href" in key for key in element.attrib):
            return False
    return True
