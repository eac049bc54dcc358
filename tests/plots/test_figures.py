"""Every function that draws, on small tables: axes named, nothing cut, theory and yardsticks shown; and the kit."""

from __future__ import annotations

import ast
import importlib
import io
import pkgutil
from collections.abc import Callable
from pathlib import Path

import examples
import numpy as np
import pandas as pd
import pytest
from examples import kit, table
from matplotlib.figure import Figure
from matplotlib.text import Text

import sublinattn
from sublinattn.lab.run import Run
from sublinattn.plots import layout, panels, style
from sublinattn.plots.growth import growths

PACKAGE = Path(sublinattn.__file__).parent
TABLES = [importlib.import_module(f"examples.{module.name}") for module in pkgutil.iter_modules(examples.__path__)]
FIGURES: dict[Callable, Callable[[], Figure]] = {draw: call for file in TABLES for draw, call in file.FIGURES.items()}


def name(draw: Callable) -> str:
    return f"{draw.__module__}.{draw.__name__}"


@pytest.fixture(scope="module", params=FIGURES, ids=name)
def figure(request) -> Figure:
    return FIGURES[request.param]()


def legend(fig: Figure) -> set[str]:
    boxes = [*fig.legends, *(ax.get_legend() for ax in fig.axes if ax.get_legend())]
    return {text.get_text().replace("\n", " ") for box in boxes for text in box.get_texts()}


def test_every_function_that_draws_is_tried():
    studies = [path for path in PACKAGE.rglob("*.py") if path.parent.name in ("studies", "comparison", "audit")]
    drawing = {
        ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts, node.name))
        for path in studies
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and (node.name == "draw" or node.name.startswith("draw_"))
    }
    assert drawing <= {name(draw) for draw in FIGURES}


def test_axes_are_named_and_the_figure_draws(figure):
    with style.paper_style():
        figure.savefig(io.BytesIO(), format="svg")  # a warning is an error here
    assert figure.get_figwidth() <= style.PAGE
    shown = [ax for ax in figure.axes if ax.axison]
    around = {text.get_rotation() for text in figure.texts}  # labels that panels share
    assert any(ax.get_xlabel() for ax in shown) or 0.0 in around
    assert any(ax.get_ylabel() or ax.get_yticklabels()[0].get_text() for ax in shown) or 90.0 in around


def test_nothing_leaves_the_figure(figure):
    figure.draw_without_rendering()  # which lays it out
    box, (wide, high) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(box.x0, box.y0) > -0.02 and box.x1 < wide + 0.02 and box.y1 < high + 0.02


@pytest.mark.parametrize("draw", [draw for file in TABLES for draw in getattr(file, "YARDSTICKS", ())], ids=name)
def test_figures_of_errors_have_every_yardstick(draw):
    fig = FIGURES[draw]()
    labels = legend(fig) | {text.get_text() for ax in fig.axes for text in ax.get_yticklabels()}
    for yardstick in ("exact", "answering zero", "uniform sampling"):
        assert any(label.startswith(yardstick) for label in labels), yardstick


@pytest.mark.parametrize("draw", [draw for file in TABLES for draw in getattr(file, "THEORY", ())], ids=name)
def test_theory_is_dashed_and_black_where_there_is_one(draw):
    lines = [line for ax in FIGURES[draw]().axes for line in ax.get_lines()]
    assert any(line.get_linestyle() == "--" and line.get_color() == "black" for line in lines)


# -------------------------------------------------------------------------------------------------------------- the kit
REPLICATES = table(
    "input source method n error",
    *(("a", "real", "uniform", n, n * x) for n in (1024, 4096) for x in range(1, 12)),
    *(("b", "synthetic", "uniform", n, n * x) for n in (1024, 4096) for x in range(1, 12)),
    *((i, "synthetic", "zero", np.nan, 3.0) for i in "ab"),
    *((i, "synthetic", "exact", n, 2e-8) for i in "ab" for n in (1024, 4096)),
)


