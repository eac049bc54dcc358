"""The CUDA kernel of `core/attend.cu` against float64: its source as g++ builds it, and on a GPU itself.

Results are filled with NaN before a call: rows that the kernel forgets show, and so do those that are none of its own.
"""

from __future__ import annotations

import itertools
from typing import Any

import emulator
import fake_device
import ml_dtypes
import numpy as np
import pytest

from sublinattn import partial_attention
from sublinattn.core import attend, backends
from sublinattn.core.exact import Partial

DTYPES = {"float16": (np.float16, 6e-4), "bfloat16": (ml_dtypes.bfloat16, 5e-3)}  # and the error allowed, twice ours
ROWS, KEYS = 128, 32  # queries and keys that the kernel takes at a time, at d = 32 and 64


def check(
    xp: Any, dtype: str, d: int, *, t: int, c: int | tuple[int, ...], groups: int = 1, lists: int | None = None,
    rows: bool = False, weights: bool = False, causal: bool = False, partial: bool = False, size: float = 1.0,
    scale: float | None = None, seed: int = 0,
) -> None:  # fmt: skip
    """Random queries over random lists of keys, in as many calls as there are numbers `c`; the last writes the answer.

    `rows`: with row numbers, among them none of some rows; `size` is that of the logits.
    """
    emulator.schedule.seed, emulator.schedule.early = seed, bool(seed % 2)
    half, tolerance = DTYPES[dtype]
    rng = np.random.default_rng(seed)
    lists, counts = lists or groups, (c,) if isinstance(c, int) else c
    n_q = groups * t + 7 * rows
    q = (size * rng.standard_normal((n_q, d))).astype(half)
    q_rows = rng.permutation(n_q)[: groups * t].reshape(groups, t) if rows else np.arange(n_q).reshape(groups, t)
    scale = d**-0.5 if scale is None else scale

    def device(x: np.ndarray, dtype: Any = None) -> Any:
        if x.dtype == half:  # by way of float32, in which every library takes it
            return xp.asarray(x.astype(np.float32)).astype(half)
        return xp.asarray(np.ascontiguousarray(x, dtype=dtype))

    total = Partial(*(device(np.full(shape, np.nan, np.float32)) for shape in ((n_q,), (n_q,), (n_q, d))))
    out, lse = device(np.full((n_q, d), np.nan).astype(half)), device(np.full(n_q, np.nan, np.float32))
    logits, values = [], []
    for call, count in enumerate(counts):
        n_k = lists * count + 7 * rows
        k, v = (rng.standard_normal((n_k, d)).astype(half) for _ in range(2))
        k_rows = rng.integers(n_k, size=(lists, count)) if rows else np.arange(n_k).reshape(lists, count)
        log_weights = np.where(rng.random((groups, count)) < 0.3, -np.inf, rng.standard_normal((groups, count)))
        log_weights[1:2, : count - 1] = -np.inf  # of the second group's keys only one may count
        in_order = {} if rows else {"q": q.reshape(groups, t, d), "k": k.reshape(lists, count, d)}
        attend.attend(
            xp,
            device(in_order.get("q", q)),
            device(in_order.get("k", k)),
            device(v if rows else v.reshape(lists, count, d)),
            scale=scale,
            q_rows=device(q_rows, np.int32) if rows else None,
            k_rows=device(k_rows, np.int32) if rows else None,
            log_weights=device(log_weights, np.float32) if weights else None,
            causal=causal,
            total=total,
            resume=call > 0,
            **({} if partial or call < len(counts) - 1 else {"out": out, "lse": lse}),
        )
        mine = np.repeat(k_rows, groups // lists, axis=0)  # (groups, count)
        s = scale * q[q_rows].astype(float) @ k[mine].astype(float).swapaxes(1, 2)
        s += log_weights[:, None].astype(np.float32) if weights else 0
        logits.append(np.where(np.tri(t, count, dtype=bool), s, -np.inf) if causal else s)
        values.append(v[mine].astype(float))

    s, v = np.concatenate(logits, axis=2), np.concatenate(values, axis=1)
    m = s.max(axis=2, keepdims=True, initial=-np.inf)
    e = np.exp(s - np.where(m == -np.inf, 0, m))
    l = e.sum(axis=2)  # noqa: E741 - the paper's letter
    with np.errstate(divide="ignore"):
        expected, expected_lse = e @ v / np.where(l == 0, 1, l)[..., None], m[..., 0] + np.log(l)
    if partial:
        out, lse = total.output(), total.lse()
    answers, sums = backends.asnumpy(out.astype(np.float32)).astype(float), backends.asnumpy(lse)
    left = np.isin(np.arange(n_q), q_rows, invert=True)
    np.testing.assert_array_equal(np.isnan(answers), np.repeat(left[:, None], d, axis=1), "rows written")
    np.testing.assert_array_equal(np.isnan(sums), left, "log normalisers written")
    np.testing.assert_allclose(sums[q_rows], expected_lse, rtol=2e-6, atol=2e-6)
    error = np.linalg.norm(answers[q_rows] - expected)
    assert error <= tolerance * np.linalg.norm(expected), error / np.linalg.norm(expected)


# ------------------------------------------------------------------------------------------------------------- results
@pytest.mark.parametrize("d", attend.DIMENSIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_and_dimension(kernel_xp: Any, dtype: str, d: int) -> None:
    """Copies are early in one of the two, late in the other."""
    check(kernel_xp, dtype, d, t=ROWS + 5, c=2 * KEYS + 3, seed=d)
    check(kernel_xp, dtype, d, t=40, c=(70, 33), groups=2, rows=True, weights=True, causal=True, seed=d + 1)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("t, c", [(1, 1), (1, 200), (5, 3), (ROWS, KEYS), (ROWS + 1, 2 * KEYS + 1), (33, 3 * KEYS)])
def test_ragged_sizes(kernel_xp: Any, t: int, c: int, causal: bool) -> None:
    for seed in (t, t + 1):
        check(kernel_xp, "float16", 32, t=t, c=c, causal=causal, seed=seed)


CASES: dict[str, dict[str, Any]] = {
    "groups in order": {"t": 20, "c": 70, "groups": 3},
    "lists of rows": {"t": 20, "c": 70, "groups": 3, "rows": True},
    "shared keys, in order": {"t": 20, "c": 70, "groups": 6, "lists": 2, "weights": True},
    "shared lists of rows": {"t": 20, "c": 70, "groups": 6, "lists": 2, "rows": True, "weights": True},
    "one list for all": {"t": 20, "c": 70, "groups": 3, "lists": 1, "rows": True},
    "weights": {"t": 20, "c": 70, "groups": 2, "weights": True},
    "queries that see no key": {"t": 20, "c": 20, "groups": 2, "causal": True, "weights": True},
    "many tiles": {"t": 5, "c": 4 * KEYS + 1, "rows": True, "weights": True},
    "causal groups": {"t": 150, "c": 150, "groups": 2, "causal": True, "rows": True},
    "resume": {"t": 20, "c": (70, 5, 64), "groups": 2},
    "resume, causal and weighted": {"t": 80, "c": (70, 80), "causal": True, "weights": True},
    "partial": {"t": 20, "c": 70, "groups": 2, "partial": True},
    "partial, resumed": {"t": 20, "c": (70, 70), "groups": 2, "partial": True, "rows": True, "weights": True},
    "no keys": {"t": 20, "c": 0, "groups": 2},
    "resume over no keys": {"t": 20, "c": (70, 0), "groups": 2, "rows": True},
    "no keys first": {"t": 20, "c": (0, 70), "partial": True},
    "large logits": {"t": 20, "c": (70, 70), "size": 1e4},
    "negative scale": {"t": 20, "c": (70, 70), "scale": -1.0, "causal": True},
    "scale 0": {"t": 20, "c": (70, 70), "scale": 0.0},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_lists_weights_and_partials(kernel_xp: Any, dtype: str, name: str) -> None:
    for seed in range(2):
        check(kernel_xp, dtype, 32, **CASES[name], seed=seed)


def test_keys_in_segments_merge_to_one_answer(kernel_xp: Any) -> None:
    """A decoding step: the query is repeated, each copy asks one segment of the keys."""
    xp, rng = kernel_xp, np.random.default_rng(0)
    q, k, v = (rng.standard_normal((n, 64)).astype(np.float16) for n in (1, 400, 400))
    parts = Partial.empty(xp, (4,), 64, np.float32)
    segments = (xp.asarray(x.reshape(4, 100, 64)) for x in (k, v))
    attend.attend(xp, xp.asarray(np.repeat(q, 4, axis=0)[:, None]), *segments, scale=0.125, total=parts)
    whole = Partial(parts.m[:1], parts.l[:1], parts.o[:1])
    for i in range(1, 4):
        whole.merge(Partial(parts.m[i : i + 1], parts.l[i : i + 1], parts.o[i : i + 1]))
    logits = 0.125 * q[0].astype(float) @ k.astype(float).T
    expected = np.exp(logits) @ v.astype(float) / np.exp(logits).sum()
    np.testing.assert_allclose(backends.asnumpy(whole.output())[0], expected, atol=1e-4)
    np.testing.assert_allclose(backends.asnumpy(whole.lse())[0], np.log(np.exp(logits).sum()), rtol=1e-6)


def test_a_schedule_changes_no_bit(kernel_xp: Any) -> None:
    xp, rng = kernel_xp, np.random.default_rng(0)
    q, k, v = (xp.asarray(rng.standard_normal((1, 150, 32)).astype(np.float16)) for _ in range(3))
    results = []
    for seed, early in itertools.product(range(3), (False, True)):
        emulator.schedule.seed, emulator.schedule.early = seed, early
        out = xp.empty((150, 32), dtype=np.float16)
        attend.attend(xp, q, k, v, scale=1.0, causal=True, out=out)
        results.append(backends.asnumpy(out))
    assert all(np.array_equal(x, results[0]) for x in results)


def test_what_it_serves(kernel_xp: Any) -> None:
    def array(d: int, dtype: Any = np.float16) -> Any:
        return kernel_xp.zeros((2, 3, d), dtype)

    for d in (*attend.DIMENSIONS, 16, 48, 512):
        assert attend.serves(kernel_xp, array(d)) is (d in attend.DIMENSIONS)
    assert attend.serves(kernel_xp, array(32, ml_dtypes.bfloat16))
    assert not attend.serves(kernel_xp, array(32, np.float32)) and not attend.serves(np, np.zeros((2, 32), np.float16))
    assert not attend.serves(kernel_xp, array(32), array(32), array(64))
    assert not attend.serves(kernel_xp, array(32), array(32, ml_dtypes.bfloat16))


# ----------------------------------------------------------------------------------------- the check itself is checked
RACE, STUCK, PARTED, OUTSIDE = "race: ", "not all threads reach", " meets ", "outside of"
WRONG = "written|Not equal to tol|assert"
WAIT, BARRIER, LEAVE = "        copies_done<1>();\n", "        __syncthreads();\n", "    __syncthreads();\n    if (out)"
LOOP_WAIT, LOOP_END = WAIT + BARRIER, "        __syncthreads();  // the next copies overwrite this stage\n"
DEFECTS: dict[str, tuple[str, str, str, str]] = {  # before, after, the case that shows it, and as what
    # Barriers and copies.
    "no barrier at the loop's end": (LOOP_END, "", "many tiles", RACE),
    "no barrier after the wait": (LOOP_WAIT, WAIT, "resume", RACE),
    "waits for one group too few": ("copies_done<1>", "copies_done<2>", "resume", RACE),
    "waits after the barrier": (LOOP_WAIT, BARRIER + WAIT, "resume", RACE),
    "barrier in some warps only": (LOOP_WAIT, WAIT + "if (warp)" + BARRIER, "resume", RACE),
    "answers leave before they are there": (LEAVE, "    if (out)", "resume", RACE),
    "one warp skips the last barrier": (LEAVE, "    if (warp)" + LEAVE, "resume", STUCK),
    "answers go where queries are to come": ("<0>();\n    __syncthreads();", "<0>();", "no keys", RACE),
    "weights of the other stage": ("[stage * KEYS + 8 * j", "[(stage ^ 1) * KEYS + 8 * j", "weights", RACE),
    # Indices.
    "a query sees its successor's key": ("i > at[a]", "i > 1 + at[a]", "causal groups", WRONG),
    "no mask where the diagonal begins": ("KEYS > first + 1)", "KEYS > first + KEYS)", "causal groups", WRONG),
    "padding keys count": ("i >= c || (causal", "(causal", "groups in order", WRONG),
    "row numbers past the list are read": ("j >= c ? 0 : k_rows", "k_rows", "lists of rows", OUTSIDE),
    "row numbers one tile late": ("read_numbers(key + 2 * KEYS)", "read_numbers(key + KEYS)", "causal groups", WRONG),
    "row numbers one tile early": ("    read_numbers(KEYS);", "    read_numbers(2 * KEYS);", "causal groups", WRONG),
    "rows past the last query are written": ("if (r < t) {", "{", "groups in order", OUTSIDE),
    "groups that share keys have their own": ("group / share", "group", "shared keys, in order", OUTSIDE),
    "all warps have the first one's queries": ("(SLABS * warp + a) + lane", "a + lane", "causal groups", WRONG),
    "keys transposed": ("load_matrices(b, keys", "load_transposed(b, keys", "groups in order", WRONG),
    # Numbers.
    "minus infinity from itself": ("next == -INF ? 1 : exp2", "exp2", "queries that see no key", WRONG),
    "minus infinity as the reference": ("m[a][0] == -INF ? 0 : m[a][0]", "m[a][0]", "weights", WRONG),
    "each lane its own reference": ("quad_max(most[a][h])", "most[a][h]", "large logits", WRONG),
    "some lanes alone rescale": ("if (__any_sync(0xffffffffu, grows))", "if (grows)", "large logits", PARTED),
    "the scale twice under log-weights": ("unit = log_weights || scale", "unit = scale", "weights", WRONG),
    "a negative scale like a positive one": ("|| scale <= 0 ?", "?", "negative scale", WRONG),
    "a reference that stays": ("GROWTH = 8", "GROWTH = 1e30f", "large logits", WRONG),
    "a partial's normaliser four times": ("pair == 0 ? l_all", "true ? l_all", "resume", WRONG),
    "a partial's reference to the wrong base": ("m_all[row[a][h]] * LOG2E", "m_all[row[a][h]]", "resume", WRONG),
    "normaliser not rescaled": ("l[a][h] *= rescale;", "", "large logits", WRONG),
}  # fmt: skip


def plant(monkeypatch: pytest.MonkeyPatch, before: str, after: str) -> emulator.Module:
    """Let the fake device run the kernel with a part of its source replaced, under a device number of its own."""
    source = (emulator.PACKAGE / "core/attend.cu").read_text()
    assert before in source
    module = emulator.build(source.replace(before, after), ("-DT=Float16", "-DD=32"))
    monkeypatch.setattr(backends, "cuda_module", lambda *files, options: module)
    monkeypatch.setattr(backends, "current_device", lambda: id(module))
    return module


@pytest.mark.parametrize("name", DEFECTS)
def test_defects_are_found(emulated: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before, after, case, found = DEFECTS[name]
    plant(monkeypatch, before, after)
    for seed in range(2):  # copies late and early
        with pytest.raises((AssertionError, emulator.KernelError), match=found):
            check(emulated, "float16", 32, **CASES[case], seed=seed)


@pytest.mark.parametrize("padding, conflicts", [(8, False), (0, True), (4, None)])
def test_rows_lie_in_different_banks(
    emulated: Any, monkeypatch: pytest.MonkeyPatch, padding: int, conflicts: bool | None
) -> None:
    module = plant(monkeypatch, "STRIDE = D + 8;", f"STRIDE = D + {padding};")
    if conflicts is None:
        with pytest.raises(emulator.KernelError, match="misaligned shared address"):
            check(emulated, "float16", 32, t=20, c=70)
    else:
        check(emulated, "float16", 32, t=20, c=70)
        assert (module.bank_conflicts > 0) is conflicts


def test_the_kernel_runs_where_its_arrays_are(emulated: Any) -> None:
    fake_device.counts.reset()
    with emulated.cuda.Device(1):
        q, k, out = (emulated.asarray(np.zeros(shape, np.float16)) for shape in ((1, 3, 32), (1, 5, 32), (3, 32)))
        attend.attend(emulated, q, k, k, scale=1.0, out=out)
    assert fake_device.counts.launches == 1
    with pytest.raises(ValueError, match="arrays on device .1. are used while device 0 is current"):
        attend.attend(emulated, q, k, k, scale=1.0, out=out)
    assert partial_attention(q, k, k).o.device.id == 1


def test_no_query_is_in_two_groups(emulated: Any) -> None:
    q, k = (emulated.asarray(np.zeros(shape, np.float16)) for shape in ((10, 32), (2, 3, 32)))
    out = emulated.asarray(np.zeros((10, 32), np.float16))
    rows = emulated.asarray(np.array([[0, 1, 2], [3, 4, 1]], np.int32))
    with pytest.raises(emulator.KernelError, match="two thread blocks store to one place"):
        attend.attend(emulated, q, k, k, scale=1.0, q_rows=rows, out=out)


def test_arguments_are_those_of_the_kernel(emulated: Any) -> None:
    kernel = emulator.module(*attend.SOURCES, options=("-DT=Float16", "-DD=32")).get_function("attend")
    arguments = [np.uint64(0)] * 11 + [np.int32(0)] * 3 + [np.float32(0)] + [np.int32(0)] * 2
    with pytest.raises(emulator.KernelError, match="number of arguments"):
        kernel((0,), (128,), arguments[1:], shared_mem=0)
    with pytest.raises(emulator.KernelError, match="argument 11 has 8 bytes, the kernel's has 4"):
        kernel((0,), (128,), [*arguments[:11], np.int64(0), *arguments[12:]], shared_mem=0)
    with pytest.raises(emulator.KernelError, match="bytes of shared memory"):
        kernel((0,), (128,), arguments, shared_mem=64 * 1024)
