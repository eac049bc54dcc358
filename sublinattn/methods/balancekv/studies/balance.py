"""Critical sizes over the accuracy, one halving taken apart, and what the weights count. Notebook 24."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....core.backends import asnumpy, to_device
from ....lab.comparison import critical
from ....lab.run import Run
from ....plots.panels import facets, theory_line
from ....plots.style import METHODS, paper_style, series
from ..balancekv import FAILURE, BalanceKVCache
from ..walk import half_width, halve

COINS = "coins"
RULES: Mapping[str, Any] = {
    "c = 30 log(t/0.01), the paper's": lambda t: {"c": 30 * np.log(t / FAILURE)},
    "c = 1/2 + log(2t/0.01), proved here": lambda t: {"c": half_width(t, FAILURE)},
    "c = 1": lambda t: {"c": 1.0},
    "pairs, c = 1": lambda t: {"c": 1.0, "pairs": True},
    COINS: lambda t: {"c": 1e9},
}
"""Parameters of a halving by the size t of the batch; with the widest half-width the signs are coins."""


def critical_sizes(run: Run) -> pd.DataFrame:
    """`critical.over_eps` at this run's sizes.

    Parameters of the run: n, eps, replicates.
    """
    epses = run.pick(
        smoke=(0.2, 0.1, 0.05), standard=(0.2, 0.1, 0.05, 0.025, 0.0125), full=(0.1, 0.05, 0.025, 0.0125, 0.00625)
    )
    return critical.over_eps(
        run,
        n=run.given("n", run.pick(smoke=4096, standard=2**15, full=2**17)),
        epses=run.given("eps", epses),
        draws=run.pick(smoke=4, standard=8, full=8),
    )


def halvings(run: Run) -> pd.DataFrame:
    """Error of one halving over the batch, by the rule of its signs: keys and values as in `critical.stream`.

    Returns
    -------
    DataFrame
        rule (a key of `RULES`), t, replicate, error: root mean square over a problem's queries of the difference of
        the two parts' weighted sums of values, over the normaliser of all; for either part the same.
    """
    xp, problems = run.xp, run.pick(smoke=16, standard=32, full=64)
    rows = []
    for t in 2 ** np.arange(4, run.pick(smoke=10, standard=12, full=13)):
        rng = run.rng("halvings", int(t))
        k = rng.standard_normal((problems, t, 3)) / (2 * np.sqrt(3))
        q = rng.standard_normal((problems, 16, 3)) / np.sqrt(3)
        v = rng.choice([-1.0, 1.0], size=(problems, t, 1))
        e = np.exp(q @ k.swapaxes(1, 2))
        given = [to_device(x.astype(np.float32), xp) for x in (k, v)]
        for rule, options in RULES.items():
            parameters = options(t)
            steps = t // 2 if parameters.get("pairs") else t
            uniform = to_device(rng.uniform(size=(problems, steps)).astype(np.float32), xp)
            filled = xp.ones((problems, t), bool)
            kept, there = map(asnumpy, halve(xp, given[0], given[1], filled, uniform, scale=1.0, **parameters))
            signs = -np.ones((problems, t))
            np.put_along_axis(signs, kept, np.where(there, 1.0, np.take_along_axis(signs, kept, axis=1)), axis=1)
            apart = (e * signs[:, None]) @ v / e.sum(axis=2, keepdims=True)
            errors = np.sqrt((apart**2).mean(axis=(1, 2)))
            rows += [(rule, int(t), replicate, float(error)) for replicate, error in enumerate(errors)]
    return pd.DataFrame(rows, columns=["rule", "t", "replicate", "error"])


def counted(run: Run) -> pd.DataFrame:
    """Share of the n tokens that the weights of all slots count, over n/t.

    Returns
    -------
    DataFrame
        method ("balancekv", "balancekv, pairs"), t, folds (n/t), replicate (head), share.
    """
    rows = []
    for t in (32, 128):
        rng = run.rng("counted", t)
        heads, most = run.pick(smoke=4, standard=8, full=16), 2 ** run.pick(smoke=6, standard=8, full=10)
        k = to_device(rng.standard_normal((heads, most * t, 8), np.float32), run.xp)
        for method in ("balancekv", "balancekv, pairs"):
            cache = BalanceKVCache(t, pairs=method != "balancekv", rng=rng)
            seen = 0
            for folds in 2 ** np.arange(0, int(np.log2(most)) + 1):
                part = k[:, seen : folds * t]
                cache.update(part, part)
                seen = int(folds) * t
                share = np.exp(asnumpy(cache.contents()["log_weights"])).sum(axis=1) / seen
                rows += [(method, t, int(folds), replicate, float(x)) for replicate, x in enumerate(share)]
    return pd.DataFrame(rows, columns=["method", "t", "folds", "replicate", "share"])


# -------------------------------------------------------------------------------------------------------------- figures
@paper_style()
def draw_critical_sizes(rows: pd.DataFrame) -> Figure:
    """Critical sizes of `critical_sizes` over the accuracy: medians and ranges, with the slopes -1 and -2."""
    names = list(rows["method"].unique())
    others = series(*(name for name in names if name not in METHODS))
    found = rows[np.isfinite(rows["size"])]

    def slopes(ax: Axes, panel: pd.DataFrame) -> None:
        eps = np.sort(panel["eps"].unique())
        for power, method in ((2, "uniform"), (1, "balancekv")):
            here = panel[panel["method"] == method]
            if len(here):
                first = here.loc[here["eps"] == here["eps"].max(), "size"].median()
                line = first * (here["eps"].max() / eps) ** power
                theory_line(ax, eps, line, rf"$\varepsilon^{{-{power}}}$", linestyle="--" if power == 2 else "-.")

    return facets(
        found,
        x="eps",
        y="size",
        hue="method",
        looks={name: others[name] if name in others else METHODS[name] for name in names},
        interval=100,
        logx=True,
        logy=True,
        xlabel=r"accuracy $\varepsilon$",
        ylabel="tokens stored",
        height=3.0,
        each=slopes,
    )


@paper_style()
def draw_halvings(rows: pd.DataFrame) -> Figure:
    """Error of one halving over its batch, from `halvings`: median and 80 percent range, with slopes -1/2 and -1."""

    def slopes(ax: Axes, panel: pd.DataFrame) -> None:
        t = np.sort(panel["t"].unique()).astype(float)
        for rule, power in ((COINS, 0.5), ("c = 1", 1.0)):
            last = panel[(panel["rule"] == rule) & (panel["t"] == t[-1])]["error"].median()
            theory_line(ax, t[-4:], last * (t[-1] / t[-4:]) ** power, rf"$t^{{-{power:g}}}$")

    looks = series(*RULES)
    options: dict[str, Any] = {"looks": looks, "logx": True, "logy": True, "height": 3.0, "each": slopes}
    return facets(rows, x="t", y="error", hue="rule", xlabel="batch $t$", ylabel="error of one halving", **options)


@paper_style()
def draw_counted(rows: pd.DataFrame) -> Figure:
    """Share of the tokens that are counted, from `counted`: median and range of the heads."""
    options: dict[str, Any] = {"interval": 100, "logx": True, "ylim": (0, 1.05), "height": 2.0}
    return facets(
        rows,
        x="folds",
        y="share",
        hue="method",
        facet="t",
        titles=lambda t: f"$t = {t}$",
        xlabel="tokens over the batch, $n/t$",
        ylabel="tokens counted, over $n$",
        **options,
    )
