"""Line retrieval by a real model whose keys and values are in a compressed cache: can it still say what a line held?

The lines are the prompt: they are attended to exactly, and every cache absorbs their keys and values. The question
comes token by token after that, so that no cache knew what it would be asked; it and the answer are read from the cache
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from os.path import commonprefix
from typing import Any

import numpy as np
import pandas as pd

from ..._cache_parts import joined
from ..._kvcache import KVCache
from ..._xp import Array, asnumpy
from ...caches import ExactCache, KCenterCache, ZeroCache
from ...lm.attend import Attend, CachedAttention, causal
from ...lm.retrieval import DIGITS, Document, document, line_bytes, question_bytes
from ...subgen import SubGenCache
from ..instance import Instance
from ..models import Model, open_model
from .cache_streams import WINDOW, competing_online, row_bytes
from .caches import mean_and_reach
from .setting import by_effort, generator, proportion

BATCH_TOKENS, BATCH_LOGITS = 2**13, 2**22
"""Tokens of prompts in one call of the decoder; logits, where those of all tokens are made."""
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

Make = Callable[[], Mapping[Any, Sequence[KVCache]]]
"""Fresh, empty caches by name: for each name one per layer."""


# ------------------------------------------------------------------------------------------------------- the documents
def documents(rng: np.random.Generator, nbytes: int, count: int) -> list[Document]:
    """Documents of one question each, with as many lines as fit into `nbytes`, all cut at the same places.

    Names differ in length; documents are drawn until lines and question have the usual length, so that a batch is one
    call of a byte-level model. Each document is the work of its own generator.

    Raises
    ------
    ValueError
        If `nbytes` is too short for two lines and a question.
    """
    asked = round(question_bytes()) - 2  # without what follows the answer
    lines = int((nbytes - asked) / line_bytes())
    if lines < 2:
        raise ValueError(f"nbytes must be at least {int(2 * line_bytes() + asked) + 1}, got {nbytes}")
    wanted = round(lines * line_bytes()), asked - DIGITS

    def drawn(own: np.random.Generator) -> Document:
        while True:
            made = document(lines, 1, own)
            if (made.asked, made.answers[0] - made.asked) == wanted:
                return made

    return [drawn(own) for own in rng.spawn(count)]


def pieces(model: Model, what: Document) -> list[np.ndarray]:
    """Tokens of the lines, the question and the answer, as the tokenizer cuts the whole.

    A token that spans a cut belongs to what comes after it.
    """
    end = what.answers[0] + DIGITS
    whole, *parts = (model.encode(what.text[:stop]).tolist() for stop in (end, what.asked, what.answers[0]))
    lines, question = (len(commonprefix([whole, part])) for part in parts)
    return np.split(np.array(whole), [lines, question])


# --------------------------------------------------------------------------------------------------------- the answers
def exact_answers(model: Model, documents: Sequence[Document]) -> pd.DataFrame:
    """The model's greedy answers to each document's first question with everything kept, in one pass each.

    The answer's own tokens are fed, and the model is right if each of them was its most likely one: up to the first
    wrong token, greedy decoding has fed the same tokens to the same caches, so that both are right together. Documents
    longer than the trained context are read by YaRN. Errors as `Decoder.logits`.

    Returns
    -------
    DataFrame
        document (its number, in order), right (bool), bits (of the answer, mean over its tokens).
    """
    cut = [pieces(model, what) for what in documents]
    decoder = model.decoder.stretched(max(sum(map(len, parts)) for parts in cut))
    rows: list[tuple[Any, ...]] = []
    for batch in _batches(cut, BATCH_LOGITS // decoder.config.vocabulary):
        whole = np.stack([np.concatenate(cut[i]) for i in batch])
        answer = np.stack([cut[i][2] for i in batch])
        logits = decoder.logits(whole[:, :-1])[:, -answer.shape[1] :]
        rows += [(i, *found) for i, *found in zip(batch, *judged(asnumpy(logits), answer), strict=True)]
    return pd.DataFrame(rows, columns=["document", "right", "bits"]).sort_values("document", ignore_index=True)


def answers(model: Model, documents: Sequence[Document], make: Make) -> pd.DataFrame:
    """The model's answers under several caches: each prompt runs once, and all of them absorb it.

    `make` is called for each batch of documents that are cut at the same places; its caches then have leading axes
    (documents, kv_heads). Cost: a pass over the prompts, and a pass over question and answer for each set of caches.

    Returns
    -------
    DataFrame
        document (its number, in order), caches (a name that `make` gives), right and bits (as
        `exact_answers`), nbytes (that the caches of all layers hold for the document after the lines).
    """
    cut = [pieces(model, what) for what in documents]
    decoder = model.decoder.stretched(max(sum(map(len, parts)) for parts in cut))
    rows: list[tuple[Any, ...]] = []
    for batch in _batches(cut, BATCH_TOKENS):
        lines, question, answer = (np.stack([cut[i][part] for i in batch]) for part in range(3))
        attends = {name: CachedAttention(caches) for name, caches in make().items()}
        decoder.logits(lines, attend=_absorbing(attends.values()), last=True)
        held = {name: attend.nbytes / len(batch) for name, attend in attends.items()}
        fed = np.concatenate([question, answer[:, :-1]], axis=1)
        for name, attend in attends.items():
            logits = asnumpy(decoder.logits(fed, attend=attend, start=lines.shape[1]))
            right, bits = judged(logits[:, question.shape[1] - 1 :], answer)
            rows += [(i, name, *found, held[name]) for i, *found in zip(batch, right, bits, strict=True)]
    return pd.DataFrame(rows, columns=["document", "caches", "right", "bits", "nbytes"]).sort_values(
        "document", kind="stable", ignore_index=True
    )


def judged(logits: np.ndarray, answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether every token of the answers (b, t) has the largest logit (b, t, vocabulary), and their mean bits."""
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(logits, answer[..., None], axis=-1)[..., 0]
    bits = (np.log(np.exp(logits).sum(axis=-1)) - chosen) / np.log(2)
    return (logits.argmax(axis=-1) == answer).all(axis=1), bits.mean(axis=1)


