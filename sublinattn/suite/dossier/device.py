"""What the steps measure on: a GPU, or in a rehearsal NumPy on the CPU, with small sizes."""

from __future__ import annotations

import functools
import importlib
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...core import backends
from ...core.backends import Array
from ...core.timing import timed

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 0.4
"""Seconds that the repetitions of one call take together, if it is short."""


def optional(module: str) -> Any:
    """The module, or None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


class Device:
    """A GPU, or NumPy standing in for one.

    Attributes
    ----------
    rehearsal : bool
        Whether NumPy stands in.
    xp : module
        `cupy`, or `numpy` in a rehearsal.
    """

    def __init__(self, rehearsal: bool) -> None:
        self.rehearsal = rehearsal
        self.xp: Any = np if rehearsal else backends.backend("cupy")

    @functools.cached_property
    def torch(self) -> Any:
        """PyTorch, if it is installed and sees the GPU, else None; imported at the first use, which takes seconds."""
        torch = optional("torch")
        return torch if torch is not None and (self.rehearsal or torch.cuda.is_available()) else None

    def pick(self, real: Any, small: Any) -> Any:
        """`real` on a GPU, `small` in a rehearsal."""
        return small if self.rehearsal else real

    def kernel_xp(self) -> Any:
        """The namespace whose arrays the attention kernel takes.

        In a rehearsal the fake device of the tests, behind which the kernel's own source runs as g++ builds it; NumPy,
        which the kernel does not serve, where there are no tests or no compiler.
        """
        if not self.rehearsal:
            return self.xp
        if (tests := str(ROOT / "tests")) not in sys.path:
            sys.path.append(tests)
        emulator, fake_device = optional("emulator"), optional("fake_device")
        if emulator is None or emulator.missing():
            return np
        backends.NAMESPACES[fake_device.__name__] = fake_device.__name__
        for owner, name, value in emulator.patches():
            setattr(owner, name, value)
        return fake_device

    def half(self, name: str) -> np.dtype | None:
        """The dtype `float16` or `bfloat16`; None where bfloat16 needs ml_dtypes and it is not installed."""
        if name == "float16":
            return np.dtype(np.float16)
        extended = optional("ml_dtypes")
        return None if extended is None else np.dtype(extended.bfloat16)

    def low_precision(self) -> np.dtype:
        """bfloat16, as models use it; float16 where ml_dtypes is missing."""
        half = self.half("bfloat16")
        return np.dtype(np.float16) if half is None else half

    def normal(self, *shape: int, seed: int = 0) -> Array:
        """Standard normal float32 numbers, drawn on the device."""
        return self.xp.random.default_rng(seed).standard_normal(shape, dtype=np.float32)

    def tensor(self, x: Array) -> Any:
        """The half-precision array as a PyTorch tensor, without a copy."""
        torch = self.torch  # not every version of an array library hands bfloat16 over, but all do integers
        return torch.from_dlpack(x.view(np.int16)).view(getattr(torch, str(x.dtype)))

    def array(self, x: Any, dtype: np.dtype) -> Array:
        """A half-precision PyTorch tensor as an array of this dtype."""
        return self.xp.from_dlpack(x.contiguous().view(self.torch.int16)).view(dtype)

    def once(self, call: Callable[[], Any]) -> float:
        """Milliseconds of one call: between two CUDA events on a GPU, by the clock in a rehearsal."""
        xp = self.xp
        if self.rehearsal:
            return 1e3 * timed(xp, call)[1]
        start, end = xp.cuda.Event(), xp.cuda.Event()
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(xp.cuda.get_elapsed_time(start, end))

    def milliseconds(self, call: Callable[[], Any], *, warm: bool = False) -> dict[str, Any]:
        """Milliseconds of a call: the median of `repeats`, after one, unless `warm`, which compiles."""
        if not warm:
            call()
        times = [self.once(call)]
        repeats = self.pick(max(1, min(20, int(1e3 * SECONDS / times[0]))), 1)
        times += [self.once(call) for _ in range(repeats - 1)]
        return {"ms": statistics.median(times), "repeats": len(times)}

    def free(self) -> None:
        """Give the memory that CuPy and PyTorch hold in store back to the GPU."""
        if not self.rehearsal:
            self.xp.get_default_memory_pool().free_all_blocks()
            if "torch" in vars(self) and self.torch is not None:
                self.torch.cuda.empty_cache()
