"""The boundary: kinds, dtypes and devices in and out; tiles; row norms."""

from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import fake_device
import numpy as np
import pytest
import references

from sublinattn import (
    attention,
    hyper_attention,
    kdeformer_attention,
    performer_attention,
    reformer_attention,
    thinformer_attention,
    uniform_attention,
)
from sublinattn.core import backends


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
FUNCTIONS: dict[str, Any] = {
    "attention": attention,
    "hyper": partial(hyper_attention, sample_size=20, rng=0),
    "uniform": partial(uniform_attention, sample_size=20, rng=0),
    "uniform causal": partial(uniform_attention, sample_size=20, causal=True, rng=0),
    "performer": partial(performer_attention, rng=0),
    "reformer": partial(reformer_attention, chunk_size=8, rng=0),
    "kdeformer": partial(kdeformer_attention, block_size=8, rng=0),
    "thinformer": partial(thinformer_attention, oversampling=0, rng=0),
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_torch_tensors_come_back_as_they_came(dtype: str, name: str) -> None:
    torch, function = pytest.importorskip("torch"), FUNCTIONS[name]
    tensors = [torch.from_numpy(x).to(getattr(torch, dtype)) for x in references.qkv(0, 40, 40, lead=(2,))]
    out, lse = function(*tensors, return_lse=True)
    assert isinstance(out, torch.Tensor) and out.device == tensors[0].device
    assert out.dtype == tensors[0].dtype
    assert lse.dtype == (torch.float64 if dtype == "float64" else torch.float32)  # float32 for half precision
    assert out.shape == (2, 40, 3) and lse.shape == (2, 40)
    wide = [x.double().numpy() for x in tensors]
    expected, expected_lse = function(*wide, return_lse=True)
    eps = max(torch.finfo(tensors[0].dtype).eps, 1e-15)
    np.testing.assert_allclose(out.double().numpy(), expected, rtol=0, atol=16 * eps)
    np.testing.assert_allclose(lse.double().numpy(), expected_lse, rtol=4 * eps, atol=4 * eps)


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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_tensors_on_a_gpu_enter_as_they_are_and_stay_there(
    monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """With stand-ins for PyTorch and the GPU; the tensors lie on device 1, device 0 is the current one."""
    cupy, ml_dtypes = pytest.importorskip("cupy"), pytest.importorskip("ml_dtypes")

    class Tensor:  # without `float`: a detour through float32 would raise
        __module__ = "torch"
        requires_grad = False

        def __init__(self, array: Any) -> None:
            self.array, self.shape, self.dtype = array, array.shape, f"torch.{array.dtype}"
            self.device = SimpleNamespace(type="cuda", index=array.number)

        def resolve_neg(self) -> Tensor:
            return self

        def to(self, dtype: str) -> Tensor:
            return Tensor(self.array.astype(dtype.removeprefix("torch.")))

    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(from_dlpack=Tensor))
    monkeypatch.setattr(cupy, "from_dlpack", lambda tensor: tensor.array)
    monkeypatch.setattr(cupy.cuda, "Device", fake_device.Device)
    arrays = [x.astype(getattr(ml_dtypes, dtype, dtype)) for x in references.qkv(0, 9, 9, lead=(2,))]
    with fake_device.cuda.Device(1):
        tensors = [Tensor(fake_device.asarray(x)) for x in arrays]
    assert str(backends.enter(q=tensors[0])[1][0].dtype) == dtype
    out, lse = attention(*tensors, return_lse=True)
    assert (out.dtype, lse.dtype) == (f"torch.{dtype}", "torch.float32")
    assert out.device.index == lse.device.index == 1
    expected = references.attention(*(x.astype(np.float64) for x in arrays))
    references.assert_close([x.array.get().astype(float) for x in (out, lse)], expected, rtol=0.02)


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


# -------------------------------------------------------------------------------------------------------------- memory
def test_feature_rows_fill_a_cache_or_the_device_budget(xp: Any) -> None:
    here = (1048, 16, 2**14) if xp is np else (33554, 64, 2**20)
    for features, dtype, rows in zip((1000, 2**20, 1), (np.float64, np.float32, np.float32), here, strict=True):
        assert backends.feature_rows(xp, features, dtype) == rows
    assert backends.feature_rows(xp, 2**33, np.float64) == 16


def test_tiles_do_not_depend_on_what_is_free(xp: Any) -> None:
    here = [(1, 512, 512)] * 3 if xp is np else [(1, 16384, 4096), (5, 3276, 4096), (8, 2048, 4096)]
    assert [backends.tile_shape(xp, batch) for batch in (1, 5, 100)] == here


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_row_squares(xp: Any, dtype: Any) -> None:
    x = np.random.default_rng(1).standard_normal((3, 5, 70)).astype(dtype)
    wide = np.float64 if dtype is np.float64 else np.float32
    for rows in (x, x[0], x[:, :, ::3], x.swapaxes(0, 2), 300 * x):  # 300^2 * 70 is past the largest float16
        squares = backends.row_squares(xp, xp.asarray(rows))
        assert squares.dtype == wide and squares.shape == rows.shape[:-1]
        expected = (rows.astype(np.float64) ** 2).sum(axis=-1)
        np.testing.assert_allclose(backends.asnumpy(squares), expected, rtol=30 * np.finfo(wide).eps)


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


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ({"device": SimpleNamespace(type="meta")}, "CPU or a CUDA device"),
        ({"layout": "torch.sparse_coo"}, "dense tensor .* got sparse_coo"),
        ({"is_nested": True}, "dense tensor .* got a nested one"),
    ],
)
def test_a_tensor_that_cannot_be_read_is_refused_by_name(place: dict[str, Any], words: str) -> None:
    """A stand-in for PyTorch's: on the meta device the error was that CuPy is missing."""
    here = {"shape": (3, 4), "dtype": "torch.float32", "device": SimpleNamespace(type="cpu")}
    tensor = type("Tensor", (), {"__module__": "torch", **here, **place})()
    with pytest.raises(TypeError, match=f"q must be a {words}" if "dense" in words else words):
        attention(tensor, tensor, tensor)


@pytest.mark.parametrize("traced", ["qkv", "q", "v"])
def test_an_array_that_jax_traces_is_refused_by_name(traced: str) -> None:
    """Stand-ins for JAX's arrays: a tracer has no device, and is of another package than an array."""
    module = {"shape": (3, 4), "dtype": "float32"}
    tracer = type("Tracer", (), {"__module__": "jax._src.core"})
    dynamic = type("DynamicJaxprTracer", (tracer,), {"__module__": "jax._src.interpreters", **module})()
    array = type("ArrayImpl", (), {"__module__": "jaxlib", **module, "device": SimpleNamespace(platform="cpu")})()
    with pytest.raises(TypeError, match=rf"{traced[0]} is traced by JAX \(jit, grad, vmap\)"):
        attention(*(dynamic if name in traced else array for name in "qkv"))
