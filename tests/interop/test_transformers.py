"""Hugging Face models: what is captured, replaced and cached is the model's own attention, or is refused by name.

Tolerance: 1e-4 in float32, on logits of size 4. The models are random, and made here.
"""

from __future__ import annotations

import re
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from toy_transformers import ALL, FAMILIES, LAYERS, family, text

from sublinattn import (
    ExactCache,
    HeavyHitterCache,
    KCenterCache,
    PolynomialState,
    ReservoirCache,
    SinkCache,
    SubGenCache,
    attention,
    hyper_attention,
)
from sublinattn.lab.workloads.instance import Captured

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from sublinattn.interop.attending import attending, attentions  # noqa: E402
from sublinattn.interop.transformers import SublinCache, capture, replace  # noqa: E402

CACHE = "cache" if "cache" in signature(transformers.LlamaForCausalLM.forward).parameters else "past_key_values"
PAGE = Path(__file__).parents[2] / "docs" / "hf.md"
N = 40
LOWEST = torch.full((1, 1, 20, 20), torch.finfo(torch.float32).min)
EXACT = partial(attention, causal=True)
WHOLE = partial(hyper_attention, causal=True, block_size=N, min_exact=0)
LOSSY = partial(hyper_attention, causal=True, block_size=4, sample_size=4, min_exact=0, rng=0)


def distance(model: Any, ids: Any, layers: Any, method: Any) -> float:
    """Of the logits with these layers replaced from the model's own."""
    own = model(ids).logits
    with replace(model, layers, method):
        replaced = model(ids, use_cache=False).logits
    assert torch.equal(model(ids).logits, own)  # the model is as it was
    return float((replaced - own).abs().max())


def generated(model: Any, prompt: Any, new: int = 12, **options: Any) -> list[list[int]]:
    mask = torch.ones_like(prompt)
    return model.generate(prompt, attention_mask=mask, max_new_tokens=new, do_sample=False, **options).tolist()


def with_cache(model: Any, prompt: Any, make: Any, layers: Any = None, **options: Any) -> tuple[Any, list[list[int]]]:
    with SublinCache(model, make, layers) as cache:
        return cache, generated(model, prompt, **{CACHE: cache}, **options)


def own_outputs(model: Any, ids: Any, layers: Any) -> list[np.ndarray]:
    """What the attention of each layer hands to its output projection, (heads, n, d)."""
    found, handles = [], []
    for module in attentions(model, layers).values():
        projection = next(getattr(module, name) for name in ("o_proj", "dense", "c_proj") if hasattr(module, name))
        handles.append(projection.register_forward_pre_hook(lambda _, given: found.append(given[0][0].numpy())))
    model(ids)
    for handle in handles:
        handle.remove()
    return found


# ------------------------------------------------------------------------------------------------ every family, a table
def passes_capture(model: Any, layers: Any, path: Path) -> bool:
    ids = text(N)
    capture(model, ids, path, layers=layers, source="random")
    file = Captured.open(path)
    assert (file.layers, file.tokens, file.source) == (len(layers), N, "random")
    for i, own in enumerate(own_outputs(model, ids, layers)):
        heads = [file.head(i, head) for head in range(file.heads)]
        out = [EXACT(x.q, x.k, x.v, scale=x.scale) for x in heads]
        np.testing.assert_allclose(np.concatenate(out, axis=1), own, rtol=0, atol=1e-4)
    return True


def passes_cache(model: Any, layers: Any, path: Path) -> bool:
    cache, tokens = with_cache(model, text(10), lambda layer: ExactCache(), layers)
    assert cache.nbytes > 0 and {layer.get_seq_length() for layer in cache.layers} == {21}
    return tokens == generated(model, text(10))


COLUMNS = {
    "capture": passes_capture,
    "exact replaced": lambda model, layers, path: distance(model, text(N), layers, EXACT) < 1e-4,
    "HyperAttention replaced": lambda model, layers, path: distance(model, text(N), layers, WHOLE) < 1e-4,
    "caches": passes_cache,
}
REFUSAL = re.compile(r"^(\w+) (?:of layer \d|must be a transformers model)")


