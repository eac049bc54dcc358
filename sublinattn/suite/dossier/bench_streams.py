"""Step `streams`: the polynomial method, the one-pass sketch and the hardness parameters, over growing n."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ...core.timing import peak_bytes
from ...methods.hyperattention.hardness import hardness
from ...methods.onepass.onepass import OnePassSketch
from ...methods.polynomial.polynomial import PolynomialState
from .device import Device

LONGEST = 2000.0
"""Milliseconds: a call that is expected to take longer, from the size before, is not made."""


def rows(device: Device) -> Iterator[dict[str, Any]]:
    """One row per method and n: d = d_v = 8, degree 4 and k = 64 for the streams, one head of d = 64 for hardness."""
    for what, (make, growth) in METHODS.items():
        last: tuple[int, float] | None = None
        for n in device.pick((8192, 32768, 131072), (512,)):
            row = {"what": what, "n": n}
            if last is not None and (expected := last[1] * (n / last[0]) ** growth) > LONGEST:
                yield row | {"not_run": f"it would take about {expected / 1e3:.0f} s"}
                break
            call = make(device, n)
            row |= device.milliseconds(call) | {"peak_bytes": peak_bytes(device.xp, call)}
            last = n, row["ms"]
            yield row
            device.free()


def _polynomial(device: Device, n: int) -> Callable[[], Any]:
    q, k, v = (device.normal(n, 8, seed=seed) / 4 for seed in range(3))
    return lambda: PolynomialState(8, 8, degree=4).update(k, v).attend(q)


def _sketch(variant: str, device: Device, n: int) -> Callable[[], Any]:
    q, k, v = (device.normal(n, 8, seed=seed) / 4 for seed in range(3))
    make = partial(OnePassSketch, n, 8, 8, degree=4, sparsity=64, eps1=0.5, eps2=0.5, variant=variant, rng=0)
    return lambda: make().absorb_keys(k, v).absorb_queries(q).decode()


def _hardness(device: Device, n: int) -> Callable[[], Any]:
    q, k, v = (device.normal(n, 64, seed=seed) for seed in range(3))
    return lambda: hardness(q, k, v, rng=0)


METHODS: dict[str, tuple[Callable[[Device, int], Callable[[], Any]], int]] = {
    "PolynomialState": (_polynomial, 1),
    "OnePassSketch, fused": (partial(_sketch, "fused"), 1),
    "OnePassSketch, paper": (partial(_sketch, "paper"), 1),
    "hardness": (_hardness, 2),
}
"""How each call is made, and the power of n by which its time grows."""
