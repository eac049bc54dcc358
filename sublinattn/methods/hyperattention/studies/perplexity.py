"""What a real model loses when layers attend approximately, and what that saves; and what it gains from context.

Source: [HA24] Figure 3, which replaces the last layers of ChatGLM2-6B at 32k tokens: perplexity 5.6 becomes 6.3 for
half of the time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ....core.backends import Array, asnumpy, namespace
from ....core.timing import timed
from ....lab.models import Model
from ....lab.run import Run
from ....lab.statistics import mean_and_reach
from ....lm.attend import Attend, Method, per_query_head, replacing
from ....lm.tokens import as_bytes
from ..claims.replaced_layers import (
    AFTER,
    ALPHA,
    BEFORE,
    FIRST,
    GREEDY,
    HYPER,
    LAST,
    LOCAL,
    UNIFORM,
    ZERO,
    block,
    losses,
    methods,
)
from ..hardness import hardness

TARGETS = 64
"""Tokens of a passage whose loss is compared over contexts."""
REPORTED = 0.5, np.log(AFTER) / np.log(BEFORE)
"""Share of the time, relative log-perplexity."""


# -------------------------------------------------------------------------------------------------- context and losses
def unit(model: Model) -> str:
    """What one token of the model is called."""
    return "byte" if model.encode is as_bytes else "token"


def over_context(run: Run) -> pd.DataFrame:
    """Held-out loss of the same tokens, the last TARGETS of each passage, after more and more of what comes before.

    Returns
    -------
    DataFrame
        n (tokens of passage and targets: each target sees `n - TARGETS` or more), stretched (n beyond the trained
        context, by YaRN), passage, bits (per token, mean over targets).
    """
    opened = run.open_model()
    trained = opened.decoder.trained
    longest = run.pick(smoke=min(trained, 2048), standard=min(4 * trained, 8192), full=min(16 * trained, 32768))
    count = run.pick(smoke=4, standard=32, full=64)
    lengths = [2**i for i in range(int(np.log2(TARGETS)) + 1, int(np.log2(longest)) + 1)]
    rng = run.rng("context")
    rows: list[tuple[Any, ...]] = []
    for passage in range(count):
        tokens = opened.passage(rng, lengths[-1])
        for n in lengths:
            nats = opened.decoder.stretched(n).losses(tokens[-n:])[-TARGETS:]
            rows.append((n, n > trained, passage, float(nats.mean(dtype=np.float64) / np.log(2))))
    return pd.DataFrame(rows, columns=["n", "stretched", "passage", "bits"])


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean bits over passages, and what the last doubling of n changed, each with 99 percent t-limits.

    Returns
    -------
    DataFrame
        n, stretched, bits, reach, change (below 0 where more context helps; nan for the least n), change_reach.
    """
    table = rows.pivot(index="passage", columns="n", values="bits")
    changes = table.diff(axis=1)
    found = [(n, *mean_and_reach(table[n].to_numpy()), *mean_and_reach(changes[n].to_numpy())) for n in table.columns]
    made = pd.DataFrame(found, columns=["n", "bits", "reach", "change", "change_reach"])
    made.insert(1, "stretched", rows.groupby("n")["stretched"].first().to_numpy())
    return made


def falls_until(table: pd.DataFrame) -> int:
    """The n up to which mean bits fall with each doubling."""
    rises = np.flatnonzero(table["change"].to_numpy()[1:] >= 0)
    return int(table["n"].iloc[rises[0] if len(rises) else -1])


# ------------------------------------------------------------------------------------------------- what replaces layers


class Clock:
    """An attention that adds up the seconds spent in it."""

    def __init__(self, attend: Attend) -> None:
        self.attend, self.seconds = attend, 0.0

    def __call__(self, layer: int, q: Array, k: Array, v: Array) -> Array:
        out, seconds = timed(namespace(q), partial(self.attend, layer, q, k, v))
        self.seconds += seconds
        return out


