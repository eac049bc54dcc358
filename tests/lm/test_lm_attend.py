"""What layers attend with: caches that go on where the prompt ended, and methods in place of exact attention."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import references
from toy_caches import CACHES, heavy_hitters, over
from toy_caches import tokens as held
from toy_llama import FIELDS, close, decoder, some_tokens

from sublinattn import SubGenCache
from sublinattn.core import backends
from sublinattn.lm.attend import CachedAttention, causal, replacing
from sublinattn.methods.caches.exact import ExactCache
from sublinattn.methods.caches.heavy_hitter import HeavyHitterCache
from sublinattn.methods.caches.sink import SinkCache

N, LAYERS = 21, FIELDS["num_hidden_layers"]
WITHIN = {
    **{name: partial(make, N) for name, make in CACHES.items() if name not in ("value-norm", "zero")},
    "subgen": lambda: SubGenCache(1.0, 4, 4, recent=N, rng=0),
}
"""Caches whose budget is the whole text."""


def in_pieces(model: Any, tokens: np.ndarray, attend: Any, *cuts: int) -> np.ndarray:
    """Logits of all tokens, the text given in pieces."""
    edges = [0, *cuts, tokens.shape[-1]]
    pieces = [
        backends.asnumpy(model.logits(tokens[..., begin:end], attend=attend, start=begin))
        for begin, end in zip(edges, edges[1:], strict=False)
    ]
    return np.concatenate(pieces, axis=-2)


def qkv(seed: int, n: int, heads: int = 4, kv_heads: int = 2, d: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = ((2, heads, n, d), (2, kv_heads, n, d), (2, kv_heads, n, d))
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


# --------------------------------------------------------------------------------------------------------------- caches
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_text_that_goes_on_is_text_in_one_piece(xp: Any, tmp_path: Path, kv_heads: int) -> None:
    model, tokens = decoder(tmp_path, xp=xp, num_key_value_heads=kv_heads), some_tokens(0, 2, N)
    want = model.logits(tokens)
    for cuts in (*([cut] for cut in range(1, N)), [1, 2, 3], [5, 6, 20], list(range(1, N))):
        attend = CachedAttention([ExactCache() for _ in range(LAYERS)])
        close(in_pieces(model, tokens, attend, *cuts), want)
        assert {cache.tokens_seen for cache in attend.caches} == {N}


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("name", WITHIN)
def test_a_cache_within_its_budget_is_exact(xp: Any, tmp_path: Path, name: str, kv_heads: int) -> None:
    model, tokens = decoder(tmp_path, xp=xp, num_key_value_heads=kv_heads), some_tokens(2, 2, N)
    attend = CachedAttention([WITHIN[name]() for _ in range(LAYERS)])
    close(in_pieces(model, tokens, attend, 9), model.logits(tokens))
    assert attend.nbytes == sum(cache.nbytes for cache in attend.caches) > attend.caches[0].nbytes


def test_the_prompt_is_exact_and_then_the_cache_alone_is_seen(xp: Any) -> None:
    q, k, v = qkv(3, N)
    attend, window, sinks = CachedAttention([SinkCache(4, 2)]), 4, 2
    arrays = [xp.asarray(x) for x in (q, k, v)]
    prompt = backends.asnumpy(attend(0, *(x[:, :, :15] for x in arrays)))
    later = backends.asnumpy(attend(0, *(x[:, :, 15:] for x in arrays)))
    for text, head in np.ndindex(2, 4):
        one, keys, values = q[text, head], k[text, head // 2], v[text, head // 2]
        want, _ = references.attention(one[:15], keys[:15], values[:15], causal=True)
        close(prompt[text, head], want)
        for i in range(15, N):
            kept = [*range(sinks), *range(i + 1 - window, i + 1)]
            close(later[text, head, i - 15], over(one[i : i + 1], keys, values, kept)[0])


def test_heavy_hitters_see_the_prompt_of_every_head_that_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tokens, then the queries of these tokens, of both heads of the group."""
    step, budget, recent = 3, 9, 6
    monkeypatch.setattr(CachedAttention, "SCORED", step)
    q, k, v = qkv(4, N)
    cache = HeavyHitterCache(budget, recent)
    CachedAttention([cache])(0, q, k, v)
    assert cache.tokens_seen == N
    for text, kv_head in np.ndindex(2, 2):
        events: list[tuple[str, int]] = []
        for begin in range(0, N, step):
            rows = range(begin, min(begin + step, N))
            events += [("token", i) for i in rows]
            events += [("query", group * N + i) for group in range(2) for i in rows]
        queries = q[text, 2 * kv_head : 2 * kv_head + 2].reshape(2 * N, -1)
        scores, _ = heavy_hitters(events, queries, k[text, kv_head], budget, recent)
        assert held(cache, k, head=2 * text + kv_head) == sorted(scores)
        np.testing.assert_allclose(
            cache.contents()["scores"][2 * text + kv_head], [scores[i] for i in sorted(scores)], 1e-4
        )


# -------------------------------------------------------------------------------------------------------------- methods
def test_a_method_replaces_attention_in_the_layers_named(xp: Any, tmp_path: Path) -> None:
    model, tokens, seen = decoder(tmp_path, xp=xp, num_hidden_layers=3), some_tokens(7, 2, N), []

    def method(q: Any, k: Any, v: Any) -> Any:
        seen.append((q.shape, k.shape, v.shape))
        return 0 * v

    got = model.logits(tokens, attend=replacing({1: method}))
    assert seen == [((2, 4, N, 6),) * 3]

    def attend(layer: int, q: Any, k: Any, v: Any) -> Any:
        return 0 * q if layer == 1 else causal(layer, q, k, v)

    close(got, model.logits(tokens, attend=attend))
    assert abs(backends.asnumpy(got) - backends.asnumpy(model.logits(tokens))).max() > 0.01
