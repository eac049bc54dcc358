"""A recommendation put to the test: perplexity of the model with exactly these caches, beside every single method.

The audit read one passage; this reads others. Of each, the tokens but the last ones are the prompt: it is read with
exact attention (or with the prompt methods that the advice names), and the caches absorb its keys and values, once.
Then the last tokens are read: each sees of the prompt what the caches keep, and exactly the tokens of its own window.
Their loss is the measure. Every rival is one method on all key heads, in as many bytes as the advice takes in all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ...core import backends
from ...core.backends import Array
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
from .measure import write_table
from .ranking import ADVICE, WITH_PROMPT
from .recommendation import read

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


def judge(
    recommended: Mapping[str, Any],
    model: Model,
    *,
    tokens: int | None = None,
    count: int = 8,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
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
    config = model.decoder.config
    mine, theirs = (config.layers, config.kv_heads), (recommended["layers"], recommended["kv_heads"])
    if mine != theirs:
        raise ValueError(f"model must have the audited layers and key heads, {theirs}, got {mine}: {model.name}")
    n = recommended["tokens"] if tokens is None else tokens
    texts, rows = passages(model, n + 1, count), []
    for number, text in enumerate(texts):
        rng = generator(seed, "apply", number)
        rows += [{"passage": number, **row} for row in _losses(recommended, model, text, rng)]
        progress(number + 1, len(texts))
    return pd.DataFrame(rows)


def run(
    path: str | os.PathLike[str],
    model: Model,
    *,
    tokens: int | None = None,
    count: int = 8,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """`judge` the recommendation in a file, and write what it measured beside it (`applied.csv` and `.parquet`)."""
    found = judge(read(path), model, tokens=tokens, count=count, seed=seed, progress=progress)
    write_table(found, Path(path).parent / "applied")
    return found


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
            kept = Kept(cache, v)
            for layer, part in enumerate(layers):
                rows = [row for row, place in enumerate(its) if place // self.kv_heads == layer]
                if rows:
                    part.append(Share([its[row] % self.kv_heads for row in rows], kept, rows))
        return layers, total


def _losses(
    recommended: Mapping[str, Any], model: Model, text: np.ndarray, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    decoder, (prompt, window, ahead) = model.decoder.stretched(len(text)), cut(text)
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
        loss = loss_after(decoder, layers, window, ahead, start=len(prompt))
        yield {"method": name, "share": nbytes / exact.nbytes, "loss": loss}


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
