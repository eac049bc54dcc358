"""KDEformer: its two parts and its laws, against dense matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import references
from scipy.special import logsumexp

from sublinattn import kdeformer_attention
from sublinattn.core import backends
from sublinattn.methods.baselines import kdeformer
from sublinattn.methods.baselines.common import enter
from sublinattn.methods.hyperattention.sort_lsh import hash_rows, sort_blocks


def prepared(xp: Any, arrays: Any, block_size: int) -> tuple[Any, Any]:
    x = enter(*map(xp.asarray, arrays), scale=None, check_finite=True)
    hashed = hash_rows(xp, np.random.default_rng(0), x.q, x.k, block_size=block_size)
    (b, n_q, _), n_k = x.q.shape, x.k.shape[1]
    starts = {"q_start": n_q * np.arange(b), "k_start": n_k * np.arange(b)}
    return x, sort_blocks(xp, *hashed, block_size=block_size, **starts)


def block_mask(blocks: Any, b: int, n_q: int, n_k: int) -> np.ndarray:
    """Whether query i of problem p has key j in its block, from the groups themselves."""
    mask = np.zeros((b, n_q, n_k), bool)
    for group in blocks.groups:
        for rows, keys in zip(*map(backends.asnumpy, (group.q_rows, group.k_rows)), strict=True):
            mask[rows[0] // n_q][np.ix_(rows % n_q, keys % n_k)] = True
    return mask


@pytest.mark.parametrize("sizes", [(24, 24), (25, 22), (14, 30)])
def test_parts_are_the_blocks_and_the_weighted_columns_outside_them(
    xp: Any, small_tiles: None, sizes: tuple[int, int]
) -> None:
    arrays = references.qkv(0, *sizes, lead=(3,))
    x, blocks = prepared(xp, arrays, 5)
    mask = block_mask(blocks, 3, *sizes)
    assert mask.any(axis=2).all() and not mask.all()
    rng = np.random.default_rng(1)
    law = rng.dirichlet(np.ones(sizes[1]), size=3)
    columns = rng.integers(sizes[1], size=(3, 9))
    counts = np.stack([np.bincount(row, minlength=sizes[1]) for row in columns])
    logits = arrays[0] @ arrays[1].swapaxes(1, 2) / 2
    sparse = np.where(mask, np.exp(logits), 0)
    rest = np.where(mask, 0, np.exp(logits)) * (counts / (9 * law))[:, None]
    for p, entries in (
        (kdeformer.block_attention(x, blocks), sparse),
        (kdeformer.sampled_attention(x, blocks, columns, law), rest),
    ):
        m, sums, product = (backends.asnumpy(y) for y in (p.m, p.l, p.o))
        factor = np.exp(np.where(np.isfinite(m), m, 0))
        np.testing.assert_allclose(factor * sums, entries.sum(axis=2), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(factor[..., None] * product, entries @ arrays[2], rtol=1e-9, atol=1e-12)


def test_laws_are_those_of_the_dense_matrix(xp: Any) -> None:
    """With every query asked, the density estimate is the column norm of `D^-1 A` outside the blocks itself."""
    arrays = references.qkv(2, 14, 22, lead=(2,))
    x, blocks = prepared(xp, arrays, 5)
    mask = block_mask(blocks, 2, 14, 22)
    logits = arrays[0] @ arrays[1].swapaxes(1, 2) / 2
    p = np.where(mask, 0, np.exp(logits - logsumexp(logits, axis=2, keepdims=True)))
    values = np.concatenate([arrays[2], np.ones((2, 22, 1))], axis=2)
    lengths = np.linalg.norm(values, axis=2)
    want = np.linalg.norm(p, axis=1) * lengths
    everyone = np.tile(np.arange(14), (2, 1))
    np.testing.assert_allclose(
        kdeformer.kde_law(x, blocks, everyone), want / want.sum(axis=1, keepdims=True), rtol=1e-9
    )
    want = lengths / np.linalg.norm(values, 2, axis=(1, 2))[:, None] ** 2 + 1 / 22
    np.testing.assert_allclose(kdeformer.value_law(x), want / want.sum(axis=1, keepdims=True), rtol=1e-9)


def test_without_a_sample_the_blocks_are_all_there_is(xp: Any) -> None:
    arrays = references.qkv(3, 20, 20, lead=(2,))
    out, lse = references.on(xp, kdeformer_attention, arrays, block_size=6, sample_size=0, rng=0, return_lse=True)
    x, blocks = prepared(np, arrays, 6)
    logits = np.where(block_mask(blocks, 2, 20, 20), arrays[0] @ arrays[1].swapaxes(1, 2) / 2, -np.inf)
    np.testing.assert_allclose(lse, logsumexp(logits, axis=2), rtol=1e-10)
    np.testing.assert_allclose(out, np.exp(logits - lse[..., None]) @ arrays[2], rtol=1e-10)


def test_column_norms_help_where_few_columns_carry_the_mass() -> None:
    """One heavy column: the values do not show it, the density estimate does. Median error of 40 heads halves."""
    q, k, v = (np.broadcast_to(x, (40, *x.shape)).copy() for x in references.qkv(4, 200, 200, d=8))
    k[:, 17] = 1.5 * q.mean(axis=1) + 6
    q += 1
    exact = references.attention(q[:1], k[:1], v[:1])[0]
    common: dict[str, Any] = {"block_size": 8, "sample_size": 16, "rng": 0}
    errors = [
        np.linalg.norm(kdeformer_attention(q, k, v, **common, kde_queries=u) - exact, axis=(1, 2)) for u in (0, 16)
    ]
    assert np.median(errors[1]) < 0.5 * np.median(errors[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"sample_size": -1}, "sample_size must be at least 0, got -1"),
        ({"lsh_bits": 17}, "lsh_bits must be at most 16, got 17"),
        ({"kde_queries": 5}, r"kde_queries must be at most the number of queries \(4\), got 5"),
    ],
)
def test_parameters_are_checked(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        kdeformer_attention(*references.qkv(0, 4, 6), **options)
