"""Every source gives the same rows, each once, or says what is wrong before anything is absorbed."""

import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
from toy_streams import (
    CUTS,
    ROWS,
    SOURCES,
    D,
    N,
    Reads,
    Recorder,
    TwoPhases,
    as_iter,
    assert_all_rows,
    data,
    in_safetensors,
    npy,
)

from sublinattn.core import timing
from sublinattn.streams import absorb


# ------------------------------------------------------------------------------------------------------------- sources
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_rows(tmp_path, source, dtype):
    k, v, q = data(dtype)
    other = "small chunks" if source == "large chunks" else "large chunks"
    for of_k, of_v in ((source, source), (source, other), (other, source)):
        state = Recorder()
        keys, values = SOURCES[of_k](k, tmp_path, "k"), SOURCES[of_v](v, tmp_path, "v")
        assert absorb(state, keys=keys, values=values, rows=ROWS) is state
        assert_all_rows(state, k, v)
    state = TwoPhases()
    k_, v_, q_ = (SOURCES[source](x, tmp_path, name) for x, name in ((k, "k"), (v, "v"), (q, "q")))
    absorb(state, keys=k_, values=v_, queries=q_, rows=ROWS)
    assert_all_rows(state, k, v)
    assert [len(chunk) for chunk in state.queries] == CUTS
    np.testing.assert_array_equal(np.concatenate(state.queries), q)


def test_device_arrays(xp):
    k, v, _ = data()
    for cut in (lambda x: xp.asarray(x), lambda x: (xp.asarray(x[i : i + 7]) for i in range(0, N, 7))):
        state = Recorder()
        absorb(state, keys=cut(k), values=cut(v), rows=ROWS)
        assert_all_rows(state, k, v)


@pytest.mark.parametrize("n", [1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS])
def test_lengths_around_a_chunk(n):
    k, v, _ = data(n=n)
    for keys, values in ((k, v), (iter(k), v), (k, iter(v)), (iter(k), iter(v))):
        state = absorb(Recorder(), keys=keys, values=values, rows=ROWS)
        assert [len(chunk) for chunk, _ in state.chunks] == [ROWS] * (n // ROWS) + [n % ROWS] * (n % ROWS > 0)
        np.testing.assert_array_equal(np.concatenate([chunk for chunk, _ in state.chunks]), k)


def test_bfloat16(tmp_path, monkeypatch):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    k, v = (x.astype(bfloat16) for x in data()[:2])
    keys, values = (in_safetensors(x, tmp_path, name) for x, name in ((k, "k"), (v, "v")))
    state = absorb(Recorder(), keys=keys, values=values, rows=ROWS)
    assert_all_rows(state, k, v)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)  # as if it were not installed
    with pytest.raises(TypeError, match="keys: .*k.safetensors is in bfloat16, .* ml_dtypes"):
        absorb(Recorder(), keys=keys, values=values)


def test_pytorch_tensors():
    torch = pytest.importorskip("torch")
    k, v, _ = data()
    state = absorb(Recorder(), keys=torch.from_numpy(k), values=map(torch.from_numpy, np.split(v, 10)), rows=ROWS)
    assert_all_rows(state, k, v)


@pytest.mark.parametrize("seen", [0, 1, ROWS, 77, N])
def test_each_row_is_read_once(seen):
    """Arrays from the first row that is needed; iterables from their start, for they cannot be entered elsewhere."""
    k, v, q = data()
    for sliced in (True, False):
        reads = [Reads(x) for x in (k, v, q)]
        sources = reads if sliced else [x.chunks(9) for x in reads]
        state = TwoPhases()
        if seen:
            state.absorb_keys(k[:seen], v[:seen], start=0)
        absorb(state, **dict(zip(("keys", "values", "queries"), sources, strict=True)), rows=ROWS)
        for x, skipped in zip(reads, (seen, seen, 0), strict=True):
            np.testing.assert_array_equal(x.counts, np.arange(N) >= skipped if sliced else 1)


