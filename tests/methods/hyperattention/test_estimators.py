"""The draws of both estimators have the laws that their weights assume; attention sinks are exact in the product.

Counts are compared with their binomial laws at 5.5 standard deviations: with fixed seeds, after a false-alarm rate of
4e-8 per count, and of 1e-5 for all of a test's counts together.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import references

from sublinattn import hyper_attention
from sublinattn.methods.hyperattention.estimators import draw_theory
from sublinattn.primitives.sampling import sample_without_replacement

ROUNDS, HEADS, N, M = 4000, 2, 12, 5
LAW = np.stack([np.arange(1.0, N + 1), np.arange(N, 0.0, -1) ** 2])
LAW /= LAW.sum(axis=1, keepdims=True)


def theory(name: str) -> np.ndarray:
    """Draws (rounds, heads, m) of one field of `draw_theory`, for laws that differ between the heads."""
    rng = np.random.default_rng(1)
    blocks = SimpleNamespace(testable=N, k_order=np.empty((HEADS, N)))
    return np.stack([getattr(draw_theory(rng, blocks, M, LAW), name) for _ in range(ROUNDS)])


def shared() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([sample_without_replacement(np, rng, HEADS, N, M) for _ in range(ROUNDS)])


UNIFORM = np.full((HEADS, N), 1 / N)
WITH_REPLACEMENT: dict[str, tuple[Callable[[], np.ndarray], np.ndarray]] = {
    "queries": (lambda: theory("queries"), UNIFORM),
    "uniform": (lambda: theory("uniform"), UNIFORM),
    "by_norm": (lambda: theory("by_norm"), LAW),
}


def assert_binomial(count: np.ndarray, trials: int, p: np.ndarray) -> None:
    assert (abs(count - trials * p) <= 5.5 * np.sqrt(trials * p * (1 - p))).all()


@pytest.mark.parametrize("name", WITH_REPLACEMENT)
def test_draws_with_replacement_are_independent_and_have_their_law(name: str) -> None:
    draw, law = WITH_REPLACEMENT[name]
    drawn = draw()
    for head in range(HEADS):
        for place in range(M):  # every draw by itself
            assert_binomial(np.bincount(drawn[:, head, place], minlength=N), ROUNDS, law[head])
        pair = np.zeros((N, N))  # two draws of one sample
        np.add.at(pair, (drawn[:, head, 0], drawn[:, head, M - 1]), 1)
        assert_binomial(pair, ROUNDS, np.outer(law[head], law[head]))
    heads = np.zeros((N, N))  # the same draw of two heads
    np.add.at(heads, (drawn[:, 0, 0], drawn[:, 1, 0]), 1)
    assert_binomial(heads, ROUNDS, np.outer(law[0], law[1]))


def test_the_shared_sample_is_every_set_of_keys_alike_and_apart_for_each_head() -> None:
    held = (shared()[..., None] == np.arange(N)).any(axis=2)  # (rounds, heads, n)
    assert (held.sum(axis=2) == M).all()
    for head in range(HEADS):
        together = held[:, head].T.astype(int) @ held[:, head]
        assert_binomial(np.diag(together), ROUNDS, np.full(N, M / N))
        off = ~np.eye(N, dtype=bool)
        assert_binomial(together[off], ROUNDS, np.full(off.sum(), M * (M - 1) / (N * (N - 1))))
    assert_binomial(held[:, 0].T.astype(int) @ held[:, 1], ROUNDS, np.full((N, N), (M / N) ** 2))


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_values_of_sinks_are_exact_in_the_product_of_the_theory(size: float) -> None:
    """Where all other values are 0, the product is that over the sinks, whatever keys are sampled."""
    q, k, v = references.qkv(3, 40, 40, size=size)
    v[3:] = 0
    options = {"block_size": 8, "sample_size": 5, "min_exact": 0, "exact_keys": 3, "rng": 0}
    out, lse = hyper_attention(q, k, v, estimator="theory", return_lse=True, **options)
    logits = q @ k[:3].T / np.sqrt(q.shape[1])
    expected = np.exp(logits - lse[:, None]) @ v[:3]
    np.testing.assert_allclose(out, expected, rtol=1e-10, atol=1e-12)
