"""The table of the leaderboard: every method's numbers with 99 percent intervals, its rank, and how stable that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...lab import ledger
from ...lab.run import Run, generator
from ...lab.statistics import CONFIDENCE, mean_and_reach, proportion
from ..audit.advice import records
from . import decoding, errors
from .contenders import BATCHES, CACHES, EXACT, UNIFORM, ZERO, parameters, rows
from .errors import GROUPS

RECORD = Path(__file__).parents[3] / "ledger.json"
"""The ledger on record, where the package stands in its repository."""
DRAWS = 1000
"""Bootstrap draws of the ranks."""
NOUNS = {BATCHES: "batch methods", CACHES: "caches"}
_LEAST = 1e-12  # an error of 0 has no logarithm


@dataclass(frozen=True)
class Board:
    """What was measured: the rows of `errors.measure`, `decoding.perplexity` and `decoding.retrieval`, with their seed.

    Attributes
    ----------
    about : mapping
        effort, seeds, model (its name), n (tokens of a synthetic input), task (of `decoding.task`).
    errors, losses, answers : DataFrame
    """

    about: Mapping[str, Any]
    errors: pd.DataFrame = field(repr=False)
    losses: pd.DataFrame = field(repr=False)
    answers: pd.DataFrame = field(repr=False)


def measure(run: Run, *, seeds: int = 1, said: Callable[[str], object] = lambda words: None) -> Board:
    """Measure all there is with `seeds` seeds, from that of the run on; `said` is told what comes next."""
    found: dict[str, list[pd.DataFrame]] = {}
    stages = {"errors": errors.measure, "losses": decoding.perplexity, "answers": decoding.retrieval}
    for seed in range(run.seed, run.seed + seeds):
        each = replace(run, seed=seed)
        for name, stage in stages.items():
            said(f"Seed {seed}: {name}")
            found.setdefault(name, []).append(stage(each).assign(seed=seed))
    about = {
        "effort": run.effort,
        "seeds": list(range(run.seed, run.seed + seeds)),
        "model": run.open_model().name,
        "n": errors.size(run),
        "task": decoding.task(run)[0],
    }
    return Board(about, **{name: pd.concat(tables, ignore_index=True) for name, tables in found.items()})


# ------------------------------------------------------------------------------------------------------------ the table
def table(board: Board, record: Path = RECORD) -> pd.DataFrame:
    """One row per method of each kind.

    Returns
    -------
    DataFrame
        kind, method, label, parameters (for a synthetic input); rank with rank_low and rank_high (see `ranking`; nan
        for exact attention); relative and spectral, each `_synthetic`, `_MiniLM` and `_decoder` (geometric means over
        inputs and replicates); loss (over that of exact attention on the same passage, geometric mean: a ratio of
        log-perplexities), right (share of the questions answered), bits (of an answer's token); each of these with
        `_low` and `_high`; time (seconds over those of exact attention on the same input, median), bytes (over those of
        all keys and values, median); guarantee, claim, verdict (of the claim, on record).
    """
    ranks = {(row["kind"], row["method"]): row for row in records(ranking(board.errors))}
    outcomes = _outcomes(record)
    exact = board.errors[(board.errors["kind"] == BATCHES) & (board.errors["method"] == EXACT)]
    place = ["seed", "input", "replicate"]
    seconds = board.errors.merge(exact[[*place, "seconds"]], on=place, suffixes=("", "_exact"))
    seconds["time"] = seconds["seconds"] / seconds["seconds_exact"]
    lines = []
    for row in rows():
        key = {"kind": row.kind, "method": row.name}
        its = _of(board.errors, key)
        line: dict[str, Any] = {**key, "label": row.label, "parameters": parameters(row, board.about["n"])}
        mine = ranks.get((row.kind, row.name), {})
        line |= {name: mine.get(name, np.nan) for name in ("rank", "rank_low", "rank_high")}
        for measure_ in ("relative", "spectral"):
            for group in GROUPS:
                logs = _logs(its[its["group"] == group], measure_).mean(axis=1)
                line |= _interval(f"{measure_}_{group}", *np.exp(_ends(logs.to_numpy())))
        line |= _interval("loss", *np.exp(_ends(_log_ratios(board.losses, key))))
        line |= _answers(_of(board.answers, key))
        line |= {"time": _of(seconds, key)["time"].median(), "bytes": its["held"].median()}
        line |= {"guarantee": row.guarantee, "claim": row.claim, "verdict": outcomes.get(row.claim, "")}
        lines.append(line)
    return pd.DataFrame(lines)


def _of(frame: pd.DataFrame, key: Mapping[str, str]) -> pd.DataFrame:
    return frame[(frame["kind"] == key["kind"]) & (frame["method"] == key["method"])]


def _logs(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """Logarithms of errors: a row per seed and replicate, a column per input."""
    logs = np.log(np.maximum(frame[value], _LEAST))
    return frame.assign(log=logs).pivot(index=["seed", "replicate"], columns="input", values="log")


def _ends(values: np.ndarray) -> np.ndarray:
    """Mean, and the ends of its 99 percent interval: none of fewer than two values, or of one that is infinite."""
    if len(values) < 2 or not np.isfinite(values).all():
        return np.array([values.mean() if len(values) else np.nan, np.nan, np.nan])
    middle, reach = mean_and_reach(values)
    return np.array([middle, middle - reach, middle + reach])


def _interval(name: str, middle: float, low: float, high: float) -> dict[str, float]:
    return {name: float(middle), f"{name}_low": float(low), f"{name}_high": float(high)}


def _log_ratios(losses: pd.DataFrame, key: Mapping[str, str]) -> np.ndarray:
    """Logarithm of the loss over that of exact attention, passage by passage."""
    exact = _of(losses, {"kind": key["kind"], "method": EXACT}).set_index(["seed", "passage"])["nats"]
    return np.log((_of(losses, key).set_index(["seed", "passage"])["nats"] / exact).to_numpy(float))


def _answers(its: pd.DataFrame) -> dict[str, float]:
    missing = its.empty or bool(its["right"].isna().any())
    rate = (np.nan,) * 3 if missing else proportion(int(its["right"].sum()), len(its))
    middle, low, high = _ends(its["bits"].to_numpy(float))
    return _interval("right", *rate) | _interval("bits", middle, max(low, 0.0), high)


def _outcomes(record: Path) -> dict[str, str]:
    """Verdicts on record, by claim; none where there is no record."""
    claims = ledger.load(record)["claims"] if record.exists() else {}
    return {name: entry["outcome"] for name, entry in claims.items()}


# -------------------------------------------------------------------------------------------------------------- ranking
def _scores(found: pd.DataFrame, kind: str) -> tuple[list[str], list[np.ndarray], list[np.ndarray]]:
    """Methods of a kind; and for every input the seed and the number of each draw, and the logarithms of the relative
    errors (methods, draws). A missing error is infinite.
    """
    its = found[(found["kind"] == kind) & (found["method"] != EXACT)]
    methods, draws, logs = list(its["method"].unique()), [], []
    for _, part in its.groupby("input", sort=False):
        errors_ = part.pivot(index=["seed", "replicate"], columns="method", values="relative")[methods].fillna(np.inf)
        draws.append(np.array(errors_.index.to_list()))
        logs.append(np.log(np.maximum(errors_.to_numpy().T, _LEAST)))
    return methods, draws, logs


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, from 1; of equals the first comes first."""
    return scores.argsort(axis=-1, kind="stable").argsort(axis=-1, kind="stable") + 1


def ranking(found: pd.DataFrame) -> pd.DataFrame:
    """Rank of each method within its kind, by the geometric mean of the relative error over inputs, which weigh alike.

    Returns
    -------
    DataFrame
        kind, method, score (the geometric mean), rank, rank_low, rank_high (99 percent of `DRAWS` bootstrap draws of
        the replicates of every input).
    """
    tables = []
    for kind in found["kind"].unique():
        methods, _, logs = _scores(found, kind)
        rng, again = generator(0, "leaderboard", "bootstrap"), np.zeros((len(methods), DRAWS))
        for each in logs:
            drawn = rng.integers(each.shape[1], size=(DRAWS, each.shape[1]))
            again += each[:, drawn].mean(axis=2) / len(logs)
        limits = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
        low, high = np.quantile(_ranks(again.T), limits, axis=0, method="nearest")
        score = np.mean([each.mean(axis=1) for each in logs], axis=0)
        columns = {"method": methods, "score": np.exp(score), "rank": _ranks(score), "rank_low": low, "rank_high": high}
        tables.append(pd.DataFrame({"kind": kind, **columns}))
    return pd.concat(tables, ignore_index=True)


def agreement(found: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau between the rankings of every two seeds, or of every two parts of the draws of one seed.

    There are as many parts as the input with the fewest draws has draws.

    Returns
    -------
    DataFrame
        kind, between ("seeds" or "parts of the draws"), number (of rankings), mean, least.
    """
    from scipy.stats import kendalltau  # a third of a second

    several, lines = found["seed"].nunique() > 1, []
    between = "seeds" if several else "parts of the draws"
    for kind in found["kind"].unique():
        _, draws, logs = _scores(found, kind)
        fewest = min(map(len, draws))
        parts = [its[:, 0] if several else its[:, 1] % fewest for its in draws]
        scores = [
            np.mean([each[:, part == number].mean(axis=1) for each, part in zip(logs, parts, strict=True)], axis=0)
            for number in np.unique(parts[0])
        ]
        ranks = _ranks(np.array(scores))
        taus = [kendalltau(one, other).statistic for one, other in combinations(ranks, 2)]
        lines.append((kind, between, len(ranks), float(np.mean(taus)), min(taus)))
    return pd.DataFrame(lines, columns=["kind", "between", "number", "mean", "least"])


# ------------------------------------------------------------------------------------------------------------- in words
def findings(board: Board, whole: pd.DataFrame) -> list[str]:
    """Which method wins where, in sentences, and how stable the ranking is; `whole` is the `table`."""
    words = [_winner(board, whole, kind) for kind in NOUNS]
    return [*words, _behind_zero(board, whole), _loss(board, whole), _right(board, whole), _stable(board)]


def _means(board: Board, kind: str) -> pd.DataFrame:
    """Geometric means of the relative error: a row per method but exact attention, a column per input."""
    its = board.errors[(board.errors["kind"] == kind) & (board.errors["method"] != EXACT)]
    logs = its.assign(log=np.log(np.maximum(its["relative"], _LEAST)))
    means = logs.groupby(["method", "input"], sort=False)["log"].mean().unstack("input")
    return np.exp(means)  # type: ignore[return-value]


def _winner(board: Board, whole: pd.DataFrame, kind: str) -> str:
    means = _means(board, kind).drop(index=ZERO)
    labels = whole[whole["kind"] == kind].set_index("method")["label"]
    scores = np.exp(np.log(means).mean(axis=1))
    best, first = str(scores.idxmin()), means.idxmin()
    where = [
        f"{labels[str(name)]} on {count} ({'; '.join(first.index[first == name])})"
        for name, count in first.value_counts().items()
    ]
    return (
        f"Of the {NOUNS[kind]} {labels[best]} has the least relative error over all {means.shape[1]} inputs "
        f"({scores[best]:.2g}, geometric mean; uniform sampling {scores[UNIFORM]:.2g}), and the least on each is that "
        f"of {_listed(where)}."
    )


def _behind_zero(board: Board, whole: pd.DataFrame) -> str:
    parts = []
    for kind in NOUNS:
        means = _means(board, kind)
        labels = whole[whole["kind"] == kind].set_index("method")["label"]
        behind = (means.drop(index=ZERO) > means.loc[ZERO]).sum(axis=1).sort_values(ascending=False, kind="stable")
        listed = ", ".join(f"{labels[str(name)]} ({count})" for name, count in behind[behind > 0].items())
        parts.append(f"of the {NOUNS[kind]} {listed or 'none'}")
    return f"Worse than answering zero, in brackets on how many of {means.shape[1]} inputs, are {'; '.join(parts)}."


def _loss(board: Board, whole: pd.DataFrame) -> str:
    parts = []
    for kind, its in _methods(whole):
        best, uniform = its.sort_values("loss").iloc[0], float(its["loss"][UNIFORM])
        parts.append(
            f"{best['label']} costs least of the {NOUNS[kind]}, {_span(best, 'loss')} (uniform sampling {uniform:.3g})"
        )
    return (
        f"With all layers of {board.about['model']} replaced, in log-perplexity over that of exact attention, "
        f"{'; '.join(parts)}."
    )


def _right(board: Board, whole: pd.DataFrame) -> str:
    parts = []
    for kind, its in _methods(whole):
        most, fewest = its[its["right"] == its["right"].max()], its.sort_values("bits").iloc[0]
        answered = f"{_listed(list(most['label']))} answers most of the {NOUNS[kind]}, {_span(most.iloc[0], 'right')}"
        none = f"none of the {NOUNS[kind]} answers any"
        parts.append(
            f"{answered if most['right'].max() > 0 else none} (the answer's tokens cost {fewest['label']} the fewest "
            f"bits, {fewest['bits']:.2g} each)"
        )
    exact = whole.loc[whole["method"] == EXACT, "right"].max()
    asked = f"{board.about['task']}, {len(_of(board.answers, {'kind': CACHES, 'method': EXACT}))} documents"
    return f"Asked what it has read ({asked}; exact attention: {exact:.0%} right), {'; '.join(parts)}."


def _methods(whole: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each kind by method, without the yardsticks that have no budget."""
    for kind in NOUNS:
        yield kind, whole[(whole["kind"] == kind) & ~whole["method"].isin([EXACT, ZERO])].set_index("method")


def _stable(board: Board) -> str:
    found = agreement(board.errors)
    parts = [f"{row.mean:.2f} for the {NOUNS[str(row.kind)]} (least {row.least:.2f})" for row in found.itertuples()]
    between, number = found.loc[0, ["between", "number"]]
    return f"Kendall's tau between the rankings of two {between}, mean over all pairs of {number}: {_listed(parts)}."


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _span(row: pd.Series, name: str) -> str:
    return f"{row[name]:.3g} [{row[f'{name}_low']:.3g}, {row[f'{name}_high']:.3g}]"