def test_an_iterable_is_asked_for_no_more_than_is_needed():
    """A stream that cannot be replayed: what came before a failure is in the state, nothing beyond was taken."""
    k, v, _ = data()
    taken = 0

    def failing():
        nonlocal taken
        for i in range(0, N, 10):
            if i == 100:
                raise ConnectionError("gone")
            taken += 10
            yield k[i : i + 10]

    source, state = failing(), Recorder()
    with pytest.raises(ConnectionError, match="gone"):
        absorb(state, keys=source, values=v, rows=ROWS)
    assert state.tokens_seen == 3 * ROWS and taken == 100


def test_memory_is_that_of_a_few_chunks(tmp_path):
    x = np.ones((2**16, 16))
    big = in_safetensors(x, tmp_path, "x")

    class Count:
        tokens_seen = 0

        def update(self, k, v):
            self.tokens_seen += len(k)

    def whole():
        with safetensors.safe_open(big[0], framework="np") as file:
            assert file.get_tensor("x").nbytes == x.nbytes

    assert timing.peak_bytes(np, whole) >= x.nbytes  # the measure sees what safetensors allocates
    file = npy(x, tmp_path, "x")
    for source in (lambda: big, lambda: file, lambda: (x[i : i + 500] for i in range(0, 2**16, 500))):
        state = Count()
        used = timing.peak_bytes(np, lambda: absorb(state, keys=source(), values=source(), rows=1024))  # noqa: B023
        assert state.tokens_seen == 2**16
        assert used < x.nbytes / 8


# -------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("keys", "values", "message", "absorbed"),
    [
        (lambda k: k, lambda v: v[:96], "150 and 96", 0),
        (lambda k: k[:96], as_iter, "96 and at least 128", 96),  # at a cut: the next read shows it
        (lambda k: k[:100], as_iter, "100 and at least 128", 96),
        (lambda k: k, lambda v: as_iter(v[:90]), "150 and 90", 64),
        (as_iter, lambda v: as_iter(v[:90]), "at least 96 and 90", 64),
        (lambda k: as_iter(k[:64]), as_iter, "64 and at least 96", 64),
        (lambda k: as_iter(k[:90]), lambda v: as_iter(v[:70]), "90 and 70", 64),
    ],
)
def test_unequal_lengths(tmp_path, keys, values, message, absorbed):
    k, v, _ = data()
    state, path = Recorder(), tmp_path / "x"
    with pytest.raises(ValueError, match=f"^keys and values must have as many rows as each other, got {message}$"):
        absorb(state, keys=keys(k), values=values(v), rows=ROWS, checkpoint=path, every=0)
    assert state.tokens_seen == absorbed
    assert path.exists() == (absorbed > 0)
    if absorbed:
        assert Recorder.load(path).tokens_seen == absorbed


def test_more_or_fewer_rows_than_the_state_says():
    k, v, q = data()
    for cut in (lambda x: x, as_iter):
        with pytest.raises(ValueError, match="^keys must have 140 rows, as the state says, got 150$"):
            absorb(TwoPhases(140), keys=cut(k), values=cut(v), queries=cut(q), rows=ROWS)
        with pytest.raises(ValueError, match="^keys must have 151 rows before queries, got 150$"):
            absorb(TwoPhases(151), keys=cut(k), values=cut(v), queries=cut(q), rows=ROWS)
        with pytest.raises(ValueError, match="^queries must have 130 rows, as the state says, got 150$"):
            absorb(TwoPhases(130), keys=cut(k[:130]), values=cut(v[:130]), queries=cut(q), rows=ROWS)
        state = Recorder().update(k, v)
        with pytest.raises(ValueError, match="^keys has 140 rows, and the state has seen 150: a source is the whole"):
            absorb(state, keys=cut(k[:140]), values=cut(v[:140]), rows=ROWS)
        assert state.tokens_seen == N
    with pytest.raises(ValueError, match="^keys must have 100 rows, as the state says, got at least 128$"):
        absorb(TwoPhases(100), keys=as_iter(k), values=as_iter(v), rows=ROWS)
    assert absorb(TwoPhases(151), keys=k, values=v, rows=ROWS).keys_seen == N  # the rest may follow


