"""The trials of [RS21]'s claims notice what they are about."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sublinattn.core import exact
from sublinattn.methods.exact import claims


def ratio(trial: Any, xp: Any, **case: Any) -> float:
    """Error over the rounding of the largest logit."""
    made = trial(np.random.default_rng(0), xp, **case)
    return float(made.measured / made.scale)


@pytest.mark.parametrize("scale", [None, -0.5, 2.0])
@pytest.mark.parametrize("causal", [False, True])
def test_pointed_queries_reach_their_largest_logit(causal: bool, scale: float | None) -> None:
    s = 8**-0.5 if scale is None else scale
    q, k, v = claims.pointed(np.random.default_rng(1), 40, 60, peak=95.0, scale=s, dtype="float64")
    np.testing.assert_allclose(abs(s * (q @ k.T)).max(axis=1), 95.0)
    out, lse = claims.dense(q, k, v, scale=s, causal=causal)
    assert out.shape == (40, 8) and lse.shape == (40,) and lse.max() >= 95


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tiles_and_merges_are_exact_up_to_rounding(xp: Any, dtype: str) -> None:
    for peak in (1.0, 95.0, 1000.0):
        assert ratio(claims.merged, xp, n=40, parts=30, peak=peak, dtype=dtype) < 8
        assert ratio(claims.tiled, xp, n_q=50, n_k=30, peak=peak, dtype=dtype, causal=True) < 8


def test_a_negative_scale_may_overflow_too(xp: Any) -> None:
    assert ratio(claims.tiled, xp, n_q=50, n_k=30, peak=200.0, dtype="float32", scale=-0.3) < 8


def test_a_threshold_past_the_range_of_float32_is_noticed(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "SAFE_LOGIT", 100.0)
    with np.errstate(over="ignore", invalid="ignore"):
        assert not ratio(claims.tiled, xp, n_q=300, n_k=90, peak=95.0, dtype="float32") < 64
        assert not ratio(claims.merged, xp, n=90, parts=2, peak=95.0, dtype="float32") < 64


def test_sabotages_are_wrong(xp: Any) -> None:
    assert not ratio(claims.merged, xp, n=40, parts=3, peak=300.0, references=False) < 64
    assert not ratio(claims.tiled, xp, n_q=50, n_k=30, peak=95.0, dtype="float32", shift=False) < 64


def test_all_logits_at_once_take_memory_quadratic_in_n() -> None:
    small, large = (
        claims.held_bytes(np.random.default_rng(0), np, variable="n", n=n, causal=False, tiles=False).measured
        for n in (256, 1024)
    )
    assert 8 < large / small < 32
