"""The same draws without replacement on the CPU and on a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sublinattn.core.backends import asnumpy
from sublinattn.primitives.sampling import sample_without_replacement


@pytest.mark.parametrize(
    ("problems", "n", "m"), [(1, 1, 1), (3, 5, 5), (200, 5, 3), (50, 300, 256), (2, 131072, 256), (2, 10001, 501)]
)
def test_a_device_draws_what_numpy_draws(xp: Any, problems: int, n: int, m: int) -> None:
    ours, numpys = np.random.default_rng(7), np.random.default_rng(7)
    for _ in range(3):
        drawn = asnumpy(sample_without_replacement(xp, ours, problems, n, m))
        expected = [numpys.choice(n, m, replace=False, shuffle=False) for _ in range(problems)]
        assert np.array_equal(drawn, expected)
        assert all(len(set(row)) == m for row in drawn.tolist())
    assert ours.bit_generator.state == numpys.bit_generator.state
