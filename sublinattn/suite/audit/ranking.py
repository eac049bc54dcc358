"""What came of a recommendation that was applied: perplexities beside its rivals, with paired intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...lab.statistics import mean_and_reach
from ...plots.style import METHODS
from .advice import KEEP

ADVICE, WITH_PROMPT = "advice", "advice, prompt too"
LABELS = {ADVICE: "the advice", WITH_PROMPT: "the advice, its prompt methods too"}


def label(method: str) -> str:
    """A contender's name in words."""
    return LABELS.get(method) or str(METHODS[method]["label"])


def ranking(losses: pd.DataFrame) -> pd.DataFrame:
    """Perplexities and what they are beside exact attention and the advice, over passages, paired.

    Returns
    -------
    DataFrame
        method, share, perplexity (exp of the mean loss); exact, exact_low, exact_high (perplexity over that of exact
        attention, with its 99 percent interval); advice, advice_low, advice_high (over that of the advice). Sorted.
    """
    table = losses.pivot(index="passage", columns="method", values="loss")
    shares, rows = dict(losses.groupby("method")["share"].mean()), []
    for method in map(str, table):
        row = {"method": method, "share": shares[method], "perplexity": np.exp(table[method].mean())}
        for name, reference in (("exact", KEEP), ("advice", ADVICE)):
            middle, reach = mean_and_reach((table[method] - table[reference]).to_numpy())
            row |= {name: np.exp(middle), f"{name}_low": np.exp(middle - reach), f"{name}_high": np.exp(middle + reach)}
        rows.append(row)
    return pd.DataFrame(rows).sort_values("perplexity", ignore_index=True)


def verdict(table: pd.DataFrame) -> str:
    """What `ranking` says of the advice, in a sentence."""
    rivals = table[~table["method"].isin([KEEP, ADVICE, WITH_PROMPT])]
    best, mine = rivals.iloc[0], table.set_index("method").loc[ADVICE]
    name = label(best["method"])
    times = f"{best['advice']:.3g} [{best['advice_low']:.3g}, {best['advice_high']:.3g}] times its perplexity"
    if best["advice_low"] > 1:
        found = f"The advice beats the best single method, {name}, which has {times}"
    elif best["advice"] > 1:
        found = f"The advice is ahead of the best single method, {name}, but not clearly: that has {times}"
    else:
        found = f"The advice does not beat the best single method, {name}, which has {times}"
    return f"{found}, both in {mine['share']:.1%} of the bytes."
