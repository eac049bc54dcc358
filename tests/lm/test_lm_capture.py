"""The captured file holds what the layers attended with, whatever the pieces, in bounded memory, or it is not there."""

from __future__ import annotations

import errno
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from threadpoolctl import threadpool_limits
from toy_llama import FIELDS, decoder, recorded, some_tokens

from sublinattn.core import backends, timing
from sublinattn.core.files import ENTRY
from sublinattn.lab.workloads.instance import Instance
from sublinattn.lm import capture as module
from sublinattn.lm.capture import capture

N, LAYERS = 37, FIELDS["num_hidden_layers"]


PIECES = [(8, 5), (7, 64), (64, 64), (36, 36), (5, 1)]


@pytest.fixture(params=PIECES, ids="chunk {0[0]}, block {0[1]}".format)
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks and blocks, with short ones at the end; all in one."""
    monkeypatch.setattr(module, "CHUNK", request.param[0])
    monkeypatch.setattr(module, "BLOCK", request.param[1])


def stacked(model: Any, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Queries, keys and values of all layers when the text goes through in one piece."""
    layers = zip(*recorded(model, tokens), strict=True)
    return {
        name: np.stack([backends.asnumpy(x)[0] for x in arrays]) for name, arrays in zip("qkv", layers, strict=True)
    }


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_the_file_holds_what_was_attended_with(xp: Any, tmp_path: Path, pieces: None, kv_heads: int) -> None:
    model, tokens = decoder(tmp_path, xp=xp, num_key_value_heads=kv_heads), some_tokens(0, N)
    capture(model, tokens, tmp_path / "qkv.safetensors", source="a text")
    found, want = safetensors.numpy.load_file(tmp_path / "qkv.safetensors"), stacked(model, tokens)
    assert found["q"].shape == (LAYERS, 4, N, 6) and found["k"].shape == found["v"].shape == (LAYERS, kv_heads, N, 6)
    for name in "qkv":
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], want[name], rtol=2e-5, atol=2e-5)


def test_what_is_kept_about_it(tmp_path: Path) -> None:
    model, path = decoder(tmp_path, num_key_value_heads=4).stretched(300), tmp_path / "qkv.safetensors"
    capture(model, some_tokens(1, N), path, source="a text")
    instance = Instance.load(path)
    assert (instance.name, instance.source, instance.scale) == ("captured", "a text", 6**-0.5)
    assert instance.params == {"context": 300, "trained_context": 200}
    np.testing.assert_array_equal(instance.k, safetensors.numpy.load_file(path)["k"])


def test_numbers_begin_where_readers_of_many_words_can_map_them(tmp_path: Path) -> None:
    model, path = decoder(tmp_path), tmp_path / "qkv.safetensors"
    for source in ("", "a", "ab", "abc" * 33):
        capture(model, some_tokens(2, 5), path, source=source)
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        assert length % 8 == 0
        assert json.loads(header["__metadata__"][ENTRY])["source"] == source
        assert len(content) == 8 + length + max(header[name]["data_offsets"][1] for name in "qkv")


def test_half_precision(tmp_path: Path, pieces: None) -> None:
    """What later tokens see of earlier chunks is rounded to 11 bits; the first layer depends on the text alone."""
    model, tokens = decoder(tmp_path), some_tokens(3, N)
    capture(model, tokens, tmp_path / "half.safetensors", dtype="float16")
    found, want = safetensors.numpy.load_file(tmp_path / "half.safetensors"), stacked(model, tokens)
    for name in "qkv":
        assert found[name].dtype == np.float16
        np.testing.assert_allclose(found[name][0], want[name][0], rtol=2**-10, atol=1e-5)
        assert abs(found[name] - want[name]).max() < 0.02 * abs(want[name]).max()


def test_progress_and_an_exception_halfway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress after each chunk; an exception leaves no file, or the older one."""
    monkeypatch.setattr(module, "CHUNK", 16)
    model, folder = decoder(tmp_path), tmp_path / "out"
    calls: list[tuple[int, int]] = []

    def killed(done: int, total: int) -> None:
        if done > 16:
            raise KeyboardInterrupt

    for before in ([], [b"an older file"]):
        for content in before:
            (folder / "qkv.safetensors").write_bytes(content)
        with pytest.raises(KeyboardInterrupt):
            capture(model, some_tokens(5, N), folder / "qkv.safetensors", progress=killed)
        assert [entry.read_bytes() for entry in folder.iterdir()] == before
    path = folder / "qkv.safetensors"
    capture(model, some_tokens(4, N), path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(16, N), (32, N), (N, N)]


def test_memory_does_not_grow_with_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """896 tokens more, in memory more by less than an eighth of what the file grows by."""
    monkeypatch.setattr(module, "CHUNK", 64)
    monkeypatch.setattr(module, "BLOCK", 64)
    model, path, peaks = decoder(tmp_path, max_position_embeddings=1024), tmp_path / "qkv.safetensors", []
    with threadpool_limits(1, user_api="blas"):  # each thread has a tile of its own, and when they overlap is chance
        for n in (128, 128, 1024):  # the first one also pays for what is made once
            peaks.append(timing.peak_bytes(np, partial(capture, model, some_tokens(6, n), path)))
    assert peaks[2] - peaks[1] < path.stat().st_size * 896 / 1024 / 8


# ------------------------------------------------------------------------------------------------------------- refusals
def test_refusals_before_any_work(tmp_path: Path) -> None:
    model, folder = decoder(tmp_path, max_position_embeddings=20), tmp_path / "out"
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (some_tokens(7, 21), {}, ValueError, r"^tokens must be at most the model's context \(20\), got 21$"),
        (some_tokens(7, 2, 5), {}, ValueError, r"^tokens must be those of one text, shape \(n,\), got \(2, 5\)$"),
        (some_tokens(7, 5), {"dtype": "bfloat16"}, ValueError, r"^dtype must be one of .*'float16'.* got 'bfloat16'$"),
        (np.array([0] * 18 + [40]), {}, ValueError, r"^tokens must be in 0\.\.39, got 0 to 40$"),
    ]
    for tokens, options, error, message in cases:
        with pytest.raises(error, match=message):
            capture(model, tokens, folder / "qkv.safetensors", **options)
    assert not folder.exists()


def test_numbers_that_half_precision_cannot_hold(tmp_path: Path) -> None:
    model, path = decoder(tmp_path, size=1e5), tmp_path / "out" / "qkv.safetensors"
    with pytest.raises(ValueError, match="^q of layer 0 does not fit in float16: write it as float32$"):
        capture(model, some_tokens(8, 5), path, dtype="float16")
    assert list(path.parent.iterdir()) == []
    capture(model, some_tokens(8, 5), path)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space is reserved by posix_fallocate")
def test_the_space_is_reserved_before_the_text_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with holes ends in a bus error when the disk is full, hours later."""
    model, seen = decoder(tmp_path), []

    def logits(*_: Any, **__: Any) -> None:
        file = next((tmp_path / "out").glob(".writing-*/*")).stat()
        seen.append(file.st_blocks * 512 >= file.st_size > 0)

    monkeypatch.setattr(type(model), "logits", logits)
    capture(model, some_tokens(0, N), tmp_path / "out" / "qkv.safetensors")
    assert seen == [True]


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder(tmp_path)
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(full), raising=False)
    with pytest.raises(OSError, match="No space left"):
        capture(model, some_tokens(0, N), tmp_path / "out" / "qkv.safetensors")
    assert list((tmp_path / "out").iterdir()) == []
