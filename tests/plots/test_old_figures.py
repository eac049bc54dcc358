"""Transition: figures that have not moved beside their measurements, on small tables."""

import io

import numpy as np
import pandas as pd
import pytest
import toy_law_figures
from matplotlib.figure import Figure

from sublinattn import plots
from sublinattn.methods.onepass import studies as onepass  # noqa: F401  registers its looks
from sublinattn.plots import style
from sublinattn.plots.old_panels import spread
from sublinattn.suite.audit import figures as audit_figures


def table(columns: str, *rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns.split())


PLANE = table(
    "layer head what position x y share",
    *((i, 0, w, p, 0.1 * p, 0.2, 0.5) for i in (0, 1) for w in ("keys", "values") for p in range(4)),
)
CRITICAL = table(
    "claim variable x replicate size", *(("c", "n", x, r, 2 * x + r) for x in (10.0, 100.0) for r in (0, 1))
)
FITS = table("claim variable theory measured lower upper theory_exponent", ("c", "n", "n", 0.9, 0.8, 1.0, 1.5))


SUBGEN_COST = pd.DataFrame(
    [
        (quantity, method, n, r, 1.0 + n * r)
        for quantity in ("bytes", "token", "query")
        for method in ("64 clusters", "n clusters", "exact")
        for n in (16, 64)
        for r in (0, 1)
    ],
    columns=["quantity", "method", "n", "replicate", "value"],
)
SUBGEN_CHUNKS = pd.DataFrame(
    [(rows, r, rows + r) for rows in (1, 8) for r in (1.0, 2.0)], columns=["rows", "replicate", "tokens_per_second"]
)

CACHES = table(
    "input source method share held error relative",
    *(
        (i, "real" if i == "b" else "synthetic", m, b, 0.9 * b, 0.1 / b, 0.2 / b)
        for i in "ab"
        for m in ("subgen", "subgen, window", "subgen, hindsight", "sinks", "heavy hitters", "uniform", "value-norm")
        for b in (0.125, 0.25)
    ),
    *((i, "synthetic", m, np.nan, b, e, e) for i in "ab" for m, b, e in (("exact", 1.0, 1e-7), ("zero", 0.0, 1.0))),
)
NEEDLES = table(
    "method share rate low high",
    *((m, b, 0.4, 0.3, 0.5) for m in ("subgen", "subgen, delta told", "k-center", "uniform") for b in (0.125, 0.25)),
    *((m, np.nan, r, r, r) for m, r in (("exact", 1.0), ("zero", 0.0))),
)
PARTS = table(
    "input source replicate normaliser numerator relative",
    *(("a", "real", r, t, z, 0.1 + r) for r in (0, 1) for t in ("clusters", "exact") for z in ("uniform", "exact")),
    *(("a", "real", 0, t, z, x) for t, z, x in (("exact", "exact", 0.0), ("zero", "zero", 1.0))),
)
SUBGEN_CURVES = table(
    "varies replicate x what error law",
    *((v, r, x, w, 1.0 / x, 2.0 / x) for v in "st" for r in (0, 1) for x in (2, 8) for w in ("answer", "part")),
)
SUBGEN_SETTINGS = table(
    "input varies x relative clusters uniform",
    *((i, v, x, x, 0.1, 0.3) for i in "ab" for v in ("delta", "window", "t") for x in (0.5, 1.0)),
)

ANSWERS = table(
    "n method share rate low high bits reach",
    *(
        (n, m, b, 0.4, 0.3, 0.5, 2.0, 0.2)
        for n in (256, 512)
        for m, shares in (
            *((m, (0.125, 0.25)) for m in ("subgen", "subgen, window", "sinks", "heavy hitters", "k-center")),
            *((m, (0.125, 0.25)) for m in ("uniform", "value-norm")),
            *((m, (np.nan,)) for m in ("exact", "zero")),
        )
        for b in shares
    ),
)
ANSWERS_OVER_N = table(
    "n stretched rate low high bits reach", *((n, n > 256, 0.9, 0.8, 0.95, 0.5, 0.1) for n in (128, 256, 512))
)

