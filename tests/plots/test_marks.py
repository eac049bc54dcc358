"""Points of a figure for a page's hover: where they lie, and what they say."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import seaborn as sns
from matplotlib.figure import Figure

from sublinattn.plots import marks
from sublinattn.plots.save import save


def points(fig, tmp_path):
    data = pd.DataFrame({"x": [1]})
    paths = save(fig, "f", out=tmp_path, params={}, seed=0, data=data, caption="c", backend="numpy")
    return json.loads(paths["json"].read_text())["hover"]


def test_points_lie_where_they_are_drawn_from_the_upper_left_corner(tmp_path):
    fig = Figure(figsize=(4, 2), layout="none")
    ax = fig.add_axes((0.25, 0.25, 0.5, 0.5))
    ax.set(xscale="log", xlim=(1, 100), ylim=(0, 4), xlabel="$n$", ylabel=r"$\|e\|_F$")
    ax.plot([1, 10, 100], [0, 1, 4], marker="o", label=r"a $\alpha$")
    ax.plot([1, 100], [0, 4])  # a line without markers has no points
    ax.plot([10], [9], "o")  # outside
    ax.axhline(2, marker="o")
    ax.legend()
    found = points(fig, tmp_path)
    assert found["size"] == [288, 144]
    assert found["points"] == [
        [72, 108, "a alpha, n = 1, |e|_F = 0"],
        [144, 90, "a alpha, n = 10, |e|_F = 1"],
        [216, 36, "a alpha, n = 100, |e|_F = 4"],
    ]


def test_facets_have_their_titles_and_the_names_of_shared_axes(tmp_path):
    table = pd.DataFrame({"n": [1, 2] * 4, "e": range(8), "m": ["a"] * 4 + ["b"] * 4, "w": (["u"] * 2 + ["v"] * 2) * 2})
    grid = sns.relplot(table, x="n", y="e", hue="m", style="m", col="w", kind="line", markers=True)
    said = [text for _, _, text in points(grid.figure, tmp_path)["points"]]
    assert len(said) == 8 and "w = u: a, n = 1, e = 0" in said and "w = v: b, n = 2, e = 7" in said


@pytest.mark.parametrize("kind", ["mesh", "corners", "image"])
def test_cells_of_heat_maps_say_their_values(tmp_path, kind):
    fig = Figure()
    values = np.array([[1.5, 2.0], [3.0, np.nan]])
    ax = fig.subplots()
    if kind == "image":
        ax.imshow(values)
    else:
        ax.pcolormesh(values, shading="flat" if kind == "mesh" else "gouraud")
    assert [text for _, _, text in points(fig, tmp_path)["points"]] == ["1.5", "2", "3"]


def test_bars_and_scattered_points_are_named_by_the_legend(tmp_path):
    fig = Figure()
    left, right = fig.subplots(1, 2)
    left.barh(["one"], [5.0], label="bars")
    left.legend()
    right.scatter([1.0], [2.0], label="dots", c="r")
    assert [text for _, _, text in points(fig, tmp_path)["points"]] == ["bars: 5", "dots, x = 1, y = 2"]


def test_a_name_for_the_axes_of_all_panels_counts(tmp_path):
    fig = Figure()
    fig.subplots().plot([1], [2], "o")
    fig.text(0.5, 0.01, "$n$")
    fig.text(0.01, 0.5, "error", rotation=90)
    assert [text for _, _, text in points(fig, tmp_path)["points"]] == ["n = 1, error = 2"]


def test_an_axis_of_names_gives_the_name(tmp_path):
    fig = Figure()
    ax = fig.subplots()
    ax.plot([0.5, 2.0], [0.1, 0.9], "o")
    ax.set_yticks([0, 1], ["first thing", "another"])
    assert [text for _, _, text in points(fig, tmp_path)["points"]] == ["x = 0.5, first thing", "x = 2, another"]


def test_a_figure_with_too_many_points_has_none(tmp_path):
    fig = Figure()
    fig.subplots().plot(np.arange(marks.LIMIT + 1), "o")
    assert points(fig, tmp_path)["points"] == []
