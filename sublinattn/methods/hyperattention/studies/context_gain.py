"""Notebook 20, first part: what a model gains from more context, before any attention is approximated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ....lab.models import Model
from ....lab.progress import tracked
from ....lab.run import Run
from ....lab.statistics import mean_and_reach
from ....lm.tokens import as_bytes
from ....plots.layout import ticks
from ....plots.panels import finish, grid, theory_line
from ....plots.style import LOOKS, paper_style

TARGETS = 64
"""Tokens of a passage whose loss is compared over contexts."""


def unit(model: Model) -> str:
    """What one token of the model is called."""
    return "byte" if model.encode is as_bytes else "token"


def alternating(model: Model, passage: int) -> Model:
    """The model with the kind of text that passage number `passage` is of: the kinds take turns."""
    kinds = list(dict.fromkeys(model.kinds))
    return model.only(kinds[passage % len(kinds)])


def over_context(run: Run) -> pd.DataFrame:
    """Held-out loss of the same tokens, the last TARGETS of each passage, after more and more of what comes before.

    Returns
    -------
    DataFrame
        n (tokens of passage and targets: each target sees `n - TARGETS` or more), stretched (n beyond the trained
        context, by YaRN), passage, text (its kind), bits (per token, mean over targets).
    """
    opened = run.open_model()
    trained = opened.decoder.trained
    longest, count = contexts(run)
    lengths = [2**i for i in range(int(np.log2(TARGETS)) + 1, int(np.log2(longest)) + 1)]
    rng = run.rng("context")
    rows: list[tuple[Any, ...]] = []
    for passage in tracked(range(count), f"{count} passages with {lengths[0]} to {lengths[-1]} tokens"):
        source = alternating(opened, passage)
        tokens = source.passage(rng, lengths[-1])
        for n in lengths:
            nats = opened.decoder.stretched(n).losses(tokens[-n:])[-TARGETS:]
            bits = float(nats.mean(dtype=np.float64) / np.log(2))
            rows.append((n, n > trained, passage, source.kinds[0], bits))
    return pd.DataFrame(rows, columns=["n", "stretched", "passage", "text", "bits"])


def contexts(run: Run) -> tuple[int, int]:
    """Tokens of the longest context, and number of passages: few of a large model, whose runs are dear.

    Parameters of the run: n (the longest of them), passages.
    """
    opened = run.open_model()
    trained = opened.decoder.trained
    if opened.large:
        n, count = run.pick(smoke=(512, 2), standard=(min(trained, 8192), 3), full=(min(4 * trained, 32768), 8))
    else:
        n, count = run.pick(
            smoke=(min(trained, 2048), 4), standard=(min(4 * trained, 8192), 32), full=(min(16 * trained, 32768), 64)
        )
    return max(run.given("n", (n,))), run.given("passages", count)


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean bits over passages, and what the last doubling of n changed, each with 99 percent t-limits.

    Returns
    -------
    DataFrame
        n, stretched, bits, reach, change (below 0 where more context helps; nan for the smallest n), change_reach.
    """
    bits = rows.pivot(index="passage", columns="n", values="bits")
    changes = bits.diff(axis=1)  # paired: passages differ by far more than context changes
    lines = [(n, *mean_and_reach(bits[n].to_numpy()), *mean_and_reach(changes[n].to_numpy())) for n in bits.columns]
    table = pd.DataFrame(lines, columns=["n", "bits", "reach", "change", "change_reach"])
    table.insert(1, "stretched", rows.groupby("n")["stretched"].first().to_numpy())
    return table


@paper_style()
def draw_context(rows: pd.DataFrame, *, unit: str) -> Figure:
    """Bits over the context, each passage and the mean; and what each doubling changes, with 99 percent limits."""
    fig, (level, change) = grid(2, 2, height=2.2)
    table = gains(rows)
    for _, passage in rows.groupby("passage"):
        level.plot(passage["n"], passage["bits"], color="#BBBBBB", linewidth=0.6, zorder=1)
    level.plot([], [], color="#BBBBBB", linewidth=0.6, label="one passage")
    looks = {False: {"label": "mean, within the trained context"}, True: {"label": "mean, beyond it (YaRN)"}}
    hollow = {"markerfacecolor": "white", "linestyle": ":"}
    for stretched, part in table.groupby("stretched"):
        look = {**LOOKS["blue"], **looks[bool(stretched)], **(hollow if stretched else {})}
        level.plot(part["n"], part["bits"], **look)
        change.errorbar(part["n"], part["change"], yerr=part["change_reach"], elinewidth=0.7, capsize=1.5, **look)
    theory_line(change, table["n"], 0, "no change", linestyle=":")
    level.set(ylabel=f"held-out bits per {unit}", ylim=(0, None))
    change.set_ylabel("change by the last doubling")
    for ax in (level, change):
        ax.set_xscale("log")
        ticks(ax.xaxis, table["n"], at_most=6)
    finish(fig, xlabel="tokens up to the one predicted")
    return fig
