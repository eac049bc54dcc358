"""The walk takes the signs of Algorithm 2, by plain loops; the parts are the smaller one, or one of each pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sublinattn.core.backends import asnumpy
from sublinattn.methods.balancekv.walk import STEPS, half_width, halve, pair_kernel, self_balancing_walk, softmax_kernel

D, D_V, SCALE = 3, 2, 0.6


def tokens(seed: int, problems: int, n: int, missing: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys and values, zeros where a slot is not filled; and which are."""
    rng = np.random.default_rng(seed)
    k, v = rng.standard_normal((problems, n, D)) + 0.5, rng.standard_normal((problems, n, D_V))
    filled = rng.uniform(size=(problems, n)) >= missing
    return k * filled[..., None], v * filled[..., None], filled


def plain_kernel(k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """`exp(s <k, k'>) (<v, v'> + 1)` over the largest, of one problem."""
    kernel = np.array([[np.exp(SCALE * (a @ b)) * (x @ y + 1) for b, y in zip(k, v)] for a, x in zip(k, v)])  # noqa: B905
    return kernel / kernel.diagonal().max()


def plain_signs(kernel: np.ndarray, uniform: np.ndarray, c: float) -> list[int]:
    """Lines 5 to 11 of Algorithm 2, clipped where it fails."""
    signs: list[int] = []
    for row, u in zip(kernel / kernel.diagonal().max(), uniform, strict=True):
        y = sum(sign * entry for sign, entry in zip(signs, row, strict=False))
        signs.append(1 if u < min(1, max(0, 0.5 - y / (2 * c))) else -1)
    return signs


@pytest.mark.parametrize("centred", [False, True])
def test_kernel_is_that_of_the_tokens_up_to_a_factor(xp: Any, centred: bool) -> None:
    k, v, filled = tokens(0, 3, 8, missing=0.3)
    found = asnumpy(softmax_kernel(xp, *map(xp.asarray, (k, v, filled)), scale=SCALE, centred=centred))
    assert found.max() <= 1 + 1e-12
    for kernel, keys, values, there in zip(found, k, v, filled, strict=True):
        assert not kernel[~there].any() and not kernel[:, ~there].any()
        keys = keys[there] - keys[there].mean(axis=0) if centred else keys[there]
        inner = kernel[np.ix_(there, there)]
        np.testing.assert_allclose(inner / inner.diagonal().max(), plain_kernel(keys, values[there]), rtol=1e-12)


def test_kernel_of_large_logits_is_finite() -> None:
    k, v, filled = tokens(1, 2, 8)
    kernel = softmax_kernel(np, 1e3 * k, 1e3 * v, filled, scale=SCALE)
    assert np.isfinite(kernel).all() and (kernel.diagonal(axis1=1, axis2=2).max(axis=1) > 0).all()


@pytest.mark.parametrize("c", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("n", [1, 6, STEPS, 2 * STEPS + 5])
def test_signs_are_those_of_the_plain_walk(xp: Any, n: int, c: float) -> None:
    k, v, filled = tokens(2, 4, n)
    uniform = np.random.default_rng(3).uniform(size=(4, n))
    kernel = softmax_kernel(np, k, v, filled, scale=SCALE)
    found = asnumpy(self_balancing_walk(xp, xp.asarray(kernel), xp.asarray(uniform), c))
    assert found.tolist() == [plain_signs(one, u, c) for one, u in zip(kernel, uniform, strict=True)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_width_beyond_all_numbers_makes_fair_coins(xp: Any, dtype: Any) -> None:
    k, v, filled = tokens(8, 3, 2 * STEPS)
    uniform = np.random.default_rng(9).uniform(size=(3, 2 * STEPS))
    kernel = pair_kernel(softmax_kernel(np, k.astype(dtype), v.astype(dtype), filled, scale=SCALE))
    found = asnumpy(self_balancing_walk(xp, xp.asarray(kernel), xp.asarray(uniform[:, :STEPS]), 1.7e308))
    assert np.array_equal(found, np.where(uniform[:, :STEPS] < 0.5, 1, -1))


def test_smaller_part_is_kept_in_order(xp: Any) -> None:
    k, v, filled = tokens(4, 6, 10, missing=0.2)
    uniform = np.random.default_rng(5).uniform(size=(6, 10))
    kept, there = map(asnumpy, halve(xp, *map(xp.asarray, (k, v, filled, uniform)), scale=SCALE, c=2.0))
    assert kept.shape == there.shape == (6, 5)
    parts = set()
    for row in range(6):
        kernel = softmax_kernel(np, *(x[row : row + 1] for x in (k, v, filled)), scale=SCALE)[0]
        signs = np.array(plain_signs(kernel, uniform[row], 2.0)) * filled[row]
        plus, minus = (np.flatnonzero(signs == sign).tolist() for sign in (1, -1))
        smaller = plus if len(plus) <= len(minus) else minus
        assert kept[row][there[row]].tolist() == smaller
        parts.add(smaller is plus)
    assert parts == {True, False}


def test_of_each_pair_one_is_kept_by_the_walk_over_their_differences(xp: Any) -> None:
    k, v, filled = tokens(6, 5, 2 * STEPS + 6)
    uniform = np.random.default_rng(7).uniform(size=(5, STEPS + 3))
    kept, there = map(asnumpy, halve(xp, *map(xp.asarray, (k, v, filled, uniform)), scale=SCALE, c=2.0, pairs=True))
    assert there.all()
    for row in range(5):
        kernel = pair_kernel(softmax_kernel(np, *(x[row : row + 1] for x in (k, v, filled)), scale=SCALE))[0]
        signs = plain_signs(kernel, uniform[row], 2.0)
        assert kept[row].tolist() == [2 * i + (sign < 0) for i, sign in enumerate(signs)]
    first, second = plain_kernel(k[0], v[0])[:2]
    np.testing.assert_allclose(
        pair_kernel(plain_kernel(k[0], v[0])[None])[0, 0, 0], first[0] - first[1] - second[0] + second[1]
    )


def test_half_width_is_what_the_union_bound_needs() -> None:
    assert np.isclose(2 * 256 * np.exp(0.5 - half_width(256, 0.01)), 0.01)
