"""Line retrieval by a decoder whose keys and values are in a compressed cache: does it still find a line? Notebook 21.

The lines are the prompt: the decoder reads them with exact attention, and every cache absorbs their keys and values.
Question and answer come after that, token by token, and attend to the cache alone: no cache knows the question while it
decides which tokens to store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....lab.comparison.error_over_bytes import dots, stored_fractions
from ....lab.comparison.registry import WINDOW
from ....lab.models import Model
from ....lab.run import Run
from ....lab.statistics import mean_and_reach, proportion
from ....lm.retrieval import DIGITS, Document
from ....plots.panels import facets, finish, grid
from ....plots.style import METHODS, THEORY, paper_style
from ...caches.base import KVCache
from ..claims.retrieval import answers, caches_within, documents, exact_answers, lines_bytes, pieces
from ..subgen import SubGenCache

ANSWERED = 0.9
"""Accuracy from which exact attention counts as answering."""
SLOTS = (1 / 4, 1, 4, 16)
"""SubGen's value slots per token, where nothing else is estimated."""
OURS, THEIRS = (WINDOW, "subgen", "k-center"), ("sinks", "heavy hitters")
REPORTED = 0.44, 0.34
"""[SG24]: accuracy of its method, and of sinks and heavy hitters, at 9k tokens and equal budgets."""
CHANCE = 1 / (9 * 10 ** (DIGITS - 1))
"""Accuracy of a random number of so many digits."""
CHANCE_BITS = -np.log2(CHANCE) / DIGITS


# -------------------------------------------------------------------------------------------------------- measurements
def over_length(run: Run) -> pd.DataFrame:
    """Answers of exact attention over the length of the document, beyond the trained context by YaRN.

    Returns
    -------
    DataFrame
        n (tokens of a document, nearly), stretched (whether beyond the trained context), document, right (whether the
        answer is), bits (of an answer's token, mean).
    """
    opened = run.open_model()
    trained = opened.decoder.trained
    longest = run.pick(smoke=512, standard=min(2 * trained, 8192), full=min(4 * trained, 32768))
    count = run.pick(smoke=8, standard=100, full=200)
    tables = []
    for n in (2**i for i in range(8, int(np.log2(longest)) + 1)):
        table = exact_answers(opened, of_length(run, opened, n, count))
        tables.append(table.assign(n=n, stretched=n > trained))
    return pd.concat(tables, ignore_index=True)


