"""Notebook 20: what a real model loses when layers attend approximately, and what that saves.

Source: [HA24] Figure 3, which replaces the last layers of ChatGLM2-6B at 32k tokens: perplexity 5.6 becomes 6.3 for
half of the time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ....core.backends import Array, asnumpy, row_squares
from ....core.quiet import quiet
from ....core.timing import timed
from ....lab.models import Model
from ....lab.progress import tracked
from ....lab.run import Run
from ....lab.statistics import mean_and_reach
from ....lm.attend import causal, per_query_head
from ....lm.config import Config
from ..claims.replaced_layers import (
    AFTER,
    BEFORE,
    HYPER,
    HYPER_HEAVY,
    HYPER_SINKS,
    LOCAL,
    SINKS,
    UNIFORM,
    UNIFORM_SINKS,
    WINDOW,
    ZERO,
    Pass,
    Passage,
    hyper_exempting,
    methods,
)
from ..claims.section2_alpha_growth import column_squares
from .context_gain import alternating, contexts

HYPER_64 = hyper_exempting(64)
NONE_EXACT = (HYPER, UNIFORM, LOCAL, ZERO)
SOME_EXACT = (HYPER_SINKS, HYPER_64, HYPER_HEAVY, UNIFORM_SINKS, WINDOW)
"""Methods that are compared: with no key exempt, and with a few keys in every query's exact part."""
ORDERED = {HYPER: 0, HYPER_SINKS: SINKS}
"""Methods that replace layers in several orders, with their exempt keys."""
LAST, FIRST, ALPHA, ERROR = "from the last", "from the first", "least alpha first", "least error first"
HARM, GREEDY = "least harm first", "greedily"
"""Orders in which layers are replaced."""
SEARCHED = 8
"""Layers up to which the greedy order is searched: about half their number squared passes through each text."""
REPORTED = 0.5, float(np.log(AFTER) / np.log(BEFORE))
"""What [HA24] reports of half of the layers at 32768 tokens: share of the time, and of exact log-perplexity."""


# -------------------------------------------------------------------------------------------------- what is measured
class Grid(NamedTuple):
    """What is measured at one number of tokens.

    Attributes
    ----------
    n, passages : int
        Tokens of a passage, and number of passages.
    replaced : tuple of int
        Numbers of replaced layers, the first of them 0.
    orders : bool
        Whether the methods `ORDERED` replace layers in all orders; else only from the last on.
    compared : tuple of str
        Methods.
    """

    n: int
    passages: int
    replaced: tuple[int, ...]
    orders: bool = True
    compared: tuple[str, ...] = NONE_EXACT + SOME_EXACT

    def lines(self, orders: Mapping[str, Mapping[str, list[int]]]) -> Iterator[tuple[str, str, int, frozenset[int]]]:
        """Method, order, number of layers and the layers themselves, of each line of one passage's table."""
        for name in self.compared:
            for way, layers in orders[name if name in ORDERED else HYPER].items():
                if way == LAST or (self.orders and name in ORDERED):
                    for number in self.replaced:
                        yield name, way, number, frozenset(layers[:number])