@style.paper_style()
def small(**changes) -> Figure:
    look = {"hue": "method", "facet": "input", "columns": 2, "exact": "exact", "logx": True, "logy": True}
    labels = {"xlabel": "tokens", "ylabel": "error"}
    return panels.facets(REPLICATES, x="n", y="error", **{**look, **labels, **changes})


def test_facets_draw_medians_with_the_middle_four_fifths():
    fig = small()
    ax = fig.axes[0]
    (line,) = [line for line in ax.get_lines() if line.get_label() == "uniform sampling"]
    assert line.get_ydata().tolist() == [6 * 1024, 6 * 4096]
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (2 * 1024, 10 * 4096)
    assert [ax.get_title() for ax in fig.axes] == ["a", "b"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1k", "4k"]


def test_limits_already_computed_are_drawn_as_they_are():
    rates = table("n rate low high", (1, 0.5, 0.1, 0.8), (2, 0.4, 0.3, 0.6))
    with style.paper_style():
        ax = panels.facets(rates, x="n", y="rate", limits=("low", "high")).axes[0]
    (line,) = ax.get_lines()
    assert line.get_ydata().tolist() == [0.5, 0.4]
    corners = ax.collections[0].get_paths()[0].vertices.tolist()
    assert {(1, 0.1), (1, 0.8), (2, 0.3), (2, 0.6)} <= {(x, y) for x, y in corners}


def test_exact_stands_at_the_lower_edge_with_its_size_and_zero_everywhere():
    ax = small().axes[0]
    (exact,) = [line for line in ax.get_lines() if line.get_label() == "exact (rounding)"]
    assert exact.get_ydata().max() < 0.1 and exact.get_transform() == ax.get_xaxis_transform()
    assert "exact: 2e-8" in [text.get_text() for text in ax.texts]
    (zero,) = [line for line in ax.get_lines() if line.get_label() == "answering zero"]
    assert zero.get_ydata() == [3.0, 3.0] and zero.get_transform() == ax.get_yaxis_transform()


def test_text_along_y_becomes_dots_that_keep_clear_of_each_other():
    rows = table("kind side x", *((k, s, v) for k in ("one", "two") for s in "lr" for v in (1.0, 2.0, 3.0)))
    with style.paper_style():
        ax = panels.facets(rows, x="x", y="kind", hue="side", looks=style.series("l", "r"), interval=100).axes[0]
    heights = sorted(y for line in ax.get_lines() for y in line.get_ydata() if line.get_label() in "lr")
    assert heights == pytest.approx([-0.175, 0.175, 0.825, 1.175])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["one", "two"]


def test_limits_along_text_are_those_of_what_was_measured():
    rates = table("kind rate low high", ("one", 0.5, 0.1, 0.8), ("two", 0.4, 0.4, 0.4))
    with style.paper_style():
        ax = panels.facets(rates, x="rate", y="kind", limits=("low", "high")).axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["one", "two"]
    (bars,) = ax.collections
    assert bars.get_segments()[0][:, 0].tolist() == pytest.approx([0.1, 0.8])


def test_rows_of_panels_have_their_own_labels_in_the_given_order():
    rows = pd.concat([REPLICATES.assign(quantity=q) for q in ("bytes", "time")])
    with style.paper_style():
        fig = panels.facets(rows, x="n", y="error", facet="input", row="quantity", ylabel={"time": "s", "bytes": "B"})
    assert [ax.get_ylabel() for ax in fig.axes] == ["s", "", "B", ""]
    assert [ax.get_title() for ax in fig.axes] == ["a", "b", "", ""]


def test_shared_labels_stand_at_the_middle_of_the_panels():
    fig = small(columns=1)
    assert fig.legends
    top, bottom = (ax.get_position() for ax in fig.axes)
    labels = {text.get_text(): text.get_position() for text in fig.texts}
    assert labels["error"][1] == pytest.approx((top.y1 + bottom.y0) / 2)
    assert labels["tokens"][0] == pytest.approx((top.x0 + top.x1) / 2)
    legend_top = fig.legends[0].get_window_extent().transformed(fig.transFigure.inverted()).y1
    assert legend_top <= labels["tokens"][1] < bottom.y0


@pytest.mark.parametrize("ylabel", ["error of the largest of the rows", 3 * "error of the largest of the rows "])
def test_a_label_longer_than_its_panels_stays_within_the_figure(ylabel):
    test_nothing_leaves_the_figure(small(ylabel=ylabel, columns=2))


def test_the_legend_goes_where_a_panel_is_free():
    three = pd.concat([REPLICATES, REPLICATES[REPLICATES["input"] == "a"].assign(input="c")])
    with style.paper_style():
        fig = panels.facets(three, x="n", y="error", hue="method", facet="input", columns=2)
    free = fig.axes[3].get_position()
    box = fig.legends[0].get_window_extent().transformed(fig.transFigure.inverted())
    assert free.x0 <= box.x0 and box.x1 <= 1 and box.y1 <= free.y1 + 0.05


def test_names_at_line_ends_keep_clear_of_each_other():
    with style.paper_style():
        fig, (ax,) = panels.grid(1, 1)
        for number in range(5):
            ax.plot([0, 1], [0, 1 + number / 1000], label=f"line {number}")
        layout.finish(fig, legend="ends")
    boxes = sorted((Text.get_window_extent(text) for text in ax.texts), key=lambda box: box.y0)
    assert len(boxes) == 5 and all(a.y1 <= b.y0 + 0.5 for a, b in zip(boxes, boxes[1:], strict=False))
    assert not fig.legends


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((1 / 16, 1 / 8, 1), ["1/16", "1/8", "1"]),
        ((0.05, 0.1, 1), ["0.05", "0.1", "1"]),
        ((1024, 16384, 10**6), ["1k", "16k", "1M"]),
        ((2.0082, 17.94, 768.0), ["2", "18", "768"]),
        ((3.5, 5.7, 7.8, 9.6), ["3.5", "5.7", "7.8"]),
    ],
)
def test_ticks_are_short_and_apart(values, shown):
    with style.paper_style():
        _, (ax,) = panels.grid(1, 1)
        ax.plot(values, values)
        ax.set_xscale("log")
        layout.ticks(ax.xaxis, values, at_most=4)
        assert [text.get_text() for text in ax.get_xticklabels()] == shown


