"""The training text of the model that ships: the source of Python's standard library, whole modules held out.

It is on every machine with Python, under the PSF licence; which release it came from is on the model's card.
"""

import sysconfig
from pathlib import Path

# Whole modules, long enough for 32k bytes in one piece or typical of the rest; no text of theirs is trained on.
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


def modules() -> dict[str, bytes]:
    """Source of every module of the running Python's standard library by its path there, tests and data aside."""
    root = _root()
    found = sorted(path for path in root.rglob("*.py") if not LEFT_OUT & set(path.relative_to(root).parts))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def training() -> bytes:
    """Every module that is not held out, in the order of their paths."""
    return b"\n".join(text for name, text in modules().items() if name not in HELD_OUT)


def held_out() -> dict[str, bytes]:
    """The held-out modules that this Python has, by path."""
    return {name: (_root() / name).read_bytes() for name in HELD_OUT if (_root() / name).exists()}


def _root() -> Path:
    return Path(sysconfig.get_path("stdlib"))