def _batches(cut: Sequence[Sequence[np.ndarray]], most: int) -> Iterator[list[int]]:
    """Numbers of documents that are cut at the same places, `most` tokens (or one document) at once."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, parts in enumerate(cut):
        alike.setdefault(tuple(map(len, parts)), []).append(i)
    for lengths, members in alike.items():
        step = max(1, most // sum(lengths))
        yield from (members[i : i + step] for i in range(0, len(members), step))


def _absorbing(attends: Collection[CachedAttention]) -> Attend:
    """Exact causal attention whose keys and values go into all caches."""

    def attend(layer: int, q: Array, k: Array, v: Array) -> Array:
        for each in attends:
            each.absorb(layer, q, k, v)
        return causal(layer, q, k, v)

    return attend


# ---------------------------------------------------------------------------------------------------------- the caches
def exact_caches(model: Model) -> list[KVCache]:
    """Caches of everything, one per layer."""
    return [ExactCache() for _ in range(model.decoder.config.layers)]


def lines_bytes(model: Model, what: Document) -> int:
    """Bytes of all keys and values of the document's lines, of one key-value head of one layer."""
    return len(pieces(model, what)[0]) * 2 * model.decoder.config.head_dim * np.dtype(np.float32).itemsize


class ClusteredOnce(KCenterCache):
    """Greedy k-center of the prompt and the last tokens, as the experiments of [SG24]: later tokens only pass through
    the window."""

    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        if self.tokens_seen <= self.budget:
            super()._absorb(xp, k, v)
            return
        centres = self.budget - self.recent
        held = joined(xp, self._held, keys=k, values=v)
        self._held = {
            name: xp.concatenate([x[:, :centres], x[:, x.shape[1] - self.recent :]], axis=1) for name, x in held.items()
        }


