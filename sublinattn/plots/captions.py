"""What a figure is called: the beginning of its caption. Apart from `save`, which loads Matplotlib."""

from __future__ import annotations

import re


def title(caption: str) -> str:
    """The beginning of a caption, up to the first stop and without what is in brackets, as the figure's name."""
    words = re.sub(r" ?\([^()]*\)", "", f"{caption} ")
    words = re.split(r"(?<=[^.\s]{2})\. |[:;] ", words, maxsplit=1)[0].strip(" .,")
    if len(words) > 120:
        words = words[:120].rsplit(",", 1)[0] if "," in words[40:120] else words[:120].rsplit(" ", 1)[0] + " …"
    return words
