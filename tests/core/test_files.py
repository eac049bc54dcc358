"""Files are written whole or not at all; safetensors files are opened or the error names them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from sublinattn.core import files


@pytest.mark.parametrize("where", ["write", "rename"])
def test_a_crash_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})
    before = path.read_bytes()

    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    if where == "rename":
        monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt), files.atomic(path) as temporary:
        temporary.write_text("half")
        if where == "write":
            crash()
    assert path.read_bytes() == before == b'{\n  "a": 1\n}\n'
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_file_that_is_being_written_is_not_listed(tmp_path: Path) -> None:
    with files.atomic(tmp_path / "new" / "x.json") as temporary:
        temporary.write_text("half")
        assert temporary.name == "x.json" and not list((tmp_path / "new").glob("*.json"))
    assert (tmp_path / "new" / "x.json").read_text() == "half"
    with pytest.raises(FileNotFoundError), files.atomic(tmp_path / "y.json"):
        pass  # nothing was written


def test_json_is_strict_and_rows_are_not_empty(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", {"number": float("nan")})
    with pytest.raises(ValueError, match="rows of 'x' must hold at least one measurement"):
        files.write_rows(pd.DataFrame({"a": []}), "x", out=tmp_path)
    assert not list(tmp_path.iterdir())
    rows = pd.DataFrame({"a": [1.5, 2.5]})
    path = files.write_rows(rows, "x", out=tmp_path)
    assert path == tmp_path / "rows" / "x.parquet" and os.listdir(path.parent) == [path.name]
    pd.testing.assert_frame_equal(pd.read_parquet(path), rows)


def test_safetensors_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bfloat16, path = pytest.importorskip("ml_dtypes").bfloat16, tmp_path / "x.safetensors"
    save_file({"x": np.ones(3, bfloat16), "y": np.ones(2)}, path)
    program = (  # of its own: here ml_dtypes is loaded, which is what makes NumPy read bfloat16
        "import sys; from sublinattn.core.files import open_safetensors; "
        "print(open_safetensors(sys.argv[1]).get_tensor('x').dtype)"
    )
    run = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "bfloat16"
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)  # as if it were not installed
    with pytest.raises(ImportError, match=rf"^{path} is in bfloat16, .* pip install 'sublinattn\[lm\]'$"):
        files.open_safetensors(path)


def test_a_full_disk_names_the_file_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"), files.atomic(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_locked_by_one_process_and_free_when_that_is_killed(tmp_path):
    out = tmp_path / "out"
    hold = f"with files.locked({str(out)!r}): print(1, flush=True), time.sleep(60)"
    hold = f"import time; from sublinattn.core import files\n{hold}"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with (
            pytest.raises(BlockingIOError, match=rf"out is in use by process {other.pid} on .* since 20"),
            files.locked(out),
        ):
            pass
        other.kill()
    assert (out / ".lock").exists(), "left by the process that was killed"
    with files.locked(out):
        (out / "result").touch()
    assert [path.name for path in out.iterdir()] == ["result"]
    with files.locked(tmp_path / "in vain"):
        pass
    assert not (tmp_path / "in vain").exists()


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.warns(UserWarning, match="cannot be locked"), files.locked(tmp_path):
        pass


def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_else(tmp_path, monkeypatch):
    write = f"with files.atomic({str(tmp_path / 'x')!r}): print(1, flush=True), time.sleep(60)"
    write = f"import time; from sublinattn.core import files\n{write}"
    with subprocess.Popen([sys.executable, "-c", write], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        (its,) = tmp_path.iterdir()
        old = its.stat().st_mtime - 1000
        os.utime(its, (old, old))
        files.write_text(tmp_path / "y", "")
        assert its.exists(), "its writer lives"
        other.kill()
    os.utime(its)
    files.write_text(tmp_path / "y", "")
    assert its.exists(), "so new that its writer may not have locked it yet"
    os.utime(its, (old, old))

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as without_locks:
        without_locks.setattr("fcntl.flock", refuse)
        files.write_text(tmp_path / "y", "")
        assert its.exists(), "where there are no locks, nobody knows whether its writer lives"
    files.write_text(tmp_path / "y", "")
    assert [path.name for path in tmp_path.iterdir()] == ["y"]
