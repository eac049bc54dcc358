"""The boundary: kinds, dtypes and devices in and out; draws, tiles, threads, memory."""

from __future__ import annotations

import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest
import references
from threadpoolctl import threadpool_info, threadpool_limits

from sublinattn import attention, hyper_attention, stage_times, uniform_attention
from sublinattn.core import backends, threads, timing


def test_namespace_is_shared_or_refused(xp: Any) -> None:
    assert backends.namespace(xp.asarray(np.ones(2)), xp.asarray(np.ones(3))) is xp
    with pytest.raises(TypeError, match="all be NumPy or all be CuPy"):
        backends.namespace(xp.asarray(np.ones(2)), [1.0])


def test_backend_by_name() -> None:
    assert backends.backend("numpy") is np
    assert backends.backend().__name__ == ("cupy" if backends.gpu_available() else "numpy")
    with pytest.raises(ValueError, match="backend must be 'auto', 'numpy' or 'cupy', got 'tpu'"):
        backends.backend("tpu")
    if not backends.gpu_available():
        with pytest.raises(RuntimeError, match="needs an NVIDIA GPU"):
            backends.backend("cupy")


# ------------------------------------------------------------------------------------------------------------- PyTorch
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("function", [attention, hyper_attention, uniform_attention])
def test_torch_tensors_come_back_as_they_came(dtype: str, function: Any) -> None:
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(x).to(getattr(torch, dtype)) for x in references.qkv(0, 40, 40, lead=(2,))]
    options = {} if function is attention else {"sample_size": 20, "rng": 0}
    out, lse = function(*tensors, **options, return_lse=True)
    assert isinstance(out, torch.Tensor) and out.device == tensors[0].device
    assert out.dtype == lse.dtype == tensors[0].dtype
    assert out.shape == (2, 40, 3) and lse.shape == (2, 40)
    wide = [x.double().numpy() for x in tensors]
    expected, expected_lse = function(*wide, **options, return_lse=True)
    eps = torch.finfo(tensors[0].dtype).eps
    np.testing.assert_allclose(out.double().numpy(), expected, rtol=0, atol=4 * max(eps, 1e-15))
    np.testing.assert_allclose(lse.double().numpy(), expected_lse, rtol=4 * max(eps, 1e-15))


def test_torch_enters_without_a_copy() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(3, 4)
    _, (inside,), leave = backends.enter(q=tensor)
    tensor[0, 0] = 5
    assert inside[0, 0] == 5
    result = np.zeros((2, 2), np.float32)
    outside = leave(result)
    result[0, 0] = 7
    assert outside[0, 0] == 7


def test_torch_views_are_taken() -> None:
    torch = pytest.importorskip("torch")
    q, k, v = (torch.from_numpy(x).transpose(0, 1) for x in references.qkv(1, 6, 6, lead=(6,)))
    dense = [x.contiguous() for x in (q, k, v)]
    torch.testing.assert_close(attention(q, k, v), attention(*dense))


def test_jax_arrays_come_back_as_they_came() -> None:
    jnp = pytest.importorskip("jax.numpy")
    arrays = references.qkv(2, 9, 9, dtype=np.float32)
    for dtype in (jnp.float32, jnp.bfloat16):
        q, k, v = (jnp.asarray(x, dtype) for x in arrays)
        out = attention(q, k, v)
        assert isinstance(out, type(q)) and out.dtype == dtype
        np.testing.assert_allclose(np.asarray(out, np.float32), references.attention(*arrays)[0], atol=0.05)


# -------------------------------------------------------------------------------------------------- tiles and threads
def test_every_tile_runs_once_whatever_the_threads() -> None:
    for limit in (1, 2):
        with threadpool_limits(limit, user_api="blas"):
            done: list[int] = []
            backends.for_tiles(np, range(100), lambda: done.append)  # noqa: B023 - list.append is atomic
            assert sorted(done) == list(range(100))


def test_the_blas_limit_is_the_number_of_tile_threads() -> None:
    for limit in (1, 2):
        made: list[int] = []

        def make_worker(made: list[int] = made) -> Any:
            made.append(1)
            return lambda tile: None

        with threadpool_limits(limit, user_api="blas"):
            backends.for_tiles(np, range(50), make_worker)
        assert len(made) == min(limit, threads.cpu_count())


