"""Texts and their tokens: a model's own tokenizer or bytes, the held-out modules, documents with lines to retrieve."""

from __future__ import annotations

import heapq
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sublinattn.lm import corpus, retrieval
from sublinattn.lm.tokens import as_bytes, checked, load_encoder

TEXT = "Grüße, 世界: the cat sat on the mat, the cat sat.\n"


# --------------------------------------------------------------------------------------------------------------- tokens
def a_tokenizer() -> Any:
    """Byte-level BPE of this text, with a beginning-of-text token that it puts there itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def test_bytes_are_the_tokens_of_a_model_of_bytes(tmp_path: Path) -> None:
    encode = load_encoder(tmp_path, 256)
    found = encode(TEXT.encode())
    assert encode is as_bytes and found.dtype == np.int64
    assert bytes(found.tolist()) == TEXT.encode()
    assert as_bytes(bytes(range(256))).tolist() == list(range(256))
    assert as_bytes(b"").shape == (0,)


def test_the_checkpoints_own_tokenizer(tmp_path: Path) -> None:
    tokenizer = a_tokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encode = load_encoder(tmp_path, tokenizer.get_vocab_size())
    found = encode(TEXT.encode())
    assert found.dtype == np.int64 and found.ndim == 1
    assert found[0] == tokenizer.token_to_id("<s>") and (found[1:] > 1).all()
    assert tokenizer.decode(found.tolist()) == TEXT
    assert len(found) < len(TEXT.encode())
    assert encode(b"").tolist() == [0]
    assert encode(b"a</s>b")[2] == 1  # a special token's name in the text is that token, as the tokenizer has it


def test_no_text_is_cut_or_padded(tmp_path: Path) -> None:
    tokenizer = a_tokenizer()
    want = tokenizer.encode(TEXT).ids
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=100, pad_id=1)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_encoder(tmp_path, 300)(TEXT.encode()).tolist() == want


def test_tokenizers_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="has no tokenizer.json; .* must be the 256 bytes, got 300$"):
        load_encoder(tmp_path, 300)
    path = tmp_path / "tokenizer.json"
    for junk in ("", "{}", '{"model": {"type": "none"}}'):
        path.write_text(junk)
        with pytest.raises(ValueError, match=f"^{path} is not a tokenizer: "):
            load_encoder(tmp_path, 256)
    a_tokenizer().save(str(path))
    with pytest.raises(ValueError, match=f"^text must be UTF-8, which {path} takes: .*0xff"):
        load_encoder(tmp_path, 300)(b"a\xffb")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=rf"^{path} needs the package tokenizers: pip install 'sublinattn\[lm\]'$"):
        load_encoder(tmp_path, 300)


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        ([0, 1, 5], ValueError, r"tokens must be in 0\.\.4, got 0 to 5"),
        ([[3, -1]], ValueError, r"tokens must be in 0\.\.4, got -1 to 3"),
        ([0.0, 1.0], TypeError, "tokens must be integers, got float64"),
        ([True, False], TypeError, "tokens must be integers, got bool"),
        (["a"], TypeError, "tokens must be integers, got <U1"),
        ([], ValueError, r"tokens must have shape \(n,\) or \(b, n\) and not be empty, got \(1, 0\)"),
        (np.zeros((2, 0), int), ValueError, r"tokens must have .* not be empty, got \(2, 0\)"),
        (np.zeros((1, 2, 3), int), ValueError, r"tokens must have shape \(n,\) or \(b, n\) .*, got \(1, 2, 3\)"),
    ],
)
def test_tokens_that_are_none(tokens: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}$"):
        checked(tokens, 5)


def test_tokens_that_are_some() -> None:
    assert checked(np.array([0, 4], np.uint8), 5).tolist() == checked([[0, 4]], 5).tolist() == [[0, 4]]


# --------------------------------------------------------------------------------------------------------------- corpus
def test_held_out_modules_are_not_trained_on() -> None:
    modules, training, held_out = corpus.modules(), corpus.training(), corpus.held_out()
    assert modules["heapq.py"] == Path(heapq.__file__).read_bytes()
    assert list(modules) == sorted(modules, key=lambda name: Path(name).parts)
    assert not any(part in corpus.LEFT_OUT for name in modules for part in Path(name).parts)
    assert len(held_out) > 10 and len(training) > 5_000_000
    assert not set(corpus.HELD_OUT) - set(held_out)
    for text in held_out.values():
        assert text not in training
        middle = len(text) // 2  # pieces of it neither: 300 bytes are six lines
        assert text[middle : middle + 300] not in training
    assert sum(len(text) >= 32 * 1024 for text in held_out.values()) >= 8  # the lengths the experiments ask for


def test_prose_is_long_and_mostly_words() -> None:
    ((_, text),) = corpus.prose().items()
    words = re.findall(rb"\b(?:the|of|is|a|to|and|in)\b", text)
    assert len(text) > 2**18 and len(words) > 0.15 * len(re.findall(rb"\b[A-Za-z]+\b", text))


# ------------------------------------------------------------------------------------------------------------ retrieval
@pytest.mark.parametrize(("lines", "questions"), [(1, 1), (20, 1), (20, 20), (300, 7), (5550, 5550)])
def test_a_document_is_lines_then_questions_with_their_answers(lines: int, questions: int) -> None:
    made = retrieval.document(lines, questions, np.random.default_rng(0))
    told = re.findall(rb"line ([a-z]+-[a-z]+): REGISTER_CONTENT is <([1-9]\d{4})>\n", made.text[: made.asked])
    asked = re.findall(rb"line ([a-z]+-[a-z]+)\? <(\d{5})>\n", made.text[made.asked :])
    assert (len(told), len(asked), len(made.answers)) == (lines, questions, questions)
    assert made.text[: made.asked] == b"".join(b"line %s: REGISTER_CONTENT is <%s>\n" % pair for pair in told)
    assert made.text[made.asked :] == b"".join(b"line %s? <%s>\n" % pair for pair in asked)
    contents = dict(told)
    assert len(contents) == lines and len(dict(asked)) == questions  # distinct names, different lines
    for (name, content), place in zip(asked, made.answers, strict=True):
        assert contents[name] == content
        assert made.text[place : place + retrieval.DIGITS + 1] == content + b">"
        assert made.text[place - 1 : place] == b"<" and place > made.asked


def test_lines_are_asked_for_wherever_they_stand() -> None:
    """100 documents of 10 lines, one question each: every place is asked for (a false alarm in 1 of 3700 seeds)."""
    rng, places = np.random.default_rng(3), set()
    for _ in range(100):
        made = retrieval.document(10, 1, rng)
        name = made.text[made.asked :].split(b"?")[0]
        places.add(made.text[: made.asked].split(b"\n").index(next(x for x in made.text.split(b"\n") if name in x)))
    assert places == set(range(10))


def test_mean_bytes() -> None:
    """Over all names, a document's bytes are exactly their means."""
    most = len(retrieval.ADJECTIVES) * len(retrieval.NOUNS)
    made = retrieval.document(most, most, np.random.default_rng(5))
    assert made.asked == pytest.approx(most * retrieval.line_bytes())
    assert len(made.text) - made.asked == pytest.approx(most * retrieval.question_bytes())
    assert all(begin < end for begin, end in pairwise(made.answers))


@pytest.mark.parametrize(("lines", "questions"), [(0, 0), (5, 0), (5, 6), (5551, 1), (5, -1)])
def test_impossible_documents(lines: int, questions: int) -> None:
    message = f"^questions and lines must satisfy 1 <= questions <= lines <= 5550, got {questions} and {lines}$"
    with pytest.raises(ValueError, match=message):
        retrieval.document(lines, questions, np.random.default_rng(0))


@pytest.mark.parametrize("nbytes", [150, 512, 2048])
def test_documents_are_cut_alike_and_fit(nbytes: int) -> None:
    made = retrieval.documents(np.random.default_rng(1), nbytes, 20)
    ends = {(x.asked, x.answers) for x in made}
    assert len(ends) == 1 and len({x.text for x in made}) == 20
    end = made[0].answers[0] + retrieval.DIGITS
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
