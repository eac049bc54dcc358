"""Performer, against its definition written out feature by feature."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import references
from scipy.special import logsumexp

from sublinattn import performer_attention
from sublinattn.methods.baselines import performer


def plain(q: Any, k: Any, v: Any, drawn: Any, *, scale: float, causal: bool) -> tuple[np.ndarray, np.ndarray]:
    """Output and lse of one problem, every entry of the estimated matrix by itself, in logarithms."""
    logs = np.full((len(q), len(k)), -np.inf)
    for i, j in np.ndindex(logs.shape):
        if j <= i or not causal:
            x, y = math.copysign(math.sqrt(abs(scale)), scale) * q[i], math.sqrt(abs(scale)) * k[j]
            exponents = [w @ x - x @ x / 2 + w @ y - y @ y / 2 for w in drawn]
            logs[i, j] = logsumexp(exponents) - math.log(len(drawn))
    lse = logsumexp(logs, axis=1)
    return np.exp(logs - lse[:, None]) @ v, lse


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [(13, 13), (9, 13), (13, 9)])
@pytest.mark.parametrize(("size", "scale"), [(1.0, 0.5), (1.0, -0.3), (20.0, 0.5)])
def test_is_its_definition(
    monkeypatch: pytest.MonkeyPatch, causal: bool, sizes: tuple[int, int], size: float, scale: float
) -> None:
    monkeypatch.setattr(performer, "CHUNK", 4)
    q, k, v = references.qkv(0, *sizes, lead=(2,), size=size)
    options: dict[str, Any] = {"features": 6, "rng": 1, "return_lse": True, "causal": causal, "scale": scale}
    out, lse = performer_attention(q, k, v, **options)
    drawn = performer.directions(np.random.default_rng(1), 2, 6, 4)
    for b in range(2):
        want = plain(q[b], k[b], v[b], drawn[b], scale=scale, causal=causal)
        references.assert_close((out[b], lse[b]), want, rtol=1e-9)


def test_directions_are_orthogonal_in_blocks_and_gaussian_each() -> None:
    """Means of 20000 draws, at 4.9 standard errors: no coordinate has a sign, and squared lengths are chi-squared."""
    d, draws = 3, 20000
    w = performer.directions(np.random.default_rng(0), draws, 5, d)
    assert w.shape == (draws, 5, d)
    products = np.einsum("bfi,bgi->bfg", w, w)
    for block in (slice(0, 3), slice(3, 5)):
        inside = products[:, block, block]
        assert np.abs(inside - np.einsum("bff->bf", inside)[..., None] * np.eye(inside.shape[1])).max() < 1e-10
    assert np.abs(products[:, 0, 3]).min() > 0 and np.abs(products[:, 0, 3]).max() > 1
    assert np.abs(w.mean(axis=0)).max() < 4.9 / math.sqrt(draws)
    squares = np.einsum("bfi,bfi->bf", w, w)
    assert np.abs(squares.mean(axis=0) - d).max() < 4.9 * math.sqrt(2 * d / draws)
    covariance = np.einsum("bfi,bfj->fij", w, w) / draws - np.eye(d)
    assert np.abs(covariance).max() < 4.9 * math.sqrt(2 / draws)


def test_a_key_far_longer_than_the_others_leaves_earlier_queries_alone(xp: Any) -> None:
    """Its features vanish beside the others', and under a causal mask nothing before it may notice."""
    q, k, v = references.qkv(2, 300, 300, dtype=np.float32)
    k[200] *= 100
    options: dict[str, Any] = {"features": 32, "rng": 0, "causal": True}
    out = references.on(xp, performer_attention, [q, k, v], **options)
    short = references.on(xp, performer_attention, [q[:200], k[:200], v[:200]], **options)
    np.testing.assert_allclose(out[:200], short, rtol=1e-5, atol=1e-5)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("features", [0, 2.5, True])
def test_features_are_checked(features: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="^features must be"):
        performer_attention(*references.qkv(0, 4, 4), features=features)
