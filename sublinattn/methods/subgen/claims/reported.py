"""What SubGen's paper reports of trained decoders: keys cluster and values do not, and lines are found again under a
compressed cache.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import asnumpy, to_device
from ....lab.comparison.answers import answers, at_once
from ....lab.comparison.decoder_caches import caches_within, first_tokens
from ....lab.comparison.documents import asked, lines_bytes, tasks
from ....lab.models import Model, open_model
from ....primitives.kcenter import greedy_radii, largest_distance
from ....theory.claim import Case, Claim, Probability, Sabotage, Trial
from ...caches.base import KVCache

OURS, THEIRS = ("subgen", "k-center"), ("sinks", "heavy hitters")
"""What [SG24] analyses and what its experiments ran, and what it is compared with."""
PART = 8
"""Tokens per center of the greedy k-center."""
FEW = 8
"""Passages of a large model, whose runs are dear."""
EACH = 32
"""Bytes of a document for each document of a large model: short ones, which tell little apart, are few."""
STARVED = 4
"""What the sabotage divides a method's bytes by."""


@lru_cache(maxsize=FEW)
def keys_and_values(backend: str, model: str, number: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Of one of a large model's passages: each (layers, kv_heads, n, d), on the host."""
    opened = open_model(model, backend=backend)
    _, k, v = opened.qkv(opened.passage(np.random.default_rng([2402, number]), n))
    return asnumpy(k), asnumpy(v)


def cluster_cost(rng: np.random.Generator, xp: Any, *, n: int, shuffled: bool = False, model: str = "tiny") -> Trial:
    """Greedy k-center's cost of a random head's keys on a passage, over that of its keys and values together.

    The passage is a fresh one, of a large model one of FEW. `shuffled`: each coordinate of the keys is permuted over
    the tokens, which leaves no clusters (a sabotage).
    """
    opened = open_model(model, backend=xp.__name__)
    if opened.large:
        k, v = keys_and_values(xp.__name__, model, int(rng.integers(FEW)), n)
    else:
        _, k, v = opened.qkv(opened.passage(rng, n))
    layer, head = (int(rng.integers(size)) for size in k.shape[:2])
    k, v = (asnumpy(x[layer, head]) for x in (k, v))
    k = rng.permuted(k, axis=0) if shuffled else k
    # the cost: the covering radius of n / PART greedy centers, over the largest distance of two points
    x = [to_device(np.ascontiguousarray(a), xp) for a in (k, v)]
    keys, values = (float(greedy_radii(xp, a, n // PART)[-1]) / largest_distance(xp, a) for a in x)
    both = keys + values  # in the first layer equal tokens have equal values, whose cost may be 0
    return Trial(keys / both if both else 0.5, 0.5, facts={"n": n, "keys": keys, "values": values})


@lru_cache(maxsize=FEW)
def shared_answers(backend: str, model: str, nbytes: int, share: float) -> dict[tuple[str, int], np.ndarray]:
    """Which of `nbytes / EACH` documents a large model answers, by cache and by what its bytes are divided by.

    The task is its easiest: a pass key.
    """
    opened, rng = open_model(model, backend=backend), np.random.default_rng([2402, nbytes])
    drawn = asked(opened, tasks(opened)[-1], rng, nbytes, nbytes // EACH)
    first, budget = first_tokens(opened, drawn[0]), int(share * lines_bytes(opened, drawn[0]))

    def make() -> dict[tuple[str, int], list[KVCache]]:
        within = {starved: caches_within(first, budget // starved, rng) for starved in (1, STARVED)}
        names = [*((name, 1) for name in ("exact", *THEIRS, *OURS)), *((name, STARVED) for name in OURS)]
        return {(name, starved): within[starved][name] for name, starved in names}

    rows = answers(opened, drawn, make, tokens=at_once(opened, 4)).sort_values("document", kind="stable")
    return {key: rows.loc[rows["caches"] == key, "right"].to_numpy() for key in rows["caches"].unique()}


def told_apart(
    rng: np.random.Generator,
    xp: Any,
    *,
    method: str,
    against: str,
    nbytes: int,
    share: float,
    draws: int,
    starved: int = 1,
    model: str = "tiny",
) -> Trial:
    """Of the first document that only one of two caches answers: 1 if that is `against`, 0 if it is `method`.

    A coin decides where there is none in `draws` documents. They are fresh ones, of a large model some of
    `nbytes / EACH`. `starved` divides the method's bytes (a sabotage).
    """
    opened = open_model(model, backend=xp.__name__)
    ahead = 0
    if opened.large:
        right = shared_answers(xp.__name__, model, nbytes, share)
        gaps = right[method, starved].astype(int) - right[against, 1].astype(int)
        some = gaps[rng.permutation(len(gaps))[:draws]]
        ahead = int(next((gap for gap in some if gap), 0))
    else:
        ahead = _first_gap(opened, rng, method, against, nbytes, share, draws, starved)
    tie = float(rng.integers(2))
    return Trial(float(ahead < 0) if ahead else tie, 0.5, facts={"n": nbytes, "told_apart": abs(ahead)})


def _first_gap(
    opened: Model,
    rng: np.random.Generator,
    method: str,
    against: str,
    nbytes: int,
    share: float,
    draws: int,
    starved: int,
) -> int:
    """Of the first document that one of two caches answers: 1 if that is `method`, -1 if not; 0 if there is none."""
    for document in asked(opened, tasks(opened)[-1], rng, nbytes, draws):
        first, budget = first_tokens(opened, document), int(share * lines_bytes(opened, document))
        budgets = {method: budget // starved, against: budget}
        caches = {name: caches_within(first, size, rng)[name] for name, size in budgets.items()}
        right = answers(opened, [document], caches.copy).set_index("caches")["right"]
        if ahead := int(right[method]) - int(right[against]):
            return ahead
    return 0


def _retrieval(slug: str, method: str, words: str, *, draws: int) -> Claim:
    """The claim about one method; `draws` is for smoke effort, where SubGen takes long to read a document."""

    def case(rival: str, nbytes: int, draws: int) -> Case:
        return {"method": method, "against": rival, "nbytes": nbytes, "share": 0.25, "draws": draws}

    return Claim(
        id=f"sg24.retrieval-ahead{slug}",
        paper="SG24",
        source="Section 4, Table 1 (line retrieval)",
        basis="reported",
        source_checked=False,
        restated="225979e: one document a trial, though few documents tell two caches apart",
        title=f"{words} answers line retrieval no less often than sinks (tiny)",
        model="tiny",
        statement=sp.Ge(sp.Symbol("p_SubGen"), sp.Symbol("p_other")),
        kind=Probability(0.5),
        trial=told_apart,
        cases={
            "smoke": (case("sinks", 256, draws),),
            "standard": tuple(case(rival, 1024, 8) for rival in ("sinks", "heavy hitters")),
        },
        max_trials={"smoke": 30, "standard": 120},
        sabotages=(
            Sabotage(
                "starved",
                "the method in a quarter of its bytes, against a cache of everything",
                {"starved": STARVED, "against": "exact", "draws": 1},
                breaks="opponent",
            ),
        ),
        reported="about 44 percent against about 34 for sinks and H2O, 9k tokens, equal cache budgets",
        remark=(
            "Heavy hitters are a second rival above smoke effort. A sign test: among documents that only one of the "
            "two answers, at most half are the other's. Documents are drawn until there is one, and a coin decides "
            "after a few: the rate is above half exactly if the other's accuracy is higher. Each cache has a quarter "
            "of the exact cache's bytes, and sees the lines before the question is known. A model that chats is asked "
            f"for a pass key in prose, and of a large one all trials draw from nbytes/{EACH} documents: the verdict is "
            "about these. The paper's "
            "table could not be read; its numbers are quoted from memory."
        ),
    )


CLAIMS = (
    Claim(
        id="sg24.keys-cluster",
        paper="SG24",
        source="Section 2.1, Figure 1 (keys cluster, values do not)",
        basis="reported",
        title="Greedy k-center covers keys at a lower cost than values (tiny)",
        model="tiny",
        statement=sp.Le(sp.Function("cost")(sp.Symbol("K")), sp.Function("cost")(sp.Symbol("V"))),
        kind=Probability(0.5),
        trial=cluster_cost,
        cases={"smoke": ({"n": 512},), "standard": ({"n": 2048},)},
        max_trials={"smoke": 400, "standard": 2000},
        sabotages=(Sabotage("shuffled", "each coordinate of the keys shuffled over the tokens", {"shuffled": True}),),
        reported="keys of Llama-2 heads fall into clusters, values do not (greedy k-center, t-SNE)",
        remark=(
            "Of at least half of the heads and passages: the cost is the covering radius of n/8 greedy centres over "
            "the largest distance of two points. Keys as a cache holds them, rotated. A trial reads a fresh passage, "
            f"of a large model one of {FEW}: the verdict is about these."
        ),
    ),
    _retrieval("", "subgen", "SubGen", draws=1),
    _retrieval("-offline", "k-center", "The offline k-center that SubGen's experiments ran", draws=8),
)
