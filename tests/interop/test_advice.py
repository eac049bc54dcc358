"""An audit's advice in other engines: what a cache or press holds, and the loss where both keep the same tokens."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_transformers import LAYERS, family, text

import sublinattn
from sublinattn.lab.workloads.instance import Captured
from sublinattn.lm.attend import causal
from sublinattn.suite.audit import page
from sublinattn.suite.audit.apply import Prompt, loss_after
from sublinattn.suite.audit.measure import audit

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from sublinattn.interop.decoder import TransformersDecoder  # noqa: E402
from sublinattn.interop.transformers import SublinCache, capture  # noqa: E402

CACHE = "cache" if "cache" in signature(transformers.LlamaForCausalLM.forward).parameters else "past_key_values"
N, BUDGET = 128, 1 / 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """Of an audit of a Llama with grouped heads, advised for half of the bytes."""
    folder = tmp_path_factory.mktemp("audit")
    capture(family("Llama"), text(N), folder / "qkv.safetensors")
    page.write(audit(Captured.open(folder / "qkv.safetensors")), folder, budget=BUDGET)
    return folder


def test_transformers_generates_with_the_advised_caches_in_the_advised_bytes(folder: Path) -> None:
    advice, model = json.loads((folder / "recommendation.json").read_text()), family("Llama")
    caches = {
        (its["layer"], its["key_head"]): getattr(sublinattn, its["cache"])(**its["parameters"])
        for its in advice["key_heads"]
    }
    prompt = text(advice["prompt_tokens"])
    with SublinCache(model, lambda layer: [caches[layer, i] for i in range(advice["kv_heads"])]) as cache:
        model.base_model(input_ids=prompt, **{CACHE: cache})
        assert cache.nbytes == sum(its.nbytes for its in caches.values())
        for its in advice["key_heads"]:
            assert caches[its["layer"], its["key_head"]].nbytes == its["bytes"]
        assert cache.nbytes == advice["bytes"] <= BUDGET * advice["exact_bytes"]
    assert len({its["method"] for its in advice["key_heads"]}) > 1
    caches.update({place: type(its)(**its.parameters()) for place, its in caches.items()})
    with SublinCache(model, lambda layer: [caches[layer, i] for i in range(advice["kv_heads"])]) as cache:
        out = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, do_sample=False, **{CACHE: cache}
        )
    assert out.shape[1] == advice["prompt_tokens"] + 4


def test_a_press_of_kvpress_keeps_the_tokens_of_the_preset_and_has_our_loss(folder: Path) -> None:
    """Token by token, sinks and window in layers of unequal budgets, as `PerLayerCompressionPress` takes them."""
    kvpress = pytest.importorskip("kvpress")
    ratios, model = json.loads((folder / "preset.json").read_text())["compression_ratios"], family("Llama")
    assert len(set(ratios)) > 1
    ids, n = text(N), 96
    cache = transformers.DynamicCache(config=model.config)
    with kvpress.PerLayerCompressionPress(kvpress.StreamingLLMPress(), ratios)(model):
        model(ids[:, :n], past_key_values=cache)
    kept = [int(n * (1 - ratio)) for ratio in ratios]
    assert [layer.keys.shape[2] for layer in cache.layers] == kept
    theirs = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    losses = []
    for i in range(n, N - 1):
        logits = model(ids[:, i : i + 1], past_key_values=cache, position_ids=torch.tensor([[i]])).logits[0]
        losses.append(float(torch.nn.functional.cross_entropy(logits, ids[0, i + 1 : i + 2])))
    decoder, tokens = TransformersDecoder(model), np.asarray(ids[0])
    held = Prompt.of(decoder, tokens[:n], causal)
    choices = [("sinks" if count < n else "exact", count / n) for count in kept for _ in range(2)]
    layers, nbytes = held.compressed(choices, np.random.default_rng(0))
    assert nbytes == theirs
    ours = loss_after(decoder, layers, tokens[n:-1], tokens[n + 1 :], start=n)
    assert ours == pytest.approx(np.mean(losses), abs=1e-5) and len(layers) == LAYERS
    whole = float(decoder.losses(tokens)[n:].mean())
    assert abs(whole - ours) > 0.01  # what was dropped mattered
