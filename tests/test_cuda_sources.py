"""CUDA C++ sources compile for the GPUs we know (NVRTC needs no GPU), and name the kernels that the code asks for."""

from __future__ import annotations

import ctypes
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

import sublinattn

PACKAGE = Path(sublinattn.__file__).parent
SOURCES = [path for path in sorted(PACKAGE.rglob("*.cu")) if path.name != "attend.cu"]  # it needs gpu.cuh and options
ARCHITECTURES = ("sm_80", "sm_90")


def library() -> ctypes.CDLL:
    spec = find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("cuda_nvrtc/lib/libnvrtc.so.*")):
            return ctypes.CDLL(str(path))
    pytest.skip("NVRTC is not installed (extra sublinattn[dev] on Linux)")


@pytest.fixture(scope="module")
def nvrtc() -> ctypes.CDLL:
    return library()


def compile_log(nvrtc: ctypes.CDLL, source: str, architecture: str) -> str | None:
    """None when the source compiles to machine code, else the compiler's log. Options as `core.backends` gives them."""
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None) == 0
    try:
        options = (ctypes.c_char_p * 2)(b"--std=c++17", f"--gpu-architecture={architecture}".encode())
        status = nvrtc.nvrtcCompileProgram(program, len(options), options)
        size = ctypes.c_size_t()
        if status == 0:
            assert nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0 and size.value > 0
            return None
        assert nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)) == 0
        log = ctypes.create_string_buffer(size.value)
        assert nvrtc.nvrtcGetProgramLog(program, log) == 0
        return log.value.decode()
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_source_compiles(nvrtc: ctypes.CDLL, path: Path, architecture: str) -> None:
    assert compile_log(nvrtc, path.read_text(), architecture) is None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_check_can_fail(nvrtc: ctypes.CDLL, path: Path) -> None:
    log = compile_log(nvrtc, path.read_text().replace(";", "", 1), "sm_90")
    assert log and "expected a" in log
    log = compile_log(nvrtc, path.read_text() + "\n__global__ void bad(int x) { undeclared(x); }", "sm_80")
    assert log and "undeclared" in log


def test_kernels_asked_for_are_defined() -> None:
    assert SOURCES
    code = (PACKAGE / "core/backends.py").read_text()
    asked = re.findall(r'_module\("([^"]+)"\)\.get_function\("([^"]+)"\)', code)
    assert asked
    for file, kernel in asked:
        assert re.search(rf'extern "C" __global__ void {kernel}\(', (PACKAGE / file).read_text()), (file, kernel)
