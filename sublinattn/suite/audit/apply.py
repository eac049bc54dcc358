"""A recommendation put to the test: the model with exactly these caches, beside every single method.

The audit read one passage; this reads others. A prompt is read with exact attention (or with the prompt methods that
the advice names), and the caches absorb its keys and values, once. What comes after it sees of the prompt what the
caches keep, and its own tokens exactly. Every rival is one method on all key heads, in as many bytes as the advice
takes in all.

*Perplexity*: the last tokens of a passage come after the others, and their loss is the measure. *Retrieval*: a question
and its answer come after a document that holds the answer, and no cache knew the question; a document counts if every
token of the answer is the most likely one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ...core import backends
from ...core.backends import Array
from ...lab.comparison.answers import judged
from ...lab.comparison.documents import of_tokens, pieces, tasks
from ...lab.comparison.registry import REGISTRY
from ...lab.models import Model
from ...lab.run import generator
from ...lab.workloads.instance import Instance
from ...lm.attend import Attend, Method, causal, replacing
from ...lm.mixed_caches import AfterPrompt, Kept, Share
from ...methods.hyperattention.exact_keys import heavy_keys
from ...methods.hyperattention.hyper import hyper_attention
from .advice import KEEP
from .answers import CACHES, YARDSTICKS, filled, prompt_parameters
from .ranking import ADVICE, WITH_PROMPT

if TYPE_CHECKING:
    from ...lm.decoder import Decoder

TARGETS = 256
"""Last tokens of a passage, whose losses are measured: at most this many, and at most a quarter of the passage."""
Choice = tuple[str, float]
"""A method and its share of the exact cache's bytes."""


def passages(model: Model, n: int, count: int) -> list[np.ndarray]:
    """`count` passages of n tokens, evenly spread over the texts behind the one that was audited, the first so long.

    Of a single text it is what comes after its first n tokens. ValueError if there are not two.
    """
    long = [text for text in model.texts if len(text) >= n]
    others = long[1:] or [text[n:] for text in long]
    windows = [text[at : at + n] for text in others for at in range(0, len(text) - n + 1, n)]
    if len(windows) < 2:
        what = f"must hold 2 passages of {n} tokens beside the audited one"
        raise ValueError(f"the texts ({model.source}) {what}, got {len(windows)}")
    places = np.linspace(0, len(windows) - 1, min(count, len(windows))).round().astype(int)
    return [windows[place] for place in places]


Progress = Callable[[int, int], None]
"""Called with how much is done, and how much there is."""


