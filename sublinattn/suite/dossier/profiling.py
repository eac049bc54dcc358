"""Step `profile`: GPU time by kernel in one `hyper_attention` of 131072 tokens, by PyTorch's profiler (CUPTI)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

from ...methods.hyperattention.hyper import hyper_attention
from .bench_attention import HEADS, gaussian
from .device import Device

SHOWN = 20


def rows(device: Device) -> Iterator[dict[str, Any]]:
    """Per mask one row: milliseconds on the device in all, launches, and the kernels that take longest."""
    if device.rehearsal or device.torch is None:
        yield {"not_run": "a rehearsal" if device.rehearsal else "PyTorch is not installed"}
        return
    n = 131072
    arrays = gaussian(device, HEADS, n, 64)
    for causal in (False, True):
        call = partial(hyper_attention, *arrays, causal=causal, rng=0)
        call()
        wall = device.once(call)
        kernels = _kernels(device, call)
        longest = sorted(kernels.items(), key=lambda item: -item[1][1])[:SHOWN]
        yield {
            "what": "hyper_attention", "n": n, "d": 64, "heads": HEADS, "causal": causal, "ms": wall,
            "device_ms": sum(ms for _, ms in kernels.values()), "launches": sum(count for count, _ in kernels.values()),
            "kernels": [{"name": name[:120], "count": count, "ms": ms} for name, (count, ms) in longest],
        }  # fmt: skip


def _kernels(device: Device, call: Any) -> dict[str, tuple[int, float]]:
    """Count and milliseconds by name of everything that ran on the device during a call, copies and fills included."""
    profiler = device.torch.profiler
    with profiler.profile(activities=[profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.CUDA]) as profile:
        call()
        device.torch.cuda.synchronize()
    found: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for event in profile.events():
        if "CUDA" in str(event.device_type):
            count, ms = found[event.name]
            found[event.name] = count + 1, ms + event.time_range.elapsed_us() / 1e3
    return found
