"""Answers of a decoder to questions about what it has read, with its keys and values in a compressed cache."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.backends import Array, asnumpy, namespace, to_device
from ...lm.attend import Attend, CachedAttention, causal
from ...lm.retrieval import Document
from ...methods.caches.base import KVCache
from ..models import Model
from .documents import pieces

if TYPE_CHECKING:
    import pandas as pd

ANSWERED = 0.9
"""Accuracy from which exact attention counts as answering."""
BATCH_TOKENS = 2**13
"""Tokens of prompts in one call of the decoder."""
Make = Callable[[], Mapping[Any, Sequence[KVCache]]]
"""Returns fresh, empty caches by name: for each name one per layer."""


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
