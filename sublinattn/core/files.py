"""Reading and writing files: a file is written whole or not at all, whatever happens to the process or the power."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import safetensors

if TYPE_CHECKING:
    from pandas import DataFrame

ENTRY = "sublinattn.Instance"
"""Name of the metadata entry of a saved Instance: one entry, because safetensors writes several in no fixed order."""


_DRAFT = ".writing-"
"""Beginning of the names of hidden folders in which something is being written."""
_NEW = 60
"""Seconds in which the writer of such a folder will have locked it."""


@contextmanager
def draft(beside: Path) -> Iterator[Path]:
    """Yield a new hidden folder in the folder `beside`, which is there; remove it in the end.

    Such folders that killed writers left there are removed, too.
    """
    for left in beside.glob(f"{_DRAFT}*"):
        with suppress(OSError), _held(left) as abandoned:  # a writer that lives holds its own
            if abandoned and time.time() - left.stat().st_mtime > _NEW:
                shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=beside))
    try:
        with _held(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path; rename it to `path` on success, remove it on any exception. Parent folders are made.

    The temporary file has the name of `path`, because some writers choose their format by it, and is in a hidden folder
    beside `path`, so that nobody who lists `*.json` meanwhile finds a half-written file. Its bytes are forced to the
    disk before the rename, because after a power cut the rename may be there and the bytes not.

    OSError, which names `path`, where it cannot be written (a full disk, a folder that refuses).
    """
    path = checked(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft(path.parent) as folder, _named(path):
        yield folder / path.name
        with open(folder / path.name, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(folder / path.name, path)


def checked(path: Any) -> Path:
    """The path; TypeError or ValueError where it is none."""
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise TypeError(f"path must be a path, got {type(path).__name__}")
    if "\0" in os.fspath(path):
        raise ValueError(f"path must hold no null character, got {os.fspath(path)!r}")
    return Path(path)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Give an OSError that knows no name, a full disk's, say, that of `path`."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a folder, which is made, for this process: the lock goes with the process, however that ends.

    BlockingIOError, which names the process that holds it; another OSError where the folder cannot be written. A file
    system without locks is warned of. A folder made for nothing is removed again.
    """
    path, made = Path(folder) / ".lock", not Path(folder).exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _lock(path) as file:
            with _named(path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%F %T} UTC")
                file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
    finally:
        if made:
            with suppress(OSError):  # it holds something
                path.parent.rmdir()


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Lock a folder that is there, and say whether that went: another may hold it, or the system have no such locks."""
    with ExitStack() as stack:
        try:
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (ImportError, OSError):
            yield False
        else:
            yield True


def check_writable(folder: Path) -> None:
    """OSError, which names it, if no file can be made in `folder`, or where it is not there yet, no folder above it."""
    there = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
    if there.exists() and not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    tempfile.TemporaryFile(dir=there).close()


def _lock(path: Path) -> TextIO:
    """Open and lock a file that its last holder may just be removing."""
    import fcntl  # which not every system has, nor every use of this module needs

    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                holder = file.read() or "another process"
            message = f"{path.parent} is in use by {holder}: wait for it to end, or choose another folder"
            raise BlockingIOError(message) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise
            warnings.warn(f"{path.parent} cannot be locked: {error}; let no other run write to it", stacklevel=3)
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write strict JSON atomically: sorted keys, two spaces, trailing newline."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file; ValueError, which names it, where it is none."""
    with reading(path, "JSON"):
        return json.loads(Path(path).read_text(encoding="utf-8"))


@contextmanager
def reading(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """ValueError, which names a file and says `what` it is not, for whatever goes wrong with what it holds."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        if str(path) in str(error):
            raise
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is not {what}: {reason}") from error


def open_safetensors(path: str | os.PathLike[str]) -> Any:
    """Open a safetensors file whose tensors are read as NumPy arrays, one by one: `safetensors.safe_open`'s handle.

    FileNotFoundError where there is no such file, ValueError where it is not a whole one or a folder, ImportError where
    it holds bfloat16 and ml_dtypes is missing.
    """
    if checked(path).is_dir():
        raise ValueError(f"{path} is a folder, not a safetensors file")
    try:
        file: Any = safetensors.safe_open(path, framework="np")
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    if any(file.get_slice(name).get_dtype() == "BF16" for name in file.keys()):  # noqa: SIM118 - it is no mapping
        try:
            import ml_dtypes  # noqa: F401 - it registers the dtype with NumPy
        except ImportError as error:
            message = f"{path} is in bfloat16, which NumPy reads with ml_dtypes: pip install 'sublinattn[lm]'"
            raise ImportError(message) from error
    return file


def read_notebook(path: str | os.PathLike[str]) -> Any:
    """A notebook in version 4 of the format, whatever its version; ValueError, which names it, where it is none."""
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except OSError:
        raise
    except Exception as error:  # nbformat fails on what is none in whatever way it meets it
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is not a notebook: {reason or type(error).__name__}") from error
    return notebook


def read_rows(path: str | os.PathLike[str]) -> DataFrame:
    """Read a Parquet table; ValueError, which names it, where it is no whole one."""
    import pandas as pd

    with reading(path, "a whole table"):
        try:
            return pd.read_parquet(path)
        except FileNotFoundError:
            raise
        except OSError as error:  # Arrow's, of what does not unpack
            raise ValueError(str(error)) from error


def write_rows(rows: DataFrame, name: str, *, out: str | os.PathLike[str]) -> Path:
    """Write `out/rows/<name>.parquet` atomically, for the figure of that name; ValueError if the table has no rows."""
    if rows.empty:
        raise ValueError(f"rows of {name!r} must hold at least one measurement, got none")
    path = Path(out) / "rows" / f"{name}.parquet"
    with atomic(path) as temporary:
        rows.to_parquet(temporary, index=False)
    return path
