"""Every public function on a fake device: no implicit transfer, no host array beside a device array, few host syncs.

`test_exact`, `test_hyper` and the others run on it too (fixture `xp`); here are the counts, and the fake itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import cupy_costs
import fake_device
import numpy as np
import pytest
import references

from sublinattn import (
    ExactCache,
    OnePassSketch,
    PolynomialState,
    SubGenCache,
    attention,
    hardness,
    hyper_attention,
    kdeformer_attention,
    nystrom_attention,
    partial_attention,
    performer_attention,
    polynomial_attention,
    reformer_attention,
    thinformer_attention,
    uniform_attention,
)
from sublinattn.core import backends
from sublinattn.methods.countsketch.countsketch import CountSketch
from sublinattn.methods.polynomial import polynomial

HYPER: dict[str, Any] = {"block_size": 10, "sample_size": 12, "rng": 0, "return_lse": True}


def merged(q: Any, k: Any, v: Any, *, causal: bool) -> Any:
    whole = partial_attention(q, k[..., :30, :], v[..., :30, :], causal=causal)
    whole.merge(partial_attention(q, k[..., 30:, :], v[..., 30:, :]))
    return whole.output(), whole.lse()


# Host syncs of a call on 4 problems: one for the norms, and what the comments say.
SYNCS: dict[str, tuple[Callable[..., Any], dict[str, Any], int]] = {
    "exact": (attention, {"return_lse": True}, 1),
    "partial": (partial_attention, {}, 1),
    "merged": (merged, {}, 2),  # one of each partial; merge, output and lse have none
    "practical": (hyper_attention, {**HYPER, "min_exact": 15}, 1),
    "practical, sinks": (hyper_attention, {**HYPER, "min_exact": 15, "exact_keys": 3}, 1),
    "practical, positions": (hyper_attention, {**HYPER, "min_exact": 15, "exact_keys": [3, 41, 40]}, 1),
    "polynomial": (polynomial_attention, {"degree": 4}, 1 + 1),  # the normalisers
    "performer": (performer_attention, {"features": 9, "return_lse": True, "rng": 0}, 1),
    "reformer": (reformer_attention, {"chunk_size": 5, "return_lse": True, "rng": 0}, 1),
}
UNMASKED: dict[str, tuple[Callable[..., Any], dict[str, Any], int]] = {
    "theory": (hyper_attention, {**HYPER, "min_exact": 0, "estimator": "theory"}, 2),  # the row-norm law
    "theory, sinks": (hyper_attention, {**HYPER, "min_exact": 0, "estimator": "theory", "exact_keys": 3}, 2),
    "theory, positions": (hyper_attention, {**HYPER, "min_exact": 0, "estimator": "theory", "exact_keys": [3, 40]}, 2),
    "uniform": (uniform_attention, {"sample_size": 9, "return_lse": True, "rng": 0}, 2),  # the norms of the drawn, too
    "uniform, causal": (uniform_attention, {"sample_size": 9, "causal": True, "rng": 0}, 1),
    "nystrom": (nystrom_attention, {"landmarks": 7}, 1 + 2),  # the norms of the two products through landmarks, too
    "kdeformer": (kdeformer_attention, {"block_size": 9, "return_lse": True, "rng": 0}, 1 + 2),  # lengths, Gram matrix
    "kdeformer, KDE": (kdeformer_attention, {"block_size": 9, "kde_queries": 6, "rng": 0}, 1 + 2 + 2),
    "thinformer": (thinformer_attention, {"oversampling": 0, "return_lse": True, "rng": 0}, 1),
}
CASES = [
    *((function, {**options, "causal": c}, n) for function, options, n in SYNCS.values() for c in (False, True)),
    *UNMASKED.values(),
]
NAMES = [*(f"{name}, {mask}" for name in SYNCS for mask in ("unmasked", "causal")), *UNMASKED]


@pytest.fixture(params=["small", "uneven", "natural"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles within one problem, tiles that straddle problems unevenly, and those of a device with 512 MiB."""
    shapes = {"small": (2, 12, 7), "uneven": (2, 60, 12)}
    if request.param in shapes:
        monkeypatch.setattr(backends, "tile_shape", lambda xp, batch: shapes[request.param])


