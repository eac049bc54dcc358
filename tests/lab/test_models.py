"""The model that an experiment opens: the one that ships, or a user's folder, with texts and passages of them."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from toy_llama import FIELDS, checkpoint, recorded, some_tokens

from sublinattn.core import backends
from sublinattn.lab import models
from sublinattn.lab.models import Model, open_model
from sublinattn.lm import corpus

LAYERS, CONTEXT = FIELDS["num_hidden_layers"], FIELDS["max_position_embeddings"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of bytes."""
    checkpoint(tmp_path / "model", vocab_size=256)
    return tmp_path / "model"


@pytest.fixture
def model(folder: Path) -> Model:
    return open_model(str(folder))


def with_texts(model: Model, *texts: list[int]) -> Model:
    return replace(model, texts=tuple(np.array(text) for text in texts))


def contents(model: Model) -> list[bytes]:
    return [bytes(text.astype(np.uint8)) for text in model.texts]


def test_a_folder_with_code_and_prose(model: Model, folder: Path) -> None:
    assert model.name == str(folder) and model.decoder.config.vocabulary == 256
    assert model.source == "held-out modules of Python's standard library and the help topics of Python"
    code, prose = list(corpus.held_out().values()), list(corpus.prose().values())
    assert contents(model) == [*code, *prose]
    assert contents(model.only("code")) == contents(open_model(str(folder), "code")) == code
    assert contents(model.only("prose")) == contents(open_model(str(folder), "prose")) == prose
    assert model.only("prose").only("code").texts == ()
    assert open_model(str(folder)) is model  # opened once


