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
    drawn = rng.integers(0, np.arange(n - m, n), size=(problems, m), endpoint=True)
    places = xp.empty((problems, m), np.int32)
    module = backends.cuda_module("core/gpu.cuh", "primitives/sampling.cu", options=(f"-DTHREADS={THREADS}",))
    arguments = (backends.to_device(drawn.astype(np.int32), xp), places, np.int32(n), np.int32(m))
    module.get_function("floyd")((problems,), (THREADS,), arguments, shared_mem=8 * m)
    return places
