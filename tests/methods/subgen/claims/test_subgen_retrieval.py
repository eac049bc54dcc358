"""Line retrieval under caches: documents that are cut alike, answers against plain greedy decoding, budgets."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import fake_device
import numpy as np
import pandas as pd
import pytest
import toy_llama

from sublinattn.lab.comparison.registry import REGISTRY
from sublinattn.lab.models import Model
from sublinattn.lab.run import generator
from sublinattn.lm.attend import CachedAttention
from sublinattn.lm.retrieval import DIGITS, Document
from sublinattn.lm.tokens import as_bytes
from sublinattn.methods.caches.exact import ExactCache
from sublinattn.methods.caches.k_center import KCenterCache
from sublinattn.methods.caches.sink import SinkCache
from sublinattn.methods.subgen.claims import retrieval

LAYERS = toy_llama.FIELDS["num_hidden_layers"]
SIZES = {"vocab_size": 256, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    decoder = toy_llama.decoder(tmp_path_factory.mktemp("model"), max_position_embeddings=1024, **SIZES)
    return Model("toy", decoder, as_bytes, (), "none")


def exact() -> list[ExactCache]:
    return [ExactCache() for _ in range(LAYERS)]


def sinks() -> list[SinkCache]:
    return [SinkCache(20, 2) for _ in range(LAYERS)]


def greedy(model: Model, lines: bytes, question: bytes, caches: list[Any]) -> bytes:
    """What the model says, byte by byte, each fed back: the caches see one token at a time."""
    attend, said = CachedAttention(caches), list(question)
    model.decoder.logits(as_bytes(lines), attend=attend)
    for i in range(len(question) + DIGITS - 1):
        at = len(lines) + i
        logits = model.decoder.logits(np.array(said[i : i + 1]), attend=attend, start=at)
        if i + 1 >= len(question):
            said.append(int(logits[0].argmax()))
    return bytes(said[len(question) :])


def with_answer(lines: bytes, question: bytes, answer: bytes) -> Document:
    return Document(lines + question + answer + b">\n", len(lines), (len(lines) + len(question),))


def prompts(count: int) -> list[tuple[bytes, bytes]]:
    made = retrieval.documents(generator(0, "prompts"), 300, count)
    return [(x.text[: x.asked], x.text[x.asked : x.answers[0]]) for x in made]


# ------------------------------------------------------------------------------------------------------- the documents
@pytest.mark.parametrize("nbytes", [150, 512, 2048])
def test_documents_are_cut_alike_and_fit(nbytes: int) -> None:
    made = retrieval.documents(np.random.default_rng(1), nbytes, 20)
    ends = {(x.asked, x.answers) for x in made}
    assert len(ends) == 1 and len({x.text for x in made}) == 20
    end = made[0].answers[0] + DIGITS
    assert nbytes - 60 < end <= nbytes + 4  # a line has about 46 bytes, and lengths are rounded
    for x in made:
        question = x.text[x.asked : x.answers[0]]
        line = question.replace(b"? <", b": REGISTER_CONTENT is <") + x.text[x.answers[0] : end] + b">\n"
        assert line in x.text[: x.asked]


def test_a_document_is_the_work_of_its_own_generator() -> None:
    rng = np.random.default_rng(2)
    more, few = retrieval.documents(np.random.default_rng(2), 300, 6), retrieval.documents(rng, 300, 3)
    assert few == more[:3]
    assert rng.random() == np.random.default_rng(2).random()  # no draws of the caller's stream


def test_documents_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match="nbytes must be at least"):
        retrieval.documents(np.random.default_rng(0), 100, 1)


def test_pieces_of_a_tokenizer_that_frames_and_merges(model: Model) -> None:
    """A first and a last token of its own, and ``<`` with the digit after it in one token."""

    def encode(text: bytes) -> np.ndarray:
        out, at = [1000], 0
        while at < len(text):
            merged = text[at : at + 1] == b"<" and text[at + 1 : at + 2].isdigit()
            out.append(2000 + text[at + 1] if merged else text[at])
            at += 1 + merged
        return np.array([*out, 1001])

    (what,) = retrieval.documents(np.random.default_rng(3), 300, 1)
    foreign = Model("foreign", model.decoder, encode, (), "none")
    lines, question, answer = retrieval.pieces(foreign, what)
    whole = encode(what.text[: what.answers[0] + DIGITS])
    assert np.array_equal(np.concatenate([lines, question, answer]), whole)
    assert lines[0] == 1000 and 1001 not in lines and 1001 not in question
    assert bytes(question.tolist()) + b"<" == what.text[what.asked : what.answers[0]]


# --------------------------------------------------------------------------------------------------------- the answers
def answered(model: Model, asked: list[Any], make: Any = None) -> list[bool]:
    rows = retrieval.answers(model, asked, lambda: {0: make()}) if make else retrieval.exact_answers(model, asked)
    return rows["right"].tolist()


@pytest.mark.parametrize("make", [None, sinks])
def test_right_is_what_greedy_decoding_says(model: Model, make: Any) -> None:
    own = make or exact
    said = [(*prompt, greedy(model, *prompt, own())) for prompt in prompts(3)]
    right = [with_answer(*x) for x in said]
    wrong = [
        with_answer(lines, question, answer[:i] + bytes([answer[i] ^ 1]) + answer[i + 1 :])
        for i in range(DIGITS)
        for lines, question, answer in said
    ]
    assert answered(model, right + wrong, make) == [True] * len(right) + [False] * len(wrong)


def test_order_of_documents_of_several_lengths(model: Model) -> None:
    own = [with_answer(lines[46 * (i % 2) :], question, b"00000") for i, (lines, question) in enumerate(prompts(6))]
    truly = {2: greedy(model, own[2].text[: own[2].asked], prompts(6)[2][1], exact())}
    own[2] = with_answer(own[2].text[: own[2].asked], prompts(6)[2][1], truly[2])
    assert answered(model, own) == [i == 2 for i in range(6)]


def test_bits_are_the_decoders_losses(model: Model) -> None:
    made = retrieval.documents(np.random.default_rng(5), 300, 4)
    found = retrieval.answers(model, made, lambda: {"exact": exact()})
    for x, bits in zip(made, found["bits"], strict=True):
        nats = model.decoder.losses(as_bytes(x.text[: x.answers[0] + DIGITS]))[-DIGITS:]
        assert bits == pytest.approx(nats.mean() / np.log(2), rel=1e-4)


def test_caches_in_one_run_are_as_each_alone(model: Model) -> None:
    made = retrieval.documents(np.random.default_rng(6), 300, 3)
    kinds: dict[str, Any] = {"sinks": sinks, "exact": exact}
    together = retrieval.answers(model, made, lambda: {name: make() for name, make in kinds.items()})
    assert together["document"].tolist() == [0, 0, 1, 1, 2, 2]
    for name, make in kinds.items():
        alone = retrieval.answers(model, made, lambda make=make, name=name: {name: make()})
        part = together[together["caches"] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(part, alone)
    assert together.groupby("caches")["bits"].mean().nunique() == 2


def test_a_device_answers_the_same_under_every_cache(model: Model, tmp_path: Path) -> None:
    decoder = toy_llama.decoder(tmp_path, xp=fake_device, max_position_embeddings=1024, **SIZES)
    made, found = retrieval.documents(np.random.default_rng(6), 200, 2), []
    for each in (model, replace(model, decoder=decoder)):
        first, budget = retrieval.first_tokens(each, made[0]), retrieval.lines_bytes(each, made[0]) // 2
        make = partial(retrieval.caches_within, first, budget, np.random.default_rng(0))
        found.append((retrieval.exact_answers(each, made), retrieval.answers(each, made, make)))
    for host, device in zip(*found, strict=True):
        pd.testing.assert_frame_equal(host, device, rtol=1e-3)


# ---------------------------------------------------------------------------------------------------------- the caches
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_no_cache_holds_more_than_its_share(model: Model, share: float) -> None:
    made = retrieval.documents(np.random.default_rng(7), 600, 2)
    row = 2 * SIZES["head_dim"] * 4
    budget, kept, first = int(share * made[0].asked * row), [], retrieval.first_tokens(model, made[0])

    def make() -> dict[str, Any]:
        kept.append(retrieval.caches_within(first, budget, np.random.default_rng(0)))
        return kept[-1]

    rows = retrieval.answers(model, made, make).groupby("caches")["nbytes"].max()
    named = {name for name, contender in REGISTRY.items() if not contender.hindsight}
    assert set(rows.index) == named | {"exact", "zero"}
    after = {name: max(cache.nbytes for cache in caches) / len(made) for name, caches in kept[0].items()}
    for name in named:
        assert rows[name] <= LAYERS * budget and after[name] <= budget, name
        assert rows[name] > 0.4 * LAYERS * budget, name
    assert rows["zero"] == 0 and rows["exact"] >= LAYERS * made[0].asked * row


def test_clustered_once_keeps_the_prompts_centres_and_the_last_tokens() -> None:
    rng = np.random.default_rng(8)
    k, v = rng.standard_normal((2, 3, 40, 8)).astype(np.float32)
    plain, once = KCenterCache(12, 5).update(k[:, :30], v[:, :30]), retrieval.ClusteredOnce(12, 5)
    once.update(k[:, :30], v[:, :30])
    centres = plain.contents()["keys"][:, :7].copy()
    for i in range(30, 40):
        once.update(k[:, i : i + 1], v[:, i : i + 1])
    assert np.array_equal(once.contents()["keys"][:, :7], centres)
    assert np.array_equal(once.contents()["keys"][:, 7:], k[:, 35:])
    assert np.array_equal(once.contents()["values"][:, 7:], v[:, 35:])