def row(name: str, path: Path) -> list[str]:
    """The row of the table: `pass`, or the name that a refusal begins with."""
    model, cells = family(name), []
    for column in COLUMNS.values():
        try:
            cells.append("pass" if column(model, FAMILIES[name][2], path) else "FAIL")
        except (TypeError, ValueError) as refusal:
            found = REFUSAL.match(str(refusal))
            assert found, refusal
            cells.append(f"refused: `{found[1]}`")
    return cells


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_as_the_page_says(name: str, tmp_path: Path) -> None:
    cells = row(name, tmp_path / "qkv.safetensors")
    print(f"| {name} | {' | '.join(cells)} |")
    table = PAGE.read_text().partition("## Which families")[2].splitlines()
    shown = [line.strip("| ").split(" | ") for line in table if line.startswith("|")]
    assert shown[0] == ["model family", *COLUMNS]
    assert {line[0]: line[1:] for line in shown[2:]}.get(name) == cells
    assert {line[0] for line in shown[2:]} == set(FAMILIES)


# ------------------------------------------------------------------------------------------------------------ replacing
def test_the_layers_that_are_named_attend_by_the_method() -> None:
    model, ids, shapes = family("Llama"), text(N), []

    def method(q: Any, k: Any, v: Any) -> Any:
        shapes.append((tuple(q.shape), tuple(k.shape), tuple(v.shape)))
        return LOSSY(q, k, v)

    assert distance(model, ids, ALL, LOSSY) > 0.1
    assert distance(model, ids, [2], LOSSY) > 0.1
    assert distance(model, ids, [], LOSSY) == 0
    assert distance(model, torch.cat([ids, text(N, 1)]), [1, 3], method) > 0.1
    assert shapes == [((2, 4, N, 16),) * 3] * 2  # two texts, keys and values repeated for the heads
    with replace(model, [0], EXACT), replace(model, [1], LOSSY):
        both = model(ids).logits
    with replace(model, [1], LOSSY):
        assert float((model(ids).logits - both).abs().max()) < 1e-4


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["Llama", "Gemma 3, the layers without a window", "GPT-2"])
def test_whatever_the_models_own_attention_is(name: str, implementation: str) -> None:
    model = family(name)
    model.set_attn_implementation(implementation)
    assert distance(model, text(N), FAMILIES[name][2], EXACT) < 1e-4


def test_a_window_as_long_as_the_text_is_none() -> None:
    model = family("Mistral, windows shorter than the text")
    assert distance(model, text(16), ALL, EXACT) < 1e-4
    with pytest.raises(ValueError, match=r"^sliding_window of layer 0 .* at least the text's 17 tokens, got 16$"):
        distance(model, text(17), ALL, EXACT)


def test_half_precision_comes_back_as_it_came() -> None:
    model = family("Llama").to(torch.bfloat16)
    assert distance(model, text(N), ALL, EXACT) < 0.5  # of logits of size 4, by a type with 8 bits


def test_the_model_is_as_it_was_after_an_error() -> None:
    model = family("GPT-2")
    configs = [module.config for module in attentions(model).values()]
    with pytest.raises(RuntimeError, match="no method"), replace(model, [0, 2], EXACT):
        assert [module.config is model.config for module in attentions(model).values()] == [False, True, False, True]
        raise RuntimeError("no method")
    assert all(module.config is config for module, config in zip(attentions(model).values(), configs, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_mask": torch.tensor([[0] * 3 + [1] * 17])}, "^attention_mask of layer 0 .LlamaAttention. must be"),
        ({"position_ids": torch.arange(20)[None] % 10, "use_cache": False}, "^attention_mask .* packed texts"),
        ({"attention_mask": torch.zeros(1, 1, 20, 20)}, "^attention_mask of layer 0 .* got another one"),  # not causal
        (
            {"attention_mask": torch.full((1, 1, 20, 20), -1e3).triu(1)},
            "^attention_mask of layer 0",
        ),  # lets a little by
        ({"attention_mask": LOWEST.triu(1) - torch.ones(20, 20).tril(-1)}, "^attention_mask .* biases"),
        ({"attention_mask": torch.ones(1, 1, 20, 30, dtype=torch.bool)}, r"^attention_mask .*\(1, 1, 20, 30\)$"),
        ({"is_causal": False}, "^is_causal of layer 0 .* must be true, got False$"),
        (
            {"position_bias": torch.zeros(1, 4, 20, 20)},
            "^position_bias of layer 0 .* got a tensor of shape",
        ),
    ],
    ids=["padding", "packed", "not causal", "soft mask", "biases", "wide", "both ways", "bias"],
)
def test_what_a_method_cannot_do_is_refused(options: dict[str, Any], message: str) -> None:
    model = family("Llama")
    with pytest.raises(ValueError, match=message), replace(model, ALL, EXACT):
        model(text(20), **options)