def losses(
    recommended: Mapping[str, Any],
    model: Model,
    *,
    tokens: int | None = None,
    count: int = 8,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> pd.DataFrame:
    """Mean loss of the last tokens of passages, under the advice, under every single method, and exact.

    Parameters
    ----------
    recommended : mapping
        As `recommendation.read` gives it, for a model of the same layers and heads.
    model : Model
    tokens : int, optional
        Length of a passage; by default that of the audit.
    count : int
        Number of passages, at most as many as the texts hold.
    seed : int
    progress : callable
        Called after each passage with the number of passages done and the number of all.

    Returns
    -------
    DataFrame
        passage, method, share (bytes of all caches over the exact ones'), loss (nats per token).

    Raises
    ------
    ValueError
        A model of another shape; texts too short.
    """
    n, rows = _tokens(recommended, model, tokens), []
    texts = passages(model, n + 1, count)
    for number, text in enumerate(texts):
        rng, decoder = generator(seed, "apply", number), model.decoder.stretched(len(text))
        prompt, window, ahead = cut(text)
        for name, share, layers in _contenders(recommended, decoder, prompt, rng):
            loss = loss_after(decoder, layers, window, ahead, start=len(prompt))
            rows.append({"passage": number, "method": name, "share": share, "loss": loss})
        progress(number + 1, len(texts))
    return pd.DataFrame(rows)


def answers(
    recommended: Mapping[str, Any],
    model: Model,
    *,
    tokens: int | None = None,
    count: int,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> pd.DataFrame:
    """Whether the model answers a question about each of `count` documents, under the same contenders as `losses`.

    The task is the easiest that the model takes (a pass key in prose, for one that chats), so that exact attention can
    answer it: caches are compared, not models. Other parameters and errors are those of `losses`.

    Returns
    -------
    DataFrame
        task, tokens (of the document, before the question), document, method, share, right (bool), bits (of an answer's
        token, mean).
    """
    n, task, tables = _tokens(recommended, model, tokens), tasks(model)[-1], []
    for number, document in enumerate(of_tokens(model, task, n, count, generator(seed, "apply", "documents"))):
        lines, question, answer = pieces(model, document)
        after, rng = np.concatenate([question, answer[:-1]]), generator(seed, "apply", "document", number)
        decoder = model.decoder.stretched(len(lines) + len(after))
        names, shares, kept = zip(*_contenders(recommended, decoder, lines, rng), strict=True)
        attend, copies = _side_by_side([AfterPrompt(layers) for layers in kept]), len(names)
        logits = decoder.logits(np.tile(after, (copies, 1)), attend=attend, start=len(lines), last=len(answer))
        right, bits = judged(logits, np.tile(answer, (copies, 1)))
        about = {"task": task, "tokens": len(lines), "document": number}
        table = {"method": names, "share": shares, "right": right, "bits": bits}
        tables.append(pd.DataFrame(about | table))
        progress(number + 1, count)
    return pd.concat(tables, ignore_index=True)


def _side_by_side(attends: Sequence[Attend]) -> Attend:
    """Copies of one text as a batch, each with an attention of its own: the weights are read once for all of them."""

    def attend(layer: int, q: Array, k: Array, v: Array) -> Array:
        out = [each(layer, q[i : i + 1], k[i : i + 1], v[i : i + 1]) for i, each in enumerate(attends)]
        return backends.namespace(q).concatenate(out)

    return attend


def _tokens(recommended: Mapping[str, Any], model: Model, tokens: int | None) -> int:
    """How many a text has; ValueError if the model is not of the audited one's shape."""
    config = model.decoder.config
    mine, theirs = (config.layers, config.kv_heads), (recommended["layers"], recommended["kv_heads"])
    if mine != theirs:
        raise ValueError(f"model must have the audited layers and key heads, {theirs}, got {mine}: {model.name}")
    return int(recommended["tokens"]) if tokens is None else tokens


@dataclass(frozen=True)
class Prompt:
    """What the key heads of all layers hold of a prompt: q (layers * kv_heads, group, n, d), k and v."""

    q: Array
    k: Array
    v: Array
    kv_heads: int

    @classmethod
    def of(cls, decoder: Decoder, tokens: np.ndarray, attend: Attend) -> Prompt:
        """Run the decoder over the prompt with this attention."""
        layers: list[tuple[Array, Array, Array]] = []

        def recorded(layer: int, q: Array, k: Array, v: Array) -> Array:
            layers.append((q[0].reshape(k.shape[1], -1, *q.shape[2:]), k[0], v[0]))
            return attend(layer, q, k, v)

        decoder.logits(tokens, attend=recorded, last=True)
        q, k, v = (decoder.xp.concatenate(x) for x in zip(*layers, strict=True))
        return cls(q, k, v, decoder.config.kv_heads)

    @property
    def nbytes(self) -> int:
        """Of all exact caches."""
        return int(self.k.nbytes + self.v.nbytes)

    def compressed(self, choices: Sequence[Choice], rng: np.random.Generator) -> tuple[list[list[Share]], int]:
        """What every layer keeps when key head i takes `choices[i]`, and the bytes in all.

        Methods are those of the registry, "exact" and "zero". ValueError if one has no cache in so few bytes, TypeError
        if its answers cannot be merged with those of later tokens.
        """
        xp, one = backends.namespace(self.k), self.nbytes // len(choices)
        layers: list[list[Share]] = [[] for _ in range(len(choices) // self.kv_heads)]
        total, scale = 0, self.q.shape[3] ** -0.5
        first = Instance(
            backends.asnumpy(self.q[0, 0]), backends.asnumpy(self.k[0]), backends.asnumpy(self.v[0]), scale
        )
        for method, share in dict.fromkeys(choices):
            its = [place for place, choice in enumerate(choices) if choice == (method, share)]
            at = backends.to_device(np.array(its), xp)
            q, k, v = (self.q[at], self.k[at], self.v[at]) if len(its) < len(choices) else (self.q, self.k, self.v)
            row = YARDSTICKS.get(method) or REGISTRY[method]
            cache = filled(row, row.within(int(share * one), first, rng), q, k, v, scale)
            total += cache.nbytes if method != KEEP else len(its) * one
            kept = Kept(cache)
            for layer, part in enumerate(layers):
                rows = [row for row, place in enumerate(its) if place // self.kv_heads == layer]
                if rows:
                    part.append(Share([its[row] % self.kv_heads for row in rows], kept, rows))
        return layers, total


def _contenders(
    recommended: Mapping[str, Any], decoder: Decoder, prompt: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[str, float, list[list[Share]]]]:
    """What each contender keeps of a prompt: its name, the share of the exact caches' bytes, and the layers."""
    exact, approximate = Prompt.of(decoder, prompt, causal), _methods(recommended, len(prompt), rng)
    advised: list[Choice] = [(its["method"], its["share"]) for its in recommended["key_heads"]]
    share = recommended["bytes"] / recommended["exact_bytes"]
    single = {name: [(name, share)] * len(advised) for name in CACHES}
    contenders = [(KEEP, exact, [(KEEP, 1.0)] * len(advised)), (ADVICE, exact, advised)]
    if approximate:
        contenders.append((WITH_PROMPT, Prompt.of(decoder, prompt, replacing(approximate)), advised))
    contenders += [(name, exact, choices) for name, choices in single.items()]
    for name, held, choices in contenders:
        try:
            layers, nbytes = held.compressed(choices, rng)
        except ValueError:  # the method has no cache in so few bytes
            continue
        yield name, nbytes / exact.nbytes, layers


def _methods(recommended: Mapping[str, Any], n: int, rng: np.random.Generator) -> dict[int, Method]:
    """HyperAttention by layer, for a prompt of n tokens: as many exact keys as is advised, this text's heaviest."""

    def method(count: int, q: Array, k: Array, v: Array) -> Array:
        exact = heavy_keys(q, k, count, causal=True, check_finite=False) if count else 0
        how: dict[str, Any] = {**prompt_parameters(n), "exact_keys": exact}
        return hyper_attention(q, k, v, causal=True, rng=rng, check_finite=False, **how)

    counts = {its["layer"]: its["exact_keys"] for its in recommended["prompt"] if its["method"] != KEEP}
    return {layer: partial(method, count) for layer, count in counts.items()}


def cut(text: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A passage's prompt, the window of last tokens behind it, and the tokens to predict: one after each of these."""
    targets = min(TARGETS, len(text) // 4)
    return text[: -1 - targets], text[-1 - targets : -1], text[-targets:]


def loss_after(
    decoder: Decoder, layers: Sequence[Sequence[Share]], window: np.ndarray, ahead: np.ndarray, *, start: int
) -> float:
    """Mean loss of the tokens `ahead`, predicted in the window at position `start` from what the prompt left."""
    xp, logits = decoder.xp, decoder.logits(window, attend=AfterPrompt(layers), start=start)
    logits -= logits.max(axis=1)[:, None]
    chosen = xp.take_along_axis(logits, backends.to_device(ahead, xp)[:, None], axis=1)[:, 0]
    return float(backends.asnumpy((xp.log(xp.exp(logits).sum(axis=1)) - chosen).mean()))