def parts(result: Any) -> list[Any]:
    if dataclasses.is_dataclass(result):
        return [getattr(result, field.name) for field in dataclasses.fields(result)]
    return list(result) if isinstance(result, tuple) else [result]


def on_both(call: Callable[..., Any], arrays: list[np.ndarray]) -> int:
    """Host syncs of `call` on the device; its result must be on the device and equal NumPy's."""
    expected = parts(call(*arrays))
    before = fake_device.counts.syncs
    results = parts(call(*(fake_device.asarray(x) for x in arrays)))
    syncs = fake_device.counts.syncs - before
    assert all(isinstance(x, fake_device.Array) for x in results)
    for x, y in zip(results, expected, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x.get(), y, rtol=1e-9, atol=1e-11)
    return syncs


@pytest.mark.parametrize("size", [1.0, 30.0])
@pytest.mark.parametrize(("function", "options", "syncs"), CASES, ids=NAMES)
def test_host_syncs(tiles: None, function: Any, options: dict[str, Any], syncs: int, size: float) -> None:
    size = 0.7 if function is polynomial_attention else size
    for n_q, n_k in ((96, 96), (101, 77), (77, 101) if options.get("causal") else (400, 77)):
        arrays = references.qkv(n_q, n_q, n_k, lead=(2, 2), size=size)
        assert on_both(partial(function, **options), arrays) == syncs


