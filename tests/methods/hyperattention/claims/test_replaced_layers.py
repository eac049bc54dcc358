"""What a layer is replaced by: the yardsticks against plain loops, and that none looks ahead."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from sublinattn.core import backends
from sublinattn.core.exact import attention
from sublinattn.methods.hyperattention.claims import replaced_layers


def test_own_block_is_attention_in_each_block(xp: Any) -> None:
    q, k, v = (np.random.default_rng(i).standard_normal((2, 3, 12, 5)) for i in range(3))
    out = backends.asnumpy(replaced_layers.own_block(*(backends.to_device(x, xp) for x in (q, k, v)), rows=4))
    for at in np.ndindex(2, 3, 12):
        seen = slice(at[2] // 4 * 4, at[2] + 1)
        weights = np.exp(k[at[:2]][seen] @ q[at] / np.sqrt(5))
        assert out[at] == pytest.approx(weights @ v[at[:2]][seen] / weights.sum())


@pytest.mark.parametrize(("n", "blocks"), [(24, 1), (24, 2), (24, 5), (24, 6), (24, 9)])
def test_a_window_is_the_last_keys_and_the_first_ones(xp: Any, n: int, blocks: int) -> None:
    q, k, v = (np.random.default_rng(i).standard_normal((2, 3, n, 5)) for i in range(3))
    given = (backends.to_device(x, xp) for x in (q, k, v))
    out = backends.asnumpy(replaced_layers.sinks_and_window(*given, sinks=2, rows=4, blocks=blocks))
    for at in np.ndindex(2, 3, n):
        last = at[2] + 1
        seen = sorted({*range(min(2, last)), *range(max(0, last - 4 * blocks), last)})
        weights = np.exp(k[at[:2]][seen] @ q[at] / np.sqrt(5))
        assert out[at] == pytest.approx(weights @ v[at[:2]][seen] / weights.sum())


def test_hyperattention_with_more_first_keys_exact_finds_what_stands_there() -> None:
    """One key holds nearly all attention: exact, it is never missed."""
    n, rng = 512, np.random.default_rng(7)
    q, k, v = (rng.standard_normal((1, 2, n, 8)) for _ in range(3))
    q[..., 0], k[..., 0] = 4, 0
    k[..., 2, :] = 0
    k[..., 2, 0] = 6
    exact, made = attention(q, k, v, causal=True), replaced_layers.methods(n, rng)
    errors = {}
    for keys in (0, 1, 4, 64):
        errors[keys] = float(np.abs(made[replaced_layers.hyper_exempting(keys)](q, k, v) - exact).mean())
    assert max(errors[4], errors[64]) < 0.2 * min(errors[0], errors[1])


@pytest.mark.parametrize(
    "name",
    [
        *(replaced_layers.HYPER, replaced_layers.HYPER_SINKS, replaced_layers.LOCAL, replaced_layers.WINDOW),
        replaced_layers.ZERO,
    ],
)
def test_no_method_looks_ahead(name: str) -> None:
    n, cut = 256, 150
    q, k, v = (np.random.default_rng(i).standard_normal((1, 2, n, 8)) for i in range(3))
    changed = [np.where(np.arange(n)[:, None] < cut, x, -x) for x in (q, k, v)]
    outs = [
        replaced_layers.methods(n, np.random.default_rng(0))[name](*given)[..., : cut // 2, :]
        for given in ((q, k, v), (changed[0], changed[1], changed[2]))
    ]
    assert np.array_equal(*outs)


@pytest.mark.parametrize("sinks", [0, 3])
def test_a_uniform_sample_stands_for_the_keys_before_the_block(sinks: int) -> None:
    """With all of them sampled it is exact attention; else each counts `before / size` times, and the rest once."""
    rng = np.random.default_rng(4)
    q, k, v = (rng.standard_normal((1, 2, 12, 3)) for _ in range(3))
    see = partial(replaced_layers.uniform_before, q, k, v, rows=4, sinks=sinks)
    np.testing.assert_allclose(see(size=12, rng=rng), attention(q, k, v, causal=True), rtol=1e-12)
    found, again = see(size=1, rng=np.random.default_rng(5)), np.random.default_rng(5)
    chosen = {start: sinks + again.choice(start - sinks, 1, replace=False) for start in (4, 8)}
    for head, i in np.ndindex(2, 12):
        start = i // 4 * 4
        exact = [*range(start, i + 1), *(range(sinks) if start else ())]
        seen = [*exact, *chosen.get(start, ())]
        counts = np.array([1.0] * len(exact) + [start - sinks] * (len(seen) - len(exact)))
        weights = counts * np.exp(q[0, head, i] @ k[0, head, seen].T / np.sqrt(3))
        np.testing.assert_allclose(found[0, head, i], weights @ v[0, head, seen] / weights.sum(), rtol=1e-12)
