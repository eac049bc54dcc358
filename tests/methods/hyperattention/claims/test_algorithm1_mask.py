"""The trials on the sortLSH mask: the law of planted entries against plain enumeration, and the mask they look at."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from sublinattn.methods.hyperattention.claims.algorithm1_mask import mask, recall_law


def enumerated(angle: float, blocks: int) -> float:
    """`recall_law` for one hyperplane: all sides of all clusters, then all orders inside a bucket by symmetry."""
    total = 0.0
    for sides in product((0, 1), repeat=2 * blocks):
        q, k = np.array(sides[:blocks]), np.array(sides[blocks:])
        probability = np.prod(np.where(q == k, (1 - angle) / 2, angle / 2))
        places = []
        for side in (q, k):
            below, beside = (side < side[0]).sum(), (side == side[0]).sum()
            places.append({int(below) + i: 1 / beside for i in range(beside)})
        total += probability * sum(share * places[1].get(block, 0) for block, share in places[0].items())
    return float(total)


@pytest.mark.parametrize("angle", [0.0, 0.2, 0.5])
def test_law_is_what_enumeration_gives(angle: float) -> None:
    assert recall_law(angle, 1, 4) == pytest.approx(enumerated(angle, 4), rel=1e-12)


@pytest.mark.parametrize(("bits", "blocks"), [(1, 5), (3, 8)])
def test_law_at_angle_zero_in_closed_form(bits: int, blocks: int) -> None:
    """The clusters in a bucket share its blocks: E 1/(1 + Bin(blocks - 1, 2^-r))."""
    x = 2.0**-bits
    assert recall_law(0.0, bits, blocks) == pytest.approx((1 - (1 - x) ** blocks) / (blocks * x), rel=1e-12)


def test_mask_of_clusters_in_their_order_is_the_clusters(xp: Any) -> None:
    """Whatever the hash, equal rows in the same order on both sides keep their blocks; the sinks are in none."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((3, 5, 6))
    q, k = (np.repeat(centers, size, axis=1) for size in (2, 4))
    k = np.concatenate([rng.standard_normal((3, 2, 6)), k], axis=1)
    held = mask(rng, xp, q, k, block_size=4, exact_keys=2)
    np.testing.assert_array_equal(held[:, :, :2], 0)
    np.testing.assert_array_equal(held[:, :, 2:], np.kron(np.eye(5), np.ones((2, 4)))[None].repeat(3, axis=0))