def test_a_layer_that_looks_ahead_is_refused() -> None:
    model = family("Llama")
    model.model.layers[2].self_attn.is_causal = False
    with pytest.raises(ValueError, match="^is_causal of layer 2 .* must be true, got False$"):
        distance(model, text(20), ALL, EXACT)


def test_a_plain_mask_is_taken() -> None:
    model, ids = family("Llama"), text(20)
    with replace(model, ALL, EXACT):
        for mask in (torch.ones(1, 20), (LOWEST < 0).tril(), LOWEST.triu(1)):
            assert float((model(ids, attention_mask=mask).logits - model(ids).logits).abs().max()) < 1e-5


def test_training_and_decoding_are_refused() -> None:
    model = family("Llama", attention_dropout=0.1)
    with replace(model, [0], EXACT):
        with pytest.raises(ValueError, match=r"^k of layer 0 .* \(use_cache=False\), got 11 with those before$"):
            generated(model, text(10))
        want = generated(family("Llama"), text(10))
        assert generated(model, text(10), use_cache=False) == want
        with pytest.raises(ValueError, match=r"^dropout of layer 0 .* must be 0 \(model.eval\(\)\), got 0.1$"):
            model.train()(text(10))
        with pytest.raises(ValueError, match="^q of layer 0 .* without gradients"):
            model.eval().requires_grad_(True)(text(10))


def test_what_cannot_be_replaced() -> None:
    model = family("Llama")
    with pytest.raises(ValueError, match=r"^layers must be among those with an attention, \[0, 1, 2, 3\], got 4$"):
        replace(model, [4], EXACT)
    with pytest.raises(ValueError, match="^layers must be at least 0, got -1$"):
        replace(model, [-1], EXACT)
    with pytest.raises(TypeError, match="^model must be a transformers model .* got str$"):
        replace("gpt2", [0], EXACT)
    with pytest.raises(ValueError, match=r"^layers .* got \[1\], handed over already$"), replace(model, [1], EXACT):
        replace(model, [0, 1], EXACT).__enter__()
    assert distance(model, text(9), [0], EXACT) < 1e-4  # the layer that could be had was not kept
    for answer, got in ((lambda q, k, v: q[:, :1], r"\(1, 1, 9, 16\)"), (lambda q, k, v: None, "NoneType")):
        message = rf"answer of layer 0 .* tensor of shape \(1, 4, 9, 16\), got {got}$"
        with pytest.raises(ValueError, match=message), replace(model, [0], answer):
            model(text(9))
    with pytest.raises(ValueError, match=r"^layer 0 must have one attention, got \['GPT2Attention', 'GPT2Attention'\]"):
        replace(family("GPT-2", add_cross_attention=True), [0], EXACT)