def of_length(run: Run, model: Model, n: int, count: int) -> list[Document]:
    """`count` documents of about `n` tokens: of at most `n` where a token is a byte."""
    rng = run.rng("lines", n)
    sample = documents(rng, n, 1)[0].text
    return documents(rng, n * len(sample) // len(model.encode(sample)), count)


def longest_answered(rows: pd.DataFrame) -> int:
    """The largest n of `over_length` with an accuracy of at least ANSWERED.

    If there is none, it is the n with the highest accuracy, the shortest of equals.
    """
    accuracy: dict[Any, float] = rows.groupby("n")["right"].mean().to_dict()
    enough = [n for n, rate in accuracy.items() if rate >= ANSWERED]
    return int(max(enough) if enough else max(accuracy, key=accuracy.__getitem__))


def over_bytes(run: Run, *, longest: int) -> pd.DataFrame:
    """Answers under every cache over the bytes that it may hold, for documents of half of `longest` tokens; at smoke
    effort shorter ones, at full effort of a quarter, half and all of it.

    Returns
    -------
    DataFrame
        n, document, method, share (the budget, as a fraction of the exact cache's bytes after the lines; nan without a
        budget), right, bits, held (bytes stored, as the same fraction). All methods read the same documents.
    """
    opened = run.open_model()
    config = opened.decoder.config
    lengths = run.pick(smoke=(min(256, longest),), standard=(longest // 2,), full=(longest // 4, longest // 2, longest))
    shares = run.pick(smoke=(1 / 4,), standard=(1 / 8, 1 / 4, 1 / 2), full=(1 / 16, 1 / 8, 1 / 4, 1 / 2))
    count = run.pick(smoke=6, standard=100, full=100)
    tables = []
    for n in sorted({max(256, n) for n in lengths}):
        texts, rng = of_length(run, opened, n, count), run.rng("line caches", n)
        whole = lines_bytes(opened, texts[0])

        def make(whole: int = whole, rng: np.random.Generator = rng) -> dict[Any, list[KVCache]]:
            caches: dict[Any, list[KVCache]] = {}
            for share in shares:
                for name, layers in caches_within(opened, int(share * whole), rng).items():
                    caches[name, np.nan if name in ("exact", "zero") else share] = layers
            return caches

        table = answers(opened, texts, make)
        table["method"], table["share"] = zip(*table["caches"], strict=True)
        held = table["nbytes"] / (whole * config.layers * config.kv_heads)
        tables.append(table.drop(columns=["caches", "nbytes"]).assign(n=n, held=held))
    return pd.concat(tables, ignore_index=True)


def over_slots(run: Run) -> pd.DataFrame:
    """SubGen's answers to short documents over its value slots; every key is a cluster, so that tau is exact.

    Returns
    -------
    DataFrame
        slots (per token of the lines), document, right, bits.
    """
    opened = run.open_model()
    multiples = run.pick(smoke=(1 / 4, 4), standard=SLOTS, full=SLOTS)
    texts = of_length(run, opened, 256, run.pick(smoke=4, standard=100, full=100))
    tokens, rng = len(pieces(opened, texts[0])[0]), run.rng("line slots")

    def make() -> dict[Any, list[KVCache]]:
        return {
            slots: [SubGenCache(0.0, 1, round(slots * tokens), rng=rng) for _ in range(opened.decoder.config.layers)]
            for slots in multiples
        }

    return answers(opened, texts, make).rename(columns={"caches": "slots"}).drop(columns="nbytes")


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
        n, share, method, against, gained and lost (documents that only `method` or only `against` answers), p (their
        two-sided sign test, which is McNemar's exact test), bits (mean difference, below 0 where `method` is better),
        reach (half the width of its 99 percent t-interval).
    """
    from scipy.stats import binomtest  # a third of a second

    table = []
    for (n, share), part in rows.dropna(subset=["share"]).groupby(["n", "share"], sort=False):
        right, bits = (part.pivot(index="document", columns="method", values=x) for x in ("right", "bits"))
        for ours, theirs in ((ours, theirs) for ours in OURS for theirs in THEIRS):
            gained, lost = (int((right[a] & ~right[b]).sum()) for a, b in ((ours, theirs), (theirs, ours)))
            p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
            gap = mean_and_reach((bits[ours] - bits[theirs]).to_numpy())
            table.append((n, share, ours, theirs, gained, lost, p, *gap))
    return pd.DataFrame(table, columns=["n", "share", "method", "against", "gained", "lost", "p", "bits", "reach"])


# -------------------------------------------------------------------------------------------------------------- figures
_BITS = "bits of an answer's token"


def _with_limits(table: pd.DataFrame) -> pd.DataFrame:
    """The limits of the bits in the columns low and high; below 0 there are none."""
    return table.assign(low=np.maximum(table["bits"] - table["reach"], 0), high=table["bits"] + table["reach"])


@paper_style()
def draw_over_length(table: pd.DataFrame) -> Figure:
    """Questions answered and bits of an answer's token, from the `accuracies` of `over_length` by n and stretched."""
    parts = {"questions answered": table.assign(value=table["rate"])}
    parts[_BITS] = _with_limits(table).assign(value=table["bits"])
    rows = pd.concat(parts, names=["quantity"]).reset_index("quantity")
    looks = {False: {**METHODS["exact"], "label": "exact attention"}}
    label = "exact attention, beyond the trained context (YaRN)"
    looks[True] = {**METHODS["exact"], "label": label, "markerfacecolor": "white", "linestyle": ":"}

    def levels(ax: Axes, panel: pd.DataFrame) -> None:
        bits = panel["quantity"].iloc[0] == _BITS
        ax.axhline(CHANCE_BITS if bits else CHANCE, **{**THEORY, "linestyle": ":", "label": "chance"})
        if not bits:
            ax.axhline(ANSWERED, **{**THEORY, "label": f"counts as answering: {ANSWERED:.0%}"})
        ax.set_ylim(0 if bits else -0.04, None if bits else 1.05)

    options: dict[str, Any] = {"facet": "quantity", "columns": 2, "looks": looks, "limits": ("low", "high")}
    labels: dict[str, Any] = {"xlabel": "tokens of the document", "ylabel": {name: name for name in parts}}
    return facets(rows, x="n", y="value", hue="stretched", logx=True, height=2.1, each=levels, **options, **labels)


@paper_style()
def draw_over_bytes(table: pd.DataFrame) -> Figure:
    """A row of panels per length: the `accuracies` of `over_bytes` by n, method and share; stars: [SG24]'s."""
    lengths = sorted(table["n"].unique())
    fig, axes = grid(2 * len(lengths), 2, height=0.3 * table["method"].nunique(), sharex="col")
    ours, theirs = REPORTED
    for answered, bits, n in zip(axes[::2], axes[1::2], lengths, strict=True):
        panel = table[table["n"] == n]
        names = dots(answered, panel, "rate", "low", "high")
        stored_fractions(answered, panel, CHANCE)
        stars = {"k-center": ours, **dict.fromkeys(THEIRS, theirs)}  # in place of SubGen they ran an offline k-center
        look: dict[str, Any] = {"linestyle": "none", "marker": "*", "color": "black", "markersize": 6, "zorder": 5}
        answered.plot(
            list(stars.values()), [names.index(name) for name in stars], **look, label="reported, at 9k tokens"
        )
        answered.set_title(f"documents of {n} tokens")
        dots(bits, _with_limits(panel), "bits", "low", "high")
        bits.axvline(CHANCE_BITS, **{**THEORY, "linestyle": ":", "label": "chance"})
        bits.set_xlim(left=-0.03 * bits.get_xlim()[1])
        bits.set_yticklabels([])
    axes[-2].set_xlabel("questions answered")
    axes[-1].set_xlabel(_BITS)
    finish(fig)
    return fig
