"""HyperAttention's cost: near-linear time, linear memory [HA24, Theorem 1], measured on this machine."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import Array, to_device
from ....core.timing import best_of, peak_bytes
from ....theory import symbols
from ....theory.claim import Claim, Growth, Sabotage, Trial
from ....theory.cost import over, powers
from ..hyper import hyper_attention

BLOCK = 256
n_0 = sp.Symbol("n_0", positive=True)


def _arrays(rng: np.random.Generator, xp: Any, n: int, d: int) -> list[Array]:
    return [to_device(rng.standard_normal((n, d), dtype=np.float32), xp) for _ in range(3)]


def seconds(
    rng: np.random.Generator,
    xp: Any,
    *,
    variable: str,
    n: int,
    d: int,
    causal: bool,
    repeats: int = 3,
    blocks: int | None = None,
) -> Trial:
    """Fastest of `repeats` calls; `blocks` fixes the number of blocks instead of their size (a sabotage)."""
    q, k, v = _arrays(rng, xp, n, d)
    size = BLOCK if blocks is None else n // blocks
    call = partial(hyper_attention, q, k, v, causal=causal, block_size=size, min_exact=0, rng=rng)
    return Trial(best_of(xp, call, repeats), facts={"n": n, "n_0": BLOCK})


def held_bytes(
    rng: np.random.Generator,
    xp: Any,
    *,
    variable: str,
    n: int,
    d: int,
    causal: bool,
    blocks: int | None = None,
) -> Trial:
    """Peak bytes beyond the inputs, the output included; `blocks` fixes the number of blocks (a sabotage)."""
    q, k, v = _arrays(rng, xp, n, d)
    size = BLOCK if blocks is None else n // blocks
    hyper = partial(hyper_attention, q, k, v, causal=causal, block_size=size, min_exact=0, rng=rng)
    return Trial(float(peak_bytes(xp, hyper)), facts={"n": n})


SMOKE, STANDARD, FULL = powers(11, 14), powers(13, 17), powers(15, 20)


def _time_claim(slug: str, title: str, causal: bool) -> Claim:
    # n log n is the sort's; Algorithm 4 has log2(n/n_0) levels of n, and leaves of n_0 keys.
    growth = symbols.n * ((1 + sp.log(symbols.n / n_0, 2)) if causal else sp.log(symbols.n))
    return Claim(
        id=f"ha24.{slug}",
        paper="HA24",
        source="Theorem 1" if not causal else "Algorithm 4 and Theorem 1",
        basis="implementation",
        title=title,
        statement=sp.Eq(symbols.SECONDS, symbols.O(growth)),
        kind=Growth(variables={"n": growth}, machine=True),
        trial=seconds,
        cases={
            effort: over("n", sizes, d=64, causal=causal)
            for effort, sizes in (("smoke", SMOKE), ("standard", STANDARD), ("full", FULL))
        },
        max_trials={"smoke": 8},
        sabotages=(
            Sabotage(
                "blocks grow with n", "4 blocks whatever n is, instead of blocks of 256", {"blocks": 4, "repeats": 1}
            ),
        ),
        remark=(
            "Seconds of this machine at fixed b = m = 256, fastest of three calls per replicate. n^{1+o(1)} is read as "
            "n log n (the sort), and with a mask as n (1 + log2(n/n0)): the recursion stops at n0 = b."
        ),
    )


CLAIMS = (
    _time_claim("time", "Without a mask this code's time grows no faster than n log n", False),
    _time_claim(
        "time-causal", "With the causal recursion this code's time grows no faster than n (1 + log2(n/n0))", True
    ),
    Claim(
        id="ha24.memory",
        paper="HA24",
        source="Theorem 1 (memory, as FlashAttention's)",
        basis="implementation",
        title="This code's memory grows no faster than n",
        statement=sp.Eq(symbols.BYTES, symbols.O(symbols.n)),
        kind=Growth(variables={"n": symbols.n}, machine=True),
        trial=held_bytes,
        cases={
            effort: over("n", sizes, d=64, causal=True)
            for effort, sizes in (("smoke", powers(11, 13)), ("standard", STANDARD))
        },
        max_trials={"smoke": 4},
        sabotages=(
            Sabotage("blocks grow with n", "2 blocks whatever n is: a tile holds (n/2)^2 logits", {"blocks": 2}),
        ),
        remark=(
            "Peak bytes of the causal algorithm beyond its inputs. At small n a constant (tiles) makes the exponent "
            "fall below 1."
        ),
    ),
)
