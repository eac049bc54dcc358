"""A model of transformers in the place of our decoder gives the same answers, by the command line too."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_llama import DATA
from toy_transformers import LAYERS, SIZES, family
from typer.testing import CliRunner

from sublinattn import ExactCache, attention, cli, hyper_attention
from sublinattn.lab.models import open_model
from sublinattn.lab.workloads.instance import Captured
from sublinattn.lm.attend import CachedAttention, replacing
from sublinattn.lm.decoder import Decoder

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from sublinattn.interop.decoder import TransformersDecoder  # noqa: E402

TOKENS = np.random.default_rng(0).integers(0, 97, 40)


@pytest.fixture(scope="module")
def decoder() -> TransformersDecoder:
    return TransformersDecoder(family("Qwen3 (norms of q and k)"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Qwen3 that reads bytes."""
    family("Qwen3 (norms of q and k)", vocab_size=256).save_pretrained(tmp_path / "qwen3")
    return tmp_path / "qwen3"


def test_a_llama_is_the_same_by_both() -> None:
    """On the stored checkpoints of our own decoder's tests: logits and losses, in one piece and replaced."""
    ours, theirs = (kind.load(DATA / "grouped-query") for kind in (Decoder, TransformersDecoder))
    tokens = np.load(DATA / "grouped-query" / "want.npz")["tokens"]
    method = partial(hyper_attention, causal=True, block_size=4, sample_size=4, min_exact=0, rng=0)
    for options in ({}, {"attend": replacing({0: method})}):
        for call in ("logits", "losses"):
            got, want = (getattr(x, call)(tokens, **options) for x in (theirs, ours))
            assert got.shape == want.shape and got.dtype == want.dtype
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
    for name in ("vocabulary", "layers", "heads", "kv_heads", "head_dim", "context"):
        assert getattr(theirs.config, name) == getattr(ours.config, name)


def test_the_attention_that_is_passed_is_asked(decoder: TransformersDecoder) -> None:
    layers: list[int] = []

    def attend(layer: int, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        layers.append(layer)
        assert (q.shape, k.shape, v.shape) == ((1, 4, 40, 24), (1, 2, 40, 24), (1, 2, 40, 24))
        return replacing({})(layer, q, k, v)

    own = decoder.logits(TOKENS)
    np.testing.assert_allclose(decoder.logits(TOKENS, attend=attend), own, rtol=0, atol=1e-4)
    assert layers == list(range(LAYERS)) and own.shape == (40, 97)
    zero = decoder.logits(TOKENS, attend=lambda layer, q, k, v: np.zeros_like(q))
    assert abs(zero - own).max() > 0.1
    np.testing.assert_allclose(decoder.logits(TOKENS, last=2), own[-2:], atol=1e-5)
    assert decoder.logits(np.stack([TOKENS, TOKENS])).shape == (2, 40, 97)


def test_decoding_goes_on_where_it_was(decoder: TransformersDecoder) -> None:
    attend = CachedAttention([ExactCache() for _ in range(LAYERS)])
    parts = [decoder.logits(TOKENS[:30], attend=attend), decoder.logits(TOKENS[30:], attend=attend, start=30)]
    np.testing.assert_allclose(np.concatenate(parts), decoder.logits(TOKENS), rtol=0, atol=1e-4)


def test_losses_are_those_of_the_logits(decoder: TransformersDecoder) -> None:
    logits = decoder.logits(TOKENS).astype(float)
    want = np.log(np.exp(logits).sum(-1))[:-1] - logits[np.arange(39), TOKENS[1:]]
    np.testing.assert_allclose(decoder.losses(TOKENS), want, atol=1e-4)
    assert decoder.losses(np.stack([TOKENS, TOKENS])).shape == (2, 39)


def test_a_pass_resumes_where_another_was(decoder: TransformersDecoder) -> None:
    def zero(layer: int, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.zeros_like(q)

    def swapped(layer: int, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        return zero(layer, q, k, v) if layer < 2 else replacing({})(layer, q, k, v)

    before = {state.layer: state for state in decoder.states(TOKENS, attend=zero)}
    assert list(before) == list(range(LAYERS + 1))
    want = decoder.losses(TOKENS, attend=swapped)
    np.testing.assert_allclose(decoder.losses(TOKENS, resume=before[2]), want, atol=1e-5)
    all_zero = decoder.losses(TOKENS, attend=zero)
    np.testing.assert_array_equal(decoder.losses(TOKENS, attend=zero, resume=before[1]), all_zero)
    again = {state.layer: state for state in decoder.states(TOKENS, resume=before[2])}
    assert list(again) == [2, 3, 4]
    np.testing.assert_allclose(decoder.losses(TOKENS, resume=again[3]), want, atol=1e-5)
    assert abs(decoder.losses(TOKENS) - want).max() > 0.1


def test_what_it_refuses(decoder: TransformersDecoder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^tokens must end within the context of 128, got 130$"):
        decoder.logits(TOKENS, start=90)
    with pytest.raises(ValueError, match="^context must be at most 128, the model's own, got 129$"):
        decoder.stretched(129)
    assert decoder.stretched(128) is decoder
    with pytest.raises(ValueError, match=r"^tokens must be in 0..96, got 97 to 97$"):
        decoder.logits(np.array([97]))
    with pytest.raises(ValueError, match="^tokens must be two or more for a loss, got 1$"):
        decoder.losses(TOKENS[:1])
    gemma = TransformersDecoder(family("Gemma 2 (soft cap)"))
    assert gemma.logits(TOKENS).shape == (40, 97)  # by its own attention
    with pytest.raises(ValueError, match="^softcap of layer 0"):
        gemma.logits(TOKENS, attend=replacing({0: partial(attention, causal=True)}))
    model = family("Llama")
    model.model.layers[1].self_attn = family("Llama", num_key_value_heads=4).model.layers[1].self_attn
    with pytest.raises(ValueError, match=r"^q, k, v of layer 1 .* got \(\(4, 16\), \(4, 16\), \(4, 16\)\)$"):
        TransformersDecoder(model).logits(TOKENS, attend=lambda layer, q, k, v: q)
    family("Qwen2").save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"num_hidden_layers": LAYERS + 1, "layer_types": None}))
    with pytest.raises(ValueError, match=r"lacks the tensors \['model.layers.4.*of Qwen2ForCausalLM$"):
        TransformersDecoder.load(tmp_path)


def test_the_command_line_takes_its_folder(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "qkv.safetensors"
    arguments = ["capture", "--model", str(folder), "-n", "50", "--out", str(out), "--backend", "numpy"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    file: Any = Captured.open(out)
    assert (file.layers, file.heads, file.kv_heads, file.tokens) == (LAYERS, SIZES["num_attention_heads"], 2, 50)
    opened = open_model(str(folder))
    q, k, v = opened.qkv(opened.beginning(50))
    head = file.head(LAYERS - 1, 3)
    for got, want in ((head.q, q[-1, 3]), (head.k, k[-1, 1]), (head.v, v[-1, 1])):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
