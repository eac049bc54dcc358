"""The CUDA kernel on a CPU: its `.cu` source itself, built by g++ against `tests/gpu/cpu.h`, called as CuPy calls it.

Arrays are NumPy's or the fake device's. A kernel that races, diverges or leaves its arrays raises `KernelError`;
`gpu/cpu.cpp` says what is found. `schedule` says in which order the warps take their turns and when copies happen.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_device
import numpy as np

import sublinattn
from sublinattn.core import attend, backends

PACKAGE = Path(sublinattn.__file__).parent
GPU = Path(__file__).with_name("gpu")
STOOD_FOR = "core/gpu.cuh"  # cpu.h has its names
CAPABILITY, SHARED_MEMORY = 80, 163 * 1024  # of an A100, which has the least shared memory of what the kernel serves

schedule = SimpleNamespace(seed=0, early=False)
"""The seed of the warps' turns; whether copies happen as early as they may, or as late."""


class KernelError(RuntimeError):
    """The kernel did what on a GPU fails, or gives one result today and another tomorrow."""


@functools.cache
def missing() -> str | None:
    """Why no kernel can be built here, or None."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"{compiler} is not on PATH: g++ 12 or newer builds the GPU kernel for the CPU"
    version = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True).stdout.strip()
    if not re.fullmatch(r"\d+[.\d]*", version) or int(version.split(".")[0]) < 12:
        return f"{compiler} is of version {version or 'unknown'}: g++ 12 or newer builds the GPU kernel for the CPU"
    return None


# ------------------------------------------------------------------------------------------------------------ building
@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sublinattn-kernels-")


def _compile(output: str, *arguments: str, source: str = "") -> str:
    path = str(Path(_folder().name) / output)
    command = [os.environ.get("CXX", "g++"), "-std=c++17", "-fPIC", f"-I{GPU}", *arguments, "-o", path]
    done = subprocess.run(command, input=source, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"g++ refused {output}:\n{done.stderr}")
    return path


@functools.cache
def _device() -> str:
    """What runs the kernel, without the kernel's instrumentation. A fortified longjmp would refuse to change stacks."""
    return _compile("cpu.o", "-O3", "-U_FORTIFY_SOURCE", "-c", str(GPU / "cpu.cpp"))


_numbers = itertools.count()  # a library once loaded is found by its path: each has its own


@functools.cache
def build(source: str, options: tuple[str, ...]) -> Module:
    """A source with kernels; of the options for NVRTC the definitions matter here."""
    entries = "".join(
        f"""
extern "C" const char* run_{kernel}(const device::Launch& how, void** values, const int* sizes, int count) {{
    return decltype(device::call<{kernel}>({kernel}))::run(how, values, sizes, count);
}}"""
        for kernel in re.findall(r"__global__ void (?:__launch_bounds__\(.*?\) )?(\w+)\(", source)
    )
    instrumented = ("-O1", "-fsanitize=thread", "-w", "-c", "-x", "c++", "-")
    name = f"kernel{next(_numbers)}"
    defined = [option for option in options if option.startswith("-D")]
    part = _compile(name + ".o", *instrumented, *defined, source='#include "cpu.h"\n' + source + entries)
    return Module(ctypes.CDLL(_compile(name + ".so", "-shared", part, _device())))


def module(*files: str, options: tuple[str, ...] = ()) -> Module:
    """In place of `core.backends.cuda_module`."""
    return build("\n".join((PACKAGE / file).read_text() for file in files if file != STOOD_FOR), options)


def constants(module: Module, name: str, count: int) -> list[int]:
    """In place of `core.backends.cuda_constants`."""
    return list((ctypes.c_int * count).in_dll(module.library, name))


def patches() -> list[tuple[Any, str, Any]]:
    """Attributes to set, so that the package's kernels run on the fake device: owner, name, value."""
    return [
        (backends, "cuda_module", module),
        (backends, "cuda_constants", constants),
        (backends, "device_limits", lambda device: (CAPABILITY, SHARED_MEMORY)),
        (backends, "current_device", lambda: -1),
        (backends, "CUDA", {fake_device.__name__}),
        (attend, "LAUNCHERS", attend.LAUNCHERS | {fake_device.__name__: attend.LAUNCHERS["cupy"]}),
    ]


# ------------------------------------------------------------------------------------------------------------- running
class _Launch(ctypes.Structure):
    _fields_ = [
        *((field, ctypes.c_int) for field in ("blocks", "threads", "shared_bytes", "early", "arrays")),
        ("seed", ctypes.c_uint),
        ("array", ctypes.c_void_p),
    ]


class Module:
    """CuPy's RawModule, as far as the package uses it."""

    def __init__(self, library: ctypes.CDLL) -> None:
        library.bank_conflicts.restype = ctypes.c_longlong
        self.library = library

    def get_function(self, name: str) -> Kernel:
        return Kernel(self.library, name)

    @property
    def bank_conflicts(self) -> int:
        """Passes beyond the first that the matrix loads of the last launch needed."""
        return int(self.library.bank_conflicts())


class Kernel:
    """CuPy's RawKernel, as far as the package uses it."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.run, self.max_dynamic_shared_size_bytes = library[f"run_{name}"], 48 * 1024  # more must be asked for
        self.run.restype = ctypes.c_char_p

    def __call__(
        self, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any], *, shared_mem: int = 0
    ) -> None:
        if not shared_mem <= self.max_dynamic_shared_size_bytes <= SHARED_MEMORY:
            raise KernelError(f"{shared_mem} bytes of shared memory, of {self.max_dynamic_shared_size_bytes} asked for")
        fake_device.launch([x for x in arguments if isinstance(x, fake_device.Array)])
        (blocks,), (threads,) = grid, block
        hosts = [x.host if isinstance(x, fake_device.Array) else x for x in arguments]
        values = [_value(x) for x in hosts]
        ends = [end for x in hosts if isinstance(x, np.ndarray) for end in (x.ctypes.data, x.ctypes.data + x.nbytes)]
        arrays = (ctypes.c_size_t * len(ends))(*ends)
        early = int(schedule.early)
        how = _Launch(blocks, threads, shared_mem, early, len(ends) // 2, schedule.seed, ctypes.addressof(arrays))
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        sizes = (ctypes.c_int * len(values))(*map(ctypes.sizeof, values))
        if error := self.run(ctypes.byref(how), pointers, sizes, len(values)):
            raise KernelError(error.decode())


def _value(x: Any) -> Any:
    """An argument as the driver takes it, from its address: an array's address or a number's bytes."""
    if isinstance(x, np.ndarray):
        assert x.flags.c_contiguous, "a kernel knows no strides"
        return ctypes.c_void_p(x.ctypes.data)
    assert isinstance(x, np.generic), f"a {type(x).__name__} has no size that a kernel could rely on"
    return ctypes.create_string_buffer(x.tobytes(), x.nbytes)
