"""Answers of a decoder whose keys and values are in caches, against plain greedy decoding."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import fake_device
import numpy as np
import pandas as pd
import pytest
import toy_llama

from sublinattn.lab.comparison.answers import answers, exact_answers
from sublinattn.lab.comparison.decoder_caches import caches_within, first_tokens
from sublinattn.lab.comparison.documents import lines_bytes
from sublinattn.lab.models import Model
from sublinattn.lab.run import generator
from sublinattn.lm.attend import CachedAttention
from sublinattn.lm.retrieval import DIGITS, Document, documents
from sublinattn.lm.tokens import as_bytes
from sublinattn.methods.caches.exact import ExactCache
from sublinattn.methods.caches.sink import SinkCache

LAYERS = toy_llama.FIELDS["num_hidden_layers"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return toy_llama.of_bytes(tmp_path_factory.mktemp("model"))


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
    made = documents(generator(0, "prompts"), 300, count)
    return [(x.text[: x.asked], x.text[x.asked : x.answers[0]]) for x in made]


def answered(model: Model, asked: list[Any], make: Any = None) -> list[bool]:
    rows = answers(model, asked, lambda: {0: make()}) if make else exact_answers(model, asked)
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
    made = documents(np.random.default_rng(5), 300, 4)
    found = answers(model, made, lambda: {"exact": exact()})
    for x, bits in zip(made, found["bits"], strict=True):
        nats = model.decoder.losses(as_bytes(x.text[: x.answers[0] + DIGITS]))[-DIGITS:]
        assert bits == pytest.approx(nats.mean() / np.log(2), rel=1e-4)


def test_caches_in_one_run_are_as_each_alone(model: Model) -> None:
    made = documents(np.random.default_rng(6), 300, 3)
    kinds: dict[str, Any] = {"sinks": sinks, "exact": exact}
    together = answers(model, made, lambda: {name: make() for name, make in kinds.items()})
    assert together["document"].tolist() == [0, 0, 1, 1, 2, 2]
    for name, make in kinds.items():
        alone = answers(model, made, lambda make=make, name=name: {name: make()})
        part = together[together["caches"] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(part, alone)
    assert together.groupby("caches")["bits"].mean().nunique() == 2


def test_the_bytes_of_the_lines_are_those_of_their_keys_and_values(model: Model) -> None:
    (made,) = documents(np.random.default_rng(8), 300, 1)
    k, v = model.qkv(as_bytes(made.text[: made.asked]))[1:]
    assert lines_bytes(model, made) == k[0, 0].nbytes + v[0, 0].nbytes


def test_a_device_answers_the_same_under_every_cache(model: Model, tmp_path: Path) -> None:
    made, found = documents(np.random.default_rng(6), 200, 2), []
    for each in (model, toy_llama.of_bytes(tmp_path, xp=fake_device)):
        first, budget = first_tokens(each, made[0]), lines_bytes(each, made[0]) // 2
        make = partial(caches_within, first, budget, np.random.default_rng(0))
        found.append((exact_answers(each, made), answers(each, made, make)))
    for host, device in zip(*found, strict=True):
        pd.testing.assert_frame_equal(host, device, rtol=1e-3)
