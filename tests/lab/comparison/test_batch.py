"""Batch methods at equal budgets: their parameters spend the budget, and all answer within it."""

import math

import numpy as np
import pytest
import references

from sublinattn.lab.comparison.batch import BATCH
from sublinattn.methods.hyperattention.recursion import inner_nodes, leaves


@pytest.mark.parametrize("name", BATCH)
@pytest.mark.parametrize(("budget", "n"), [(64, 1024), (128, 1024), (512, 4096)])
def test_options_spend_the_budget(name, budget, n):
    spent = {
        "sample_size": 1, "block_size": 1, "kde_queries": 1,  # columns
        "features": 2, "landmarks": 2,  # for queries and for keys
        "chunk_size": 2 * 4,  # a chunk and the one before, four rounds
    }  # fmt: skip
    options = BATCH[name].within(budget, n)
    if name == "Thinformer":
        assert budget / 2 < 2 ** options["oversampling"] * math.sqrt(n) <= budget
    else:
        assert sum(spent.get(option, 0) * value for option, value in options.items()) == budget
    assert BATCH[name].operations(budget, n, 64) >= 4 * n * budget * 64


def test_thinformer_has_nothing_for_fewer_columns_than_the_square_root():
    assert BATCH["Thinformer"].within(31, 1024) is None and math.isnan(BATCH["Thinformer"].operations(31, 1024, 64))
    q, k, v = references.qkv(0, 1024, 1024, dtype=np.float32)
    assert BATCH["Thinformer"].answer(q, k, v, budget=31, scale=0.5, rng=0) is None


@pytest.mark.parametrize("name", BATCH)
def test_every_method_answers_and_says_whether_it_has_a_causal_form(name):
    q, k, v = references.qkv(0, 300, 300, d=8, dtype=np.float32)
    given = {"budget": 64, "scale": 0.3, "rng": 0}
    out = BATCH[name].answer(q, k, v, **given)
    assert out.shape == v.shape and np.isfinite(out).all()
    if BATCH[name].causal:
        early = BATCH[name].answer(q, k, v, **given, causal=True)[0]
        np.testing.assert_allclose(early, v[0], rtol=1e-5)
    else:
        with pytest.raises(ValueError, match="^causal must be False"):
            BATCH[name].answer(q, k, v, **given, causal=True)


def columns_read(n: int, block_size: int, sample_size: int, min_exact: int) -> float:
    """Key columns that a query of the causal recursion reads on average, node by node."""
    leaf, levels = n, 0
    while leaf > min_exact:
        levels += 1
        leaf = -(-n // 2**levels)
    own = sum(each.count * each.size**2 / 2 for each in leaves(0, n, leaf))
    squares = inner_nodes(0, n, leaf, levels)
    below = sum(x.count * (x.size - x.half) * min(x.half, block_size + sample_size) for x in squares)
    return (own + below) / n


@pytest.mark.parametrize(("budget", "n"), [(64, 512), (128, 512), (128, 1024), (250, 1000), (512, 2048)])
def test_under_a_mask_hyper_attention_reads_half_of_the_budget_on_average_and_hardly_less(budget, n):
    options = BATCH["HyperAttention"].options(budget, n, causal=True)
    read = columns_read(n, **options)
    b = options["block_size"] + 1
    assert read <= budget / 2 < 1.02 * columns_read(n, block_size=b, sample_size=b, min_exact=2 * b)
    assert BATCH["HyperAttention"].options(budget, n) == BATCH["HyperAttention"].within(budget, n)
    assert BATCH["HyperAttention"].options(2, n, causal=True) is None
