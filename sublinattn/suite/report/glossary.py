"""The words and symbols of `docs/glossary.md`, for the pages that use them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markupsafe import Markup, escape

_PACKAGE = Path(__file__).resolve().parents[2]
_ITEM = re.compile(r"^- (?P<head>[^\n]*?): (?P<text>.+)$", re.MULTILINE)
_COMMON = ("case", "claim", "paper", "record", "theory", "trial")
"""Words that every reader takes as they are meant, most of the time."""
_SYMBOLS = "## Symbols in the formulas"


@dataclass(frozen=True)
class Symbol:
    """A letter or short name: its LaTeX (empty for a name in code), what it stands for, the paper ("" for all)."""

    latex: str
    code: str
    text: str
    paper: str


def source() -> str:
    """The glossary's Markdown; it lies in `docs` beside the package or in the package. Empty without it."""
    for path in (_PACKAGE.parent / "docs" / "glossary.md", _PACKAGE / "glossary.md"):
        if path.exists():
            return path.read_text(encoding="utf-8")
    return ""


def page() -> str:
    """The glossary for a page of the report, which has no other page of the documentation."""
    return re.sub(r"\[([^]]+)\]\([^)]*\.md\)", r"\1", source())


def symbols(paper: str, formulas: Iterable[str], names: Iterable[str] = ()) -> list[tuple[list[str], list[str], str]]:
    """What a claim's page calls by a letter or a short name: LaTeX, names in code, and what they stand for.

    A symbol is found where its LaTeX stands in one of the formulas and is no part of a longer one that is found there;
    a name if it is among `names`.
    """
    known = [s for s in _symbols() if s.paper in ("", paper)]
    rest, names, found = " ; ".join(map(tokens, formulas)), set(names), set()
    for symbol in sorted(known, key=lambda s: (-len(tokens(s.latex)), s.paper == "")):
        if symbol.latex:
            rest, count = re.subn(rf"(?<![^ ^]){re.escape(tokens(symbol.latex))}(?![^ _^])", ";", rest)
            if count:
                found.add(symbol)
    own = {s.code for s in known if s.paper and s.code in names}
    found |= {s for s in known if s.code in names and (s.paper or s.code not in own)}
    groups: dict[str, tuple[list[str], list[str]]] = {}
    for symbol in known:
        if symbol in found:
            latex, codes = groups.setdefault(symbol.text, ([], []))
            (latex if symbol.latex else codes).append(symbol.latex or symbol.code)
    return [(latex, codes, text) for text, (latex, codes) in groups.items()]


def meaning(name: str, paper: str = "") -> str:
    """What a name in code stands for on the pages of a paper; empty if the glossary does not have it."""
    return next((s.text for s in reversed(_symbols()) if s.code == name and s.paper in ("", paper)), "")


def hover(text: str, paper: str = "") -> Markup:
    """A text, the first mention of each word of the glossary with its meaning on hover."""
    words = {name: text for name, (papers, text) in _words().items() if paper in papers or not papers}
    if not words:
        return escape(text)
    pattern = rf"(?<![\w-])(?:{'|'.join(re.escape(w) for w in sorted(words, key=len, reverse=True))})(?![\w-])"
    parts, end, seen = [], 0, set()
    for match in re.finditer(pattern, text):
        if match[0] not in seen:
            seen.add(match[0])
            parts += [
                escape(text[end : match.start()]),
                Markup('<abbr title="{}">{}</abbr>').format(words[match[0]], match[0]),
            ]
            end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


@cache
def _symbols() -> tuple[Symbol, ...]:
    _, _, section = source().partition(_SYMBOLS)
    found = []
    for part in re.split(r"^### ", section, flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        paper = title.strip("[] \n") if title.startswith("[") else ""
        for item in _ITEM.finditer(body):
            text = item["text"].replace("*", "")
            codes = re.findall(r"`([^`]+)`", item["head"])
            found += [Symbol(latex, "", text, paper) for latex in re.findall(r"\$([^$]+)\$", item["head"])]
            found += [Symbol("", code, text, paper) for code in codes]
    return tuple(found)


@cache
def _words() -> dict[str, tuple[str, str]]:
    """Words of the other sections, of four letters and more: the section's papers, and the meaning without formulas."""
    words: dict[str, tuple[str, str]] = {}
    for section in re.split(r"^## ", source().partition(_SYMBOLS)[0], flags=re.MULTILINE):
        papers = " ".join(re.findall(r"\[(\w+)\]", section.partition("\n")[0]))
        for item in _ITEM.finditer(section):
            sentences = [s for s in re.split(r"(?<=[.;]) ", item["text"]) if "$" not in s]
            text = re.sub(r"[*`]|\[([^]]*)\]\([^)]*\)", r"\1", " ".join(sentences)).strip()
            for names in re.findall(r"\*\*([^*]+)\*\*", item["head"]):
                for name in names.split(", "):
                    if len(name) > 3 and text and name not in _COMMON:
                        words.setdefault(name, (papers, text))
    return words


def tokens(latex: str) -> str:
    """LaTeX as tokens with one space between, without what only spaces or sizes: two ways to write it become one."""
    latex = re.sub(r"\\(left|right|displaystyle|textstyle|operatorname|mathrm)(?![a-z])|\\[,;!:]", r" ", latex)
    latex = re.sub(r"\\[lr]Vert", r"\\|", latex)
    words = re.findall(r"\\[A-Za-z]+|\\.|(?<=\{)[A-Za-z]{2,}(?=\})|[A-Za-z]|\d+|[^\s{}]", latex)
    joined = re.sub(r" ?([_^]) ", r"\1", " ".join(words))
    return re.sub(r"\^\*_(\S+)", r"_\1^*", joined)
