"""Chat formats of checkpoints, and what a model that chats is told and asked."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import toy_gguf

from sublinattn.lm import chat, fetch, retrieval
from sublinattn.lm.tokens import as_bytes, load_encoder

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TALK = ("Hi", "Hello", "Bye")
SAID = (
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def framed(said: tuple[str, ...] | list[str]) -> str:
    """A chat format of bytes."""
    return "".join(f"{'AB'[i % 2]}: {each}\n" for i, each in enumerate(said)) + "B: "


# -------------------------------------------------------------------------------------------------------- the templates
def test_the_template_of_a_gguf_file(tmp_path: Path) -> None:
    tokens = {"tokenizer.ggml.tokens": ["<s>", "</s>"], "tokenizer.ggml.bos_token_id": 0}
    template = {"tokenizer.chat_template": "{{ bos_token }}" + CHATML}
    toy_gguf.write(tmp_path / "a.gguf", keys={**toy_gguf.KEYS, **tokens, **template})
    toy_gguf.write(tmp_path / "none.gguf", keys={**toy_gguf.KEYS, **tokens})
    found = chat.load_chat(tmp_path / "a.gguf", as_bytes)
    assert found and found(TALK) == "<s>" + SAID
    framing = chat.load_chat(tmp_path / "a.gguf", lambda text: np.array([0, *text]))
    assert framing and framing(TALK) == SAID  # the encoder has put it there
    assert chat.load_chat(tmp_path / "none.gguf", as_bytes) is None


@pytest.mark.parametrize(
    "template", [CHATML, [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHATML}]]
)
def test_the_template_of_a_folder(tmp_path: Path, template: object) -> None:
    assert chat.load_chat(tmp_path, as_bytes) is None
    settings = {"chat_template": template, "bos_token": {"content": "<s>"}, "eos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = chat.load_chat(tmp_path, as_bytes)
    assert found and found(TALK) == SAID
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}!")
    found = chat.load_chat(tmp_path, as_bytes)
    assert found and found(TALK) == "<s>Hi!"


@pytest.mark.parametrize("template", ["{{ raise_exception('only systems') }}", "{% for %}", "{{ messages + 1 }}"])
def test_templates_that_cannot_be_used(tmp_path: Path, template: str) -> None:
    (tmp_path / "chat_template.jinja").write_text(template)
    found = chat.load_chat(tmp_path, as_bytes)
    with pytest.raises(ValueError, match=f"^the chat template of {re.escape(str(tmp_path))} cannot be used: "):
        assert found and found(["Hi"])
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is not JSON"):
        chat.load_chat(tmp_path, as_bytes)


@pytest.mark.skipif(not fetch.place("smollm2").is_file(), reason="run `sublinattn fetch smollm2` for it")
def test_smollm2_takes_chatml_and_every_document_is_cut_alike() -> None:
    path = fetch.place("smollm2")
    encode = load_encoder(path, 49152)
    found = chat.load_chat(path, encode)
    assert found and found(TALK).endswith(SAID)
    assert encode(found(TALK).encode())[-3:].tolist() == [1, 520, 9531, 198][1:]
    assert Counter(encode(found(TALK).encode()).tolist())[1] == 5  # <|im_start|>, with that of the system
    for task in retrieval.TASKS.values():
        made = retrieval.told(task, 600, 6, found, encode, np.random.default_rng(0))
        cuts = {tuple(len(encode(x.text[:end])) for end in (x.asked, x.answers[0], None)) for x in made}
        assert len(cuts) == 1 and len({x.text for x in made}) == 6


# -------------------------------------------------------------------------------------------------------- what is told
@pytest.mark.parametrize("name", retrieval.TASKS)
@pytest.mark.parametrize("nbytes", [400, 3000])
def test_a_document_tells_what_it_asks(name: str, nbytes: int) -> None:
    task = retrieval.TASKS[name]
    pattern = re.escape(task.line.strip()).replace(r"\{name\}", r"([a-z]+[ -][a-z]+)")
    pattern = re.sub(r"\\\{number\\\}", r"(?P<number>\\d{5})", pattern, count=1).replace(r"\{number\}", "(?P=number)")
    lengths = []
    for made in retrieval.told(task, nbytes, 8, framed, as_bytes, np.random.default_rng(1)):
        text = made.text.decode()
        body, question, answer = text[: made.asked], text[made.asked : made.answers[0]], text[made.answers[0] :]
        first = body[: body.index("\n\n", len("A: " + task.intro))] + "\n"
        told = {found.group(0): found["number"] for found in re.finditer(pattern, first)}
        assert len(told) >= 1 + task.examples and (not task.keys or len(told) == task.keys)
        named = re.search(r"[a-z]+[ -][a-z]+(?=\?)", question)
        assert named or name == "passkey"
        (line,) = [line for line in told if name == "passkey" or (named and f" {named[0]}" in line)]
        assert told[line] == answer and re.fullmatch(r"[1-9]\d{4}", answer)
        assert question.startswith(task.question[:10]) and question.endswith(task.answer.split("}")[-1])
        assert body.count("\nB: ") == task.examples
        asked_before = re.findall(r"(\d{5})[.>]\nA: ", body)
        assert len(asked_before) == task.examples and set(asked_before) < set(told.values())
        assert answer not in asked_before and question not in body
        lengths.append(len(first) - len(task.intro))
    assert np.mean(lengths) == pytest.approx(nbytes, abs=max(task.line_bytes, 30))


def test_numbers_are_at_every_place_of_the_prose() -> None:
    task, places = retrieval.TASKS["passkey"], []
    for made in retrieval.told(task, 500, 60, framed, as_bytes, np.random.default_rng(2)):
        body = made.text[: made.asked].decode()[len(task.intro) :]
        places.append(body.index("The pass key") / len(body))
    assert min(places) < 0.1 and max(places) > 0.7 and 0.25 < np.mean(places) < 0.6


def test_a_told_document_is_the_work_of_its_own_generator() -> None:
    task = retrieval.TASKS["four in prose, two examples"]
    more, few = (retrieval.told(task, 300, n, framed, as_bytes, np.random.default_rng(3)) for n in (5, 2))
    assert few == more[:2]


@pytest.mark.parametrize(("name", "more"), [*((name, -1) for name in retrieval.TASKS), ("sentences", 10**6)])
def test_impossible_sizes(name: str, more: int) -> None:
    task = retrieval.TASKS[name]
    nbytes = task.least_bytes + more
    message = rf"^nbytes must be in {task.least_bytes}\.\.\d+ for lines and prose, got {nbytes}$"
    with pytest.raises(ValueError, match=message):
        retrieval.told(task, nbytes, 1, framed, as_bytes, np.random.default_rng(0))
    made = retrieval.told(task, task.least_bytes, 1, framed, as_bytes, np.random.default_rng(0))
    assert len(made) == 1
