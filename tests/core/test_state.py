"""What all streaming states share: files that come back exactly and are written whole or not at all, and refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import references
import safetensors.numpy
from toy_caches import BUDGET
from toy_states import KEEP, MERGE, STATES, D, N, Toy, add_keys, ask, contents, feed, sketch, stream

from sublinattn.core import backends, files, state
from sublinattn.methods.caches.base import KVCache
from sublinattn.methods.caches.reservoir import ReservoirCache
from sublinattn.methods.onepass.onepass import OnePassSketch
from sublinattn.methods.polynomial.polynomial import PolynomialState

NUMBERS = {"n": 2**127 + 1, "seed": -(2**63), "scale": 0.1, "basis": "tåylor", "ranges": [[0, 5], [7, 9]], "none": None}
ARRAYS = {
    "hashes": np.array([0, 2**64 - 1, 2**53 + 1], dtype=np.uint64),
    "signs": np.array([[-1, 127]], dtype=np.int8),
    "moments": np.array([[np.pi, -0.0, np.inf], [np.nan, 5e-324, 1.0]]),
    "half": np.arange(6, dtype=np.float16).reshape(2, 3).T,  # not contiguous
    "alone": np.array(3.5, dtype=np.float32),
    "nothing": np.zeros((0, 4)),
    "flag": np.array([True, False]),
}


# ------------------------------------------------------------------------------------------------------------- the file
def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "made" / "x.ckpt"
    Toy("a", numbers=NUMBERS, arrays=ARRAYS).save(path)
    toy = Toy.load(path)
    assert toy.name == "a" and toy.numbers == NUMBERS and set(toy.contents()) == set(ARRAYS)
    for name, x in ARRAYS.items():
        loaded = toy.contents()[name]
        assert loaded.dtype == x.dtype and loaded.shape == x.shape
        assert loaded.tobytes() == x.tobytes() and loaded.flags.writeable
    assert toy.nbytes == sum(x.nbytes for x in ARRAYS.values())
    toy.contents()["moments"][:] = 7  # memory of its own: the file does not change
    Toy("a", numbers=dict(reversed(NUMBERS.items())), arrays=dict(reversed(ARRAYS.items()))).save(tmp_path / "y.ckpt")
    assert (tmp_path / "y.ckpt").read_bytes() == path.read_bytes()
    assert os.listdir(path.parent) == ["x.ckpt"]


def test_metadata_is_one_entry_of_strict_json(tmp_path: Path) -> None:
    Toy("a", numbers=NUMBERS).save(tmp_path / "x")
    with safetensors.safe_open(tmp_path / "x", framework="np") as file:
        ((entry, note),) = file.metadata().items()
    assert entry == "sublinattn.checkpoint"
    header = json.loads(note)
    assert len(header.pop("sha256")) == 64
    assert header == {"kind": "Toy", "version": 2, "about": {"name": "a", "numbers": NUMBERS}}
    for bad, error in ((np.int64(1), TypeError), (float("nan"), ValueError)):
        with pytest.raises(error):
            Toy("b", numbers=bad).save(tmp_path / "y")
    assert os.listdir(tmp_path) == ["x"]


def test_load_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.ckpt"
    with pytest.raises(FileNotFoundError, match=r"x\.ckpt"):
        Toy.load(path)
    Toy("a", arrays=ARRAYS).save(path)
    whole = path.read_bytes()
    random = np.random.default_rng(0).bytes(500)
    for broken in (*(whole[:length] for length in (0, 7, 8, 100, len(whole) - 1)), random):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"x\.ckpt is not a whole safetensors file"):
            Toy.load(path)
    for metadata in (None, {"format": "pt"}):
        path.write_bytes(safetensors.numpy.save({"x": np.zeros(2)}, metadata))
        with pytest.raises(ValueError, match=r"x\.ckpt is not a checkpoint of a streaming state"):
            Toy.load(path)
    path.write_bytes(whole)
    monkeypatch.setattr(state, "VERSION", 3)
    with pytest.raises(ValueError, match=r"x\.ckpt is a checkpoint of version 2, this is version 3"):
        Toy.load(path)


def rewritten(path: Path, change: Any = lambda header: header, flip: int | None = None) -> None:
    """A checkpoint whose header says something else, or with one bit of its arrays flipped."""
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    head, body = json.loads(whole[8:start]), bytearray(whole[start:])
    note = change(json.loads(head["__metadata__"]["sublinattn.checkpoint"]))
    head["__metadata__"]["sublinattn.checkpoint"] = json.dumps(note)
    if flip is not None:
        body[flip] ^= 64
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


@pytest.mark.parametrize("name", STATES)
def test_a_damaged_checkpoint_is_refused_and_never_answers(name: str, tmp_path: Path) -> None:
    """One flipped bit, or a header that was edited, gave a wrong answer or an error that named no file."""
    made, path = feed(STATES[name](), stream(0)), tmp_path / "x.ckpt"
    made.save(path)
    with safetensors.safe_open(path, framework="np") as file:
        about = json.loads(file.metadata()["sublinattn.checkpoint"])["about"]
    damages: list[dict[str, Any]] = [{"change": lambda header: [1]}, *([{"flip": 3}] if made.nbytes else [])]
    for key in ("version", "kind", "about", "sha256"):
        damages.append({"change": lambda header, key=key: {k: v for k, v in header.items() if k != key}})
    for entry in about:
        damages.append({"change": lambda header, entry=entry: header | {"about": about | {entry: -5}}})
    for damage in damages:
        made.save(path)
        rewritten(path, **damage)
        with pytest.raises(ValueError, match=r"x\.ckpt is a (damaged checkpoint|checkpoint of)"):
            type(made).load(path)


SCRIPT = """
import resource, signal, sys
import numpy as np
from sublinattn.core.state import StreamingState
class Toy(StreamingState):
    def contents(self): return {"x": np.arange(1000)}
    def _about(self): return {"name": "new", "numbers": None}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