@pytest.mark.parametrize(("n", "levels"), [(64, 2), (128, 3), (101, 3)])
def test_causal_theory_syncs_once_per_batch_of_nodes(tiles: None, n: int, levels: int) -> None:
    """One law per level of the recursion, one more where a level ends in a ragged node: at most 1 + 2 log2(n / n0)."""
    options: dict[str, Any] = {"causal": True, "block_size": 8, "sample_size": 8, "min_exact": 16, "rng": 0}
    call = partial(hyper_attention, estimator="theory", **options)
    assert 1 + levels <= on_both(call, references.qkv(3, n, n, lead=(2,))) <= 1 + 2 * levels


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [(60, 60), (61, 47), (47, 61)])
@pytest.mark.parametrize("sinks", [2, [40, 3], [[40, 3], [5, 6]]])
def test_hardness_syncs_once_per_step_of_lanczos(
    small_tiles: None, causal: bool, sizes: tuple[int, int], sinks: Any
) -> None:
    """One for the norms, at most 50 for the steps: the number of steps depends on the spectrum, not on n."""
    call = partial(hardness, causal=causal, block_size=8, exact_keys=sinks, rng=0)
    assert 2 <= on_both(call, references.qkv(4, *sizes, lead=(2,))) <= 51


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("room", "groups"), [(7, 4), (50, 4), (250, 2), (None, 1)])
def test_polynomial_takes_all_problems_at_once_that_have_room(
    room: int | None, groups: int, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync for the norms, and one for the normalisers of each group. With a mask, 50 rows are six chunks at once."""
    monkeypatch.setattr(polynomial, "CAUSAL_ROWS", 8)
    if room is not None:
        monkeypatch.setattr(backends, "feature_rows", lambda xp, features, dtype: room)
    for n_q, n_k in ((101, 101), (101, 77), (77, 101)):
        arrays = references.qkv(n_q, n_q, n_k, lead=(2, 2), size=0.7)
        assert on_both(partial(polynomial_attention, degree=4, causal=causal), arrays) == 1 + groups


@pytest.mark.parametrize("n", [1, 10, 1000])
def test_polynomial_state_syncs_do_not_depend_on_n(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr(backends, "feature_rows", lambda xp, features, dtype: 7)
    q, k, v = (fake_device.asarray(x) for x in references.qkv(9, n, n, size=0.7))
    state = PolynomialState(4, 3, degree=4)
    before = fake_device.counts.syncs
    state.update(k, v)
    assert fake_device.counts.syncs - before == 1  # the norms
    state.attend(q)
    assert fake_device.counts.syncs - before == 1 + 2  # the norms, the normalisers
    state.merge(PolynomialState(4, 3, degree=4).update(k, v))
    assert fake_device.counts.syncs - before == 1 + 2 + 1  # the other's


@pytest.mark.parametrize("variant", ["paper", "fused"])
@pytest.mark.parametrize("n", [10, 30, 300])
@pytest.mark.parametrize("together", [None, 3])
def test_one_pass_syncs_once_per_piece(
    variant: str, n: int, together: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside those of the norms and normalisers a CountSketch asks twice: for all tables at once, or, where no more
    fit, for every three of them."""
    if together is not None:
        monkeypatch.setattr(CountSketch, "pairs_on_device", together * n)
    arrays = references.qkv(10, n, n, size=0.7)
    sizes: dict[str, Any] = {"degree": 4, "sparsity": 2, "eps1": 1.0, "eps2": 1.0, "variant": variant, "rng": 0}

    def call(q: Any, k: Any, v: Any) -> Any:
        sketch = OnePassSketch(n, 4, 3, **sizes)
        counts = [fake_device.counts.syncs]
        sketch.absorb_keys(k, v)
        counts.append(fake_device.counts.syncs)
        sketch.absorb_queries(q)
        counts.append(fake_device.counts.syncs)
        columns = sketch.decode()
        counts.append(fake_device.counts.syncs)
        scanned = sketch.decode("scan")
        counts.append(fake_device.counts.syncs)
        seen.append(list(np.diff(counts)))
        return columns.indices, columns.values, columns.todense(), scanned.values

    seen: list[list[int]] = []
    on_both(call, arrays)
    r = len(OnePassSketch(n, 4, 3, **sizes).state.phi.hash.coefficients)
    waits = 2 * (1 if together is None else -(-r // together))  # the buckets that gain something, and the fullest
    rows = n if together is None else together * n // r  # that a scan estimates at once; argpartition waits twice
    scan = 2 * sum(n - at > sizes["sparsity"] for at in range(0, n, max(1, rows)) if rows > sizes["sparsity"])
    assert seen[1] == [1 + 2 * (variant == "paper"), 2 + waits, 1, scan]


def test_half_precision_on_the_device() -> None:
    arrays = references.qkv(6, 40, 40, dtype=np.float16)
    assert on_both(attention, arrays) == 1
    assert on_both(partial(hyper_attention, block_size=8, sample_size=9, min_exact=0, rng=0), arrays) == 1
    assert on_both(partial(polynomial_attention, degree=6, scale=0.2), arrays) == 2


# ------------------------------------------------------------------------------------------------------ the fake itself
X = np.arange(6.0).reshape(2, 3)
FORBIDDEN: dict[str, Callable[[Any], Any]] = {
    "np.asarray": np.asarray,
    "np function": np.sum,
    "np ufunc": np.exp,
    "np.einsum": lambda x: np.einsum("ij->i", x),
    "np.where": lambda x: np.where(x, 1, 0),
    "host + device": lambda x: X + x,
    "device + host": lambda x: x + X,
    "host @ device": lambda x: X @ x.T,
    "device @ host": lambda x: x @ X.T,
    "device += host": lambda x: x.__iadd__(X),
    "host += device": lambda x: X.copy().__iadd__(x),
    "device < host": lambda x: x < X,
    "host == device": lambda x: X == x,  # noqa: SIM300 - the order is the point
    "xp function of host": lambda x: fake_device.maximum(x, X),
    "xp.stack of host": lambda x: fake_device.stack([x, X]),
    "out=host": lambda x: fake_device.exp(x, out=X.copy()),
    "indexed by host": lambda x: x[np.array([0, 1])],
    "indexed by host in a tuple": lambda x: x[:, np.array([0, 1])],
    "indexed by list": lambda x: x[[0, 1]],
    "host indexed by device": lambda x: X[fake_device.asarray(np.array([0]))],
    "assigned host": lambda x: x.__setitem__(slice(None), X),
    "assigned to host": lambda x: X.copy().__setitem__(slice(None), x),
    "float": lambda x: float(x[0, 0]),
    "int": lambda x: int(x[0, 0]),
    "bool": lambda x: bool(x[0, 0]),
    "if": lambda x: 1 if x.any() else 0,
    "index": lambda x: [1, 2][x[0, 0].astype(int)],
    "range": lambda x: range(fake_device.asarray(np.array(3))),
    "slice": lambda x: x[: fake_device.asarray(np.array(1))],
    "iteration": list,
    "unpacking": lambda x: (lambda a, b: a)(*x),
    "in": lambda x: 1.0 in x,
    "item": lambda x: x[0, 0].item(),
    "tolist": lambda x: x.tolist(),
    "einsum": lambda x: fake_device.einsum("ij,ij->i", x, x),
    "name CuPy lacks": lambda x: fake_device.nditer(x),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_fake_refuses(what: str) -> None:
    if what == "name CuPy lacks":
        pytest.importorskip("cupy", reason="CuPy is not installed (extra sublinattn[dev] on Linux)")
    with pytest.raises((TypeError, AttributeError)):
        FORBIDDEN[what](fake_device.asarray(X))


def test_fake_refuses_keywords_that_cupy_lacks() -> None:
    pytest.importorskip("cupy", reason="CuPy is not installed (extra sublinattn[dev] on Linux)")
    x = fake_device.asarray(X)
    for call in (
        lambda: fake_device.take(x, fake_device.asarray(np.array([0])), mode="clip"),
        lambda: fake_device.exp(x, subok=False),
        lambda: x.max(axis=0, initial=0.0),
        lambda: fake_device.sum(x, where=x > 1),
    ):
        with pytest.raises(TypeError, match="CuPy's .* has no keyword"):
            call()


# ------------------------------------------------------------------------------------------- what the fake charges for
MATRIX, BATCH = np.ones((4, 6), np.float32), np.ones((3, 4, 6), np.float32)
# Launches, syncs, copies, uploaded bytes, as CuPy's source has them.
CHARGES: dict[str, tuple[Callable[[Any, Any], Any], tuple[int, int, int, int]]] = {
    "views": (lambda x, y: (x.T, x[0], x[0, 0], x[:, 1:], x.reshape(-1)), (0, 0, 0, 0)),
    "a broadcast view": (lambda x, y: fake_device.broadcast_to(x, (2, 4, 6)), (0, 0, 0, 0)),
    "a reshape that copies": (lambda x, y: x.T.reshape(-1), (1, 0, 0, 0)),
    "same dtype": (lambda x, y: (x.astype(np.float32, copy=False), fake_device.ascontiguousarray(x)), (0, 0, 0, 0)),
    "uninitialised": (lambda x, y: fake_device.empty(3), (0, 0, 0, 0)),
    "empty": (lambda x, y: x[:0] + 1, (0, 0, 0, 0)),
    "elementwise": (lambda x, y: x + 2 * x, (2, 0, 0, 0)),
    "in place": (lambda x, y: x.__iadd__(1), (1, 0, 0, 0)),
    "in place through a view": (lambda x, y: x.__setitem__(0, x[0].__iadd__(1)), (1, 0, 0, 0)),
    "assignment": (lambda x, y: x.__setitem__(0, x[1]), (1, 0, 0, 0)),
    "fill": (lambda x, y: x.fill(0), (1, 0, 0, 0)),
    "rows picked": (lambda x, y: x[fake_device.arange(2)], (2, 0, 0, 0)),
    "a mask": (lambda x, y: x[x > 0], (2, 1, 0, 0)),
    "assigned through a mask": (lambda x, y: x.__setitem__(x > 0, 1), (2, 1, 0, 0)),
    "two arrays joined": (lambda x, y: fake_device.stack([x, x]), (2, 0, 0, 0)),
    "nine arrays joined": (lambda x, y: fake_device.stack([x] * 9), (1, 0, 0, 0)),
    "nonzero": (lambda x, y: fake_device.nonzero(x), (1, 1, 0, 0)),
    "where": (lambda x, y: fake_device.where(x > 0, x, 0), (2, 0, 0, 0)),
    "bincount": (lambda x, y: fake_device.bincount(fake_device.arange(3), minlength=9), (2, 2, 0, 0)),
    "repeat": (lambda x, y: fake_device.repeat(x, 2, axis=0), (1, 0, 0, 0)),
    "repeat by an array": (lambda x, y: fake_device.repeat(x[0], fake_device.arange(6)), (2, 2, 0, 0)),
    "get": (lambda x, y: x.get(), (0, 1, 0, 0)),
    "upload": (lambda x, y: fake_device.asarray(MATRIX), (0, 0, 0, 96)),
    "product": (lambda x, y: x @ x.T, (1, 0, 0, 0)),
    "product of a slice": (lambda x, y: x[:, :4] @ x, (1, 0, 1, 0)),
    "product into a slice": (lambda x, y: fake_device.matmul(x, x.T, out=y[0, :, :4]), (1, 0, 1, 0)),
    "product of dtypes": (lambda x, y: x.astype(np.float64) @ x.T, (2, 0, 1, 0)),
    "product of halves": (lambda x, y: x.astype(np.float16) @ x.T.astype(np.float16), (3, 0, 0, 0)),
    "batched product": (lambda x, y: y @ y.reshape(3, 6, 4), (1, 0, 0, 0)),
    "batched product of a transpose": (lambda x, y: y @ y.swapaxes(1, 2), (1, 0, 1, 0)),
    "batched product of halves": (lambda x, y: (lambda h: h @ h.reshape(3, 6, 4))(y.astype(np.float16)), (2, 0, 3, 0)),
}  # fmt: skip


@pytest.mark.parametrize("what", CHARGES)
def test_charges(what: str) -> None:
    call, expected = CHARGES[what]
    x, y = fake_device.asarray(MATRIX), fake_device.asarray(BATCH)
    fake_device.counts.reset()
    call(x, y)
    assert dataclasses.astuple(fake_device.counts) == expected


def test_every_function_of_cupy_that_may_wait_is_charged_or_refused() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed (extra sublinattn[dev] on Linux)")
    may_wait = {name for name in dir(cupy) if "synchronize the device" in (getattr(cupy, name).__doc__ or "")}
    assert may_wait <= {"where", *cupy_costs.HIDDEN_SYNCS, *cupy_costs.NOT_COUNTED}


def test_results_and_states_stay_on_their_device() -> None:
    """Beside the functions of `test_budgets`: what has no array among its arguments, and what is made of states."""
    with fake_device.cuda.Device(1):
        q, k, v = (fake_device.asarray(x) for x in references.qkv(3, 30, 30))
    partial = partial_attention(q, k, v).merge(partial_attention(q, k, v))
    results = [partial.output(), partial.lse()]
    for make in (ExactCache, lambda: SubGenCache(1.0, 2, 9), lambda: PolynomialState(4, 3, degree=4, scale=0.1)):
        states = [make().update(k, v) for _ in range(2)]
        results += states[0].merge(states[1]).contents().values()
        if isinstance(states[0], SubGenCache):
            results.append(states[0].centers)
        with fake_device.cuda.Device(2):
            there = [fake_device.asarray(x.get()) for x in (q, k, v)]
            other = make().update(*there[1:])
        with pytest.raises(TypeError, match="k must be on the device of the rows before it, .* <Fake Device 2>, not"):
            states[0].update(*there[1:])
        with pytest.raises(TypeError, match="q must be on the device of the rows before it, .* <Fake Device 2>, not"):
            states[0].attend(there[0])
        with pytest.raises(TypeError, match="other must be on the device of this state"):
            states[0].merge(other)
    sketch = OnePassSketch(30, 4, 3, degree=4, sparsity=2, eps1=1.0, eps2=1.0, scale=0.1)
    columns = sketch.absorb_keys(k, v).absorb_queries(q).decode()
    results += [columns.indices, columns.values, columns.todense()]
    assert {x.number for x in results if isinstance(x, fake_device.Array)} == {1}


def test_a_launch_takes_arrays_of_the_current_device_only() -> None:
    with fake_device.cuda.Device(1):
        x = fake_device.asarray(MATRIX)
        y = x + 1
    assert x.device.id == y.device.id == 1 and x.T.device.id == x[0].device.id == 1  # a view may be made anywhere
    for call in (
        lambda: x + 1,
        lambda: x @ x.T,
        lambda: x.sum(),
        lambda: x.fill(0),
        lambda: x.__iadd__(1),
        lambda: x.__setitem__(0, 1),
        lambda: fake_device.asarray(MATRIX) + x,
        lambda: fake_device.stack([x, x]),
        lambda: fake_device.exp(fake_device.asarray(MATRIX), out=x),
    ):
        with pytest.raises(ValueError, match="while device 0 is current"):
            call()
