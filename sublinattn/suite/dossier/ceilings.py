"""Step `ceilings`: what this card reaches at most, measured: copying memory, and a matrix product on tensor cores."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from .device import Device


def rows(device: Device) -> Iterator[dict[str, Any]]:
    """`copy` in bytes per second, read and written counted; `gemm` in operations per second, by dtype."""
    xp = device.xp
    size = device.pick(2**31, 2**20)
    source, target = xp.zeros(size, np.uint8), xp.zeros(size, np.uint8)
    time = device.milliseconds(lambda: xp.copyto(target, source))
    yield {"ceiling": "copy", **time, "bytes_per_second": 2e3 * size / time["ms"]}
    if device.torch is None:
        yield {"ceiling": "gemm", "not_run": "PyTorch is not installed"}
        return
    torch, n = device.torch, device.pick(8192, 64)
    for name in ("bfloat16", "float32"):
        a, b = (torch.randn(n, n, dtype=torch.float32).to(getattr(torch, name)) for _ in range(2))
        if not device.rehearsal:
            a, b = a.cuda(), b.cuda()
        time = device.milliseconds(partial(torch.matmul, a, b))
        yield {"ceiling": "gemm", "dtype": name, "n": n, **time, "operations_per_second": 2e3 * n**3 / time["ms"]}
