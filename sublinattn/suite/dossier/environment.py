"""Step `environment`: the card, its driver, CUDA, versions, and which code this is."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...core.provenance import output_of, provenance
from .device import Device

FIELDS = ("name", "driver_version", "memory.total", "clocks.max.sm", "power.limit", "temperature.gpu")


def rows(device: Device) -> Iterator[dict[str, Any]]:
    """One row: `gpu` (nvidia-smi's words), `cuda`, `tools`, and the package's provenance."""
    listed = output_of("nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader", "-i", "0")
    gpu = dict(zip(FIELDS, listed.split(", "), strict=False)) if listed else {}
    xp, cuda = device.xp, {}
    if not device.rehearsal:
        runtime = xp.cuda.runtime
        properties = runtime.getDeviceProperties(0)
        cuda = {
            "name": properties["name"].decode(),
            "runtime": runtime.runtimeGetVersion(),
            "driver": runtime.driverGetVersion(),
            "compute_capability": f"{properties['major']}.{properties['minor']}",
            "multiprocessors": properties["multiProcessorCount"],
            "memory_bytes": properties["totalGlobalMem"],
            "shared_bytes_per_block": properties["sharedMemPerBlockOptin"],
            "devices": runtime.getDeviceCount(),
        }
    versions = {"numpy": np.__version__, xp.__name__: xp.__version__}
    if device.torch is not None:
        torch = device.torch
        versions |= {"torch": torch.__version__, "torch_cuda": torch.version.cuda}
        versions["cudnn"] = torch.backends.cudnn.version()
    yield {"gpu": gpu, "cuda": cuda, "versions": versions, "system": platform.system(), "code": provenance()}
