"""Retrieval by a decoder whose keys and values are in a compressed cache: does it still find a line? Notebook 21.

The lines are the prompt: the decoder reads them with exact attention, and every cache absorbs their keys and values.
Question and answer come after that, token by token, and attend to the cache alone: no cache knows the question while it
decides which tokens to store.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....lab.comparison.answers import ANSWERED, answers, at_once, exact_answers
from ....lab.comparison.decoder_caches import caches_within, first_tokens
from ....lab.comparison.documents import PLAIN, affordable, lines_bytes, of_length, pieces, tasks
from ....lab.comparison.error_over_bytes import dots, stored_fractions
from ....lab.comparison.registry import WINDOW
from ....lab.models import Model
from ....lab.run import Run
from ....lab.statistics import mean_and_reach, proportion, sign_test
from ....lab.workloads.instance import Instance
from ....lm.retrieval import DIGITS
from ....plots.panels import facets, finish, grid
from ....plots.style import METHODS, THEORY, paper_style, series
from ...caches.base import KVCache
from ..claims import reported
from ..subgen import SubGenCache

SHORTEST = 256
"""Tokens of the shortest documents."""
SLOTS = (1 / 4, 1, 4, 16)
"""SubGen's value slots per token, where nothing else is estimated."""
OURS = (WINDOW, *reported.OURS)
REPORTED = 0.44, 0.34
"""[SG24]: accuracy of its method, and of sinks and heavy hitters, at 9k tokens and equal budgets."""
CHANCE = 1 / (9 * 10 ** (DIGITS - 1))
"""Accuracy of a random number of so many digits."""
CHANCE_BITS = -np.log2(CHANCE) / DIGITS


# ------------------------------------------------------------------------------------------------- how much is measured
def lengths_of(run: Run, model: Model) -> list[int]:
    """Tokens of documents: the run's parameter n.

    Else they double, to twice the trained context at standard effort, or what is affordable.
    """
    if given := run.given("n", ()):
        return sorted(given)
    trained = model.decoder.trained
    longest = run.pick(smoke=512, standard=min(2 * trained, 8192), full=min(4 * trained, 32768))
    enough = run.pick(smoke=2, standard=12, full=24)
    doubling = (SHORTEST * 2**i for i in range(max(1, int(np.log2(longest / SHORTEST)) + 1)))
    return [n for n in doubling if n == SHORTEST or affordable(run, model, n) >= enough]


def estimate(run: Run) -> str:
    """How long `over_length`, `over_bytes` and `over_slots` will take, from a few documents of a large model."""
    opened = run.open_model()
    plan = [(n, min(documents_at(run), affordable(run, opened, n))) for n in lengths_of(run, opened)]
    if all(count == documents_at(run) for _, count in plan):
        return f"{opened.name} is small: a minute at smoke effort, an hour at standard"
    few = of_length(run, opened, tasks(opened)[-1], SHORTEST, 16)
    few = few[:1] if run.xp is np else few  # a device takes as long for one as for many
    first, quarter, seconds = first_tokens(opened, few[0]), lines_bytes(opened, few[0]) // 4, []
    for work in (
        lambda: exact_answers(opened, few[:1]),  # the first use of the weights is not counted
        lambda: exact_answers(opened, few),
        lambda: answers(opened, few, lambda: caches_within(first, quarter, run.rng("estimate"))),
    ):
        start = time.perf_counter()
        work()
        seconds.append((time.perf_counter() - start) / (SHORTEST * len(few)))
    tokens = sum(n * max(2, count) for n, count in plan)
    under = len(shares_of(run)) * SHORTEST * max(2, affordable(run, opened, SHORTEST))
    total = len(tasks(opened)) * tokens * seconds[1] + under * seconds[2]
    return (
        f"{opened.name}: about {math.ceil(total / 60)} minutes if it answers all {len(tasks(opened))} tasks at all "
        f"lengths ({len(tasks(opened)) * tokens} tokens), less if not"
    )


def documents_at(run: Run) -> int:
    """Documents per length, for a small model."""
    return int(run.given("documents", run.pick(smoke=8, standard=100, full=200)))


def shares_of(run: Run) -> tuple[float, ...]:
    """Budgets, as fractions of the exact cache's bytes."""
    every = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
    return tuple(run.given("shares", run.pick(smoke=(1 / 4,), standard=every, full=every)))


# -------------------------------------------------------------------------------------------------------- measurements
def over_length(run: Run) -> pd.DataFrame:
    """Answers of exact attention over the length of the document, beyond the trained context by YaRN.

    A task ends with the first length at which less than half of ANSWERED are right.

    Returns
    -------
    DataFrame
        task, n (tokens of a document, nearly), stretched (whether beyond the trained context), document, right (whether
        the answer is), bits (of an answer's token, mean).
    """
    opened = run.open_model()
    tables = []
    for task in tasks(opened):
        for n in lengths_of(run, opened):
            texts, start = of_length(run, opened, task, n, documents_at(run)), time.perf_counter()
            table = exact_answers(opened, texts, tokens=at_once(opened, 1))
            tables.append(table.assign(task=task, n=n, stretched=n > opened.decoder.trained))
            seconds = time.perf_counter() - start
            print(f"{task}, {n} tokens: {table['right'].sum()} of {len(table)} right, {seconds:.0f} s", flush=True)
            if table["right"].mean() < ANSWERED / 2:
                break
    return pd.concat(tables, ignore_index=True)


