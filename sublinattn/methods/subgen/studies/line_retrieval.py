"""Line retrieval by a real model whose keys and values are in a compressed cache: can it still say what a line held?

The lines are the prompt: they are attended to exactly, and every cache absorbs their keys and values. The question
comes token by token after that, so that no cache knew what it would be asked; it and the answer are read from the cache
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ....lab.comparison.registry import WINDOW
from ....lab.models import Model
from ....lab.run import Run
from ....lab.statistics import mean_and_reach, proportion
from ....lm.retrieval import DIGITS, Document
from ...caches.base import KVCache
from ..claims.retrieval import answers, caches_within, documents, exact_answers, lines_bytes, pieces
from ..subgen import SubGenCache

ANSWERED = 0.9
"""From this accuracy on exact attention counts as answering."""
SLOTS = (1 / 4, 1, 4, 16)
"""SubGen's value slots per token where nothing else is estimated."""
OURS, THEIRS = (WINDOW, "subgen", "k-center"), ("sinks", "heavy hitters")
REPORTED = 0.44, 0.34
"""[SG24]: accuracy of its method, and of sinks and heavy hitters, at 9k tokens and equal budgets."""
CHANCE = 1 / (9 * 10 ** (DIGITS - 1))
"""Accuracy of a random number of so many digits."""
CHANCE_BITS = -np.log2(CHANCE) / DIGITS


# ------------------------------------------------------------------------------------------------------- the documents


# --------------------------------------------------------------------------------------------------------- the answers


# ---------------------------------------------------------------------------------------------------------- the caches


# ---------------------------------------------------------------------------------------------------- the experiments
def over_length(run: Run) -> pd.DataFrame:
    """Answers of exact attention over the length of the document, beyond the trained context by YaRN.

    Returns
    -------
    DataFrame
        n (tokens of a document, at most or nearly), stretched (whether beyond the trained context), document, right,
        bits.
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
    """The greatest n of `over_length` at which exact attention is right in the share ANSWERED or more; if there is
    none, that with the highest accuracy, the shortest of equals."""
    accuracy: dict[Any, float] = rows.groupby("n")["right"].mean().to_dict()
    enough = [n for n, rate in accuracy.items() if rate >= ANSWERED]
    return int(max(enough) if enough else max(accuracy, key=accuracy.__getitem__))


def over_bytes(run: Run, *, longest: int) -> pd.DataFrame:
    """Answers under every cache over the bytes that it may hold, for documents of half of `longest` tokens; at smoke
    effort shorter ones, at full effort of a quarter, half and all of it.

    Returns
    -------
    DataFrame
        n, document, method, share (of the exact cache's bytes after the lines; nan without a budget), right, bits, held
        (as a share of the same). All methods see the same documents.
    """
    opened = run.open_model()
    config = opened.decoder.config
    lengths = run.pick(smoke=(min(256, longest),), standard=(longest // 2,), full=(longest // 4, longest // 2, longest))
    shares = run.pick(smoke=(1 / 4,), standard=(1 / 8, 1 / 4, 1 / 2), full=(1 / 16, 1 / 8, 1 / 4, 1 / 2))
    count = run.pick(smoke=6, standard=100, full=100)
    tables = []
    for n in sorted({max(256, n) for n in lengths}):
        asked, rng = of_length(run, opened, n, count), run.rng("line caches", n)
        whole = lines_bytes(opened, asked[0])

        def make(whole: int = whole, rng: np.random.Generator = rng) -> dict[Any, list[KVCache]]:
            found: dict[Any, list[KVCache]] = {}
            for share in shares:
                for name, caches in caches_within(opened, int(share * whole), rng).items():
                    found[name, np.nan if name in ("exact", "zero") else share] = caches
            return found

        table = answers(opened, asked, make)
        table["method"], table["share"] = zip(*table["caches"], strict=True)
        held = table["nbytes"] / (whole * config.layers * config.kv_heads)
        tables.append(table.drop(columns=["caches", "nbytes"]).assign(n=n, held=held))
    return pd.concat(tables, ignore_index=True)


def over_slots(run: Run) -> pd.DataFrame:
    """SubGen's answers to short documents over its value slots alone: every key is a cluster, so that tau is exact.

    Returns
    -------
    DataFrame
        slots (per token of the lines), document, right, bits.
    """
    opened = run.open_model()
    multiples = run.pick(smoke=(1 / 4, 4), standard=SLOTS, full=SLOTS)
    asked = of_length(run, opened, 256, run.pick(smoke=4, standard=100, full=100))
    tokens, rng = len(pieces(opened, asked[0])[0]), run.rng("line slots")

    def make() -> dict[Any, list[KVCache]]:
        return {
            slots: [SubGenCache(0.0, 1, round(slots * tokens), rng=rng) for _ in range(opened.decoder.config.layers)]
            for slots in multiples
        }

    return answers(opened, asked, make).rename(columns={"caches": "slots"}).drop(columns="nbytes")


def accuracies(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Share of right answers with 99 percent Clopper-Pearson limits, and mean bits of an answer's token with 99 percent
    t-limits: the columns `by`, rate, low, high, documents, bits, reach."""
    found = [
        (*key, *proportion(int(part["right"].sum()), len(part)), len(part), *mean_and_reach(part["bits"].to_numpy()))
        for key, part in rows.groupby(list(by), sort=False, dropna=False)
    ]
    return pd.DataFrame(found, columns=[*by, "rate", "low", "high", "documents", "bits", "reach"])


def paired(rows: pd.DataFrame) -> pd.DataFrame:
    """SubGen, and the k-center that [SG24] ran in its place, against sinks and heavy hitters on the same documents.

    Returns
    -------
    DataFrame
        n, share, method, against, gained and lost (documents that only the one or only the other answers), p (two-sided
        sign test on these: McNemar's, exact), bits (mean difference, below 0 where `method` is better), reach (of its
        99 percent t-interval).
    """
    from scipy.stats import binomtest  # a third of a second

    found = []
    for (n, share), part in rows.dropna(subset=["share"]).groupby(["n", "share"], sort=False):
        right, bits = (part.pivot(index="document", columns="method", values=x) for x in ("right", "bits"))
        for ours, theirs in ((ours, theirs) for ours in OURS for theirs in THEIRS):
            gained, lost = (int((right[a] & ~right[b]).sum()) for a, b in ((ours, theirs), (theirs, ours)))
            p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
            gap = mean_and_reach((bits[ours] - bits[theirs]).to_numpy())
            found.append((n, share, ours, theirs, gained, lost, p, *gap))
    return pd.DataFrame(found, columns=["n", "share", "method", "against", "gained", "lost", "p", "bits", "reach"])
