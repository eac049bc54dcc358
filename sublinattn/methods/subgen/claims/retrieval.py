"""Answers of a decoder to questions about what it has read, with its keys and values in a compressed cache.

A model that chats is told and asked in its chat format, another one in the format that the model which ships was
trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

import numpy as np

from ....core.backends import Array, asnumpy, namespace, to_device
from ....lab.comparison.registry import competing, row_bytes
from ....lab.models import Model
from ....lab.workloads.instance import Instance
from ....lm.attend import Attend, CachedAttention, causal
from ....lm.retrieval import DIGITS, TASKS, Document, document, line_bytes, question_bytes, told
from ...caches.base import KVCache
from ...caches.exact import ExactCache, ZeroCache
from ...caches.k_center import KCenterCache

if TYPE_CHECKING:
    import pandas as pd

BATCH_TOKENS = 2**13
"""Tokens of prompts in one call of the decoder."""
PLAIN = "plain lines"
"""The task of a model without a chat format."""
Make = Callable[[], Mapping[Any, Sequence[KVCache]]]
"""Returns fresh, empty caches by name: for each name one per layer."""


OURS, THEIRS = ("subgen", "k-center"), ("sinks", "heavy hitters")
"""What [SG24] analyses and what its experiments ran, and what it is compared with."""


# ------------------------------------------------------------------------------------------------------- the documents
def tasks(model: Model) -> tuple[str, ...]:
    """What the model can be asked, the hardest first."""
    return tuple(TASKS) if model.chat else (PLAIN,)


def asked(model: Model, task: str, rng: np.random.Generator, nbytes: int, count: int) -> list[Document]:
    """Documents of one of its `tasks`: those of `documents`, or of `lm.retrieval.told`."""
    return (
        told(TASKS[task], nbytes, count, model.chat, model.encode, rng) if model.chat else documents(rng, nbytes, count)
    )


def documents(rng: np.random.Generator, nbytes: int, count: int) -> list[Document]:
    """Documents of one question each, with as many lines as fit into `nbytes`, all cut at the same places.

    Names differ in length; documents are drawn until lines and question have the usual length, so that a batch is one
    call of a byte-level model. Each document has a generator of its own.

    Raises
    ------
    ValueError
        If `nbytes` is too short for two lines and a question.
    """
    question = _question_bytes()
    lines = int((nbytes - question) / line_bytes())
    if lines < 2:
        raise ValueError(f"nbytes must be at least {least_bytes()}, got {nbytes}")
    usual = round(lines * line_bytes()), question - DIGITS

    def drawn(own: np.random.Generator) -> Document:
        while True:
            made = document(lines, 1, own)
            if (made.asked, made.answers[0] - made.asked) == usual:
                return made

    return [drawn(own) for own in rng.spawn(count)]


def least_bytes() -> int:
    """Of a document with two plain lines and a question."""
    return int(2 * line_bytes() + _question_bytes()) + 1


def _question_bytes() -> int:
    """Of a plain question and its answer, without what follows the answer."""
    return round(question_bytes()) - 2


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


# --------------------------------------------------------------------------------------------------------- the answers
def exact_answers(model: Model, documents: Sequence[Document], *, tokens: int = BATCH_TOKENS) -> pd.DataFrame:
    """The model's greedy answers to each document's first question with everything stored, in one pass each.

    The answer's own tokens are fed, and the model is right if each of them was its most likely one: up to the first
    wrong token, greedy decoding has fed the same tokens to the same caches, so that both are right together. Documents
    longer than the trained context are read by YaRN. Errors as `Decoder.logits`.

    Returns
    -------
    DataFrame
        document (its number, in order), right (bool), bits (of the answer, mean over its tokens).
    """
    import pandas as pd

    cut = [pieces(model, document) for document in documents]
    decoder = model.decoder.stretched(max(sum(map(len, parts)) for parts in cut))
    rows: list[tuple[Any, ...]] = []
    for batch in _batches(cut, tokens):
        whole = np.stack([np.concatenate(cut[i]) for i in batch])
        answer = np.stack([cut[i][2] for i in batch])
        logits = decoder.logits(whole[:, :-1], last=answer.shape[1])  # logits after a token predict the next one
        rows += zip(batch, *judged(logits, answer), strict=True)
    return pd.DataFrame(rows, columns=["document", "right", "bits"]).sort_values("document", ignore_index=True)


def answers(model: Model, documents: Sequence[Document], make: Make, *, tokens: int = BATCH_TOKENS) -> pd.DataFrame:
    """The model's answers under several caches: each prompt runs once, and all of them absorb it.

    `make` is called for each batch of documents that are cut at the same places, of so many `tokens`; its caches then
    have leading axes (documents, kv_heads). Cost: a pass over the prompts, and a pass over question and answer for each
    set of caches.

    Returns
    -------
    DataFrame
        document (its number, in order), caches (a name that `make` gives), right and bits (as `exact_answers`), nbytes
        (of the document in the caches of all layers, after the lines).
    """
    import pandas as pd

    cut = [pieces(model, document) for document in documents]
    decoder = model.decoder.stretched(max(sum(map(len, parts)) for parts in cut))
    rows: list[tuple[Any, ...]] = []
    for batch in _batches(cut, tokens):
        lines, question, answer = (np.stack([cut[i][part] for i in batch]) for part in range(3))
        attends = {name: CachedAttention(caches) for name, caches in make().items()}
        decoder.logits(lines, attend=_absorbing(attends.values()), last=1)
        after = np.concatenate([question, answer[:, :-1]], axis=1)
        for name in list(attends):
            attend = attends.pop(name)  # its caches are free when it has answered
            nbytes = attend.nbytes / len(batch)
            logits = decoder.logits(after, attend=attend, start=lines.shape[1], last=answer.shape[1])
            right, bits = judged(logits, answer)
            rows += [(i, name, *judgement, nbytes) for i, *judgement in zip(batch, right, bits, strict=True)]
    return pd.DataFrame(rows, columns=["document", "caches", "right", "bits", "nbytes"]).sort_values(
        "document", kind="stable", ignore_index=True
    )


def at_once(model: Model, copies: float) -> int:
    """Tokens of prompts in a batch whose caches hold so many copies of all keys and values: 2 GiB, 24 on a GPU."""
    config, host = model.decoder.config, model.decoder.xp is np
    row = config.layers * config.kv_heads * 2 * config.head_dim * np.dtype(np.float32).itemsize
    return max(1, min(BATCH_TOKENS if host else 8 * BATCH_TOKENS, int((2 if host else 24) * 2**30 / (copies * row))))


def judged(logits: Array, answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether every token of the answers (b, t) has the largest logit (b, t, vocabulary), and their mean bits."""
    xp, logits = namespace(logits), logits.astype(np.float64)
    said = to_device(answer, xp)
    logits -= logits.max(axis=-1)[..., None]
    chosen = xp.take_along_axis(logits, said[..., None], axis=-1)[..., 0]
    bits = (xp.log(xp.exp(logits).sum(axis=-1)) - chosen) / np.log(2)
    return asnumpy((logits.argmax(axis=-1) == said).all(axis=1)), asnumpy(bits.mean(axis=1))


