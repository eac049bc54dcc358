"""Step `attention`: HyperAttention and exact attention beside PyTorch's exact kernels, on the same half-precision data.

32 heads, n = 4096 to 131072, d = 64 and 128, with and without a causal mask. The error stands beside each time: on
Gaussian inputs every method that samples keys is off by more than answering zero would be (an error of 1), which the
row of plain uniform sampling shows, too; on the input `near key`, where each query's weight is on one key, the block
that HyperAttention finds may hold what matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from ...core.backends import Array
from ...core.exact import attention
from ...core.timing import peak_bytes, stage_times
from ...methods.baselines.uniform import uniform_attention
from ...methods.hyperattention.hyper import hyper_attention
from .device import Device
from .exact_reference import Reference

HEADS = 32
KEYS = 512
"""Keys that each query is compared with: HyperAttention's block and sample, and the sample of plain sampling."""
LONGEST = 3000.0
"""Milliseconds: a call that is expected to take longer, from the size before, is not made."""
BACKENDS = {"PyTorch flash": "FLASH_ATTENTION", "PyTorch cuDNN": "CUDNN_ATTENTION"}


def rows(device: Device) -> Iterator[dict[str, Any]]:
    """One row per contender, size, dimension and mask; then errors on the second input, and the stages."""
    heads, sizes = device.pick(HEADS, 2), device.pick((4096, 16384, 65536, 131072), (256, 2048))
    for d in (64, 128):
        last: dict[tuple[str, bool], tuple[int, float]] = {}
        for n in sizes:
            arrays = gaussian(device, heads, n, d)
            for causal in (False, True):
                shape = {"n": n, "d": d, "heads": heads, "causal": causal, "dtype": str(arrays[0].dtype)}
                reference = Reference(device.xp, *arrays, causal=causal)
                for what, (call, growth) in contenders(device, arrays, causal).items():
                    before, ms = last.get((what, causal), (n, 0.0))
                    expected = ms * (n / before) ** growth
                    row = {"what": what, "input": "gaussian", **shape}
                    if expected > LONGEST:
                        yield row | {"not_run": f"it would take about {expected / 1e3:.0f} s"}
                        continue
                    row |= _measured(device, call, reference, peak=n == sizes[-1], ours=what not in BACKENDS)
                    if "ms" in row:
                        last[what, causal] = n, row["ms"]
                    yield row
            del arrays
            device.free()
        if d == 64:
            yield from _more(device, heads, sizes[-1], d)


def gaussian(device: Device, heads: int, n: int, d: int) -> list[Array]:
    """Queries, keys and values: standard normal."""
    return [device.normal(heads, n, d, seed=seed).astype(device.low_precision()) for seed in range(3)]


def near_key(device: Device, heads: int, n: int, d: int, causal: bool) -> list[Array]:
    """Each query is twice one key; keys and values standard normal.

    Without a mask, every key is some query's, in random order; with one, a query's key is drawn from those it sees.
    """
    _, k, v = gaussian(device, heads, n, d)
    rng = np.random.default_rng(0)
    key = (
        (rng.random((heads, n)) * (np.arange(n) + 1)).astype(np.int64)
        if causal
        else rng.permuted(np.broadcast_to(np.arange(n), (heads, n)), axis=1)
    )
    rows = device.xp.asarray(key + n * np.arange(heads)[:, None])
    q = 2 * k.astype(np.float32).reshape(-1, d)[rows]
    return [q.astype(k.dtype), k, v]


def contenders(device: Device, arrays: list[Array], causal: bool) -> dict[str, tuple[Callable[[], Any], int]]:
    """Calls, and the power of n by which their time grows."""
    calls: dict[str, tuple[Callable[[], Any], int]] = {
        "hyper_attention": (partial(hyper_attention, *arrays, causal=causal, rng=0), 1),
        "attention": (partial(attention, *arrays, causal=causal), 2),
    }
    if not causal:  # plain sampling has no mask
        size = min(KEYS, arrays[1].shape[1])
        calls["uniform_attention"] = (partial(uniform_attention, *arrays, sample_size=size, rng=0), 1)
    if device.torch is not None:
        tensors = [device.tensor(x)[None] for x in arrays]
        calls |= {name: (partial(_sdpa, backend, *tensors, is_causal=causal), 2) for name, backend in BACKENDS.items()}
    return calls


def _sdpa(backend: str, *tensors: Any, is_causal: bool) -> Any:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    with sdpa_kernel(getattr(SDPBackend, backend)):
        return scaled_dot_product_attention(*tensors, is_causal=is_causal)[0]


def _measured(
    device: Device, call: Callable[[], Any], reference: Reference, *, peak: bool, ours: bool
) -> dict[str, Any]:
    """Time, error and peak bytes; why not, where the call fails, as PyTorch's do on a card they do not serve."""
    try:
        out = call()
    except Exception as error:
        said = f"{type(error).__name__}: {error}"[:300]
        return {"ok": False, "output": said} if ours else {"not_run": said}
    if not ours:
        out = device.array(out, device.low_precision())
    row = {"error": reference.error(out)}
    del out
    row |= device.milliseconds(call, warm=True)
    if peak and ours and row["ms"] < LONGEST / 3:
        device.free()
        row["peak_bytes"] = peak_bytes(device.xp, call)
    return row


def _more(device: Device, heads: int, n: int, d: int) -> Iterator[dict[str, Any]]:
    """Errors on the input on which blocks matter, and where HyperAttention's time goes."""
    for causal in (False, True):
        arrays = near_key(device, heads, n, d, causal)
        shape = {"n": n, "d": d, "heads": heads, "causal": causal, "dtype": str(arrays[0].dtype)}
        reference = Reference(device.xp, *arrays, causal=causal)
        for what, (call, _) in contenders(device, arrays, causal).items():
            if what in ("hyper_attention", "uniform_attention"):
                yield {"what": what, "input": "near key", **shape, "error": reference.error(call())}
        with stage_times() as seconds:  # each lap waits for the device, so the sum is more than the call takes
            hyper_attention(*arrays, causal=causal, rng=0)
        stages = {stage: 1e3 * time for stage, time in seconds.items()}
        yield {"what": "hyper_attention", "stages_ms": stages, **shape}
    device.free()