# ------------------------------------------------------------------------------------------------- which layers first
def layers_alone(run: Run) -> pd.DataFrame:
    """What decides which layer is replaced first, measured on passages of their own.

    Of the order of the number of layers squared evaluations: greedily the layer goes that harms least with those before
    it replaced, too.

    Returns
    -------
    DataFrame
        layer, alpha (of the later half of the queries on the earlier half of the keys, the largest block that the
        causal recursion samples in; geometric mean over heads and passages), harm (of HyperAttention in this layer
        only: nats per token, mean over passages), reach (of its 99 percent t-interval), turn (0 for the layer that
        goes first greedily).
    """
    opened = run.open_model()
    layers = range(opened.decoder.config.layers)
    n = run.pick(smoke=256, standard=2048, full=2048)
    n = min(n, opened.decoder.trained)
    count = run.pick(smoke=3, standard=8, full=16)
    rng = run.rng("layers alone", n)
    passages = [opened.passage(rng, n) for _ in range(count)]
    exact = [losses(opened, tokens) for tokens in passages]

    def harms(replaced: Collection[int]) -> list[float]:
        chosen = dict.fromkeys(replaced, methods(n, rng)[HYPER])
        return [losses(opened, tokens, chosen) - base for tokens, base in zip(passages, exact, strict=True)]

    alone = [mean_and_reach(np.array(harms([layer]))) for layer in layers]
    turns = [int(np.argmin([harm for harm, _ in alone]))]
    while len(turns) < len(layers):
        rest = [layer for layer in layers if layer not in turns]
        turns.append(min(rest, key=lambda layer: float(np.mean(harms([*turns, layer])))))
    logs = []
    for tokens in passages:
        q, k, _ = opened.qkv(tokens)
        k = per_query_head(opened.decoder.xp, q, k)
        alpha = hardness(q[..., n // 2 :, :], k[..., : n // 2, :], block_size=block(n), rng=rng).alpha
        logs.append(np.log(asnumpy(alpha)).mean(axis=1))
    table = pd.DataFrame(alone, columns=["harm", "reach"])
    table = table.assign(layer=layers, alpha=np.exp(np.mean(logs, axis=0)), turn=[turns.index(i) for i in layers])
    return table[["layer", "alpha", "harm", "reach", "turn"]]


def orders(alone: pd.DataFrame) -> dict[str, list[int]]:
    """In which order layers are replaced, by name."""
    layers = alone["layer"].tolist()
    return {
        LAST: layers[::-1],
        FIRST: layers,
        ALPHA: alone.sort_values("alpha")["layer"].tolist(),
        GREEDY: alone.sort_values("turn")["layer"].tolist(),
    }


# ------------------------------------------------------------------------------------------------------ the experiment
def replaced_layers(run: Run, alone: pd.DataFrame) -> pd.DataFrame:
    """Loss and time over the number of replaced layers; yardsticks from the last layer on. Nothing else may run.

    Returns
    -------
    DataFrame
        n, stretched, method, order, replaced (number of layers), passage, nats (per token), relative (to those of exact
        attention: a ratio of log-perplexities), attention and forward (seconds of all layers' attention, of the whole
        pass). With no layer replaced every method is exact attention.
    """
    opened = run.open_model()
    trained, ways = opened.decoder.trained, orders(alone)
    lengths = run.pick(smoke=(256, 1024), standard=(2048, 8192, 32768), full=(2048, 4096, 8192, 16384, 32768))
    most = run.pick(smoke=2, standard=6, full=12)
    tokens_read = run.pick(smoke=2**11, standard=2**15, full=2**18)
    rows: list[tuple[Any, ...]] = []
    for n in lengths:
        decoder, rng = opened.decoder.stretched(n), run.rng("replaced", n)
        decoder.losses(opened.passage(rng, n))  # warm: exact attention comes first
        for passage in range(max(2, min(most, tokens_read // n))):
            tokens, made = opened.passage(rng, n), methods(n, rng)
            seen: dict[tuple[str, frozenset[int]], tuple[float, float, float]] = {}
            tried = [(HYPER, way) for way in ways] + [(LOCAL, LAST), (UNIFORM, LAST), (ZERO, LAST)]
            for method, way in tried:
                for number in numbers(len(alone)):
                    chosen = frozenset(ways[way][:number])
                    key = (method if chosen else "", chosen)
                    if key not in seen:
                        seen[key] = _timed(decoder, tokens, {layer: made[method] for layer in chosen})
                    nats, *seconds = seen[key]
                    relative = nats / seen["", frozenset()][0]
                    rows.append((n, n > trained, method, way, number, passage, nats, relative, *seconds))
    columns = ["n", "stretched", "method", "order", "replaced", "passage", "nats", "relative", "attention", "forward"]
    return pd.DataFrame(rows, columns=columns)


def numbers(layers: int) -> list[int]:
    """How many layers are replaced: none, all, and up to seven numbers between."""
    return np.unique(np.linspace(0, layers, min(layers, 8) + 1).round().astype(int)).tolist()


def _timed(decoder: Any, tokens: np.ndarray, replaced: Mapping[int, Method]) -> tuple[float, float, float]:
    clock = Clock(replacing(replaced))
    losses, seconds = timed(decoder.xp, partial(decoder.losses, tokens, attend=clock))
    return float(losses.mean(dtype=np.float64)), clock.seconds, seconds


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per n, method, order and number of replaced layers.

    Returns
    -------
    DataFrame
        perplexity (of a token, over all passages), bits (per token), relative with low and high (over passages), and
        attention and forward: seconds of the fastest passage, as a share of exact attention's.
    """
    exact = rows[rows["replaced"] == 0].groupby("n")
    base = exact[["attention", "forward"]].min().assign(nats=exact["nats"].mean()).loc[rows["n"]]
    shares = {name: rows[name] / base[name].to_numpy() for name in base.columns}
    by = ["n", "stretched", "method", "order", "replaced"]
    table = rows.assign(mean=rows["nats"], low=rows["relative"], high=rows["relative"], **shares).groupby(
        by, sort=False
    )
    found = table.agg(
        {"mean": "mean", "nats": "mean", "low": "min", "high": "max", "attention": "min", "forward": "min"}
    )
    found = found.rename(columns={"nats": "relative"}).reset_index()
    found.insert(len(by), "perplexity", np.exp(found["mean"]))
    found["mean"] /= np.log(2)
    return found.rename(columns={"mean": "bits"})
