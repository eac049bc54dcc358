"""What the verdicts' trials say of dropped assumptions and of sabotages, over the claims of all papers.

Each was tried once, when a notebook checked the claim: this file reads the verdicts, it measures nothing. Notebook 05.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...plots.layout import finish, ticks
from ...plots.panels import facets, grid
from ...plots.style import LOOKS, paper_style
from ...theory import CLAIMS
from ...theory.claim import Case, Claim, Exact, Growth, Mean
from ..run import Run
from ..statistics import Z, proportion


def check_missing(run: Run, paper: str) -> pd.DataFrame:
    """Verify the paper's claims with a dropped assumption that have no verdict in the run's folder yet.

    Growth claims are left to their notebooks: no single trial of theirs fails.

    Returns
    -------
    DataFrame
        Of each paper's claims, how many have a verdict, and which have none: paper, claims, verdicts, missing.
    """
    here = [claim.id for claim in CLAIMS.values() if claim.paper == paper and claim.drops and _has_failures(claim)]
    if missing := [claim for claim in here if claim not in run.checked()]:
        run.check(*missing)
    done, table = run.checked(), []
    for each in dict.fromkeys(claim.paper for claim in CLAIMS.values()):
        claims = [claim.id for claim in CLAIMS.values() if claim.paper == each]
        missing = [claim for claim in claims if claim not in done]
        table.append((each, len(claims), len(claims) - len(missing), ", ".join(missing)))
    return pd.DataFrame(table, columns=["paper", "claims", "verdicts", "missing"]).set_index("paper")


def _has_failures(claim: Claim) -> bool:
    return not isinstance(claim.kind, Growth)


def failing(claim: Claim, rows: pd.DataFrame) -> pd.Series:
    """Whether each trial, taken by itself, contradicts the claim.

    For an expectation: whether it is farther from the claimed mean than 99 percent of such trials are.
    """
    gap = rows["measured"] - rows["bound"]
    match claim.kind:
        case Exact(relation=relation, rtol=rtol):
            return ~((gap if relation == "<=" else gap.abs()) <= rtol * rows["scale"])
        case Mean():
            return ~(gap.abs() <= Z * rows["scale"])
    return ~(gap <= 0)


def place(claim: Claim) -> str:
    """Where the paper states a claim, in short: "HA24 Lemma 2"."""
    stated = re.split(r",| \(|:|;| with ", claim.source)[0]
    return f"{claim.paper} {'as used here' if stated == 'none' else stated}"  # a yardstick stands in no paper


def dropped(run: Run) -> pd.DataFrame:
    """Count failing trials on each case without an assumption, and on the claim's own case most like it.

    Returns
    -------
    DataFrame
        claim, place, assumption (with what tells several such cases apart), variant ("kept", "dropped"), rate, low,
        high (exact 99 percent limits; the rate itself for a statement without exceptions, which one trial refutes),
        trials.
    """
    checked = [CLAIMS[name] for name in run.checked() if _has_failures(CLAIMS[name])]
    drops = [(claim, drop, i, case) for claim in checked for drop in claim.drops for i, case in enumerate(drop.cases)]
    table = []
    for claim, drop, number, case in drops:
        alike = [_flat(x) for c, d, _, x in drops if (place(c), d.assumption) == (place(claim), drop.assumption)]
        shared = [name for name in _flat(case) if all(name in other for other in alike)]
        differs = [name for name in shared if len({other[name] for other in alike}) > 1]
        words = ", ".join(f"{name} {_flat(case)[name]}" for name in differs).replace("_", " ")
        rows, own = run.rows(claim.id), claim.at(claim.cases, run.effort)
        twin = max(range(len(own)), key=lambda i: sum(case.get(key) == value for key, value in own[i].items()))
        for variant, role, index in (("kept", "claim", twin), ("dropped", f"drop:{drop.assumption}", number)):
            trials = failing(claim, rows[(rows["role"] == role) & (rows["case"] == index)])
            limits = proportion(int(trials.sum()), len(trials))
            if isinstance(claim.kind, Exact):
                limits = (limits[0],) * 3
            assumption = f"{drop.assumption} ({words})" if words else drop.assumption
            table.append((claim.id, place(claim), assumption, variant, *limits, len(trials)))
    columns = ["claim", "place", "assumption", "variant", "rate", "low", "high", "trials"]
    return pd.DataFrame(table, columns=columns)


def _flat(case: Case) -> dict[str, str]:
    """Parameters of a case as text, those inside of `knobs` and the like on one level with the others."""
    parts = [
        _flat(x) if isinstance(x, Mapping) else {name: format(x, "g" if isinstance(x, float) else "")}
        for name, x in case.items()
    ]
    return {name: value for part in parts for name, value in part.items()}


def sabotaged(run: Run) -> pd.DataFrame:
    """Collect how many trials it took to refute each sabotage.

    Returns
    -------
    DataFrame
        claim, place, kind (of claim), sabotage, what (is broken), caught, trials, failing (share of these trials that
        contradict the claim by themselves; nan for growth), failing_as_claimed (of the unbroken code's trials).
    """
    table = []
    for record in map(run.record, run.checked()):
        claim = CLAIMS[record["id"]]
        rows = run.rows(claim.id)
        fails = failing(claim, rows).groupby(rows["role"]).mean() if _has_failures(claim) else pd.Series(dtype=float)
        for sabotage in record["sabotages"]:
            values = [sabotage[key] for key in ("name", "what", "caught", "trials")]
            shares = [fails.get(role, np.nan) for role in (f"sabotage:{sabotage['name']}", "claim")]
            table.append((claim.id, place(claim), record["promise"]["kind"], *values, *shares))
    columns = ["claim", "place", "kind", "sabotage", "what", "caught", "trials", "failing", "failing_as_claimed"]
    return pd.DataFrame(table, columns=columns)


# -------------------------------------------------------------------------------------------------------------- figures
VARIANTS = {
    "kept": {**LOOKS["blue"], "label": "assumption holds"},
    "dropped": {**LOOKS["brown"], "label": "assumption dropped"},
}
KINDS = {
    "exact": {**LOOKS["blue"], "label": "identity or inequality"},
    "probability": {**LOOKS["orange"], "label": "probability"},
    "mean": {**LOOKS["green"], "label": "expectation"},
    "growth": {**LOOKS["magenta"], "label": "growth (a fit needs a whole grid)"},
}


@paper_style()
def draw_dropped(rates: pd.DataFrame) -> Figure:
    """A line per case of `dropped`, its shares of failing trials with the assumption and without it."""
    name = rates["place"] + "\n" + rates["assumption"].map(lambda words: fill(words, 52))
    options: dict[str, Any] = {"looks": VARIANTS, "limits": ("low", "high"), "height": 0.4 + 0.36 * name.nunique()}
    label = "share of the claim's trials that fail"
    return facets(rates.assign(name=name), x="rate", y="name", hue="variant", xlabel=label, **options)


@paper_style()
def draw_sabotages(rows: pd.DataFrame) -> Figure:
    """A line per statement of a paper, a mark per sabotage of `sabotaged` (their number where several coincide)."""
    papers = rows["place"].str.split().str[0]
    names = list(rows["place"].iloc[np.lexsort([rows["place"], -papers.map(papers.value_counts())])].unique())
    fig, (ax,) = grid(1, 1, height=0.3 + 0.17 * len(names))
    for number, (kind, look) in enumerate(KINDS.items()):
        missed = {"markerfacecolor": "white", "label": f"{look['label']}: not refuted"}
        alike = rows[rows["kind"] == kind].groupby(["caught", "place", "trials"], as_index=False).size()
        for mark in alike.to_dict("records"):
            shift = 0.13 * (number - 1.5) - (0 if mark["caught"] else 0.35)  # both kinds may need as many trials
            at = mark["trials"], names.index(mark["place"]) + shift
            ax.plot(*at, **{**look, "linestyle": "none", **({} if mark["caught"] else missed)})
            if mark["size"] > 1:
                ax.annotate(f"{mark['size']}", at, (0, 2), textcoords="offset points", size=5, ha="center")
    ax.set_yticks(range(len(names)), names)
    ax.set(xscale="log", ylim=(len(names) - 0.5, -0.5))
    ticks(ax.xaxis, 2 ** np.arange(8), at_most=8)
    finish(fig, xlabel="trials until the sabotage was refuted")
    return fig