def test_tiles_have_one_blas_thread_and_the_limit_is_restored() -> None:
    if not any(lib["user_api"] == "blas" for lib in threadpool_info()):
        pytest.skip("no BLAS that threadpoolctl knows")
    inside: list[int] = []

    def worker(_: int) -> None:
        inside.extend(lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas")

    with threadpool_limits(2, user_api="blas"):
        backends.for_tiles(np, [0], lambda: worker)
        after = [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]
    assert set(inside) == {1} and set(after) == {2}


def test_an_error_in_a_tile_is_raised_and_the_limit_restored() -> None:
    before = threadpool_info()

    def worker(tile: int) -> None:
        if tile == 7:
            raise ZeroDivisionError("tile 7")

    with pytest.raises(ZeroDivisionError, match="tile 7"):
        backends.for_tiles(np, range(10), lambda: worker)
    assert threadpool_info() == before


def test_concurrent_calls_do_not_mix() -> None:
    arrays = references.qkv(3, 600, 600, d=8)
    expected = attention(*arrays)
    found: list[Any] = [None] * 4

    def call(i: int) -> None:
        found[i] = attention(*arrays)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in found:
        np.testing.assert_array_equal(out, expected)


def test_stage_times_of_another_thread_are_its_own() -> None:
    arrays = references.qkv(4, 100, 100)
    options: dict[str, Any] = {"block_size": 16, "sample_size": 16, "min_exact": 0, "rng": 0}
    with stage_times() as seconds:
        other = threading.Thread(target=lambda: hyper_attention(*arrays, **options))
        other.start()
        other.join()
    assert not seconds


# -------------------------------------------------------------------------------------------------------------- memory
def test_peak_bytes_counts_what_is_held_at_once() -> None:
    def call() -> None:
        for _ in range(3):
            np.ones(2**20, np.uint8)

    assert 2**20 <= timing.peak_bytes(np, call) < 2**20 + 2**16
    assert not tracemalloc.is_tracing()


def test_device_memory_of_the_host() -> None:
    free, total = backends.device_memory(np)
    assert 0 < free <= total


def test_feature_rows_fill_a_cache_or_a_share_of_the_device(xp: Any) -> None:
    if xp is np:
        for features, dtype, rows in ((1000, np.float64, 1048), (2**20, np.float32, 16), (1, np.float32, 2**14)):
            assert backends.feature_rows(np, features, dtype) == rows
    else:
        for features, dtype in ((5000, np.float64), (5000, np.float32)):
            rows = backends.feature_rows(xp, features, dtype)
            assert (
                0.5 < rows * features * np.dtype(dtype).itemsize / (backends.device_memory(xp)[0] / 16) <= 1.5
                or rows == 2**20
            )
        assert backends.feature_rows(xp, 1, np.float64) <= 2**20 and backends.feature_rows(xp, 2**33, np.float64) == 16


def test_a_state_follows_its_rows_from_the_host_only(xp: Any) -> None:
    x, y = np.arange(3.0), np.ones(2)
    moved = backends.follow(xp, "k", x, y)
    assert backends.namespace(*moved) is xp
    again = backends.follow(xp, "k", *moved)
    assert all(a is b for a, b in zip(again, moved, strict=True))
    for pair in (backends.together(x, moved[1]), backends.together(moved[0], y), backends.together(*moved)):
        assert backends.namespace(*pair) is xp
        np.testing.assert_array_equal(backends.asnumpy(pair[0]), x)
    if xp is not np:
        with pytest.raises(TypeError, match="^k must be on the device of the rows before it, got an array on the host"):
            backends.follow(np, "k", x, moved[1])


def test_scratch_is_reused_and_grows() -> None:
    scratch = backends.Scratch(np, np.dtype(np.float32))
    first = scratch("a", 4, 4)
    assert np.shares_memory(first, scratch("a", 2, 3)) and scratch("a", 2, 3).shape == (2, 3)
    assert not np.shares_memory(first, scratch("b", 4, 4))
    assert scratch("a", 5, 5).shape == (5, 5)