def grids(run: Run) -> list[Grid]:
    """What is measured, by effort: of a large model, whose passes are dear, few numbers of layers.

    Parameters of the run: n (at a length that the effort does not have, what it has at its first one), passages.
    """
    opened = run.open_model()
    layers = opened.decoder.config.layers
    every, half = numbers(layers), (0, layers // 2, layers)
    if opened.large:
        quarters = (0, round(layers / 4), layers // 2, layers)
        chosen = run.pick(
            smoke=[Grid(256, 2, half)],
            standard=[Grid(2048, 8, quarters), Grid(8192, 3, half, orders=False)],
            full=[Grid(2048, 16, every), Grid(8192, 8, every, orders=False), Grid(32768, 2, half, orders=False)],
        )
    else:
        chosen = run.pick(
            smoke=[Grid(256, 3, every), Grid(1024, 3, half, orders=False)],
            standard=[Grid(2048, 8, every), Grid(8192, 4, every), Grid(32768, 3, half, orders=False)],
            full=[Grid(2048, 16, every), Grid(8192, 12, every), Grid(32768, 8, every)],
        )
    at = {grid.n: grid for grid in chosen}
    chosen = [at.get(n, chosen[0]._replace(n=n)) for n in run.given("n", tuple(at))]
    return [grid._replace(passages=run.given("passages", grid.passages)) for grid in chosen]


def numbers(layers: int) -> tuple[int, ...]:
    """How many layers are replaced: none, all, and up to seven numbers between."""
    return tuple(np.unique(np.linspace(0, layers, min(layers, 8) + 1).round().astype(int)).tolist())


def alone_on(run: Run) -> tuple[int, int]:
    """Tokens and number of the passages that decide in which order layers are replaced."""
    opened = run.open_model()
    if opened.large:
        n, count = run.pick(smoke=(128, 2), standard=(2048, 2), full=(2048, 8))
    else:
        n, count = run.pick(smoke=(256, 3), standard=(2048, 8), full=(2048, 16))
    return min(n, opened.decoder.trained), run.given("passages", count)


def plan(run: Run) -> pd.DataFrame:
    """What is going to be measured and about how long it will take, after one exact pass was timed.

    Every pass is counted as one of exact attention, from the first replaced layer on.

    Returns
    -------
    DataFrame
        what, tokens, passages, passes (of all passages), seconds.
    """
    opened, rng = run.open_model(), run.rng("plan")
    config, grid = opened.decoder.config, grids(run)
    n = grid[0].n
    tokens = opened.passage(rng, n)
    read = opened.decoder.stretched(n).losses
    read(tokens)
    pace = timed(opened.decoder.xp, lambda: read(tokens))[1] / products(config, n, config.layers)
    longest, count = contexts(run)
    whole = [products(config, 2 * longest >> i, config.layers) for i in range(1, 20) if longest >> i >= 64]
    lines = [("gain from context", longest, count, count * len(whole), count * sum(whole))]
    layers, (m, passages) = range(config.layers), alone_on(run)
    first = [0, *(layer for layer in layers for _ in ORDERED)]
    if len(layers) <= SEARCHED:
        first += [0] * (len(ORDERED) * sum(layers))
    sums = sum(products(config, m, len(layers) - layer) for layer in first)
    lines.append(("each layer alone", m, passages, passages * len(first), passages * sums))
    for each in grid:
        at = dict.fromkeys((LAST, FIRST, ALPHA, ERROR, HARM), list(layers)[::-1])
        sets = [(way, number) for _, way, number, _ in each.lines(dict.fromkeys(ORDERED, at)) if number]
        sums = sum(
            products(config, each.n, number if way == LAST else len(layers)) for way, number in [(FIRST, 1), *sets]
        )
        lines.append(("replaced layers", each.n, each.passages, each.passages * (len(sets) + 1), each.passages * sums))
    table = pd.DataFrame(lines, columns=["what", "tokens", "passages", "passes", "seconds"])
    return table.assign(seconds=(table["seconds"] * pace).round().astype(int))


def products(config: Config, n: int, layers: int) -> int:
    """Multiplications of a pass of n tokens through the last `layers` layers and the head, attention being exact."""
    heads = 2 * (config.heads + config.kv_heads) * config.head_dim
    layer = n * config.width * (heads + 3 * config.inner) + n**2 * config.heads * config.head_dim
    return layers * layer + n * config.width * config.vocabulary


def _passages(model: Model, rng: np.random.Generator, n: int, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Kind and tokens of each passage."""
    for passage in range(count):
        source = alternating(model, passage)
        yield source.kinds[0], source.passage(rng, n)


# --------------------------------------------------------------------------------------------------- which layers first
def layers_alone(run: Run) -> pd.DataFrame:
    """What decides which layer is replaced first, measured on passages of their own.

    Greedily the layer goes that harms least with those before it replaced, too. That takes about half of the number of
    layers squared passes, so it is searched in models of at most `SEARCHED` layers; in deeper ones the layer goes first
    that harms least alone, whatever the layers do together.

    Returns
    -------
    DataFrame
        method (HyperAttention without and with the first keys exact), layer, alpha (of the later half of the queries on
        the earlier half of the keys, the largest block that the causal recursion samples in, over the keys that are not
        exempt; geometric mean over heads and passages), error (of the layer's attention on what exact attention gives
        it: Frobenius norm over that of exact attention, mean over passages), harm (of the method in this layer only:
        nats per token, mean over passages), reach (of its 99 percent t-interval), and turn (0 for the layer that goes
        first greedily) where it was searched.
    """
    opened = run.open_model()
    layers = range(opened.decoder.config.layers)
    n, count = alone_on(run)
    rng = run.rng("layers alone", n)
    texts = [tokens for _, tokens in _passages(opened, rng, n, count)]
    near = np.mean([_at_the_layers(opened, tokens, rng) for tokens in texts], axis=0)
    passages = [Passage(opened.decoder, tokens) for tokens in texts]
    exact = [passage.read({}).nats for passage in passages]

    def harms(name: str, replaced: Collection[int]) -> list[float]:
        chosen = dict.fromkeys(replaced, methods(n, rng)[name])
        return [passage.read(chosen).nats - base for passage, base in zip(passages, exact, strict=True)]

    tables = []
    for name, (log_alpha, error) in zip(ORDERED, near, strict=True):
        what = f"{name}, each of {len(layers)} layers alone on {count} passages of {n} tokens"
        alone = [mean_and_reach(np.array(harms(name, [layer]))) for layer in tracked(layers, what)]
        table = pd.DataFrame(alone, columns=["harm", "reach"])
        table = table.assign(method=name, layer=layers, alpha=np.exp(log_alpha), error=error)
        if len(layers) <= SEARCHED:
            turns = [int(table["harm"].argmin())]
            while len(turns) < len(layers):
                rest = [layer for layer in layers if layer not in turns]
                turns.append(min(rest, key=lambda layer: float(np.mean(harms(name, [*turns, layer])))))  # noqa: B023
            table["turn"] = [turns.index(layer) for layer in layers]
        tables.append(table)
    columns = ["method", "layer", "alpha", "error", "harm", "reach", "turn"]
    return pd.concat(tables, ignore_index=True).reindex(columns=columns).dropna(axis=1)


def _at_the_layers(model: Model, tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """log alpha and error of each layer, for the methods `ORDERED`: (methods, 2, layers)."""
    n, found = len(tokens), []

    def attend(layer: int, q: Array, k: Array, v: Array) -> Array:
        exact, xp = causal(layer, q, k, v), model.decoder.xp
        k, v = (per_query_head(xp, q, x) for x in (k, v))
        later, earlier = q[0, :, n // 2 :], k[0, :, : n // 2]
        squares = earlier.shape[1] * column_squares(xp, later, earlier, scale=q.shape[-1] ** -0.5)
        made = methods(n, rng)
        for name, keys in ORDERED.items():
            wrong, right = (row_squares(xp, x).sum() for x in (made[name](q, k, v) - exact, exact))
            error = float(asnumpy(xp.sqrt(wrong / right)))
            found.append((np.log(squares[:, keys:].max(axis=1)).mean(), error))
        return exact

    model.decoder.stretched(n).losses(tokens, attend=attend)
    return np.array(found).reshape(-1, len(ORDERED), 2).transpose(1, 2, 0)


def orders(alone: pd.DataFrame) -> dict[str, dict[str, list[int]]]:
    """In which order layers are replaced: for each method, the layers by the order's name."""
    found = {}
    for name, table in alone.groupby("method", sort=False):
        layers = table["layer"].tolist()
        by = {ALPHA: "alpha", ERROR: "error", **({GREEDY: "turn"} if "turn" in table else {HARM: "harm"})}
        ranked = {way: table.sort_values(column)["layer"].tolist() for way, column in by.items()}
        found[str(name)] = {LAST: layers[::-1], FIRST: layers, **ranked}
    return found


# ------------------------------------------------------------------------------------------------------ replaced layers
@quiet()
def replaced_layers(
    run: Run, alone: pd.DataFrame | None = None, measured: Sequence[Grid] | None = None
) -> pd.DataFrame:
    """Loss and time over the number of replaced layers. Nothing else may run.

    Parameters
    ----------
    run : Run
    alone : DataFrame, optional
        Of `layers_alone`, for the orders; without it layers are replaced from the last on alone.
    measured : sequence of Grid, optional
        By default `grids(run)`.

    Returns
    -------
    DataFrame
        n, stretched, method, order, replaced (number of layers), passage, text (its kind), nats (per token), relative
        (to those of exact attention on the same passage: a ratio of log-perplexities), attention and forward (seconds
        of all layers' attention, of the whole pass). With no layer replaced every method is exact attention.
    """
    opened = run.open_model()
    xp, trained = opened.decoder.xp, opened.decoder.trained
    last = {LAST: list(range(opened.decoder.config.layers))[::-1]}
    ways = dict.fromkeys(ORDERED, last) if alone is None else orders(alone)
    rows: list[tuple[Any, ...]] = []
    for grid in grids(run) if measured is None else measured:
        n = grid.n
        decoder, rng, lines = opened.decoder.stretched(n), run.rng("replaced", n), list(grid.lines(ways))
        if xp is not np or not rows:
            decoder.losses(opened.passage(rng, n))  # warm: exact attention comes first
        passes = list(dict.fromkeys((name if chosen else "", chosen) for name, _, _, chosen in lines))
        firsts = {min(chosen) for _, chosen in passes if chosen}
        texts = list(_passages(opened, rng, n, grid.passages))
        jobs = [(passage, *each) for passage in range(len(texts)) for each in passes]
        found: dict[tuple[int, str, frozenset[int]], Pass] = {}
        for job in tracked(jobs, f"{len(texts)} passages of {n} tokens, {len(passes)} passes through each"):
            passage, name, chosen = job
            if not chosen:  # the first of a passage
                made, read = methods(n, rng), Passage(decoder, texts[passage][1], firsts)
            found[job] = read.read({layer: made[name] for layer in chosen})
        for passage, (text, _) in enumerate(texts):
            exact = found[passage, "", frozenset()].nats
            for name, way, number, chosen in lines:
                nats, *seconds = found[passage, name if chosen else "", chosen]
                rows.append((n, n > trained, name, way, number, passage, text, nats, nats / exact, *seconds))
    columns = ["n", "stretched", "method", "order", "replaced", "passage", "text", "nats", "relative"]
    return pd.DataFrame(rows, columns=[*columns, "attention", "forward"])
