"""The largest entries of trained heads, by hand."""

import math

import numpy as np
import pytest

from sublinattn.lab.workloads import real
from sublinattn.methods.polynomial.claims.theorem1_4_entries import largest_entry, trained_heads


def test_heads_are_those_of_the_file():
    q, k, v, scale = trained_heads(np.random.default_rng(0), "encoder", 512)
    every = real()
    assert q.shape == k.shape == v.shape == (24, 512, 32) and scale == pytest.approx(every.scale)
    heads = every.q.reshape(-1, 512, 32).astype(np.float64)
    assert all(any(np.array_equal(one, head) for head in heads) for one in q)


def test_largest_entry_is_in_the_papers_units():
    rng = np.random.default_rng(1)
    trial = largest_entry(rng, np, variable="n", model="encoder", n=40)
    q, k, v, scale = trained_heads(np.random.default_rng(1), "encoder", 40)
    by_hand = [
        max(math.sqrt(scale * 32 * np.abs(a).max() * np.abs(b).max()), np.abs(c).max())
        for a, b, c in zip(q, k, v, strict=True)
    ]
    assert trial.measured == pytest.approx(math.exp(np.log(by_hand).mean()))
    assert trial.facts["share"] == pytest.approx(np.median(by_hand) / math.sqrt(math.log(40)))
    assert largest_entry(rng, np, variable="n", model="encoder", n=40, norm="Frobenius").measured > 4 * trial.measured
