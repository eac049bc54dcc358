"""A language model with every layer's attention replaced: its loss on text, and its answers about what it has read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ...core.backends import Array, namespace
from ...lab.comparison.answers import answers, at_once, judged
from ...lab.comparison.batch import BATCH
from ...lab.comparison.decoder_caches import caches_within, first_tokens
from ...lab.comparison.documents import asked, lines_bytes, of_length, pieces, tasks
from ...lab.models import Model
from ...lab.progress import tracked
from ...lab.run import Run
from ...lm.attend import Method, causal, replacing
from ..audit.apply import Prompt, cut, loss_after, passages
from .contenders import BATCHES, CACHES, EXACT, SHARE, ZERO, names


def perplexity(run: Run) -> pd.DataFrame:
    """Mean loss of the last tokens of passages, for every method in all layers.

    A batch method attends for the whole passage, under the causal mask; a cache holds what it keeps of the passage but
    for its last tokens, which were read with exact attention and see each other exactly. So the same tokens are
    predicted, and the exact row is one.

    Returns
    -------
    DataFrame
        kind, method, passage, nats (per token; nan for a method without a causal form, or whose answers cannot be
        merged with those of later tokens).
    """
    opened = run.open_model()
    n, count = run.pick(smoke=(512, 8), standard=(1024, 12), full=(2048, 24))
    rows: list[tuple[Any, ...]] = []
    for passage, text in enumerate(tracked(passages(opened, n + 1, count), f"passages of {n} tokens")):
        found = dict(_losses(run, opened, text, passage))
        found[BATCHES, EXACT] = found[CACHES, EXACT]
        rows += [(*key, passage, nats) for key, nats in found.items()]
    return pd.DataFrame(rows, columns=["kind", "method", "passage", "nats"])


def _losses(run: Run, model: Model, text: np.ndarray, passage: int) -> Iterator[tuple[tuple[str, str], float]]:
    decoder, (prompt, window, ahead) = model.decoder.stretched(len(text)), cut(text)
    for name, method in _methods(run, len(text), "loss", passage):
        nats = np.nan
        if method is not None:
            attend = replacing(dict.fromkeys(range(decoder.config.layers), method))
            nats = float(decoder.losses(text, attend=attend)[-len(ahead) :].mean(dtype=np.float64))
        yield (BATCHES, name), nats
    held = Prompt.of(decoder, prompt, causal)
    for name in (EXACT, ZERO, *names(CACHES)):
        rng, nats = run.rng("leaderboard", "loss", passage, CACHES, name), np.nan
        try:
            layers, _ = held.compressed([(name, SHARE)] * (decoder.config.layers * decoder.config.kv_heads), rng)
            nats = loss_after(decoder, layers, window, ahead, start=len(prompt))
        except (ValueError, TypeError):  # no cache in so few bytes, or none that later tokens can be merged with
            pass
        yield (CACHES, name), nats


def _methods(run: Run, n: int, *labels: Any) -> Iterator[tuple[str, Method | None]]:
    """The batch methods but exact attention, under a causal mask over n tokens; None without a causal form."""
    yield ZERO, lambda q, k, v: namespace(v).zeros_like(v)
    for name in names(BATCHES):
        rng = run.rng("leaderboard", *labels, BATCHES, name)
        yield name, partial(_causal, name, int(SHARE * n), rng) if BATCH[name].causal else None


def _causal(name: str, budget: int, rng: np.random.Generator, q: Array, k: Array, v: Array) -> Array:
    return BATCH[name].answer(q, k, v, budget=budget, scale=q.shape[-1] ** -0.5, rng=rng, causal=True)


def task(run: Run) -> tuple[str, int, int]:
    """What the model is asked, tokens of a document, and their number, of which a large model gets what is affordable.

    It is the easiest task that the model takes, so that exact attention can answer it: methods are compared here, not
    models.
    """
    opened = run.open_model()
    n, count = run.pick(smoke=(256, 12), standard=(512, 40), full=(1024, 100))
    return tasks(opened)[-1], n, count


def retrieval(run: Run) -> pd.DataFrame:
    """Whether the model finds a number that it has read, for every method in all layers.

    A batch method attends for the whole document, question and answer included, under the causal mask. A cache holds
    what it keeps of the lines, read with exact attention, and question and answer see the cache alone.

    Returns
    -------
    DataFrame
        kind, method, document, right (1 or 0), bits (of an answer's token, mean); nan for a method without a causal
        form.
    """
    opened, (name, n, count) = run.open_model(), task(run)
    documents = (
        of_length(run, opened, name, n, count)
        if opened.large
        else asked(opened, name, run.rng("leaderboard", "documents"), n, count)
    )
    first, budget = first_tokens(opened, documents[0]), int(SHARE * lines_bytes(opened, documents[0]))
    rng = run.rng("leaderboard", "documents", CACHES)
    table = answers(opened, documents, lambda: caches_within(first, budget, rng), tokens=at_once(opened, 2 + 8 * SHARE))
    table = table.rename(columns={"caches": "method"}).assign(kind=CACHES).drop(columns="nbytes")
    rows = [(BATCHES, EXACT, *row) for row in table.loc[table["method"] == EXACT, ["document", "right", "bits"]].values]
    for number, document in enumerate(tracked(documents, f"documents of {n} tokens, batch methods")):
        cut_up = pieces(opened, document)
        whole, decoder = np.concatenate(cut_up)[None], opened.decoder.stretched(sum(map(len, cut_up)))
        for method, attend in _methods(run, whole.shape[1], "documents", number):
            right = bits = np.nan
            if attend is not None:
                layers = dict.fromkeys(range(decoder.config.layers), attend)
                logits = decoder.logits(whole[:, :-1], attend=replacing(layers), last=len(cut_up[2]))
                right, bits = (x[0] for x in judged(logits, cut_up[2][None]))
            rows.append((BATCHES, method, number, right, bits))
    batch = pd.DataFrame(rows, columns=["kind", "method", "document", "right", "bits"])
    whole_table = pd.concat([batch, table[batch.columns]], ignore_index=True)
    return whole_table.astype({"right": float, "bits": float})
