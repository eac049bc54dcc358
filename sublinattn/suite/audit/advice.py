"""What an audit means for an engineer: which cache a key head can take, and which method a layer's prompt."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd

from ...methods.caches.sink import SINKS
from ...plots.style import METHODS
from .answers import CACHES, HYPER
from .facts import SIZES
from .measure import Audit

KEEP = "exact"


def choices(audit: Audit) -> pd.DataFrame:
    """What a key head can take: every cache at every share, and the exact one, with the error of its worst query head.

    A key head's error is the column `decoded` of the worst query head that reads it: a tolerance is then kept by all of
    them. (A sum of squares would let a large output hide that a small one is lost.) Errors of the prompt alone
    (`relative`) ignore how much of the attention a cache loses to the tokens that come after; on passages of the first
    text, which decided it, advice by them had the higher loss.

    The streaming state is not among them, because it is given the largest logit, which nobody knows in advance;
    neither is HyperAttention, which stores every key.

    Returns
    -------
    DataFrame
        layer, key_head, method, share, nbytes, cache, parameters, error.
    """
    caches = audit.caches[audit.caches["method"].isin([KEEP, *CACHES])]
    by = ["layer", "key_head", "method", "share"]
    worst = audit.errors.groupby(by, dropna=False)["decoded"].max().rename("error").reset_index()
    table = caches.merge(worst, on=by)
    exact = table["method"] == KEEP
    return table.assign(share=table["share"].where(~exact, 1.0), error=table["error"].where(~exact, 0.0))


def advice(audit: Audit, *, tolerance: float = 0.1, budget: float | None = None) -> pd.DataFrame:
    """The cache to take for every key head.

    Parameters
    ----------
    audit : Audit
    tolerance : float
        Largest acceptable relative error of any query head: see `choices`.
    budget : float, optional
        In place of a tolerance: bytes of all caches together over those of the exact ones. They are divided so that the
        sum of the key heads' squared errors is least.

    Returns
    -------
    DataFrame
        layer, key_head, method, share, nbytes, cache, parameters, error; exact_bytes (of the exact cache); best and
        best_error (the most accurate cache that is not exact, at the largest share measured); reason (a sentence). By
        tolerance it is the most accurate cache of the least share that keeps it, else the exact one. A key head that
        could not be audited keeps the exact one, and its reason says why.

    Raises
    ------
    ValueError
        The tolerance is not above 0; the budget is not in reach of the shares that were measured.
    """
    check_tolerance(tolerance)
    table = choices(audit).sort_values(["share", "error"], kind="stable", ignore_index=True)
    of_head = table.groupby(["layer", "key_head"])
    if budget is None:
        chosen = table[table["error"] <= tolerance].groupby(["layer", "key_head"]).head(1)
    else:
        chosen = _divided(table, budget)
    chosen = chosen.set_index(["layer", "key_head"])
    chosen["exact_bytes"] = of_head["nbytes"].max()
    others = table[table["method"] != KEEP]
    best = others.loc[others.groupby(["layer", "key_head"])["error"].idxmin()].set_index(["layer", "key_head"])
    chosen["best"], chosen["best_error"] = best["method"], best["error"]
    facts = audit.heads[audit.heads["problem"] == ""].groupby(["layer", "key_head"])
    chosen["reason"] = [
        _reason(row, facts.get_group(place), audit, tolerance if budget is None else None)
        for place, row in zip(chosen.index, records(chosen), strict=True)
    ]
    chosen = chosen.reset_index()
    bad = audit.heads[audit.heads["problem"] != ""].groupby(["layer", "key_head"])["problem"].first().reset_index()
    size = int(chosen["exact_bytes"].max())
    kept: dict[str, Any] = {"method": KEEP, "share": 1.0, "nbytes": size, "exact_bytes": size, "cache": "ExactCache"}
    kept |= {"parameters": "{}", "error": np.nan, "best": "", "best_error": np.nan}
    unknown = bad[["layer", "key_head"]].assign(**kept, reason="not audited: " + bad["problem"])
    whole = pd.concat([chosen, unknown]) if len(unknown) else chosen
    return whole.sort_values(["layer", "key_head"], ignore_index=True)


def _divided(table: pd.DataFrame, budget: float) -> pd.DataFrame:
    """The choices whose squared errors have the least sum, by a price per byte: the least at which the budget is kept.

    Each key head takes the choice of least `error^2 + price nbytes`; what is chosen at a price is best for the bytes
    that it takes.
    """
    exact = table.loc[table["method"] == KEEP, "nbytes"].sum()
    squares, sizes = (table["error"] ** 2).to_numpy(), table["nbytes"].to_numpy() / exact
    places = [table["layer"], table["key_head"]]

    def at(price: float) -> pd.Series:
        return pd.Series(squares + price * sizes).groupby(places).idxmin()

    low, high = -12.0, 12.0  # powers of 10 of the price of all bytes
    if not sizes[at(10**high)].sum() <= budget:
        least = float(sizes[at(10**high)].sum())
        raise ValueError(f"budget must be at least {least:.3g}, the least share that was measured, got {budget}")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if sizes[at(10**middle)].sum() <= budget else (middle, high)
    return table.loc[at(10**high)]


def prompt_errors(audit: Audit) -> pd.DataFrame:
    """Error of HyperAttention on the prompt, layers down and numbers of exact keys across.

    A layer's error is that of the outputs of its heads side by side, which is what the layer goes on with.
    """
    squares = audit.prompts.assign(gap=audit.prompts["gap"] ** 2, size=audit.prompts["size"] ** 2)
    sums = squares.groupby(["layer", "exact"])[["gap", "size"]].sum().unstack()
    sizes = sums["size"].to_numpy()
    return pd.DataFrame(np.sqrt(sums["gap"] / np.where(sizes > 0, sizes, 1.0)))


def prompt_advice(audit: Audit, *, tolerance: float = 0.1) -> pd.DataFrame:
    """For every layer: HyperAttention on the prompt with the fewest exact keys within the tolerance, or exact.

    Returns
    -------
    DataFrame
        layer, method, exact (number of keys computed exactly), error, and best_error (the least at any number).
    """
    errors, rows = prompt_errors(audit), []
    for layer in range(audit.about["layers"]):
        its = dict(errors.loc[layer]) if layer in errors.index else {}
        bad = (audit.heads.loc[audit.heads["layer"] == layer, "problem"] != "").any()
        within = [] if bad else [count for count, error in its.items() if error <= tolerance]
        row = {"layer": layer, "method": HYPER if within else KEEP, "exact": int(within[0]) if within else 0}
        error = float(its[within[0]]) if within else 0.0
        rows.append(row | {"error": error, "best_error": min(its.values(), default=np.nan)})
    return pd.DataFrame(rows)


def saved(recommended: pd.DataFrame) -> float:
    """Share of the exact caches' bytes that the advice saves."""
    return 1 - float(recommended["nbytes"].sum() / recommended["exact_bytes"].sum())


