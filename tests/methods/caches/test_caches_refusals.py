"""What every cache refuses, and that it is then as it was; and the caches on a device: what they transfer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_device
import numpy as np
import pytest
from toy_caches import BUDGET, CACHES, D_V, D, contents, stream

from sublinattn.core import backends
from sublinattn.methods.caches.exact import ExactCache
from sublinattn.methods.caches.heavy_hitter import HeavyHitterCache
from sublinattn.methods.caches.k_center import KCenterCache
from sublinattn.methods.caches.reservoir import ReservoirCache
from sublinattn.methods.caches.sink import SinkCache

N = 20


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SinkCache(0), ValueError, "window must be at least 1, got 0"),
        (lambda: SinkCache(4, -1), ValueError, "sinks must be at least 0, got -1"),
        (lambda: SinkCache(4.0), TypeError, "window must be an integer, got float"),
        (lambda: HeavyHitterCache(0, 0), ValueError, "budget must be at least 1, got 0"),
        (lambda: HeavyHitterCache(4, -1), ValueError, "recent must be at least 0, got -1"),
        (lambda: HeavyHitterCache(4, 5), ValueError, r"recent must be at most budget \(4\), got 5"),
        (lambda: HeavyHitterCache(4, True), TypeError, "recent must be an integer, got bool"),
        (lambda: KCenterCache(0, 0), ValueError, "budget must be at least 1, got 0"),
        (lambda: KCenterCache(4, 5), ValueError, r"recent must be at most budget \(4\), got 5"),
        (lambda: KCenterCache("4", 2), TypeError, "budget must be an integer, got str"),
        (lambda: ReservoirCache(0), ValueError, "budget must be at least 1, got 0"),
        (
            lambda: ReservoirCache(4, "norm"),
            ValueError,
            r"weights must be one of \('uniform', 'value-norm'\), got 'norm'",
        ),
        (lambda: ReservoirCache(4, rng="x"), TypeError, "rng must be a numpy.random.Generator"),
        (lambda: ReservoirCache(4, rng=-1), ValueError, "rng must be a numpy.random.Generator"),
    ],
)
def test_impossible_parameters(make: Callable[[], Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        make()


def nan(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[..., 3, 1] = np.nan
    return x


Z = np.zeros
BAD_ROWS: dict[str, tuple[Any, Any, Any, str]] = {
    "k of another width": (
        Z((3, D + 1)),
        Z((3, D_V)),
        ValueError,
        r"k must have shape \(4,\) or \(c, 4\), got \(3, 5\)",
    ),
    "v of another width": (Z((3, D)), Z((3, D)), ValueError, r"v must have shape \(3,\) or \(c, 3\), got \(3, 4\)"),
    "fewer values": (Z((3, D)), Z((2, D_V)), ValueError, r"v must have the leading axes and rows of k, \(3,\), got"),
    "leading axes": (Z((1, 3, D)), Z((1, 3, D_V)), ValueError, r"k must have shape .* got \(1, 3, 4\)"),
    "no rows": (Z((0, D)), Z((0, D_V)), ValueError, r"k must not be empty, got shape \(0, 4\)"),
    "a number": (Z(()), Z((3, D_V)), ValueError, r"k must have shape .* got \(\)"),
    "another dtype": (Z((3, D), "f4"), Z((3, D_V), "f4"), TypeError, "k must have the dtype of what is held"),
    "mixed dtypes": (Z((3, D)), Z((3, D_V), "f4"), TypeError, "v must have the dtype of k"),
    "integers": (Z((3, D), int), Z((3, D_V), int), TypeError, "k must have a floating dtype"),
    "a list": ([[0.0] * D], Z((1, D_V)), TypeError, "k must be an array"),
    "NaN in k": (nan(Z((5, D))), Z((5, D_V)), ValueError, "k must be finite, got NaN or Inf entries"),
    "NaN in v": (Z((5, D)), nan(Z((5, D_V))), ValueError, "v must be finite, got NaN or Inf entries"),
    "Inf in v": (Z((5, D)), np.full((5, D_V), np.inf), ValueError, "v must be finite, got NaN or Inf entries"),
}


@pytest.mark.parametrize("what", BAD_ROWS)
@pytest.mark.parametrize("name", CACHES)
def test_refused_tokens_leave_the_cache_as_it_was(tmp_path: Path, name: str, what: str) -> None:
    _, k, v = stream(np, 0, N)
    cache = CACHES[name]().update(k, v)
    before = contents(cache, tmp_path)
    bad_k, bad_v, error, message = BAD_ROWS[what]
    with pytest.raises(error, match=f"^{message}"):
        cache.update(bad_k, bad_v)
    assert contents(cache, tmp_path) == before and cache.tokens_seen == N


@pytest.mark.parametrize("name", CACHES)
def test_refused_queries_leave_the_cache_as_it_was(tmp_path: Path, name: str) -> None:
    q, k, v = stream(np, 1, N)
    cache = CACHES[name]()
    with pytest.raises(ValueError, match="attend needs a cache with tokens, got an empty one"):
        cache.attend(q)
    cache.update(k, v)
    before = contents(cache, tmp_path)
    bad: list[tuple[Any, dict[str, Any], Any, str]] = [
        (q[:, :3], {}, ValueError, r"q must have shape \(4,\) or \(c, 4\), got \(5, 3\)"),
        (q[None], {}, ValueError, r"q must have shape .* got \(1, 5, 4\)"),
        (q[:0], {}, ValueError, "q must not be empty"),
        (q.astype(np.float32), {}, TypeError, r"q must have the dtype of the keys \(float64\), got float32"),
        (nan(q), {}, ValueError, "q must be finite, got NaN or Inf entries"),
        (q, {"scale": np.inf}, ValueError, "scale must be finite, got inf"),
        (q, {"scale": "1"}, TypeError, "scale must be a real number or None, got str"),
    ]
    for x, options, error, message in bad:
        with pytest.raises(error, match=f"^{message}"):
            cache.attend(x, **options)
        assert contents(cache, tmp_path) == before


@pytest.mark.parametrize("name", CACHES)
def test_a_first_chunk_that_is_refused_decides_nothing(name: str) -> None:
    _, k, v = stream(np, 2, N)
    cache = CACHES[name]()
    with pytest.raises(ValueError, match="v must be finite"):
        cache.update(k[None], nan(v)[None])
    assert cache.nbytes == 0
    assert cache.update(k.astype(np.float32), k.astype(np.float32)).attend(k.astype(np.float32)).shape == (N, D)


def test_the_scan_for_nan_can_be_skipped() -> None:
    q, k, v = stream(np, 3, N)
    assert np.isnan(ExactCache().update(k, nan(v), check_finite=False).attend(q)).any()


def test_k_center_refuses_keys_whose_squares_overflow() -> None:
    _, k, v = stream(np, 4, N, dtype=np.float32)
    cache = KCenterCache(BUDGET, 2)
    with pytest.raises(ValueError, match="k must have rows whose squared norms are finite in float32, got norm"):
        cache.update(k * np.float32(1e30), v)
    assert cache.nbytes == 0


@pytest.mark.parametrize("name", CACHES)
def test_a_file_of_another_cache_is_refused(tmp_path: Path, name: str) -> None:
    CACHES[name]().save(tmp_path / "x")
    other = SinkCache if name != "sink" else ExactCache
    with pytest.raises(ValueError, match=f"is a checkpoint of a .*Cache, not of a {other.__name__}"):
        other.load(tmp_path / "x")


# ----------------------------------------------------------------------------------------------------------- the device
@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(backends.NAMESPACES, fake_device.__name__, fake_device.__name__)
    return fake_device


TRANSFERS = {
    "exact": (1, 2),  # update: the norms; attend: those of the queries, and of what is attended to
    "sink": (1, 2),
    "heavy": (1, 1),
    "uniform": (1, 2),
    "value-norm": (2, 1),  # and the weights of the values; as many queries as coordinates ask for no norms
    "zero": (1, 1),
}


@pytest.mark.parametrize("n", [30, 300])
@pytest.mark.parametrize("name", TRANSFERS)
def test_transfers_do_not_depend_on_the_number_of_tokens(device: Any, name: str, n: int) -> None:
    plain = stream(np, 5, n, lead=(2,))
    q, k, v = (device.asarray(x) for x in plain)
    cache = CACHES[name]()
    for _ in range(2):
        before = device.syncs
        cache.update(k, v)
        assert device.syncs - before == TRANSFERS[name][0]
        before = device.syncs
        answer = cache.attend(q)
        assert device.syncs - before == TRANSFERS[name][1]
    assert isinstance(answer, device.Array)
    on_host = CACHES[name]().update(*plain[1:])
    on_host.attend(plain[0])
    expected = on_host.update(*plain[1:]).attend(plain[0])
    np.testing.assert_allclose(answer.get(), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", [name for name in CACHES if name != "zero"])
def test_tokens_stay_on_their_device(device: Any, tmp_path: Path, name: str) -> None:
    q, k, v = stream(np, 6, N)
    cache = CACHES[name]().update(k[:3], v[:3])
    cache.update(*(device.asarray(x[3:6]) for x in (k, v)))  # from the host to the device: where a loaded cache goes
    before = contents(cache, tmp_path)
    with pytest.raises(TypeError, match="^k must be on the device of the rows before it, got an array on the host"):
        cache.update(k, v)
    with pytest.raises(TypeError, match="^q must be on the device of the rows before it, got an array on the host"):
        cache.attend(q)
    with pytest.raises(TypeError, match="^v must be of the same kind as k"):
        cache.update(device.asarray(k), v)
    assert contents(cache, tmp_path) == before
    assert isinstance(cache.attend(device.asarray(q)), device.Array)


@pytest.mark.parametrize("name", ["exact", "uniform", "value-norm"])
def test_merging_takes_place_on_the_device_of_either(device: Any, name: str) -> None:
    q, k, v = stream(np, 7, N)

    def part(xp: Any, rng: int, at: slice) -> Any:
        return CACHES[name](rng=rng).update(*(xp.asarray(x[at]) for x in (k, v)))

    first, last = slice(0, 8), slice(8, N)
    expected = part(np, 1, first).merge(part(np, 2, last)).attend(q)
    for mine, its in ((device, device), (np, device), (device, np)):
        other = part(its, 2, last)
        cache = part(mine, 1, first).merge(other)
        np.testing.assert_allclose(cache.attend(device.asarray(q)).get(), expected, rtol=1e-9, atol=1e-11)
        assert isinstance(other._held["keys"], device.Array if its is device else np.ndarray)
