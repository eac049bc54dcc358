"""Array libraries: NumPy on the host and CuPy on an NVIDIA GPU, through one namespace `xp`, their common subset.

This is the only file that names CuPy. PyTorch and JAX arrays enter and leave through DLPack, without a copy where the
device allows. Random numbers are drawn on the host and moved, so that one seed gives the same draws everywhere.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from .threads import cut as cut
from .threads import for_tiles as for_tiles

_P = ParamSpec("_P")
_R = TypeVar("_R")
Array = Any
"""An array of the namespace in use (`numpy.ndarray` or `cupy.ndarray`)."""

NAMESPACES: dict[str, str] = {"numpy": "numpy", "cupy": "cupy"}
"""The array library that works on arrays of a type, by the first part of the name of the type's module."""
STRIP_BYTES = 2**28
"""Of a strip or tile on a GPU: so large that launches weigh little, and small beside any GPU's memory.

Not a share of what is free: a driver counts what CuPy's pool keeps for later as taken.
"""
_LOW_PRECISION = ("float16", "bfloat16")
_EXPONENTS = {"float16": 0x7C00, "bfloat16": 0x7F80}  # bits of the exponent
_FLOATS = (*_LOW_PRECISION, "float32", "float64")


# ---------------------------------------------------------------------------------------------- namespaces and devices
def _root(x: object) -> str:
    return type(x).__module__.partition(".")[0]


def namespace(*arrays: Array) -> Any:
    """Namespace (`numpy` or `cupy`) that all `arrays` share; TypeError if they do not."""
    roots = {_root(a) for a in arrays}
    if len(roots) != 1 or not roots <= set(NAMESPACES):
        raise TypeError(f"arrays must all be NumPy or all be CuPy arrays, got {sorted(roots)}")
    return import_module(NAMESPACES[roots.pop()])


def gpu_available() -> bool:
    """Whether CuPy is installed and sees a device."""
    try:
        return bool(import_module("cupy").is_available())
    except ImportError:
        return False


def backend(name: str = "auto") -> Any:
    """Namespace by name: `numpy`, `cupy`, or `auto` (CuPy when a GPU is there)."""
    if name == "auto":
        name = "cupy" if gpu_available() else "numpy"
    if name not in ("numpy", "cupy"):
        raise ValueError(f"backend must be 'auto', 'numpy' or 'cupy', got {name!r}")
    if name == "cupy" and not gpu_available():
        raise RuntimeError("backend 'cupy' needs an NVIDIA GPU and the extra `sublinattn[gpu]`; use 'numpy' or 'auto'")
    return import_module(name)


def asnumpy(x: Array) -> np.ndarray:
    """Copy of a device array on the host (a host sync); a NumPy array as it is."""
    return x if isinstance(x, np.ndarray) else np.asarray(x.get() if hasattr(x, "get") else x)


def to_device(x: np.ndarray, xp: Any) -> Array:
    """Copy of a host array on the device of `xp`; the array itself for NumPy."""
    return x if xp is np else xp.asarray(x)


def together(x: Array, y: Array) -> tuple[Array, Array]:
    """Both arrays on one device: if one of them is on the host, it moves to the device of the other."""
    return (
        to_device(x, namespace(y)) if isinstance(x, np.ndarray) else x,
        to_device(y, namespace(x)) if isinstance(y, np.ndarray) else y,
    )


def follow(xp: Any, name: str, *arrays: Array) -> list[Array]:
    """Move a state's arrays to the device of the new rows `name`, the current one.

    From the host only: back there, or from GPU to GPU, is a TypeError.
    """
    here = "the host" if xp is np else str(xp.cuda.Device())
    for x in arrays:
        if not isinstance(x, np.ndarray) and str(x.device) != here:
            raise TypeError(
                f"{name} must be on the device of the rows before it, got an array on {here}, not {x.device}"
            )
    return [to_device(x, xp) if isinstance(x, np.ndarray) else x for x in arrays]


def synchronize(xp: Any) -> None:
    """Wait until the device has finished its work, as is needed before a clock is read."""
    if xp is not np:
        xp.cuda.get_current_stream().synchronize()