def headline(recommended: pd.DataFrame, *, tolerance: float, budget: float | None) -> str:
    """The advice in a sentence: what it saves."""
    part = saved(recommended)
    if budget is not None:
        typical = recommended["error"].median()
        return f"Saves {part:.0%} of the cache's bytes; the median key head has error {typical:.2g}"
    if not part:
        return f"Saves nothing: no cache keeps any key head within {tolerance:.0%}"
    return f"Saves {part:.0%} of the cache's bytes at {tolerance:.0%} error"


def layers(audit: Audit, recommended: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """The advice layer by layer.

    Returns
    -------
    DataFrame
        layer, caches (in words: how many key heads take what), bytes (of its caches over the exact ones'), error (of
        the worst query head), prompt (in words), prompt_error, best_prompt_error, sinks (median share of the attention
        on the first keys), heaviest (the keys that get most attention, with their shares).
    """
    rows = []
    for layer, part in recommended.groupby("layer"):
        counts = (part["method"] + "|" + part["share"].map(share_text)).value_counts(sort=False)
        words = [f"{count} {_taken(*str(name).split('|'))}" for name, count in counts.items()]
        prompt = prompts[prompts["layer"] == layer].iloc[0]
        heads = audit.heads[(audit.heads["layer"] == layer) & (audit.heads["problem"] == "")]
        rows.append(
            {
                "layer": layer,
                "caches": ", ".join(words),
                "bytes": part["nbytes"].sum() / part["exact_bytes"].sum(),
                "error": part["error"].max(),
                "prompt": KEEP if prompt["method"] == KEEP else f"HyperAttention, {exact_keys(prompt['exact'])}",
                "prompt_error": prompt["error"],
                "best_prompt_error": prompt["best_error"],
                "sinks": heads["sink_mass"].median(),
                "heaviest": _heaviest(heads),
            }
        )
    return pd.DataFrame(rows)


def exact_keys(count: int) -> str:
    """A number of exact keys in words."""
    return f"{count} key{'' if count == 1 else 's'} exact"


def _taken(method: str, share: str) -> str:
    return KEEP if method == KEEP else f"{METHODS[method]['label']} {share}"


def _heaviest(heads: pd.DataFrame) -> str:
    """Positions of the keys that get most of a head's attention, and the largest share that each gets."""
    largest = heads.groupby("heaviest")["heaviest_mass"].max().sort_values(ascending=False)
    shown = [f"{position:.0f} ({mass:.0%})" for position, mass in largest.head(3).items()]
    return ", ".join(shown) + (", ..." if len(largest) > 3 else "")


def share_text(share: float) -> str:
    """A share as a fraction, where it is a simple one."""
    fraction = Fraction(share).limit_denominator(64)
    return str(fraction) if float(fraction) == share else f"{share:.3g}"


def check_tolerance(tolerance: float) -> None:
    """Raise a ValueError unless the tolerance is above 0."""
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0, got {tolerance}")


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as mappings by column name."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def theorems(audit: Audit) -> pd.DataFrame:
    """For each paper: on how many heads its theorem needs a size below n, and the smallest size over n."""
    ratios = {paper: audit.heads[size] / audit.heads["n"] for size, paper in SIZES.items()}
    return pd.DataFrame(
        [{"paper": paper, "heads": int((r < 1).sum()), "smallest_over_n": r.min()} for paper, r in ratios.items()]
    )


def methods(audit: Audit, *, tolerance: float = 0.1) -> pd.DataFrame:
    """For each method and share: errors over key heads (of the worst query head), and how many keep the tolerance.

    Returns
    -------
    DataFrame
        method, share; median, min, max (of `relative`, from the prompt alone); decoded (median; NaN for what is no
        cache), within (number of key heads that `decoded` keeps within the tolerance).
    """
    by = ["layer", "key_head", "method", "share"]
    worst = audit.errors.groupby(by, dropna=False)[["relative", "decoded"]].max().reset_index()
    groups = worst.groupby(["method", "share"], dropna=False)
    table = groups["relative"].agg(["median", "min", "max"])
    table["decoded"] = groups["decoded"].median()
    table["within"] = groups["decoded"].agg(lambda errors: int((errors <= tolerance).sum()))
    order = table.groupby("method")["median"].min().sort_values()
    return table.reset_index().sort_values(["method", "share"], key=lambda x: x.map(order) if x.name == "method" else x)


def _reason(row: Mapping[str, Any], facts: pd.DataFrame, audit: Audit, tolerance: float | None) -> str:
    label, error = METHODS[row["method"]]["label"], row["error"]
    where = f"90 % of the attention is on {facts['keys_90'].max():.0f} keys"
    if row["method"] == KEEP:
        if tolerance is None:
            return f"no cache is as accurate; {where}"
        best = f"{METHODS[row['best']]['label']} at {share_text(max(audit.about['shares']))}"
        return f"no cache is within {tolerance:.0%}: the best, {best}, has error {row['best_error']:.2g}; {where}"
    first = f"the first {SINKS} keys receive {facts['sink_mass'].min():.0%} of the attention"
    causes = {
        "sinks": f"{first}, the latest ones most of the rest",
        "k-center": f"clusters of radius {facts['radius'].max():.3g} cover the keys, and {where}",
        "subgen": f"keys form clusters: delta r is {facts['delta_r_log'].max():.2g} log n at n/32 clusters",
    }
    return (
        f"{label} in {share_text(row['share'])} of the bytes has error {error:.2g}: {causes.get(row['method'], where)}"
    )
