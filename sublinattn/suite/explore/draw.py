"""The figure of an exploration: what was measured and what the claim says, over the argument that was moved."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...plots.panels import finish, grid
from ...plots.style import LOOKS, THEORY, paper_style
from ...theory import find
from ...theory.claim import Claim, Exact, Growth, Mean, evaluate
from .answer import Answer
from .question import flat

WIDTH, HEIGHT = 5.2, 2.7
NEW, OLD = LOOKS["blue"], {**LOOKS["sky"], "marker": "o"}


@paper_style()
def draw(answers: Sequence[Answer], moved: str = "", *, mark: bool = False) -> Figure:
    """Measurements and bound of the answers over the argument `moved`; `mark` tells the last answer from the others.

    Without `moved`, or without numbers in it, the trials of the last answer stand side by side. A cross on the bound
    says that the theorem is vacuous there.
    """
    last = answers[-1]
    fig, (ax,) = grid(1, 1, width=WIDTH, height=HEIGHT)
    if last.problem:
        ax.axis("off")
        ax.text(0.5, 0.5, fill(last.problem, 70), ha="center", va="center", color="#AA3333")
        return fig
    claim, table = find(last.question.claim), tabulated(answers, moved)
    over = moved != "" and table["at"].nunique() > 1 and pd.api.types.is_numeric_dtype(table["at"])
    if not over:
        table = table[table["now"]].assign(at=lambda rows: rows["trial"] + 1)
    looks = {"before": OLD, "now": NEW} if mark and over else {"a trial": NEW}
    for label, look in looks.items():
        part = table[table["now"] == (label == "now")] if len(looks) > 1 else table
        ax.plot(part["at"], part["measured"], **{**look, "linestyle": "none", "zorder": 4, "label": label})
    _promised(ax, claim, table, over=over)
    shown = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.get_lines()])
    shown = shown[np.isfinite(shown)]
    if shown.size and shown.min() > 0 and shown.max() > 5 * shown.min():
        ax.set_yscale("log")
    if over and table["at"].min() > 0 and table["at"].max() > 4 * table["at"].min():
        ax.set_xscale("log")
    if not over:
        ax.set(xlim=(0, len(table) + 1), xticks=range(1, len(table) + 1))
    finish(fig, xlabel=moved if over else "trial", ylabel="measured")
    return fig


def tabulated(answers: Sequence[Answer], moved: str) -> pd.DataFrame:
    """All trials: the columns of `Answer.rows`, `at` (the value of the argument `moved`), `vacuous`, `now` (the last).

    Answers without trials have no rows.
    """
    parts = []
    for answer in answers:
        if not answer.problem:
            at = flat(answer.question.arguments()).get(moved, np.nan)
            parts.append(answer.rows.assign(at=at, vacuous=answer.vacuous, now=answer is answers[-1]))
    return pd.concat(parts, ignore_index=True)


def _promised(ax: Axes, claim: Claim, table: pd.DataFrame, *, over: bool) -> None:
    """The claim's bound or value; of growth, the theory's curve through the median at the smallest abscissa."""
    if isinstance(claim.kind, Growth):
        if over:
            _grown(ax, claim.kind, table)
        return
    value = isinstance(claim.kind, Mean) or (isinstance(claim.kind, Exact) and claim.kind.relation == "==")
    bound = table.groupby("at")[["bound", "vacuous"]].median()
    ax.plot(bound.index, bound["bound"], **{**THEORY, "label": "the claim's value" if value else "the claim's bound"})
    if (vacuous := bound[bound["vacuous"] > 0]).size:
        ax.plot(vacuous.index, vacuous["bound"], "kx", label="vacuous")


def _grown(ax: Axes, kind: Growth, table: pd.DataFrame) -> None:
    for theory in kind.variables.values():
        names = {str(symbol) for symbol in theory.free_symbols}
        if not names <= set(table.columns):
            continue
        medians = table[np.isfinite(table["measured"])].groupby("at").median(numeric_only=True)
        if len(medians) < 2:
            continue
        curve = np.array([float(evaluate(theory, row)) for row in medians.to_dict("records")])
        if np.isfinite(curve).all() and curve[0] > 0 and np.ptp(curve) >= 0:
            ax.plot(
                medians.index,
                curve / curve[0] * medians["measured"].iloc[0],
                **{**THEORY, "label": "the claim's growth"},
            )
            return
