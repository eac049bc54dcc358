"""Step `profile`: where one `hyper_attention` spends its time: on the GPU by kernel, on the host by function.

The GPU's side is of 131072 tokens, by PyTorch's profiler (CUPTI), which sees CuPy's kernels, too. The host's side is of
16384 tokens, where the GPU may wait for it, by cProfile, which makes it slower.
"""

from __future__ import annotations

import cProfile
import pstats
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ...methods.hyperattention.hyper import hyper_attention
from .bench_attention import HEADS, gaussian
from .device import Device

SHOWN = 20


def rows(device: Device) -> Iterator[dict[str, Any]]:
    """Per mask one row for the GPU and one for the host: milliseconds in all, and what takes longest."""
    heads = device.pick(HEADS, 2)
    for n, measure in ((device.pick(131072, 2048), _on_the_device), (device.pick(16384, 2048), _on_the_host)):
        arrays = gaussian(device, heads, n, 64)
        for causal in (False, True):
            call = partial(hyper_attention, *arrays, causal=causal, rng=0)
            call()
            row = {"what": "hyper_attention", "n": n, "d": 64, "heads": heads, "causal": causal}
            yield row | {"ms": device.once(call)} | measure(device, call)


def _on_the_device(device: Device, call: Callable[[], Any]) -> dict[str, Any]:
    """Everything that ran on the device during a call, copies and fills included."""
    if device.rehearsal or device.torch is None:
        return {"not_run": "a rehearsal" if device.rehearsal else "PyTorch is not installed"}
    profiler = device.torch.profiler
    with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as profile:
        call()
        device.torch.cuda.synchronize()
    found: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for event in profile.events():
        if "CUDA" in str(event.device_type):
            count, ms = found[event.name]
            found[event.name] = count + 1, ms + event.time_range.elapsed_us() / 1e3
    return {
        "device_ms": sum(ms for _, ms in found.values()),
        "launches": sum(count for count, _ in found.values()),
        "kernels": _longest({name[:120]: entry for name, entry in found.items()}),
    }


def _on_the_host(device: Device, call: Callable[[], Any]) -> dict[str, Any]:
    """Functions by the time in themselves, waiting for the device included."""
    profile = cProfile.Profile()
    profile.runcall(call)
    found = {
        f"{Path(file).name}:{line} {function}": (calls, 1e3 * own)
        for (file, line, function), (_, calls, own, _, _) in pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    }
    return {"host_ms": sum(ms for _, ms in found.values()), "functions": _longest(found)}


def _longest(found: dict[str, tuple[int, float]]) -> list[dict[str, Any]]:
    longest = sorted(found.items(), key=lambda item: -item[1][1])[:SHOWN]
    return [{"name": name, "count": count, "ms": ms} for name, (count, ms) in longest]