def caches_within(model: Model, nbytes: int, rng: np.random.Generator) -> dict[str, list[KVCache]]:
    """Empty caches that hold at most `nbytes` for each key-value head of each layer, by method: one per layer.

    SubGen starts from the key of a document's first token, which is the same for all, in the head where it is shortest.
    "exact" and "zero" have no budget.
    """
    k, v = (asnumpy(x) for x in model.qkv(model.encode(b"line ")[:1])[1:])
    heads = np.linalg.norm(k[:, :, 0], axis=-1).argmin(axis=1)
    first = [Instance(k[i, h], k[i, h], v[i, h], scale=1.0) for i, h in enumerate(heads)]
    layers = [competing_online(nbytes, x, rng) for x in first]
    tokens = nbytes // row_bytes(first[0])
    return {
        "exact": exact_caches(model),
        "zero": [ZeroCache() for _ in layers],
        **{name: [made[name] for made in layers] for name in layers[0]},
        "k-center": [ClusteredOnce(tokens, tokens // 2) for _ in layers],
    }


# ---------------------------------------------------------------------------------------------------- the experiments
def over_length(*, effort: str, seed: int, backend: str, model: str = "tiny", text: str = "") -> pd.DataFrame:
    """Answers of exact attention over the length of the document, beyond the trained context by YaRN.

    Returns
    -------
    DataFrame
        n (tokens of a document, at most or nearly), stretched (whether beyond the trained context), document, right,
        bits.
    """
    opened = open_model(model, text, backend=backend)
    trained = opened.decoder.trained
    longest = by_effort(effort, smoke=512, standard=min(2 * trained, 8192), full=min(4 * trained, 32768))
    count = by_effort(effort, smoke=8, standard=100, full=200)
    tables = []
    for n in (2**i for i in range(8, int(np.log2(longest)) + 1)):
        table = exact_answers(opened, of_length(opened, n, seed, count))
        tables.append(table.assign(n=n, stretched=n > trained))
    return pd.concat(tables, ignore_index=True)


def of_length(model: Model, n: int, seed: int, count: int) -> list[Document]:
    """`count` documents of about `n` tokens: of at most `n` where a token is a byte."""
    rng = generator(seed, "lines", n)
    sample = documents(rng, n, 1)[0].text
    return documents(rng, n * len(sample) // len(model.encode(sample)), count)


def longest_answered(rows: pd.DataFrame) -> int:
    """The greatest n of `over_length` at which exact attention is right in the share ANSWERED or more; if there is
    none, that with the highest accuracy, the shortest of equals."""
    accuracy: dict[Any, float] = rows.groupby("n")["right"].mean().to_dict()
    enough = [n for n, rate in accuracy.items() if rate >= ANSWERED]
    return int(max(enough) if enough else max(accuracy, key=accuracy.__getitem__))


def over_bytes(
    *, effort: str, seed: int, backend: str, longest: int, model: str = "tiny", text: str = ""
) -> pd.DataFrame:
    """Answers under every cache over the bytes that it may hold, for documents of half of `longest` tokens; at smoke
    effort shorter ones, at full effort of a quarter, half and all of it.

    Returns
    -------
    DataFrame
        n, document, method, share (of the exact cache's bytes after the lines; nan without a budget), right, bits, held
        (as a share of the same). All methods see the same documents.
    """
    opened = open_model(model, text, backend=backend)
    config = opened.decoder.config
    lengths = by_effort(
        effort, smoke=(min(256, longest),), standard=(longest // 2,), full=(longest // 4, longest // 2, longest)
    )
    shares = by_effort(effort, smoke=(1 / 4,), standard=(1 / 8, 1 / 4, 1 / 2), full=(1 / 16, 1 / 8, 1 / 4, 1 / 2))
    count = by_effort(effort, smoke=6, standard=100, full=100)
    tables = []
    for n in sorted({max(256, n) for n in lengths}):
        asked, rng = of_length(opened, n, seed, count), generator(seed, "line caches", n)
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


def over_slots(*, effort: str, seed: int, backend: str, model: str = "tiny", text: str = "") -> pd.DataFrame:
    """SubGen's answers to short documents over its value slots alone: every key is a cluster, so that tau is exact.

    Returns
    -------
    DataFrame
        slots (per token of the lines), document, right, bits.
    """
    opened = open_model(model, text, backend=backend)
    multiples = by_effort(effort, smoke=(1 / 4, 4), standard=SLOTS, full=SLOTS)
    asked = of_length(opened, 256, seed, by_effort(effort, smoke=4, standard=100, full=100))
    tokens, rng = len(pieces(opened, asked[0])[0]), generator(seed, "line slots")

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
