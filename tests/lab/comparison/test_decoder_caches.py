"""The caches that compete in a decoder: none holds more than its share, and the k-center clusters a prompt once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import toy_llama

from sublinattn.lab.comparison.answers import answers
from sublinattn.lab.comparison.decoder_caches import ClusteredOnce, caches_within, first_tokens
from sublinattn.lab.comparison.registry import REGISTRY
from sublinattn.lab.models import Model, open_model
from sublinattn.lm.retrieval import documents
from sublinattn.methods.caches.k_center import KCenterCache


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return toy_llama.of_bytes(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_no_cache_holds_more_than_its_share(model: Model, share: float) -> None:
    made = documents(np.random.default_rng(7), 600, 2)
    layers, row = model.decoder.config.layers, 2 * toy_llama.OF_BYTES["head_dim"] * 4
    budget, kept, first = int(share * made[0].asked * row), [], first_tokens(model, made[0])

    def make() -> dict[str, Any]:
        kept.append(caches_within(first, budget, np.random.default_rng(0)))
        return kept[-1]

    rows = answers(model, made, make).groupby("caches")["nbytes"].max()
    named = {name for name, contender in REGISTRY.items() if not contender.hindsight}
    assert set(rows.index) == named | {"exact", "zero"}
    after = {name: max(cache.nbytes for cache in caches) / len(made) for name, caches in kept[0].items()}
    for name in named:
        assert rows[name] <= layers * budget and after[name] <= budget, name
        least = kept[0][name][0].buckets if name == "balancekv, buckets" else 1  # classes that may be empty
        assert rows[name] > 0.4 / least * layers * budget, name
    assert rows["zero"] == 0 and rows["exact"] >= layers * made[0].asked * row


def test_settings_follow_each_layers_first_token_in_the_head_of_its_shortest_key() -> None:
    tiny = open_model()
    (made,) = documents(np.random.default_rng(9), 400, 1)
    k, v = tiny.qkv(tiny.encode(made.text))[1:]
    heads = [min(range(len(layer)), key=[(x[0] ** 2).sum() for x in layer].__getitem__) for layer in k]
    assert len(set(heads)) > 1
    first = first_tokens(tiny, made)
    for i, x in enumerate(first):
        np.testing.assert_allclose(x.k, k[i, heads[i], :1], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(x.v, v[i, heads[i], :1], rtol=1e-4, atol=1e-5)
    caches = caches_within(first, 20_000, np.random.default_rng(0))
    for x, subgen, k_center in zip(first, caches["subgen"], caches["k-center"], strict=True):
        assert subgen.parameters()["delta"] == pytest.approx(np.linalg.norm(x.k) / 64)
        tokens = 20_000 // (2 * 64 * 4)
        assert k_center.parameters() == {"budget": tokens, "recent": tokens // 2}


def test_clustered_once_keeps_the_prompts_centres_and_the_last_tokens() -> None:
    rng = np.random.default_rng(8)
    k, v = rng.standard_normal((2, 3, 40, 8)).astype(np.float32)
    plain, once = KCenterCache(12, 5).update(k[:, :30], v[:, :30]), ClusteredOnce(12, 5)
    once.update(k[:, :30], v[:, :30])
    centres = plain.contents()["keys"][:, :7].copy()
    for i in range(30, 40):
        once.update(k[:, i : i + 1], v[:, i : i + 1])
    assert np.array_equal(once.contents()["keys"][:, :7], centres)
    assert np.array_equal(once.contents()["keys"][:, 7:], k[:, 35:])
    assert np.array_equal(once.contents()["values"][:, 7:], v[:, 35:])