def _batches(cut: Sequence[Sequence[np.ndarray]], tokens: int) -> Iterator[list[int]]:
    """Numbers of documents that are cut at the same places, `tokens` tokens (or one document) at once."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, parts in enumerate(cut):
        alike.setdefault(tuple(map(len, parts)), []).append(i)
    for lengths, members in alike.items():
        step = max(1, tokens // sum(lengths))
        yield from (members[i : i + step] for i in range(0, len(members), step))


def _absorbing(attends: Collection[CachedAttention]) -> Attend:
    """Exact causal attention whose keys and values go into all caches."""

    def attend(layer: int, q: Array, k: Array, v: Array) -> Array:
        for each in attends:
            each.absorb(layer, q, k, v)
        return causal(layer, q, k, v)

    return attend


# ---------------------------------------------------------------------------------------------------------- the caches
class ClusteredOnce(KCenterCache):
    """Greedy k-center of the prompt, once, and the last tokens, as in the experiments of [SG24].

    Tokens after the prompt only pass through the window.
    """

    def _chosen(self, xp: Any, k: Array) -> np.ndarray:
        if self.tokens_seen > self.budget:  # the prompt has been clustered, and its centers come first
            return np.tile(np.arange(self.budget - self.recent), (len(k), 1))
        return super()._chosen(xp, k)


def first_tokens(model: Model, document: Document) -> list[Instance]:
    """Key and value of a document's first token, which is the same for all, in the head of each layer with the
    shortest key.
    """
    k, v = (asnumpy(x) for x in model.qkv(pieces(model, document)[0][:1])[1:])
    heads = np.linalg.norm(k[:, :, 0], axis=-1).argmin(axis=1)
    return [Instance(k[i, h], k[i, h], v[i, h], scale=1.0) for i, h in enumerate(heads)]


def caches_within(first: Sequence[Instance], nbytes: int, rng: np.random.Generator) -> dict[str, list[KVCache]]:
    """Empty caches of at most `nbytes` for each key-value head of each layer, by method: one per layer.

    SubGen starts from the `first_tokens`. "exact" and "zero" have no budget.
    """
    layers = [competing(nbytes, x, rng) for x in first]
    tokens = nbytes // row_bytes(first[0])
    return {
        "exact": [ExactCache() for _ in layers],
        "zero": [ZeroCache() for _ in layers],
        **{name: [made[name] for made in layers] for name in layers[0]},
        "k-center": [ClusteredOnce(tokens, tokens // 2) for _ in layers],
    }