# ------------------------------------------------------------------------------------------------------- the boundary
def on_device(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a public function or method: it runs on the GPU of its first array, whichever GPU is the current one.

    Where no argument is an array, it is the GPU of the arrays that a state or another object holds. New arrays, kernels
    and the stream that these wait in are then those of that GPU.
    """

    @functools.wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with _gpu_of((*args, *kwargs.values())):
            return function(*args, **kwargs)

    return run


def _gpu_of(arguments: Iterable[Any]) -> AbstractContextManager[Any]:
    """The GPU of the first array on one, made the current one within `with`; nothing if there is none."""
    given = [x for x in arguments if hasattr(x, "dtype") and hasattr(x, "shape")]
    for x in given or itertools.chain(*map(_held, arguments)):
        root = _root(x)
        if root != "numpy" and root in NAMESPACES:
            return x.device
        if root == "torch" and x.device.type == "cuda":
            return import_module("cupy").cuda.Device(x.device.index)
        if root in ("jax", "jaxlib") and getattr(getattr(x, "device", None), "platform", "cpu") != "cpu":
            return import_module("cupy").cuda.Device(x.device.local_hardware_id)
    return nullcontext()


def _held(x: Any) -> Iterable[Array]:
    """What a state, a partial or a result consists of."""
    return x.contents().values() if hasattr(x, "contents") else vars(x).values() if is_dataclass(x) else ()


def enter(**named: Any) -> tuple[Any, list[Array], Callable[..., Any]]:
    """Convert the caller's arrays: returns their namespace, the arrays in it, and `leave`, which converts back.

    NumPy and CuPy arrays pass as they are; PyTorch and JAX arrays go through DLPack (bfloat16 on the host as float32,
    because NumPy's DLPack lacks it). `leave(result)` returns a result in the caller's kind, device and dtype;
    `leave(result, cast=False)` keeps the result's own dtype.

    Raises
    ------
    TypeError
        Not an array, an integer or mixed dtype, mixed kinds or devices, or a tensor that tracks gradients.
    """
    first_name, first = next(iter(named.items()))
    for name, x in named.items():
        if not hasattr(x, "dtype") or not hasattr(x, "shape"):
            raise TypeError(f"{name} must be an array (NumPy, CuPy, PyTorch or JAX), got {type(x).__name__}")
        if any(kind.__name__ == "Tracer" for kind in type(x).__mro__):
            raise TypeError(
                f"{name} is traced by JAX (jit, grad, vmap) and has no values: call this outside, or by "
                "jax.pure_callback"
            )
        if _root(x) == "torch" and (place := _unreadable(x)):
            raise TypeError(f"{name} must be a dense tensor on the CPU or a CUDA device, got {place}")
        if isinstance(x, np.ndarray) and (isinstance(x, np.ma.MaskedArray | np.matrix) or _root(x) != "numpy"):
            # A mask would be ignored, a matrix multiplies differently, and who knows what another's class does.
            raise TypeError(f"{name} must be a plain array, got a {type(x).__name__}")
        dtype = _name(x.dtype)
        if dtype not in _FLOATS:
            raise TypeError(f"{name} must have a floating dtype {_FLOATS}, got {dtype}")
        if _root(x) != _root(first):
            raise TypeError(f"{name} must be of the same kind as {first_name} ({_root(first)}), got {_root(x)}")
        if dtype != _name(first.dtype):
            raise TypeError(f"{name} must have the dtype of {first_name} ({_name(first.dtype)}), got {dtype}")
        if _device(x) != _device(first):
            raise TypeError(f"{name} must be on the device of {first_name} ({_device(first)}), got {_device(x)}")
        if getattr(x, "requires_grad", False):
            raise TypeError(f"{name} tracks gradients, and sublinattn has no backward pass: pass {name}.detach()")
    if _root(first) in NAMESPACES:
        xp = namespace(first)
        dtype = first.dtype
        return xp, [_native(x) for x in named.values()], lambda out, cast=True: _cast(out, dtype) if cast else out
    if _root(first) == "torch":
        torch = sys.modules["torch"]
        on_host = first.device.type == "cpu"
        plain = (x.resolve_neg() for x in named.values())  # DLPack drops the bit of a lazy negation
        wide = (x.float() if on_host and _name(x.dtype) == "bfloat16" else x for x in plain)
        arrays = [_from_dlpack(x, on_host=on_host) for x in wide]
        xp = namespace(*arrays)
        return (
            xp,
            arrays,
            lambda out, cast=True: torch.from_dlpack(out).to(first.dtype if cast else torch.from_dlpack(out).dtype),
        )
    if _root(first) in ("jax", "jaxlib"):
        jnp = import_module("jax.numpy")
        on_host = first.device.platform == "cpu"
        wide = (x.astype("float32") if on_host and _name(x.dtype) == "bfloat16" else x for x in named.values())
        arrays = [_from_dlpack(x, on_host=on_host) for x in wide]
        xp = namespace(*arrays)
        return xp, arrays, lambda out, cast=True: jnp.from_dlpack(out).astype(first.dtype if cast else out.dtype)
    raise TypeError(f"{first_name} must be a NumPy, CuPy, PyTorch or JAX array, got {type(first).__name__}")


def _native(x: Array) -> Array:
    """The array in this machine's byte order: a file's may be in the other."""
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def _unreadable(x: Any) -> str:
    """Where or how a PyTorch tensor keeps its numbers, if that cannot be read here."""
    if getattr(x, "is_nested", False):
        return "a nested one"
    if (layout := str(getattr(x, "layout", "torch.strided"))) != "torch.strided":
        return layout.removeprefix("torch.")
    return "" if x.device.type in ("cpu", "cuda") else f"one on {x.device}"


def _cast(x: Array, dtype: Any) -> Array:
    """The result in the caller's dtype; ValueError, on the CPU, where an estimate is past the largest float16."""
    with np.errstate(over="ignore"):
        out = x.astype(dtype, copy=False)
    if out is not x and isinstance(out, np.ndarray) and np.isinf(out).any() and np.isfinite(x).all():
        raise ValueError(f"the answer must fit in {dtype}, got {np.abs(x).max():.3g}: pass q, k and v as {x.dtype}")
    return out


@functools.cache
def _name(dtype: Any) -> str:
    """Name of a dtype, cached: NumPy takes microseconds to spell it, and every public call needs several."""
    return str(getattr(dtype, "name", dtype)).removeprefix("torch.")


def _device(x: Any) -> str:
    return "cpu" if isinstance(x, np.ndarray) else str(getattr(x, "device", "cpu"))


def _from_dlpack(x: Any, *, on_host: bool) -> Array:
    return np.from_dlpack(x) if on_host else import_module("cupy").from_dlpack(x)


def working_dtype(x: Array) -> np.dtype:
    """Accumulation dtype: float32 for float16 and bfloat16, else the array's own."""
    return np.dtype(np.float32) if _name(x.dtype) in _LOW_PRECISION else np.dtype(x.dtype)


def widened(x: Array) -> Array:
    """The array in its working dtype: a copy of one in half precision, any other as it is."""
    return x.astype(working_dtype(x), copy=False)


# ---------------------------------------------------------------------------------------------------- tiles and threads
def tile_shape(xp: Any, batch: int) -> tuple[int, int, int]:
    """Tile of a blocked matrix product: numbers of problems, query rows and keys that are processed at once.

    On the CPU one problem with 512 x 512 float32 logits (1 MiB: they and their operands stay in a core's L2 cache);
    on a GPU what `STRIP_BYTES` hold: up to 8 problems of 2048 x 4096, or more rows of fewer problems.
    """
    if xp is np:
        return 1, 512, 512
    problems, keys = min(batch, 8), 4096
    return problems, STRIP_BYTES // (4 * keys * problems), keys


def strip_shape(xp: Any, batch: int, n_q: int, n_k: int, dtype: Any, tile: tuple[int, int]) -> tuple[int, int, int]:
    """Tile for passes over all pairs of queries and keys: numbers of problems, query rows and keys.

    On the CPU a `tile` of rows and keys, on a GPU whole rows, as many as `STRIP_BYTES` hold; small problems come
    several at a time. It depends on the sizes alone, and so does the order of every sum.
    """
    entries, (rows, keys) = math.prod(tile), tile
    if xp is not np:
        entries = STRIP_BYTES // np.dtype(dtype).itemsize
        rows, keys = max(1, entries // n_k), n_k
    rows, keys = min(rows, n_q), min(keys, n_k)
    return max(1, min(batch, entries // (rows * keys))), rows, keys


def feature_rows(xp: Any, features: int, dtype: Any) -> int:
    """Number of rows, each of `features` numbers, that are computed at once: 16 to 16384 (2^20 on a GPU).

    8 MiB on the CPU, because few long operations wait less for the interpreter's lock than many short ones (1 MiB took
    1.6 times as long on two cores); `STRIP_BYTES` on a GPU.
    """
    size, maximum = (2**23, 2**14) if xp is np else (STRIP_BYTES, 2**20)
    return int(min(maximum, max(16, size // (features * np.dtype(dtype).itemsize))))


class Scratch:
    """Work arrays that one worker reuses, which avoids page faults on the CPU; a GPU has a memory pool already."""

    def __init__(self, xp: Any, dtype: np.dtype) -> None:
        self._xp, self.dtype, self._flat = xp, dtype, dict[str, np.ndarray]()

    def __call__(self, name: str, *shape: int) -> Array:
        """Uninitialised array of `shape`, in the memory of the last array called `name`."""
        if self._xp is not np:
            return self._xp.empty(shape, dtype=self.dtype)
        size = math.prod(shape)
        flat = self._flat.get(name)
        if flat is None or flat.size < size:
            flat = self._flat[name] = np.empty(size, dtype=self.dtype)
        return flat[:size].reshape(shape)


def product(xp: Any, x: Array, y: Array, out: Array | None = None) -> Array:
    """`x @ y` where one of them may be a vector, without NumPy's warning of an invalid value.

    OpenBLAS' kernel for rows of five float32 numbers and a vector, on CPUs with AVX-512, also multiplies what happens
    to lie on the stack, and drops it: the product is right, but the processor may call an operation invalid.
    """
    with np.errstate(invalid="ignore"):
        return xp.matmul(x, y, out=out)


def gather(xp: Any, x: Array, rows: Array, out: Array | None = None) -> Array:
    """`x[rows]` along the first axis, written to `out` if given; on the CPU `rows` are not checked to be in range."""
    if xp is np:
        return np.take(x, rows, axis=0, out=out, mode="wrap")
    return xp.take(x, rows, axis=0, out=out)


def scatter(xp: Any, out: Array, rows: Array, values: Array) -> None:
    """`out[rows] = values` along the first axis of a contiguous 2-d `out`.

    On the CPU each row is moved as one item of opaque bytes, three times as fast; `rows` are not checked there.
    """
    if xp is np:
        row = np.dtype((np.void, out.shape[1] * out.itemsize))
        source = np.ascontiguousarray(values).reshape(-1, out.shape[1]).view(row)[:, 0]
        np.put(out.view(row)[:, 0], rows, source, mode="wrap")
    else:
        out[rows] = values


def row_squares(xp: Any, x: Array, dtype: Any = None) -> Array:
    """Squared norm of each row, `(..., n)` for `(..., n, d)`: one pass, no array of products.

    Summed up in `dtype`, by default the working dtype.
    """
    dtype = working_dtype(x) if dtype is None else dtype
    if xp is np:
        return np.einsum("...j,...j->...", x, x, dtype=dtype)
    # CuPy's einsum would multiply n matrices of 1 x d by d x 1.
    return _squares_kernel(xp)(x, xp.empty(x.shape[:-1], dtype), axis=-1)


@functools.cache
def _squares_kernel(xp: Any) -> Any:
    return xp.ReductionKernel("T x", "A y", "A(x) * A(x)", "a + b", "y = a", "0", "row_squares")


# -------------------------------------------------------------------------------------------------- CUDA C++ fast paths
CUDA = {"cupy"}
"""Names of the array libraries whose arrays `cuda_module`'s kernels take; the tests add one that runs on the CPU."""


@functools.cache
def _module(device: int, files: tuple[str, ...], options: tuple[str, ...]) -> Any:
    source = "\n".join((Path(__file__).parents[1] / file).read_text() for file in files)
    return import_module("cupy").RawModule(code=source, options=("--std=c++17", *options))


def cuda_module(*files: str, options: tuple[str, ...] = ()) -> Any:
    """CUDA C++ sources of the package, joined and compiled for the device in use, once in a process."""
    return _module(current_device(), files, options)


def cuda_constants(module: Any, name: str, count: int) -> list[int]:
    """Integers that a module holds as a `__constant__` array (a host sync)."""
    cupy = import_module("cupy")
    return [int(x) for x in cupy.ndarray(count, dtype=np.int32, memptr=module.get_global(name)).get()]


def current_device() -> int:
    """Number of the GPU in use."""
    return int(import_module("cupy").cuda.runtime.getDevice())


@functools.cache
def device_limits(device: int) -> tuple[int, int]:
    """Compute capability of a GPU, times 10, and the bytes of shared memory that a thread block may have there."""
    gpu = import_module("cupy").cuda.Device(device)
    return int(gpu.compute_capability), gpu.attributes["MaxSharedMemoryPerBlockOptin"]


def aligned(xp: Any, x: Array) -> Array:
    """`x`, or a copy of it, with rows one after the other from an address that is a multiple of 16."""
    x = xp.ascontiguousarray(x)
    return x.copy() if getattr(getattr(x, "data", None), "ptr", 0) % 16 else x


def find_not_finite(xp: Any, x: Array, found: Array) -> None:
    """Make `found`, one int32 that is 0, nonzero if some entry is NaN or Inf; without a host sync."""
    exponent = _EXPONENTS.get(str(x.dtype))
    if xp.__name__ not in CUDA or exponent is None or x.size % 8:
        found += ~xp.isfinite(x).all()
        return
    threads, eights = 256, x.size // 8
    blocks = min(2048, -(-eights // threads))
    arguments = (aligned(xp, x), np.int64(eights), np.uint32(exponent), found, np.int32(blocks))
    module = cuda_module("core/gpu.cuh", "core/finite.cu", options=(f"-DTHREADS={threads}",))
    module.get_function("not_finite")((blocks,), (threads,), arguments)
