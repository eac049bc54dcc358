"""Texts that every machine with Python has, under the PSF licence: the source of its standard library, and its help.

The packaged model was trained on the source without some held-out modules; its card names the release that was used.
"""

import sysconfig
from importlib import import_module
from pathlib import Path

# Whole modules that the model was not trained on: of 32k bytes and more, or typical of the others.
HELD_OUT = (
    "_pydecimal.py",
    "argparse.py",
    "asyncio/base_events.py",
    "difflib.py",
    "doctest.py",
    "heapq.py",
    "http/client.py",
    "mailbox.py",
    "pickletools.py",
    "statistics.py",
    "tarfile.py",
    "textwrap.py",
    "typing.py",
)
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__", "pydoc_data"}


_ROOT = Path(sysconfig.get_path("stdlib"))


def modules() -> dict[str, bytes]:
    """Source of every module of the running Python's standard library by its path, without tests and data."""
    paths = sorted(path for path in _ROOT.rglob("*.py") if not LEFT_OUT & set(path.relative_to(_ROOT).parts))
    return {path.relative_to(_ROOT).as_posix(): path.read_bytes() for path in paths}


def training() -> bytes:
    """All modules that are not held out, joined in the order of their paths."""
    return b"\n".join(text for name, text in modules().items() if name not in HELD_OUT)


def held_out() -> dict[str, bytes]:
    """Source of the held-out modules that the running Python has, by path."""
    return {name: (_ROOT / name).read_bytes() for name in HELD_OUT if (_ROOT / name).exists()}


def prose() -> dict[str, bytes]:
    """English: the topics of the running Python's `help()`, chapters of its language reference, as one text."""
    topics: dict[str, str] = import_module("pydoc_data.topics").topics
    return {"pydoc_data/topics.py": "\n\n".join(topics.values()).encode()}
