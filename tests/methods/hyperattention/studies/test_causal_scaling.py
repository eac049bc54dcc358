"""The causal recursion covers the triangle once; uniform sampling and the speed-up are right where they are known."""

import numpy as np
import pandas as pd
import pytest

from sublinattn.lab.run import Run
from sublinattn.methods.hyperattention.studies import causal_scaling

RUN = Run(backend="numpy")


def test_recursion_covers_the_triangle_once():
    level, computed = causal_scaling.recursion_map(RUN, n=128, leaf=16, block_size=8)
    lower = np.tri(128, dtype=bool)
    assert (level[lower] >= 0).all() and (level[~lower] == -1).all() and not computed[~lower].any()
    shares = causal_scaling.level_shares(level, computed)
    assert shares["entries"].tolist() == [8 * 16 * 17 // 2, 4 * 16**2, 2 * 32**2, 64**2]
    assert shares["exact_share"].tolist() == [1, 8 / 16, 8 / 32, 8 / 64]
    touched = causal_scaling.columns_touched(128, 16, 10)
    assert touched[[0, 15, 16, 127]].tolist() == [1, 16, 1 + 10, 16 + 3 * 10]


def test_recursion_map_refuses_ragged_sizes():
    with pytest.raises(ValueError, match="leaf = 16 times a power of two, got 100"):
        causal_scaling.recursion_map(RUN, n=100, leaf=16, block_size=8)


def test_uniform_sampling_is_exact_with_the_whole_past():
    rng = np.random.default_rng(0)
    logits, v = rng.standard_normal((32, 32)), rng.standard_normal((32, 3))
    a = np.tril(np.exp(logits))
    exact = a @ v / a.sum(axis=1, keepdims=True)
    full = causal_scaling.uniform_causal(logits, v, np.arange(1, 33), rng)
    np.testing.assert_allclose(full, exact, rtol=1e-12)
    half = causal_scaling.uniform_causal(logits, v, np.arange(32) // 2 + 1, rng)
    assert np.abs(half - exact)[8:].max() > 0.1 and np.abs(half[0] - exact[0]).max() < 1e-12


def test_speed_up_extrapolates_exact_attention_by_the_square_of_n():
    seconds = {("exact", 10): 2.0, ("exact", 20): 9.0, ("hyper practical", 10): 1.0, ("hyper practical", 20): 2.0,
               ("hyper practical", 40): 4.0}  # fmt: skip
    rows = pd.DataFrame(
        [
            ("time", *key, causal, r, s + r)
            for key, s in seconds.items()
            for causal in (False, True)
            for r in (-1, 0, 0)
        ],
        columns=["quantity", "method", "n", "causal", "replicate", "value"],
    )
    ratios = causal_scaling.speed_up(rows)
    assert ratios["speed_up"].tolist() == [2.0, 4.5, 9.0] * 2
    assert ratios["measured"].tolist() == [True, True, False] * 2