def test_nothing_is_done_before_the_queries_are_checked():
    k, v, q = data()
    bad = {
        "queries must be as wide as keys, 3, got 2": q[:, :2],
        r"queries must have shape \(n, d\)": q[0],
        "queries must have a floating dtype": q.astype(int),
        "queries must have 150 rows, as the state says, got 300": np.concatenate([q, q]),
        "queries must be an array, a path": 3,
    }
    for message, queries in bad.items():
        keys = Reads(k)
        with pytest.raises((TypeError, ValueError), match=message):
            absorb(TwoPhases(), keys=keys, values=v, queries=queries)
        assert not keys.counts.any()
    with pytest.raises(TypeError, match="queries: a Recorder absorbs none"):
        absorb(Recorder(), keys=k, values=v, queries=q)


def test_errors_name_the_argument(tmp_path):
    k, v, _ = data()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(Path(in_safetensors(k, tmp_path, "k")[0]).read_bytes()[:-1])
    ints = in_safetensors(np.ones((N, D), dtype=np.int32), tmp_path, "ints")
    np.save(tmp_path / "objects.npy", np.array([None]))
    (tmp_path / "short.npy").write_bytes(npy(k, tmp_path, "k").read_bytes()[:-1])
    cases = [
        (None, TypeError, "keys must be an array, a path to a .npy file, a pair .*, got NoneType"),
        (len, TypeError, "keys must be an array, .*, got builtin_function_or_method"),
        (k[0], ValueError, r"keys must have shape \(n, d\), got \(3,\)"),
        (k[None], ValueError, r"keys must have shape \(n, d\), got \(1, 150, 3\)"),
        (k[:0], ValueError, r"keys must not be empty, got shape \(0, 3\)"),
        (iter([]), ValueError, "keys must not be empty"),
        (iter([k[:0]]), ValueError, "keys must not be empty"),
        (k.astype(int), TypeError, "keys must have a floating dtype .*, got int64"),
        ([k.tolist()], TypeError, "keys must be an array .*, got list"),
        (iter([k[None]]), ValueError, r"keys must come in chunks \(c, d\) or rows \(d,\), got shape \(1, 150, 3\)"),
        ([k[:5], k[5:, :2]], ValueError, r"keys must come in chunks \(c, 3\) or rows \(3,\), got shape \(145, 2\)"),
        ([k[:5], k[5:].astype(float)], TypeError, "keys must be of one dtype, got a chunk of float64 after float32"),
        ("x.txt", ValueError, "keys must be a .npy file, or a .safetensors file with the tensor's name, got x.txt"),
        (broken, ValueError, "keys: of a .safetensors file, name the tensor"),
        ((broken, "k"), ValueError, "keys: .*broken.safetensors is not a whole safetensors file"),
        ((ints[0], "nope"), ValueError, r"keys: .*ints.safetensors has no tensor 'nope', it has \['ints', 'other'\]"),
        ((ints[0], "other"), ValueError, r"keys must have shape \(n, d\), got \(7,\)"),
        (ints, TypeError, "keys must have a floating dtype .*, got I32 in .*ints.safetensors"),
        (tmp_path / "no.npy", FileNotFoundError, "no.npy"),
        ((tmp_path / "no.safetensors", "k"), FileNotFoundError, "no.safetensors"),
        (tmp_path / "objects.npy", ValueError, "keys: .*objects.npy is not a whole .npy file of numbers"),
        (tmp_path / "short.npy", ValueError, "keys: .*short.npy is not a whole .npy file of numbers"),
    ]
    for keys, kind, message in cases:
        state = Recorder()
        with pytest.raises(kind, match=message):
            absorb(state, keys=keys, values=v)
        assert not state.tokens_seen
    options = [
        ({"rows": 0}, ValueError, "rows must be at least 1, got 0"),
        ({"rows": 1.5}, TypeError, "rows must be an integer, got float"),
        ({"every": -1}, ValueError, "every must be a number of seconds, at least 0, got -1"),
        ({"every": float("nan")}, ValueError, "every must be .*, got nan"),
        ({"every": "1"}, TypeError, "every must be a real number, got str"),
        ({"checkpoint": 3}, TypeError, "checkpoint must be a path, got int"),
        ({"checkpoint": tmp_path}, ValueError, "checkpoint must be the path of a file, got the folder"),
    ]
    for option, kind, message in options:
        with pytest.raises(kind, match=message):
            absorb(Recorder(), keys=k, values=v, **option)
    with pytest.raises(
        TypeError, match="state must be a PolynomialState, a OnePassSketch or a key-value cache, got list"
    ):
        absorb([], keys=k, values=v)
