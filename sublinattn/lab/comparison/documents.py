"""The documents that a model is asked about: what it can be asked, how many it can read, and where each one is cut.

A model that chats is told and asked in its chat format, another one in the format that the model which ships was
trained on.
"""

from __future__ import annotations

from os.path import commonprefix

import numpy as np

from ...lm.retrieval import DIGITS, TASKS, Document, documents, least_bytes, told
from ..models import Model
from ..run import Run

PLAIN = "plain lines"
"""The task of a model without a chat format."""


def tasks(model: Model) -> tuple[str, ...]:
    """What the model can be asked, the hardest first."""
    return tuple(TASKS) if model.chat else (PLAIN,)


def asked(model: Model, task: str, rng: np.random.Generator, nbytes: int, count: int) -> list[Document]:
    """Documents of one of its `tasks`: those of `lm.retrieval`'s `documents`, or of its `told`."""
    return (
        told(TASKS[task], nbytes, count, model.chat, model.encode, rng) if model.chat else documents(rng, nbytes, count)
    )


def of_tokens(model: Model, task: str, n: int, count: int, rng: np.random.Generator) -> list[Document]:
    """Documents of one of its `tasks`, of about `n` tokens each; they are longer where a task needs more."""
    if task == PLAIN:  # of at most n tokens, where a token is a byte
        n = max(n, least_bytes())
        sample = asked(model, task, rng, n, 1)[0].text
        return asked(model, task, rng, n * len(sample) // len(model.encode(sample)), count)
    sizes = 4 * n, 8 * n
    few, many = (len(np.concatenate(pieces(model, asked(model, task, rng, size, 1)[0]))) for size in sizes)
    nbytes = int(sizes[0] + (n - few) * (sizes[1] - sizes[0]) / (many - few))
    return asked(model, task, rng, max(TASKS[task].least_bytes, nbytes), count)


def affordable(run: Run, model: Model, n: int) -> int:
    """How many documents of n tokens a point of a large model may have, by the operations of its weights."""
    return int(run.pick(smoke=8e10, standard=3.5e12, full=5e13) / model.operations(n, passes=0))


def of_length(run: Run, model: Model, task: str, n: int, most: int, *, part: int = 1) -> list[Document]:
    """Documents of about `n` tokens: `most`, or of those that are affordable one in `part`, but some.

    They are longer where a task needs more.
    """
    rng = run.rng("lines", n) if task == PLAIN else run.rng("lines", task, n)
    count = max(run.pick(smoke=2, standard=4, full=4), min(most, affordable(run, model, n) // part))
    return of_tokens(model, task, n, count, rng)


def pieces(model: Model, document: Document) -> list[np.ndarray]:
    """Tokens of the lines, the question and the answer, as the tokenizer cuts the whole.

    A token that spans a cut belongs to what comes after it.
    """
    end = document.answers[0] + DIGITS
    ends = (end, document.asked, document.answers[0])
    whole, *parts = (model.encode(document.text[:stop]).tolist() for stop in ends)
    lines, question = (len(commonprefix([whole, part])) for part in parts)
    return np.split(np.array(whole), [lines, question])


def lines_bytes(model: Model, document: Document) -> int:
    """Bytes of all keys and values of the document's lines, of one key-value head of one layer."""
    return len(pieces(model, document)[0]) * 2 * model.decoder.config.head_dim * np.dtype(np.float32).itemsize