@pytest.mark.parametrize("top", [1.1, 3.0, 50.0, 1e6])
def test_ticks_of_a_logarithmic_axis_all_differ(top):
    with style.paper_style():
        _, (ax,) = panels.grid(1, 1)
        ax.plot([1.0, top], [1.0, top])
        ax.set(yscale="log", ylim=(1.0, top))
        layout.readable(ax.yaxis)
        ax.figure.canvas.draw()
        shown = [text.get_text() for text in ax.get_yticklabels() if text.get_text()]
        assert len(shown) >= 2 and len(set(shown)) == len(shown)


def test_growths_say_what_was_measured_and_what_the_theory_says():
    a_n, a_kappa, b = (ax for ax in kit.FIGURES[growths]().axes if ax.axison)
    assert a_n.get_title() == "$n^{0.00}$ [0.00, 1.00]\ntheory $\\log n \\approx n^{0.20}$"
    assert a_kappa.get_title().endswith("theory $\\kappa^{7}$")
    assert b.get_title() == "$n^{0.90}$ [0.70, 1.00]\ntheory $n$"  # of bytes, where n / bytes was fitted
    assert "no size sufficed" in [line.get_label() for line in a_n.get_lines()]


def test_growths_without_a_fit_still_draw():
    missing, nothing = kit.SIZES.assign(size=np.inf), kit.FITS.assign(measured=np.nan, lower=np.nan, upper=np.nan)
    growths(missing, nothing, {"a": "Lemma"}).savefig(io.BytesIO(), format="svg")


def test_publish_leaves_figure_and_rows(tmp_path, capsys):
    run = Run(backend="numpy", out=tmp_path, knobs={"n": 4})
    run.publish(small(), "a-figure", rows=REPLICATES, caption="What it shows.")
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert made == {
        *(f"figures/a-figure.{suffix}" for suffix in ("svg", "pdf", "png", "json")),
        "rows/a-figure.parquet",
    }
    assert pd.read_parquet(tmp_path / "rows" / "a-figure.parquet").equals(REPLICATES)
