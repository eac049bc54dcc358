"""CUDA C++ sources compile for the GPUs we know (NVRTC needs no GPU), as the code asks for them, within a budget."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

import sublinattn
from sublinattn.core import attend, backends

PACKAGE = Path(sublinattn.__file__).parent
SOURCES = [path for path in sorted(PACKAGE.rglob("*.cu")) if path.name != "attend.cu"]
OPTIONS = ("-DT=BFloat16", "-DBITS=9", "-DTHREADS=256")  # of which each source takes those that it knows
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
# attend.cu: both types on one architecture; on the others one, because only the name of an instruction differs.
KERNELS = [
    *(("sm_90", dtype, d) for dtype in attend.TYPES for d in attend.DIMENSIONS),
    *((architecture, "bfloat16", d) for architecture in ("sm_80", "sm_100") for d in attend.DIMENSIONS),
]
# Registers, and bytes of local memory (spills), that a thread of attend.cu may use, by head dimension.
BUDGET = {32: (128, 8), 64: (168, 0), 96: (255, 0), 128: (255, 0), 256: (255, 0)}


class NVRTC:
    """NVIDIA's run-time compiler."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        count = ctypes.c_int()
        assert library.nvrtcGetNumSupportedArchs(ctypes.byref(count)) == 0
        known = (ctypes.c_int * count.value)()
        assert library.nvrtcGetSupportedArchs(known) == 0
        self.architectures = {f"sm_{number}" for number in known}

    def compile(self, source: str, architecture: str, options: tuple[str, ...] = ()) -> tuple[bytes, str]:
        """Machine code (an ELF file), empty where the source does not compile, and the compiler's log."""
        program = ctypes.c_void_p()
        assert self.library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"", 0, None, None) == 0
        try:
            given = [x.encode() for x in ("--std=c++17", f"--gpu-architecture={architecture}", *options)]
            failed = self.library.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
            return b"" if failed else self._get("CUBIN", program), self._get("ProgramLog", program).decode()
        finally:
            self.library.nvrtcDestroyProgram(ctypes.byref(program))

    def _get(self, what: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        assert getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
        text = ctypes.create_string_buffer(size.value)
        assert getattr(self.library, f"nvrtcGet{what}")(program, text) == 0
        return text.raw


@pytest.fixture(scope="module")
def nvrtc() -> NVRTC:
    spec = find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("cuda_nvrtc/lib/libnvrtc.so.*")):
            return NVRTC(ctypes.CDLL(str(path)))
    pytest.skip("NVRTC is not installed (extra sublinattn[dev] on Linux)")


# --------------------------------------------------------------------------------------------------------- they compile
def whole(path: Path) -> str:
    """A source behind gpu.cuh, as the package gives it to NVRTC."""
    return (PACKAGE / "core/gpu.cuh").read_text() + "\n" + path.read_text()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_source_compiles(nvrtc: NVRTC, path: Path, architecture: str) -> None:
    if architecture not in nvrtc.architectures:
        pytest.skip(f"this NVRTC does not know {architecture}")
    code, log = nvrtc.compile(whole(path), architecture, OPTIONS)
    assert code, log


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_check_can_fail(nvrtc: NVRTC, path: Path) -> None:
    code, log = nvrtc.compile(whole(path).replace(";", "", 1), "sm_90", OPTIONS)
    assert not code and "error: expected a" in log
    code, log = nvrtc.compile(whole(path) + "\n__global__ void bad(int x) { undeclared(x); }", "sm_80", OPTIONS)
    assert not code and "undeclared" in log


def test_kernels_asked_for_are_defined() -> None:
    asked = {x for path in PACKAGE.rglob("*.py") for x in re.findall(r'get_function\("([^"]+)"\)', path.read_text())}
    defined = "".join(path.read_text() for path in PACKAGE.rglob("*.cu"))
    names = set(re.findall(r'extern "C" __global__ void (?:__launch_bounds__\(.*?\) )?(\w+)\(', defined))
    assert asked == names and len(names) > 4


# ------------------------------------------------------------------------------------------------ what a kernel may use
def resources(code: bytes) -> tuple[int, int]:
    """Registers and bytes of local memory of a thread, of machine code with one kernel.

    They stand in the ELF section `.nv.info` [ptxas' own; names as in `cuobjdump -elf`], a list of attributes: format,
    attribute and a number; format 4 (EIFMT_SVAL) means as many bytes behind it, here a function's symbol and a count.
    """
    at, size, count, names = struct.unpack_from("<Q10xHHH", code, 0x28)  # of the section headers
    headers = [struct.unpack_from("<I20xQQ", code, at + i * size) for i in range(count)]  # name, offset, bytes
    titles = headers[names][1]
    info = next(h for h in headers if code[titles + h[0] :].startswith(b".nv.info\0"))
    position, end, found = info[1], info[1] + info[2], dict[int, list[int]]()
    while position < end:
        form, attribute, number = struct.unpack_from("<BBH", code, position)
        position += 4
        if form == 4:
            found.setdefault(attribute, []).append(struct.unpack_from("<I", code, position + number - 4)[0])
            position += number
    registers, frames = found[0x2F], found[0x11]  # EIATTR_REGCOUNT, EIATTR_FRAME_SIZE (of called functions, too)
    return max(registers), max(frames)


@pytest.fixture(scope="module")
def kernels(nvrtc: NVRTC) -> dict[tuple[str, str, int], tuple[bytes, str]]:
    """Machine code and log of attend.cu, by architecture, dtype and head dimension, as `core.attend` asks for it."""

    def compiled(kernel: tuple[str, str, int]) -> tuple[bytes, str]:
        files, options = wanted[kernel]
        return nvrtc.compile("\n".join((PACKAGE / file).read_text() for file in files), kernel[0], options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "cuda_module", lambda *files, options: (files, options))
        wanted = {kernel: attend.build(*kernel[1:]) for kernel in KERNELS if kernel[0] in nvrtc.architectures}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(wanted, pool.map(compiled, wanted), strict=True))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: "-".join(map(str, kernel)))
def test_attention_kernel_keeps_its_budget(
    kernels: dict[tuple[str, str, int], tuple[bytes, str]], kernel: tuple[str, str, int]
) -> None:
    if kernel not in kernels:
        pytest.skip(f"this NVRTC does not know {kernel[0]}")
    code, log = kernels[kernel]
    assert code, log
    registers, local = resources(code)
    assert 0 < registers <= BUDGET[kernel[2]][0] and local <= BUDGET[kernel[2]][1], (registers, local)


def test_registers_and_spills_are_read(nvrtc: NVRTC) -> None:
    """An array that is indexed by a variable has to lie in local memory."""
    source = """extern "C" __global__ void f(float* p, int i) {
        float x[100];
        for (int j = 0; j < 100; ++j) x[j] = p[j];
        p[0] = x[i];
    }"""
    few, many = (resources(nvrtc.compile(text, "sm_80")[0]) for text in (source.replace("x[i]", "x[7]"), source))
    assert few[1] == 0 and many[1] == 400 and 0 < few[0] < 32
