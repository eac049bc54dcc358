"""The documents that a model is asked about: where a tokenizer cuts them, and how long they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sublinattn.lab.comparison.documents import PLAIN, of_length, of_tokens, pieces
from sublinattn.lab.models import Model
from sublinattn.lab.run import Run
from sublinattn.lm.retrieval import DIGITS, TASKS, documents
from sublinattn.lm.tokens import Encode, as_bytes

NOTHING: Any = None


def model(encode: Encode, **more: Any) -> Model:
    return Model("toy", NOTHING, encode, (), "none", **more)


def test_pieces_of_a_tokenizer_that_frames_and_merges() -> None:
    """A first and a last token of its own, and ``<`` with the digit after it in one token."""

    def encode(text: bytes) -> np.ndarray:
        out, at = [1000], 0
        while at < len(text):
            merged = text[at : at + 1] == b"<" and text[at + 1 : at + 2].isdigit()
            out.append(2000 + text[at + 1] if merged else text[at])
            at += 1 + merged
        return np.array([*out, 1001])

    (what,) = documents(np.random.default_rng(3), 300, 1)
    lines, question, answer = pieces(model(encode), what)
    whole = encode(what.text[: what.answers[0] + DIGITS])
    assert np.array_equal(np.concatenate([lines, question, answer]), whole)
    assert lines[0] == 1000 and 1001 not in lines and 1001 not in question
    assert bytes(question.tolist()) + b"<" == what.text[what.asked : what.answers[0]]


@pytest.mark.parametrize("task", TASKS)
def test_a_document_has_the_tokens_that_are_asked_for(task: str) -> None:
    asked = model(as_bytes, chat=lambda said: "".join(f"> {each}\n" for each in said) + "< ")
    for made in of_tokens(asked, task, 1500, 2, np.random.default_rng(0)):
        assert 1400 < len(made.text) < 1550  # names differ in length


def test_what_every_document_has_does_not_count_as_lines() -> None:
    """Of a model whose tokens are 4 bytes, and that begins with 300 tokens whatever it is told."""

    def encode(text: bytes) -> np.ndarray:
        return np.concatenate([np.zeros(300, int), as_bytes(text)[::4]])

    asked = model(encode, chat=lambda said: "".join(f"> {each}\n" for each in said) + "< ")
    for made in of_tokens(asked, "passkey", 600, 2, np.random.default_rng(0)):
        assert 570 < sum(map(len, pieces(asked, made))) < 630


def test_plain_lines_have_the_tokens_of_the_model() -> None:
    def encode(text: bytes) -> np.ndarray:
        return as_bytes(text)[::2]

    for made in of_tokens(model(encode), PLAIN, 400, 2, np.random.default_rng(0)):
        assert 370 < len(encode(made.text)) <= 403  # with what follows the answer


def test_documents_are_as_many_as_asked_for_or_a_part_of_those_that_are_affordable(monkeypatch: Any) -> None:
    """At smoke effort a point has 8e10 operations: here 24 documents."""
    monkeypatch.setattr(Model, "operations", lambda self, n, passes: 8e10 / 24)
    for most, part, count in ((20, 1, 20), (30, 1, 24), (20, 3, 8), (6, 3, 6), (20, 24, 2)):
        assert len(of_length(Run(), model(as_bytes), PLAIN, 300, most, part=part)) == count
