"""A file is written whole or not at all, whatever happens to the process or the power."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ENTRY = "sublinattn.Instance"
"""The one metadata entry of our safetensors files: the library writes several in no fixed order."""


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path; rename it to `path` on success, remove it on any exception. Parent folders are made.

    It lies in a hidden folder of its own beside `path`, under the same name: writers choose their format by it, and a
    reader who lists the folder meanwhile (`*.json`) does not meet a file that is half written. Its bytes are on the
    disk before it gets its name: a rename may outlive a power cut that the bytes do not.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=path.parent))
    try:
        yield folder / path.name
        with open(folder / path.name, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(folder / path.name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