def settings(lengths: pd.DataFrame) -> dict[str, list[int]]:
    """The lengths at which tasks are answered, from the `accuracies` of `over_length` by task and n.

    Of more than two tasks that are answered at some length, the hardest and the easiest; if there is none, the length
    and task with the highest accuracy, the shortest of equals.
    """
    enough = lengths[lengths["rate"] >= ANSWERED]
    if enough.empty:
        enough = lengths.sort_values(["rate", "n"], ascending=[False, True], kind="stable").head(1)
    found: dict[str, list[int]] = {}
    for task, n in zip(enough["task"], enough["n"], strict=True):
        found.setdefault(task, []).append(int(n))
    return {task: found[task] for task in dict.fromkeys((next(iter(found)), list(found)[-1]))}


def over_bytes(run: Run, answered: Mapping[str, Sequence[int]]) -> pd.DataFrame:
    """Answers under every cache over the bytes that it may hold.

    Of the lengths at which a task is `answered` (see `settings`), documents have half of the longest, or less where
    two dozen of a large model are not affordable; at smoke effort the shortest; at full effort a quarter, half and all
    of the longest.

    Returns
    -------
    DataFrame
        task, n, document, method, share (the budget, as a fraction of the exact cache's bytes after the lines; nan
        without a budget), right, bits, held (bytes stored, as the same fraction). All methods read the same documents.
    """
    opened, shares = run.open_model(), shares_of(run)
    config, tables = opened.decoder.config, []
    for task, lengths in answered.items():
        longest = max(n for n in lengths if n == min(lengths) or affordable(run, opened, n) >= 24 * len(answered))
        half = min(longest, max(lengths) // 2)
        wanted = run.pick(smoke=(0,), standard=(half,), full=(half // 2, half, longest))
        for n in sorted({max(x for x in lengths if x <= max(size, min(lengths))) for size in wanted}):
            most = run.given("documents", run.pick(smoke=6, standard=100, full=100))
            texts, start = of_length(run, opened, task, n, most, part=len(answered)), time.perf_counter()
            rng = run.rng("line caches", n)
            whole, first = lines_bytes(opened, texts[0]), first_tokens(opened, texts[0])

            def make(
                first: list[Instance] = first, whole: int = whole, rng: np.random.Generator = rng
            ) -> dict[Any, list[KVCache]]:
                caches: dict[Any, list[KVCache]] = {}
                for share in shares:
                    for name, layers in caches_within(first, int(share * whole), rng).items():
                        caches[name, np.nan if name in ("exact", "zero") else share] = layers
                return caches

            table = answers(opened, texts, make, tokens=at_once(opened, 1 + 8 * sum(shares)))
            table["method"], table["share"] = zip(*table["caches"], strict=True)
            held = table["nbytes"] / (whole * config.layers * config.kv_heads)
            tables.append(table.drop(columns=["caches", "nbytes"]).assign(task=task, n=n, held=held))
            seconds = time.perf_counter() - start
            print(f"{task}, {n} tokens: {len(texts)} documents under caches, {seconds:.0f} s", flush=True)
    return pd.concat(tables, ignore_index=True)


def over_slots(run: Run) -> pd.DataFrame:
    """SubGen's answers to short documents over its value slots; every key is a cluster, so that tau is exact.

    Of the easiest task, for a model that has several.

    Returns
    -------
    DataFrame
        slots (per token of the lines), document, right, bits.
    """
    opened = run.open_model()
    multiples = run.pick(smoke=(1 / 4, 4), standard=SLOTS, full=SLOTS)
    texts = of_length(run, opened, tasks(opened)[-1], SHORTEST, run.pick(smoke=4, standard=100, full=100), part=4)
    tokens, rng = len(pieces(opened, texts[0])[0]), run.rng("line slots")

    def make() -> dict[Any, list[KVCache]]:
        return {
            slots: [SubGenCache(0.0, 1, round(slots * tokens), rng=rng) for _ in range(opened.decoder.config.layers)]
            for slots in multiples
        }

    table = answers(opened, texts, make, tokens=at_once(opened, sum(2 + slots for slots in multiples)))
    return table.rename(columns={"caches": "slots"}).drop(columns="nbytes")


def accuracies(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Accuracy with 99 percent Clopper-Pearson limits, and mean bits of an answer's token with 99 percent t-limits.

    Returns
    -------
    DataFrame
        The columns `by`, rate, low, high, documents, bits, reach (half the width of the interval of bits).
    """
    table = [
        (*key, *proportion(int(part["right"].sum()), len(part)), len(part), *mean_and_reach(part["bits"].to_numpy()))
        for key, part in rows.groupby(list(by), sort=False, dropna=False)
    ]
    return pd.DataFrame(table, columns=[*by, "rate", "low", "high", "documents", "bits", "reach"])


def paired(rows: pd.DataFrame) -> pd.DataFrame:
    """SubGen, and the k-center that [SG24] ran in its place, against sinks and heavy hitters on the same documents.

    Returns
    -------
    DataFrame
        task, n, share, method, against, gained and lost (documents that only `method` or only `against` answers), p
        (their two-sided sign test, which is McNemar's exact test), bits (mean difference, below 0 where `method` is
        better), reach (half the width of its 99 percent t-interval).
    """
    columns = ["task", "n", "share", "method", "against", "gained", "lost", "p", "bits", "reach"]
    table = []
    for key, part in rows.dropna(subset=["share"]).groupby(["task", "n", "share"], sort=False):
        right, bits = (part.pivot(index="document", columns="method", values=x) for x in ("right", "bits"))
        for ours, theirs in ((ours, theirs) for ours in OURS for theirs in reported.THEIRS):
            gained, lost = (int((right[a] & ~right[b]).sum()) for a, b in ((ours, theirs), (theirs, ours)))
            p = sign_test(gained, lost)
            gap = mean_and_reach((bits[ours] - bits[theirs]).to_numpy())
            table.append((*key, ours, theirs, gained, lost, p, *gap))
    return pd.DataFrame(table, columns=columns)


# -------------------------------------------------------------------------------------------------------------- figures
_BITS = "bits of an answer's token"


def _with_limits(table: pd.DataFrame) -> pd.DataFrame:
    """The limits of the bits in the columns low and high; below 0 there are none."""
    return table.assign(low=np.maximum(table["bits"] - table["reach"], 0), high=table["bits"] + table["reach"])


@paper_style()
def draw_over_length(table: pd.DataFrame) -> Figure:
    """Questions answered and bits of an answer's token: the `accuracies` of `over_length` by task, n and stretched."""
    parts = {"questions answered": table.assign(value=table["rate"])}
    parts[_BITS] = _with_limits(table).assign(value=table["bits"])
    rows = pd.concat(parts, names=["quantity"]).reset_index("quantity")
    names = list(table["task"].unique())
    looks = {(name, False): look for name, look in series(*names).items()}
    if names == [PLAIN]:
        looks = {(PLAIN, False): {**METHODS["exact"], "label": "exact attention"}}
    beyond = "beyond the trained context (YaRN)"
    for name in names:
        look = looks[name, False]
        hollow = {"label": f"{look['label']}, {beyond}", "markerfacecolor": "white", "linestyle": ":"}
        looks[name, True] = {**look, **hollow}
    rows["line"] = list(zip(rows["task"], rows["stretched"], strict=True))
    looks = {line: look for line, look in looks.items() if line in set(rows["line"])}

    def levels(ax: Axes, panel: pd.DataFrame) -> None:
        bits = panel["quantity"].iloc[0] == _BITS
        ax.axhline(CHANCE_BITS if bits else CHANCE, **{**THEORY, "linestyle": ":", "label": "chance"})
        if not bits:
            ax.axhline(ANSWERED, **{**THEORY, "label": f"counts as answering: {ANSWERED:.0%}"})
        ax.set_ylim(0 if bits else -0.04, None if bits else 1.05)

    options: dict[str, Any] = {"facet": "quantity", "columns": 2, "looks": looks, "limits": ("low", "high")}
    labels: dict[str, Any] = {"xlabel": "tokens of the document", "ylabel": {name: name for name in parts}}
    options["bars"] = len(looks) > 2
    return facets(rows, x="n", y="value", hue="line", logx=True, height=2.1, each=levels, **options, **labels)


@paper_style()
def draw_over_bytes(table: pd.DataFrame) -> Figure:
    """A row of panels per task and length: the `accuracies` of `over_bytes` by method and share; stars: [SG24]'s."""
    rows = list(table.groupby(["task", "n"], sort=False))
    fig, axes = grid(2 * len(rows), 2, height=0.3 * table["method"].nunique(), sharex="col")
    ours, theirs = REPORTED
    for answered, bits, ((task, n), panel) in zip(axes[::2], axes[1::2], rows, strict=True):
        names = dots(answered, panel, "rate", "low", "high")
        stored_fractions(answered, panel, CHANCE)
        stars = {"k-center": ours}  # in place of SubGen they ran an offline k-center
        stars |= dict.fromkeys(reported.THEIRS, theirs)
        look: dict[str, Any] = {"linestyle": "none", "marker": "*", "color": "black", "markersize": 6, "zorder": 5}
        answered.plot(
            list(stars.values()), [names.index(name) for name in stars], **look, label="reported, at 9k tokens"
        )
        answered.set_title(f"documents of {n} tokens" if task == PLAIN else f"{task}, {n} tokens")
        dots(bits, _with_limits(panel), "bits", "low", "high")
        bits.axvline(CHANCE_BITS, **{**THEORY, "linestyle": ":", "label": "chance"})
        bits.set_yticklabels([])
    axes[-1].set_xlim(left=-0.03 * axes[-1].get_xlim()[1])  # of all panels of bits, once all of them are drawn
    axes[-2].set_xlabel("questions answered")
    axes[-1].set_xlabel(_BITS)
    finish(fig)
    return fig