Toy().save(sys.argv[1])
"""


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    Toy("old", arrays=ARRAYS).save(path)
    old = path.read_bytes()
    run = subprocess.run([sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True)
    assert run.returncode == 1 and "x.ckpt could not be written" in run.stderr.splitlines()[-1]
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["x.ckpt"]


def test_bytes_are_on_the_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, int, int]] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append(("fsync", os.fstat(descriptor).st_size, os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def renamed(source: Any, target: Any) -> None:
        done.append(("rename", os.stat(source).st_size, os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    with files.atomic(tmp_path / "x") as temporary:
        temporary.write_text("12345")
    assert [what for what, *_ in done] == ["fsync", "rename"]
    assert done[0][1:] == done[1][1:] == (5, os.stat(tmp_path / "x").st_ino)


# ----------------------------------------------------------------------------------------------------- every real state
def is_cache(name: str) -> bool:
    return isinstance(STATES[name](), KVCache)


def leading(name: str) -> list[tuple[int, ...]]:
    """Leading axes that the state takes."""
    return [(), (2, 3)] if is_cache(name) else [()]


WITH_AXES = [(name, lead) for name in STATES for lead in leading(name)]


def snapshot(one: Any, folder: Path) -> tuple[bytes, int]:
    assert one.nbytes == references.array_bytes(one)
    return contents(one, folder), one.nbytes


@pytest.mark.parametrize("name", STATES)
def test_a_file_of_another_class_is_refused(tmp_path: Path, name: str) -> None:
    made = STATES[name]()
    made.save(tmp_path / "x")
    other = type(STATES["polynomial" if "sub" in name else "subgen"]())
    with pytest.raises(ValueError, match=f"is a checkpoint of a {type(made).__name__}, not of a {other.__name__}"):
        other.load(tmp_path / "x")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "lead"), WITH_AXES)
def test_a_loaded_state_goes_on_to_the_same_bits(
    xp: Any, tmp_path: Path, name: str, lead: tuple[int, ...], dtype: Any
) -> None:
    """Stopped before the stream, within it, between keys and queries, and at the end; then merged, where it can be."""
    rows = [xp.asarray(x) for x in stream(1, lead=lead, dtype=dtype)]
    for stop in (0, 1, 9, 25, N, N + 15, 2 * N):
        one = feed(STATES[name](rng=3), rows, 0, stop)
        one.save(tmp_path / "x")
        other = type(one).load(tmp_path / "x")
        assert other.parameters() == one.parameters()
        assert snapshot(other, tmp_path)[0] == (tmp_path / "x").read_bytes()
        for each in (one, other):
            feed(each, rows, stop, 2 * N)
        assert contents(other, tmp_path) == contents(one, tmp_path)
        answers = [x.decode("scan").values if isinstance(x, OnePassSketch) else ask(x, rows[0]) for x in (one, other)]
        # A state that no row has reached since it was loaded answers on the host: on a GPU the rounding is another.
        rounding = 0 if type(answers[0]) is type(answers[1]) else 100 * np.finfo(dtype).eps
        np.testing.assert_allclose(*(backends.asnumpy(x) for x in answers), rtol=rounding, atol=0)
    if name in MERGE and not isinstance(one, OnePassSketch):
        shard = add_keys(STATES[name](rng=4), *rows[1:])
        assert contents(one.merge(shard), tmp_path) == contents(other.merge(shard), tmp_path)


@pytest.mark.parametrize("name", STATES)
def test_rows_are_copied_not_changed_and_bytes_are_those_of_all_arrays(xp: Any, tmp_path: Path, name: str) -> None:
    rows, one = stream(2), STATES[name]()
    expected = STATES[name]()
    for start in range(0, 2 * N, 5):  # the first chunk is within every budget
        chunk = [xp.asarray(x.copy()) for x in rows]
        feed(one, chunk, start, start + 5)
        assert one.nbytes == references.array_bytes(one)
        for x, before in zip(chunk, rows, strict=True):
            np.testing.assert_array_equal(backends.asnumpy(x), before)
            x[...] = np.nan
        feed(expected, [xp.asarray(x) for x in rows], start, start + 5)
    assert contents(one, tmp_path) == contents(expected, tmp_path)


# ------------------------------------------------------------------------------------------------------------- refusals
def broken(x: np.ndarray, value: float, at: int = 3) -> np.ndarray:
    x = x.copy()
    x[..., at, 1] = value
    return x


def bad_rows(k: np.ndarray, v: np.ndarray, name: str) -> list[tuple[Any, Any, Any, str]]:
    """Keys and values that every state refuses, the error and its message. `k` and `v` fit."""
    *lead, c, _ = k.shape
    shape = rf"\({''.join(f'{x}, ' for x in lead)}c, 4\)" if lead else r"\(4,\) or \(c, 4\)"
    rows = r"v must have (the leading axes and|as many) rows (of|as) k"
    narrow = k.astype(np.float32), v.astype(np.float32)
    cases = [
        (k[..., :3], v, ValueError, rf"k must have shape {shape}, got \(.*3\)"),
        (k, k, ValueError, r"v must have shape .*3\), got \(.*4\)"),
        (k, v[..., :-1, :], ValueError, rows),
        (k, v[..., 0, :], ValueError, "v must have shape" if lead else rows),
        (k[None], v[None], ValueError, r"k must have shape .* got \(1, "),
        (k[..., :0, :], v[..., :0, :], ValueError, r"k must not be empty, got shape \(.*0, 4\)"),
        (np.zeros(()), v, ValueError, r"k must have shape .* got \(\)"),
        (k, narrow[1], TypeError, "v must have the dtype of k"),
        *((k.astype(x), v.astype(x), TypeError, "k must have a floating dtype") for x in (int, bool, complex)),
        (k.tolist(), v, TypeError, "k must be an array"),
        (k, None, TypeError, "v must be an array .* got NoneType"),
    ]
    for value in (np.nan, np.inf, -np.inf):
        for at in (0, c - 1):
            cases.append((broken(k, value, at), v, ValueError, "k must be finite, got NaN or Inf entries"))
            cases.append((k, broken(v, value, at), ValueError, "v must be finite, got NaN or Inf entries"))
    if lead:
        cases.append((k[0, ..., 0, :], v[0, ..., 0, :], ValueError, "k must have shape"))
        cases.append((k[:1], v[:1], ValueError, "k must have shape"))
    if not is_cache(name):  # a cache takes one row and a chunk of one as the same
        cases.append((k[0], v[:1], ValueError, rows))
    if not name.startswith(("polynomial", "minimax")):  # whose moments are in float64 for any rows
        message = r"k must have the dtype of the rows before it \(float64\), got float32"
        cases.append((*narrow, TypeError, message))
    return cases


@pytest.mark.parametrize(("name", "lead"), WITH_AXES)
def test_refused_keys_leave_the_state_as_it_was(tmp_path: Path, name: str, lead: tuple[int, ...]) -> None:
    _, k, v = rows = stream(4, lead=lead)
    one = feed(STATES[name](), rows, 0, 20)
    before = snapshot(one, tmp_path)
    for bad_k, bad_v, error, message in bad_rows(k[..., 20:30, :], v[..., 20:30, :], name):
        with pytest.raises(error, match=f"^{message}"):
            add_keys(one, bad_k, bad_v)
        assert snapshot(one, tmp_path) == before
    feed(one, rows, 20, 2 * N)


@pytest.mark.parametrize(("name", "lead"), WITH_AXES)
def test_refused_queries_leave_the_state_as_it_was(tmp_path: Path, name: str, lead: tuple[int, ...]) -> None:
    q, *_ = rows = stream(5, lead=lead)
    one = STATES[name]()
    with pytest.raises(
        ValueError, match="^(attend|absorb_queries) needs (a cache with tokens|a state with keys|all 60)"
    ):
        ask(one, q)
    before = snapshot(feed(one, rows, 0, N), tmp_path)
    cases: list[tuple[Any, dict[str, Any], Any, str]] = [
        (q[..., :3], {}, ValueError, r"q must have shape .*c, 4\), got \(.*3\)"),
        (q[None], {}, ValueError, r"q must have shape .* got \(1, "),
        (q[..., :0, :], {}, ValueError, "q must not be empty"),
        (q.tolist(), {}, TypeError, "q must be an array"),
        (q.astype(int), {}, TypeError, "q must have a floating dtype"),
        *((broken(q, value), {}, ValueError, "q must be finite, got NaN or Inf") for value in (np.nan, np.inf)),
    ]
    if is_cache(name):
        cases += [
            (q, {"scale": np.inf}, ValueError, "scale must be finite, got inf"),
            (q, {"scale": "1"}, TypeError, "scale must be a real number or None, got str"),
            (q, {"scale": True}, TypeError, "scale must be a real number or None, got bool"),
        ]
    if lead:
        cases.append((q[:1], {}, ValueError, "q must have shape"))
    if not isinstance(one, PolynomialState):
        message = r"q must have the dtype of the rows before it \(float64\), got float32"
        cases.append((q.astype(np.float32), {}, TypeError, message))
    for bad, options, error, message in cases:
        with pytest.raises(error, match=f"^{message}"):
            one.attend(bad, **options) if options else ask(one, bad)
        assert snapshot(one, tmp_path) == before
    feed(one, rows, N, 2 * N)


@pytest.mark.parametrize("name", [name for name in STATES if is_cache(name)])
def test_a_first_chunk_that_is_refused_decides_nothing(name: str) -> None:
    _, k, v = stream(6)
    one = STATES[name]()
    for bad_k, bad_v in ((k[None], broken(v, np.nan)[None]), (k * np.nan, v), (k, v[:-1]), (k[:0], v[:0])):
        with pytest.raises(ValueError, match=r"^[kv] must"):
            add_keys(one, bad_k, bad_v)
    assert one.tokens_seen == one.nbytes == 0
    wide = np.ones((2, 7, D + 1), np.float32)
    assert one.update(wide, wide).attend(wide).shape == (2, 7, D + 1)


@pytest.mark.parametrize("name", ["polynomial", "paper", "fused", "exact"])
def test_the_scan_of_rows_can_be_skipped(name: str) -> None:
    _, k, v = stream(6)
    one = add_keys(STATES[name](), k, broken(v, np.nan), check_finite=False)
    assert (one.keys_seen if isinstance(one, OnePassSketch) else one.tokens_seen) == N


OTHER_PARAMETERS: dict[str, Any] = {
    "polynomial": [{"d": 5}, {"d_v": 2}, {"degree": 5}, {"scale": 0.6}, {"basis": "minimax", "radius": 2.0}],
    **dict.fromkeys(["paper", "fused"], [{"n": N + 1}, {"degree": 4}, {"sparsity": 4}, {"eps1": 0.7}, {"eps2": 0.4}]),
    "uniform": [{"budget": BUDGET + 1}, {"weights": "value-norm"}],
    "subgen": [{"delta": 2.0}, {"cluster_samples": 2}, {"value_samples": 2}, {"recent": 5}, {"max_clusters": 9}],
}


def others(name: str, tmp_path: Path) -> list[tuple[Any, Any, str]]:
    """States that do not merge with `STATES[name](rng=3)` after 20 keys, the error and its message."""
    _, k, v = (x[20:] for x in stream(7))
    one = STATES[name](rng=3)
    partner = STATES[name](rng=3 if name in ("paper", "fused") else 4)
    cases: list[tuple[Any, Any, str]] = [
        ({}, TypeError, f"other must be a {type(one).__name__}, got dict"),
        (
            STATES["fused" if name in ("polynomial", "minimax") else "polynomial"](),
            TypeError,
            "other must be a .*, got ",
        ),
    ]
    for changed in OTHER_PARAMETERS.get(name, []):
        other = type(one)(**(one.parameters() | changed))
        cases.append((other, ValueError, "other must have this state's parameters {.*}, got {"))
    narrow = [x.astype(np.float32) for x in (k, v)]
    if isinstance(one, OnePassSketch):
        cases.append((sketch("paper" if name == "fused" else "fused")(3), ValueError, "other must have this state's"))
        cases.append((STATES[name](rng=4), ValueError, "other must have this sketch's hashes"))
        cases.append((add_keys(partner, *narrow, start=20), TypeError, "other must have rows of dtype float64, got fl"))
    elif isinstance(one, KVCache):
        for rows in ((k[:, :3], v), (k, v[:, :2]), (k[None], v[None])):
            other = add_keys(STATES[name](rng=4), *rows)
            cases.append((other, ValueError, "other must have this state's leading axes and widths"))
        cases.append((add_keys(partner, *narrow), TypeError, "other must have rows of dtype float64, got float32"))
    if name not in ("polynomial", "minimax", "paper", "fused", "exact", "zero"):
        own = "other must have draws of its own: make the caches with different rng"
        cases.append((add_keys(STATES[name](rng=3), k, v), ValueError, own))
        cases.append((STATES[name](rng=5).update(k, v).merge(STATES[name](rng=3).update(k, v)), ValueError, own))
        add_keys(STATES[name](rng=3), k, v).save(tmp_path / "own")
        cases.append((type(one).load(tmp_path / "own"), ValueError, own))
    return cases


@pytest.mark.parametrize("name", MERGE)
def test_merging_refuses(tmp_path: Path, name: str) -> None:
    one = feed(STATES[name](rng=3), stream(7), 0, 20)
    before = snapshot(one, tmp_path)
    for other, error, message in [*others(name, tmp_path), (one, ValueError, "other must be another state, got this")]:
        theirs = None if isinstance(other, dict) else contents(other, tmp_path)
        with pytest.raises(error, match=f"^{message}"):
            one.merge(other)
        assert snapshot(one, tmp_path) == before
        assert theirs is None or contents(other, tmp_path) == theirs


def test_caches_merge_once_each() -> None:
    _, k, v = stream(8)
    one, other, third = (ReservoirCache(BUDGET, rng=rng).update(k, v) for rng in (1, 2, 3))
    one.merge(other)
    for again in (other, third.merge(other)):
        with pytest.raises(ValueError, match="^other must have draws of its own"):
            one.merge(again)  # what was merged before counts too


# ----------------------------------------------------------------------------------------------------------- the device
@pytest.mark.parametrize("name", KEEP)
def test_rows_stay_on_their_device(xp: Any, tmp_path: Path, name: str) -> None:
    if xp is np:
        pytest.skip("there is no other side")
    q, k, v = rows = stream(9)
    there = [xp.asarray(x) for x in rows]
    one = feed(feed(STATES[name](), rows, 0, 3), there, 3, N)  # from the host to the device: where a loaded state goes
    before = contents(one, tmp_path)
    at = {"start": 0} if isinstance(one, OnePassSketch) else {}
    if not at:
        with pytest.raises(TypeError, match="^k must be on the device of the rows before it, got an array on the host"):
            add_keys(one, k, v)
        with pytest.raises(TypeError, match="^v must be of the same kind as k"):
            add_keys(one, there[1], v)
    with pytest.raises(TypeError, match="^q must be on the device of the rows before it, got an array on the host"):
        ask(one, q)
    assert contents(one, tmp_path) == before
    assert isinstance(ask(one, there[0]), (type(there[0]), OnePassSketch))


@pytest.mark.parametrize("name", [name for name in MERGE if name != "zero"])
def test_merging_takes_place_on_the_device_of_either(xp: Any, tmp_path: Path, name: str) -> None:
    if xp is np:
        pytest.skip("there is no other side")
    rows = stream(10)
    sketches = name in ("paper", "fused")

    def part(where: Any, first: bool) -> Any:
        at = slice(0, 25) if first else slice(25, N)
        made = STATES[name](rng=1 if first or sketches else 2)
        return add_keys(made, *(where.asarray(x[at]) for x in rows[1:]), **({"start": at.start} if sketches else {}))

    def answer(one: Any, where: Any) -> np.ndarray:
        out = ask(one, where.asarray(rows[0]))
        return backends.asnumpy(out.decode("scan").values if sketches else out)

    expected = answer(part(np, True).merge(part(np, False)), np)
    for mine, theirs in ((xp, xp), (np, xp), (xp, np)):
        other = part(theirs, False)
        before = contents(other, tmp_path)
        one = part(mine, True)
        one.save(tmp_path / "x")
        loaded = type(one).load(tmp_path / "x").merge(part(xp, False))
        one.merge(other)
        assert contents(other, tmp_path) == before
        with pytest.raises(TypeError, match="^q must be on the device of the rows before it"):
            ask(one, rows[0])
        for merged in (one, loaded):
            np.testing.assert_allclose(answer(merged, xp), expected, rtol=1e-9, atol=1e-11)
        other_arrays = [
            x
            for key, x in other.contents().items()
            if key in ("keys", "moments", "sums", "0.slot_keys", "0.normaliser.keys")
        ]
        assert other_arrays and all(isinstance(x, np.ndarray) is (theirs is np) for x in other_arrays)