# ------------------------------------------------------------------------------------------------------------ capturing
def test_the_layers_that_are_captured(tmp_path: Path) -> None:
    path, model = tmp_path / "qkv.safetensors", family("Gemma 3 (windows)")
    capture(model, text(N)[0].numpy(), path, layers=[3, 1], dtype="float16")
    file = Captured.open(path)
    assert file.params == {"model_layers": [1, 3]} and file.source == "Gemma3ForCausalLM"
    assert (file.heads, file.kv_heads, load_file(path)["q"].dtype) == (4, 2, np.float16)
    own = own_outputs(model, text(N), [1, 3])
    for i in range(2):  # in the order of the model, whatever that of the argument
        out = [EXACT(x.q, x.k, x.v, scale=x.scale) for x in (file.head(i, head) for head in range(4))]
        np.testing.assert_allclose(np.concatenate(out, axis=1), own[i], rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([1.0, 2.0], {}, r"^ids must be integers of one text, shape \(n,\), got torch.float32 \(2,\)$"),
        ([[1, 2], [3, 4]], {}, r"^ids must be integers of one text, .* got torch.int64 \(2, 2\)$"),
        (np.arange(0), {}, "^ids must be integers of one text"),
        ([1, 2], {"dtype": "bfloat16"}, "^dtype must be one of .* got 'bfloat16'$"),
        ([1, 2], {"layers": [7]}, "^layers must be among"),
        ([1, 2], {"layers": []}, "^layers must not be empty$"),
    ],
)
def test_what_cannot_be_captured(ids: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        capture(family("Llama"), ids, tmp_path / "qkv.safetensors", **options)
    assert list(tmp_path.iterdir()) == []


def test_layers_of_different_shapes_are_refused(tmp_path: Path) -> None:
    model, other = family("Llama"), family("Llama", num_key_value_heads=4)
    model.model.layers[2].self_attn = other.model.layers[2].self_attn
    with pytest.raises(ValueError, match=r"^q, k, v of layer 2 .* of layer 0, got .*'k': \(4, 4, 20, 16\)"):
        capture(model, text(20), tmp_path / "qkv.safetensors")
    assert list(tmp_path.iterdir()) == []
    capture(model, text(20), tmp_path / "qkv.safetensors", layers=[0, 1, 3])


# -------------------------------------------------------------------------------------------------------------- caching
CACHES = {
    "sink": lambda layer: SinkCache(6, sinks=2),
    "heavy hitters": lambda layer: HeavyHitterCache(8, 4),
    "k-center": lambda layer: KCenterCache(8, 4),
    "reservoir": lambda layer: ReservoirCache(8, rng=layer),
    "SubGen": lambda layer: SubGenCache(0.5, 4, 8, recent=4, rng=layer),
    "per head": lambda layer: [HeavyHitterCache(8, 4), SinkCache(6, sinks=2)],
}


@pytest.mark.parametrize("name", CACHES)
def test_every_cache_of_the_package_generates(name: str) -> None:
    prompt = torch.cat([text(30), text(30, 1)])
    cache, tokens = with_cache(family("Llama"), prompt, CACHES[name])
    assert np.shape(tokens) == (2, 42) and cache.get_seq_length() == 41
    exact, want = with_cache(family("Llama"), prompt, lambda layer: ExactCache())
    assert want == generated(family("Llama"), prompt)
    assert tokens != want and (cache.nbytes < exact.nbytes or name == "SubGen")


def test_polynomial_states_one_per_head_of_keys() -> None:
    model, prompt = family("Llama"), text(20)
    make = lambda layer: [PolynomialState(16, 16, degree=2) for _ in range(2)]  # noqa: E731
    cache, tokens = with_cache(model, prompt, make)
    assert cache.get_seq_length() == 31 and tokens != generated(model, prompt)
    with pytest.raises(ValueError, match=r"^PolynomialState must have one text, .* got k of shape \(1, 2, 20, 16\)$"):
        with_cache(model, prompt, lambda layer: PolynomialState(16, 16, degree=2))
    with pytest.raises(ValueError, match=r"^the caches of layer 0 .* one, or one for each of 2 heads of keys, got 3$"):
        with_cache(model, prompt, lambda layer: [ExactCache() for _ in range(3)])


def test_caches_per_head_are_caches_of_those_heads() -> None:
    """Two of a kind, one per head, answer as one for both."""
    prompt = text(30)
    for name in ("sink", "heavy hitters"):
        _, want = with_cache(family("Llama"), prompt, CACHES[name])
        _, got = with_cache(family("Llama"), prompt, lambda layer, make=CACHES[name]: [make(layer), make(layer)])
        assert got == want


def test_decoding_sees_what_the_cache_stores_and_nothing_else() -> None:
    """Against the model's own attention under a mask: all of the prompt; then two sinks and the last six tokens."""
    model, ids, prompt = family("Llama"), text(30), 20
    i, j = torch.arange(30)[:, None], torch.arange(30)
    seen = (j <= i) & ((i < prompt) | (j < 2) | (j > i - 6))
    want = model(ids, attention_mask=seen[None, None], use_cache=False).logits
    with SublinCache(model, CACHES["sink"]) as cache:
        parts = [ids[:, :prompt], ids[:, prompt : prompt + 1], ids[:, prompt + 1 :]]  # the last: several tokens at once
        got = torch.cat([model(part, **{CACHE: cache}).logits for part in parts], dim=1)
    assert float((got - want).abs().max()) < 1e-4 < float((want - model(ids).logits).abs().max())


def test_with_the_prompt_alone_compressed_later_tokens_are_kept() -> None:
    """Against the model's own attention under a mask: of the prompt two sinks and the last six tokens, all later."""
    model, ids, prompt = family("Llama"), text(30), 20
    i, j = torch.arange(30)[:, None], torch.arange(30)
    seen = (j <= i) & ((i < prompt) | (j < 2) | (j >= prompt - 6))
    want = model(ids, attention_mask=seen[None, None], use_cache=False).logits
    with SublinCache(model, CACHES["sink"], prompt_only=True) as cache:
        parts = [ids[:, :prompt], ids[:, prompt : prompt + 1], ids[:, prompt + 1 :]]
        got = torch.cat([model(part, **{CACHE: cache}).logits for part in parts], dim=1)
        assert cache.get_seq_length() == 30
    assert float((got - want).abs().max()) < 1e-4 < float((want - model(ids).logits).abs().max())
    make = lambda layer: [PolynomialState(16, 16, degree=2) for _ in range(2)]  # noqa: E731
    with pytest.raises(TypeError, match="^prompt_only takes key-value caches, .* got <sublinattn.*PolynomialState"):
        SublinCache(model, make, prompt_only=True)


def test_a_model_in_half_precision_decodes_after_its_prompt() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        model = family("Llama").to(dtype)
        with SublinCache(model, CACHES["sink"], prompt_only=True) as cache:
            assert len(generated(model, text(20), **{CACHE: cache})[0]) > 20


def test_one_cache_for_several_layers_or_heads_is_refused() -> None:
    one = SinkCache(10)
    for make in (lambda layer: one, lambda layer: [SinkCache(10)] * 2):
        with pytest.raises(ValueError, match="make must return caches of their own for each layer and head"):
            SublinCache(family("Llama"), make)


def test_other_layers_keep_the_models_own_cache() -> None:
    model = family("Gemma 3 (windows)")
    made: list[int] = []

    def make(layer: int) -> Any:
        made.append(layer)
        return ExactCache()

    cache, tokens = with_cache(model, text(30), make, [1, 3])
    assert made == [1, 3] and tokens == generated(model, text(30))
    assert [type(layer).__name__ for layer in cache.layers][::2] == ["DynamicSlidingWindowLayer"] * 2


def test_what_cannot_be_cached() -> None:
    model, other = family("Llama"), family("Llama")
    exact = lambda layer: ExactCache()  # noqa: E731
    with pytest.raises(TypeError, match=r"^make must return empty caches, such as SinkCache\(256\), got None$"):
        SublinCache(model, lambda layer: None)
    with pytest.raises(TypeError, match="^make must return empty caches, .* got <ExactCache"):
        SublinCache(model, lambda layer: ExactCache().update(np.ones((1, 2)), np.ones((1, 2))))
    cache = SublinCache(model, exact)
    with pytest.raises(ValueError, match="answers the layers of its own model, within its `with` block"):
        model(text(5), **{CACHE: cache})
    with SublinCache(model, exact) as cache:
        with pytest.raises(ValueError, match="^past_key_values of layer 0 .* got another cache or none$"):
            generated(model, text(5))
        with pytest.raises(ValueError, match="answers the layers of its own model"):
            generated(other, text(5), **{CACHE: cache})
    with SublinCache(model, exact) as cache, pytest.raises(ValueError, match="got a call of reorder_cache$"):
        generated(model, text(5), num_beams=2, **{CACHE: cache})
    with SublinCache(model, exact) as cache, pytest.raises(ValueError, match="^attention_mask of layer 0"):
        padded = torch.tensor([[0, 0, 1, 1, 1]])
        model.generate(text(5), attention_mask=padded, max_new_tokens=2, **{CACHE: cache})
    assert generated(model, text(5)) == generated(other, text(5))


def test_no_layer_is_handed_over_to_two() -> None:
    model = family("Llama")
    with attending(model, {LAYERS - 1: lambda call: call.own()}):
        with pytest.raises(ValueError, match=r"got \[3\], handed over already$"), SublinCache(model, CACHES["sink"]):
            pass
        assert float((model(text(9)).logits - family("Llama")(text(9)).logits).abs().max()) == 0