def test_a_text_of_the_users(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("Größe".encode())
    model = open_model(str(folder), str(path))
    assert model.source == str(path) and len(model.texts) == 1 and model.kinds == ("text",)
    assert bytes(model.texts[0].astype(np.uint8)).decode() == "Größe"


def test_the_model_that_ships(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    assert models.TINY.relative_to(Path(models.__file__).parents[1]).as_posix() == "data/tiny_lm"
    monkeypatch.setattr(models, "TINY", folder)
    open_model.cache_clear()
    try:
        opened = open_model()
        assert opened.name == "tiny" and opened.decoder.config.vocabulary == 256
        assert set(opened.kinds) == {"code"}  # it has seen no prose
    finally:
        open_model.cache_clear()


def test_what_cannot_be_opened(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent is no folder"):
        open_model(str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="no_text"):
        open_model(str(folder), str(tmp_path / "no_text"))
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(ValueError, match=f"^text must not be empty, got {tmp_path / 'empty'}$"):
        open_model(str(folder), str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="^backend must be 'auto', 'numpy' or 'cupy', got 'torch'$"):
        open_model(str(folder), backend="torch")
    checkpoint(tmp_path / "other")  # 40 tokens, no tokenizer
    with pytest.raises(FileNotFoundError, match="has no tokenizer.json"):
        open_model(str(tmp_path / "other"))


def test_another_family_needs_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "sublinattn.interop.decoder", raising=False)
    monkeypatch.delitem(sys.modules, "sublinattn.interop.attending", raising=False)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    extra = r"or run it by transformers: this needs PyTorch and transformers: pip install 'sublinattn\[hf\]'$"
    with pytest.raises(ValueError, match=rf"config.json: model_type must be 'llama', got 'qwen3'; {extra}"):
        open_model(str(tmp_path))


# ------------------------------------------------------------------------------------------------------------ passages
def test_every_passage_is_as_likely_as_any_other(model: Model) -> None:
    """Of three texts, one of them too short: 4 + 2 places. False alarm: 1 in 1000."""
    small = with_texts(model, [0, 1, 2, 3, 4, 5], [10, 11], [20, 21, 22, 23])
    rng, counts = np.random.default_rng(0), Counter[tuple[int, ...]]()
    for _ in range(3000):
        counts[tuple(small.passage(rng, 3).tolist())] += 1
    want = {(i, i + 1, i + 2) for i in (0, 1, 2, 3, 20, 21)}
    assert set(counts) == want
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_the_longest_passage_is_a_whole_text(model: Model) -> None:
    small, rng = with_texts(model, [0, 1, 2], [7]), np.random.default_rng(1)
    assert small.passage(rng, 3).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"^n must be at most 3, the tokens of the longest text \(held-out .*, got 4$"):
        small.passage(rng, 4)
    with pytest.raises(ValueError, match="^n must be at least 1, got 0$"):
        small.passage(rng, 0)
    with pytest.raises(TypeError, match="^n must be an integer, got float$"):
        small.passage(rng, 2.0)  # type: ignore[arg-type]


def test_the_beginning_of_the_first_text_that_is_long_enough(model: Model) -> None:
    small = with_texts(model, [0, 1], [10, 11, 12, 13], [20, 21, 22, 23])
    assert [small.beginning(n).tolist() for n in (1, 2, 3)] == [[0], [0, 1], [10, 11, 12]]
    assert small.beginning().tolist() == [10, 11, 12, 13]  # as long as there is, below the trained context
    with pytest.raises(ValueError, match=r"^n must be at most 4, the tokens of the longest text \(held-out .*, got 5$"):
        small.beginning(5)


# --------------------------------------------------------------------------------------------- queries, keys and values
def test_what_the_layers_attend_with(model: Model) -> None:
    tokens = some_tokens(4, 30)
    found = model.qkv(tokens)
    assert [x.shape for x in found] == [(LAYERS, 4, 30, 6), (LAYERS, 2, 30, 6), (LAYERS, 2, 30, 6)]
    for x, layers in zip(found, zip(*recorded(model.decoder, tokens), strict=True), strict=True):
        np.testing.assert_array_equal(x, np.concatenate(layers))


def test_a_text_past_the_context_is_one_of_the_stretched_decoder(model: Model) -> None:
    tokens = some_tokens(5, CONTEXT + 50)
    plain, stretched = (replace(model, decoder=model.decoder.stretched(n)) for n in (CONTEXT, CONTEXT + 50))
    for x, y in zip(plain.qkv(tokens), stretched.qkv(tokens), strict=True):
        np.testing.assert_array_equal(x, y)
    longer, short = model.qkv(tokens)[0][0], model.qkv(tokens[:CONTEXT])[0][0]
    assert abs(longer[:, :CONTEXT] - short).max() > 0.1


def test_on_the_device_of_the_weights(xp, folder: Path, model: Model) -> None:
    there = replace(model, decoder=model.decoder.load(folder, xp=xp))
    for x, y in zip(there.qkv(some_tokens(6, 20)), model.qkv(some_tokens(6, 20)), strict=True):
        np.testing.assert_allclose(backends.asnumpy(x), y, rtol=2e-5, atol=2e-5)


def test_layers_one_after_the_other(model: Model) -> None:
    tokens, seen = some_tokens(7, 20), []
    model.each_layer(tokens, lambda layer, *qkv: seen.append((layer, *qkv)))
    assert [layer for layer, *_ in seen] == list(range(LAYERS))
    for x, layers in zip(model.qkv(tokens), zip(*(qkv for _, *qkv in seen), strict=True), strict=True):
        np.testing.assert_array_equal(x, np.stack(layers))


# ----------------------------------------------------------------------------------------------------- what it may cost
def test_operations_are_those_of_the_weights_and_of_the_entries(model: Model) -> None:
    weights = sum(np.prod(shape) for shape in model.decoder.config.shapes().values())
    assert model.operations(10, 0) == 10 * weights
    assert model.operations(10, 2) - model.operations(10, 0) == 2 * LAYERS * 4 * 6 * 10**2


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(1e9, (2048, 10)), (9000, (2048, 8)), (4100, (2048, 4)), (4000, (1024, 4)), (1000, (256, 4)), (1, (256, 4))],
)
def test_fewer_passages_go_before_shorter_ones(monkeypatch, model: Model, budget, expected) -> None:
    """A passage of 2048 tokens costs 1024 here."""
    monkeypatch.setattr(Model, "operations", lambda self, n, passes: n / 2)
    monkeypatch.setattr(model.decoder, "trained", 3000)
    assert model.affordable(5000, 10, 1.0, budget) == expected
