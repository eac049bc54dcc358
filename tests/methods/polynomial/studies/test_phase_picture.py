"""The phase picture's maps and curves: where the rank is below n."""

import math

import pandas as pd
import pytest

from sublinattn.lab.run import Run
from sublinattn.methods.polynomial.studies import phase_picture


@pytest.fixture(scope="module")
def maps():
    return phase_picture.maps(Run())


@pytest.fixture(scope="module")
def curves():
    return phase_picture.curves(Run())


def test_phase_map_grows_with_entries_and_width(maps):
    for _, cells in maps.groupby(["polynomial", "size"]):
        table = cells.pivot(index="width", columns="entries", values="exponent")
        assert (table.diff().iloc[1:] > 0).all(axis=None) and (table.T.diff().iloc[1:] > 0).all(axis=None)
    both = maps[maps["size"] == "2^40"].pivot(index=["width", "entries"], columns="polynomial", values="exponent")
    assert (both["minimax"] < both["explicit"]).all()


def test_widest_head_of_each_picture(maps):
    widest = phase_picture.share_below(maps)
    assert list(widest.index) == [("minimax", f"2^{power}") for power in phase_picture.MEASURED] + [
        ("explicit", s) for s in phase_picture.EXPLICIT
    ]
    for (polynomial, size), row in widest.iterrows():
        part = maps[(maps["polynomial"] == polynomial) & (maps["size"] == size)]
        for entries, width in zip((part["entries"].min(), part["entries"].max()), row, strict=True):
            here = part[part["entries"] == entries]
            assert (here[here["width"] <= width]["exponent"] < 1).all()
            assert (here[here["width"] > width]["exponent"] >= 1).all()


def test_the_minimax_polynomial_is_below_the_bound_over_n_too(curves):
    first = curves[curves["log_n"] == curves["log_n"].min()].pivot(
        index="regime", columns="polynomial", values="exponent"
    )
    assert (first["minimax"] < first["explicit"] - 0.1).all() and len(first) == 4


def test_onsets_are_interpolated_and_only_count_the_last_crossing():
    rows = [("B", "explicit", math.exp(i + 1), y) for i, y in enumerate((0.9, 1.2, 1.1, 0.8))]
    curve = pd.DataFrame(rows, columns=["regime", "polynomial", "log_n", "exponent"])
    onset = phase_picture.onsets(curve)["log10 n from which t < n"].item()
    assert onset == pytest.approx(math.exp(3 + 1 / 3) / math.log(10))
    assert phase_picture.onsets(curve.iloc[:3])["log10 n from which t < n"].item() == math.inf
