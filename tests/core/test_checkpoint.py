"""Checkpoints come back exactly, are written whole or not at all, and say what is wrong with them."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from sublinattn.core import checkpoint, files

ABOUT = {"n": 2**127 + 1, "seed": -(2**63), "scale": 0.1, "basis": "tåylor", "radius": None, "ranges": [[0, 5], [7, 9]]}
ARRAYS = {
    "hashes": np.array([0, 2**64 - 1, 2**53 + 1], dtype=np.uint64),
    "signs": np.array([[-1, 127]], dtype=np.int8),
    "moments": np.array([[np.pi, -0.0, np.inf], [np.nan, 5e-324, 1.0]]),
    "half": np.arange(6, dtype=np.float16).reshape(2, 3).T,  # not contiguous
    "alone": np.array(3.5, dtype=np.float32),
    "nothing": np.zeros((0, 4)),
    "flag": np.array([True, False]),
}


def test_round_trip(tmp_path):
    path = tmp_path / "made" / "x.ckpt"
    checkpoint.write(path, "Toy", ABOUT, ARRAYS)
    about, arrays = checkpoint.read(path, "Toy")
    assert about == ABOUT
    assert set(arrays) == set(ARRAYS)
    for name, x in ARRAYS.items():
        assert arrays[name].dtype == x.dtype and arrays[name].shape == x.shape
        assert arrays[name].tobytes() == x.tobytes()
        assert arrays[name].flags.writeable
    arrays["moments"][:] = 7  # memory of its own: the file does not change
    checkpoint.write(tmp_path / "y.ckpt", "Toy", dict(reversed(ABOUT.items())), dict(reversed(ARRAYS.items())))
    assert (tmp_path / "y.ckpt").read_bytes() == path.read_bytes()
    assert os.listdir(path.parent) == ["x.ckpt"]


def test_metadata_is_one_entry_of_strict_json(tmp_path):
    checkpoint.write(tmp_path / "x", "Toy", ABOUT, ARRAYS)
    with safetensors.safe_open(tmp_path / "x", framework="np") as file:
        ((entry, note),) = file.metadata().items()
    assert entry == "sublinattn.checkpoint"
    assert json.loads(note) == {"kind": "Toy", "version": 1, "about": ABOUT}


@pytest.mark.parametrize("about", [{"x": np.int64(1)}, {"x": float("nan")}, {"x": {1, 2}}])
def test_only_json_values(tmp_path, about):
    with pytest.raises(TypeError, match="about must hold JSON values only"):
        checkpoint.write(tmp_path / "x", "Toy", about, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("x", [np.zeros(2, complex), np.array([None]), np.array(["a"])])
def test_only_real_numbers(tmp_path, x):
    with pytest.raises(TypeError, match="array 'bad' must be of booleans, integers or reals, got"):
        checkpoint.write(tmp_path / "x", "Toy", {}, {"bad": x})
    assert os.listdir(tmp_path) == []


def test_read_says_what_is_wrong(tmp_path):
    path = tmp_path / "x.ckpt"
    with pytest.raises(FileNotFoundError, match="x.ckpt"):
        checkpoint.read(path, "Toy")
    checkpoint.write(path, "Toy", ABOUT, ARRAYS)
    whole = path.read_bytes()
    with pytest.raises(ValueError, match="x.ckpt is a checkpoint of a Toy, not of a Other"):
        checkpoint.read(path, "Other")
    for length in (0, 7, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="x.ckpt is not a whole safetensors file"):
            checkpoint.read(path, "Toy")
    path.write_bytes(np.random.default_rng(0).bytes(500))
    with pytest.raises(ValueError, match="x.ckpt is not a whole safetensors file"):
        checkpoint.read(path, "Toy")
    for metadata in (None, {"format": "pt"}):
        path.write_bytes(safetensors.numpy.save({"x": np.zeros(2)}, metadata))
        with pytest.raises(ValueError, match="x.ckpt is not a checkpoint of a streaming state"):
            checkpoint.read(path, "Toy")


def test_another_version(tmp_path, monkeypatch):
    path = tmp_path / "x.ckpt"
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    checkpoint.write(path, "Toy", ABOUT, ARRAYS)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="x.ckpt is a checkpoint of version 2, this is version 1"):
        checkpoint.read(path, "Toy")


@pytest.mark.parametrize("moment", ["in the write", "before the rename", "after the rename"])
def test_killed_while_writing(tmp_path, moment):
    """SIGKILL leaves the old file or the new one; a temporary never has the checkpoint's path."""
    path = tmp_path / "x.ckpt"
    checkpoint.write(path, "Toy", {"generation": 0}, ARRAYS)
    old = path.read_bytes()
    script = """
import os, signal, sys
import numpy as np
import safetensors.numpy
from sublinattn import _checkpoint
path, moment = sys.argv[1:]
save_file, replace = safetensors.numpy.save_file, os.replace
def die(): os.kill(os.getpid(), signal.SIGKILL)
def save(tensors, to, metadata):
    save_file(tensors, to, metadata)
    if moment == "in the write":
        os.truncate(to, os.path.getsize(to) // 2)
        die()
def rename(source, target):
    if moment == "before the rename":
        die()
    replace(source, target)
    die()
safetensors.numpy.save_file, os.replace = save, rename
_checkpoint.write(path, "Toy", {"generation": 1}, {"x": np.arange(1000)})
"""
    done = subprocess.run([sys.executable, "-c", script, str(path), moment])
    assert done.returncode == -signal.SIGKILL
    if moment == "after the rename":
        about, arrays = checkpoint.read(path, "Toy")
        assert about == {"generation": 1}
        np.testing.assert_array_equal(arrays["x"], np.arange(1000))
    else:
        assert path.read_bytes() == old
    assert [p.name for p in tmp_path.glob("*") if not p.name.startswith(".")] == ["x.ckpt"]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.ckpt"
    script = """
import resource, signal, sys
import numpy as np
from sublinattn import _checkpoint
_checkpoint.write(sys.argv[1], "Toy", {}, {})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    _checkpoint.write(sys.argv[1], "Toy", {}, {"x": np.zeros(1000)})
except OSError as error:
    assert "x.ckpt could not be written" in str(error), error
else:
    raise AssertionError
"""
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == 0
    assert checkpoint.read(path, "Toy") == ({}, {})
    assert os.listdir(tmp_path) == ["x.ckpt"]


def test_bytes_are_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        done.append(("fsync", os.fstat(descriptor).st_size, os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def renamed(source, target):
        done.append(("rename", os.stat(source).st_size, os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    with files.atomic(tmp_path / "x") as temporary:
        temporary.write_bytes(b"12345")
    assert [what for what, *_ in done] == ["fsync", "rename"]
    assert done[0][1:] == done[1][1:] == (5, os.stat(tmp_path / "x").st_ino)
