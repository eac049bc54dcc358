"""The trials on the causal recursion: what may change an output, and its exact limit at sizes of any shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sublinattn.methods.hyperattention.claims.algorithm4_causal import exact_limit, later_queries, leak

SIZES: dict[str, Any] = {"n": 60, "block_size": 5, "sample_size": 5}


@pytest.mark.parametrize("estimator", ["practical", "theory"])
def test_later_keys_change_nothing_and_later_queries_do(xp: Any, estimator: str) -> None:
    rng = np.random.default_rng(0)
    assert leak(rng, xp, **SIZES, estimator=estimator).measured == 0
    assert leak(rng, xp, **SIZES, estimator=estimator, recursion="no mask").measured > 0.01
    changes = [-later_queries(rng, xp, **SIZES, estimator=estimator).measured for _ in range(5)]
    assert max(changes) > 0.01
    fixed = later_queries(rng, xp, **SIZES, estimator=estimator, recursion="queries not sorted")
    assert fixed.measured == 0 > fixed.bound


@pytest.mark.parametrize("queries", [None, 30, 70])
def test_exact_limit(xp: Any, queries: int | None) -> None:
    how: dict[str, Any] = {"n": 50, "queries": queries, "block_size": 5, "exact_keys": 1}
    assert exact_limit(np.random.default_rng(1), xp, **how).measured < 1e-13
    assert exact_limit(np.random.default_rng(1), xp, **how, recursion="top left out").measured > 0.1