AUDITED = table(
    "layer head n alpha alpha_residual kappa srank query_norm entry_bound delta_r_log tail hyper_size subgen_size "
    "onepass_size polynomial_size",
    *((i, j, 64, *(2.0 + i + j,) * 8, 10.0**j, 1e30, 32, np.inf) for i in (0, 1) for j in (0, 1)),
)
AUDIT_ERRORS = table(
    "layer head method relative",
    *(
        (i, j, m, e * (1 + i + j))
        for i in (0, 1)
        for j in (0, 1)
        for m, e in (("exact", 1e-7), ("zero", 1.0), ("uniform", 0.3), ("sinks", 0.1), ("subgen", 40.0))
    ),
)
ADVICE = table("layer head best method", *((i, j, "sinks", "sinks" if i else "exact") for i in (0, 1) for j in (0, 1)))

FIGURES = {
    "audit_hardness": lambda: audit_figures.hardness(AUDITED),
    "audit_theorems": lambda: audit_figures.theorems(AUDITED),
    "audit_errors": lambda: audit_figures.errors(AUDIT_ERRORS, ADVICE),
    "retrieval_over_length": lambda: plots.retrieval_over_length(
        ANSWERS_OVER_N, chance=0.01, chance_bits=3.3, enough=0.9
    ),
    "retrieval_over_bytes": lambda: plots.retrieval_over_bytes(
        ANSWERS, chance=0.01, chance_bits=3.3, reported=(0.44, 0.34)
    ),
    "projections": lambda: plots.projections(PLANE),
    "ablation_curves": lambda: plots.ablation_curves(SUBGEN_CURVES),
    "ablation_parts": lambda: plots.ablation_parts(PARTS),
    "ablation_settings": lambda: plots.ablation_settings(SUBGEN_SETTINGS),
    "cache_errors": lambda: plots.cache_errors(CACHES),
    "needles_found": lambda: plots.needles_found(NEEDLES, chance=0.1),
    "subgen_over_n": lambda: plots.subgen_over_n(SUBGEN_COST, {"64 clusters": 0.0, "n clusters": 1.0, "exact": 1.0}),
    "rows_per_chunk": lambda: plots.rows_per_chunk(SUBGEN_CHUNKS),
    **toy_law_figures.FIGURES,
}
YARDSTICKS = {"exact", "answering zero", "uniform sampling"}


def legend(fig: Figure) -> set[str]:
    found = [*fig.legends, *(ax.get_legend() for ax in fig.axes if ax.get_legend())]
    return {text.get_text() for box in found for text in box.get_texts()}


@pytest.fixture(scope="module")
def figures() -> dict[str, Figure]:
    return {name: draw() for name, draw in FIGURES.items()}


def test_every_figure_function_is_tried():
    audit = {"audit_hardness", "audit_theorems", "audit_errors"}
    assert set(FIGURES) - audit == {name for names in plots.NOT_YET_MOVED.values() for name in names}


@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_named_and_the_figure_draws(figures, name):
    fig = figures[name]
    with style.paper_style():
        fig.savefig(io.BytesIO(), format="svg")  # a warning is an error here
    assert fig.get_figwidth() <= style.PAGE
    shown = [ax for ax in fig.axes if ax.axison]
    assert any(ax.get_xlabel() for ax in shown) or fig.get_supxlabel()
    assert any(ax.get_ylabel() or ax.get_yticklabels()[0].get_text() for ax in shown) or fig.get_supylabel()


@pytest.mark.parametrize(
    "name",
    ["cache_errors", "needles_found", "retrieval_over_bytes"],
)
def test_error_figures_have_every_yardstick(figures, name):
    labels = legend(figures[name])
    assert [yardstick for yardstick in YARDSTICKS if not any(label.startswith(yardstick) for label in labels)] == []


def test_theory_is_dashed_and_black_where_there_is_one():
    for name in ("ablation_curves", "needles_found"):
        lines = [line for ax in FIGURES[name]().axes for line in ax.get_lines()]
        assert any(line.get_linestyle() == "--" and line.get_color() == "black" for line in lines), name


def test_spread_is_median_and_tenths():
    rows = table("g value", *(("a", x) for x in range(11)))
    assert spread(rows, ["g"], "value").to_dict("records") == [{"g": "a", "low": 1.0, "median": 5.0, "high": 9.0}]
