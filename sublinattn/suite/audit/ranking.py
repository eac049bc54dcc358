"""What came of a recommendation that was applied: perplexity and answers beside its rivals, paired."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...lab.comparison.answers import ANSWERED
from ...lab.statistics import CONFIDENCE, mean_and_reach, proportion, sign_test
from ...plots.style import METHODS
from .advice import KEEP

ADVICE, WITH_PROMPT = "advice", "advice, prompt too"
LABELS = {ADVICE: "the advice", WITH_PROMPT: "the advice, prompt too"}
_OURS = [KEEP, ADVICE, WITH_PROMPT]


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
            with np.errstate(invalid="ignore"):  # beside an infinite loss there is no interval
                middle, reach = mean_and_reach((table[method] - table[reference]).to_numpy())
            row |= {name: np.exp(middle), f"{name}_low": np.exp(middle - reach), f"{name}_high": np.exp(middle + reach)}
        rows.append(row)
    return pd.DataFrame(rows).sort_values("perplexity", ignore_index=True)


def verdict(table: pd.DataFrame) -> str:
    """What `ranking` says of the advice, in a sentence."""
    rivals = table[~table["method"].isin(_OURS)]
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


def answered(answers: pd.DataFrame) -> pd.DataFrame:
    """How many documents each contender answers, and which of them the advice answers too.

    Returns
    -------
    DataFrame
        method, share, documents, right (how many are answered), rate, low, high (their share with 99 percent
        Clopper-Pearson limits), bits (of an answer's token, mean), gained and lost (documents that only the advice or
        only the method answers), p (their two-sided sign test, which is McNemar's exact test). The best first; of
        equals the one with fewer bits.
    """
    groups = answers.groupby("method")
    shares, bits = groups["share"].mean(), groups["bits"].mean()
    right = answers.pivot(index="document", columns="method", values="right").astype(bool)
    mine, rows = right[ADVICE], []
    for method in map(str, right):
        its = right[method]
        count, gained, lost = (int(x.sum()) for x in (its, mine & ~its, its & ~mine))
        row = {"method": method, "share": shares[method], "documents": len(its), "right": count}
        row |= dict(zip(("rate", "low", "high"), proportion(count, len(its)), strict=True))
        rows.append(row | {"bits": bits[method], "gained": gained, "lost": lost, "p": sign_test(gained, lost)})
    return pd.DataFrame(rows).sort_values(["right", "bits"], ascending=[False, True], ignore_index=True)


def answers_verdict(answers: pd.DataFrame) -> str:
    """What `answered` says of the advice, and of the documents, in a few sentences."""
    table = answered(answers)
    (exact,), (mine,) = (table[table["method"] == name].to_dict("records") for name in (KEEP, ADVICE))
    best = table[~table["method"].isin(_OURS)].iloc[0]
    about = f"{mine['documents']} documents of {answers['tokens'].median():.0f} tokens ({answers['task'][0]})"
    found = f"Of {about}, exact attention answers {exact['right']}, the advice {mine['right']} and the best "
    found += f"single method, {label(best['method'])}, {best['right']}"
    one = f"of those that only one of the two answers, {best['gained']} are the advice's and {best['lost']} its rival's"
    found += f"; {one} (p = {best['p']:.2g})."
    if best["gained"] > best["lost"]:
        clear = "The advice beats it" if best["p"] < 1 - CONFIDENCE else "The advice is ahead of it, but not clearly"
    else:
        clear = "The advice does not beat it"
    if exact["rate"] < ANSWERED:
        clear += f". Exact attention answers fewer than {ANSWERED:.0%}: the documents say little about the caches"
    return f"{found} {clear}."
