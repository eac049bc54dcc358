"""The papers of `references.bib`, for the report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unicodedata import normalize

_PACKAGE = Path(__file__).resolve().parents[2]
_ENTRY = re.compile(r"^@\w+\{(?P<key>[^,]+),(?P<body>.*?)^\}", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^\s*(?P<name>\w+)\s*=\s*\{(?P<value>.*)\},?\s*$", re.MULTILINE)
_ACCENTS = {"'": "\N{COMBINING ACUTE ACCENT}", '"': "\N{COMBINING DIAERESIS}"}


@dataclass(frozen=True)
class Citation:
    """A paper in plain text, without the markup of BibTeX."""

    authors: str
    title: str
    venue: str
    year: str
    arxiv: str


@cache
def citations() -> dict[str, Citation]:
    """The citation of each key. The file lies beside the package or in it; without it there are no citations."""
    for path in (_PACKAGE.parent / "references.bib", _PACKAGE / "references.bib"):
        if path.exists():
            return {m["key"].strip(): _citation(m["body"]) for m in _ENTRY.finditer(path.read_text(encoding="utf-8"))}
    return {}


def _citation(body: str) -> Citation:
    fields = {m["name"].lower(): _plain(m["value"]) for m in _FIELD.finditer(body)}
    names = [" ".join(reversed(name.split(", ", 1))) for name in fields.get("author", "").split(" and ")]
    return Citation(
        authors=", ".join(names) if len(names) < 4 else f"{names[0]} et al.",
        title=fields.get("title", ""),
        venue=fields.get("booktitle", fields.get("journal", "")),
        year=fields.get("year", ""),
        arxiv=fields.get("eprint", ""),
    )


def _plain(tex: str) -> str:
    """BibTeX text without braces, accents and dollars, as far as titles and names need it."""
    tex = re.sub(r"\\(['\"])\{?([A-Za-z])\}?", lambda m: normalize("NFC", m[2] + _ACCENTS[m[1]]), tex)
    tex = tex.replace(r"\ell_2/\ell_2", "ℓ₂/ℓ₂").replace("n^2", "n²").replace(r"{\L}", "Ł")
    return re.sub(r"[{}$]", "", tex).replace("--", "–")
