"""What the tables of notebook 21 say about the model at hand, in words."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pandas as pd

from ....lab.comparison.answers import ANSWERED
from ....lab.comparison.documents import PLAIN
from ....plots.style import METHODS
from ..claims.reported import THEIRS
from .line_retrieval import OURS

LEVEL = 0.01
"""Of the sign tests between two caches."""


def findings(model: str, lengths: pd.DataFrame, table: pd.DataFrame, pairs: pd.DataFrame, slots: pd.DataFrame) -> str:
    """A Markdown list from the `accuracies` of `over_length`, `over_bytes` and `over_slots`, and from `paired`."""
    lines = [_exact(model, str(task), part) for task, part in lengths.groupby("task", sort=False)]
    for (task, n), part in table.groupby(["task", "n"], sort=False):
        where = f"{n} tokens" if task == PLAIN else f"*{task}*, {n} tokens"
        exact = part[part["method"] == "exact"].iloc[0]
        if exact["rate"] < ANSWERED:
            lines.append(f"{where}: with everything stored {_rate(exact)}: too few to judge any cache.")
            continue
        lines += _caches(where, part.dropna(subset=["share"]))
        lines += _pairs(where, pairs[(pairs["task"] == task) & (pairs["n"] == n)])
    some = ", ".join(f"{each['slots']:g} n: {_rate(each)}" for _, each in slots.iterrows())
    lines.append(f"SubGen with an exact normaliser, over its value slots (n: the tokens of a short document): {some}.")
    return "\n".join(f"* {line}" for line in lines)


def _exact(model: str, task: str, part: pd.DataFrame) -> str:
    what = "" if task == PLAIN else f" *{task}*"
    enough = part[part["rate"] >= ANSWERED]
    if enough.empty:
        best = part.sort_values("rate").iloc[-1]
        return (
            f"With everything stored, {model} does not reach {ANSWERED:.0%}{' at' if what else ''}{what}: "
            f"{_rate(best)} at {best['n']} tokens is the most."
        )
    longest = enough.sort_values("n").iloc[-1]
    text = f"With everything stored, {model} answers{what} up to {longest['n']} tokens: {_rate(longest)} there"
    missed = part[(part["rate"] < ANSWERED) & (part["n"] < longest["n"])]
    if len(missed):
        text += f", though fewer than {ANSWERED:.0%} at {', '.join(map(str, missed['n']))}"
    beyond = part[part["n"] > longest["n"]]
    return text + "".join(f"; {_rate(each)} at {each['n']}" for _, each in beyond.iterrows()) + "."


def _caches(where: str, part: pd.DataFrame) -> list[str]:
    """Of each budget the best cache, and those that beat a cache which stores so many tokens as they are; SubGen."""
    budgets = []
    for share in sorted(part["share"].unique()):
        some = part[part["share"] == share]
        best = some.sort_values("rate").iloc[-1]
        ahead = [_name(name) for name in some.loc[some["low"] > share, "method"]]
        most = f"{_name(best['method'])} {_rate(best)}" if best["rate"] else "none answers at all"
        chance = f"; more often than it stores the line by chance: {', '.join(ahead)}" if ahead else ""
        budgets.append(f"{Fraction(share)}: {most}{chance}")
    ours = (part[part["method"] == name].sort_values("rate").iloc[-1] for name in OURS)
    subgen = ", ".join(f"{_name(each['method'])} {_rate(each)} in {Fraction(each['share'])}" for each in ours)
    return [
        f"{where}, best cache by its part of the bytes. {'. '.join(budgets)}.",
        f"{where}, what [SG24] analyses and what it ran, at their best: {subgen}.",
    ]


def _pairs(where: str, part: pd.DataFrame) -> list[str]:
    """Who is ahead of whom on the same documents."""
    found = []
    for ours in OURS:
        for theirs in THEIRS:
            both = part[(part["method"] == ours) & (part["against"] == theirs) & (part["p"] < LEVEL)]
            ahead, behind = (both[both["gained"] > both["lost"]], both[both["gained"] < both["lost"]])
            for word, those in (("ahead of", ahead), ("behind", behind)):
                if len(those):
                    budgets = ", ".join(str(Fraction(share)) for share in those["share"])
                    found.append(f"{_name(ours)} {word} {_name(theirs)} in {budgets} of the bytes")
    if not found:
        return [
            f"{where}: no sign test at {LEVEL:.0%} tells SubGen or the offline k-center from sinks or heavy hitters."
        ]
    return [f"{where}, same documents (sign tests at {LEVEL:.0%}): {'; '.join(found)}."]


def _name(method: str) -> str:
    return str(METHODS[method]["label"])


def _rate(row: Any) -> str:
    return f"{row['rate']:.0%} ({row['low']:.0%} to {row['high']:.0%})"
