"""Uniform samples without replacement, for many problems at once, with the same draws on the CPU and on a GPU.

Floyd's algorithm takes one random number per sampled place: for `i = 0..m - 1` it draws `t_i` uniformly from
`0..n - m + i` and takes `t_i`, or `n - m + i` where `t_i` is taken already. NumPy's `Generator.choice` runs it for one
problem after the other. A GPU gets all `t_i`, drawn on the host from the same generator, and finds in parallel what is
taken (`sampling.cu`): `t_i` is if it was drawn before, or if it is the place `n - m + j` that an earlier `j` had to
take.

Cost: `O(problems m)` random numbers; on a GPU `O(m^2)` comparisons for each problem, by `THREADS` threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core import backends
from ..core.backends import Array

THREADS = 256
MOST = 4096  # so many places fit the shared memory of a thread block


def sample_without_replacement(xp: Any, rng: np.random.Generator, problems: int, n: int, m: int) -> Array:
    """`m` different numbers of 0..n - 1 for each problem, (problems, m), in no particular order."""
    shuffled = n > 10000 and m > n // 20  # there NumPy shuffles, which no parallel algorithm can follow
    if xp.__name__ not in backends.CUDA or shuffled or m > MOST:
        drawn = np.stack([rng.choice(n, m, replace=False, shuffle=False) for _ in range(problems)])
        return backends.to_device(drawn, xp)
    drawn, bits = random_numbers(rng, problems, n, m)
    places = xp.empty((problems, m), np.int32)
    module = backends.cuda_module("core/gpu.cuh", "primitives/sampling.cu", options=(f"-DTHREADS={THREADS}",))
    arguments = (backends.to_device(drawn, xp), places, np.int32(n), np.int32(m), np.int32(bits))
    module.get_function("floyd")((problems,), (THREADS,), arguments, shared_mem=8 * m)
    return places


def random_numbers(rng: np.random.Generator, problems: int, n: int, m: int) -> tuple[np.ndarray, bool]:
    """`t` (problems, m), or as many times 32 random bits that the GPU makes them of, and whether it is these.

    NumPy takes the high half of the product of 32 bits with the number of choices [Lemire, arXiv 1805.10941], and draws
    again where the low half is too small, which is rare. To draw the bits takes an eighth of the time.
    """
    choices = np.arange(n - m + 1, n + 1)
    state = rng.bit_generator.state
    plain = state["bit_generator"] == "PCG64" and not state["has_uint32"]  # two draws of 32 bits are one of 64
    if plain and problems * m % 2 == 0 and m < n:  # of one choice nothing is drawn
        drawn = rng.bit_generator.random_raw(problems * m // 2).view(np.uint32).reshape(problems, m)
        low, least = drawn * choices.astype(np.uint32), (2**32 % choices).astype(np.uint32)
        if (low >= least).all():
            return drawn, True
        rng.bit_generator.state = state
    return rng.integers(0, choices, size=(problems, m)).astype(np.uint32), False
