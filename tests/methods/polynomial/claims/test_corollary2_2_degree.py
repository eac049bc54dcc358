"""Degree, rank and phase of the polynomial method: what the claims measure, and what they come out as."""

import io
import math

import numpy as np
import pandas as pd
import pytest

from sublinattn.lab.run import Run
from sublinattn.methods.polynomial.approximants import approximant, minimal_degree, taylor_bound
from sublinattn.methods.polynomial.claims import corollary2_2_degree, theorem1_4_phase
from sublinattn.methods.polynomial.studies import degree_and_rank, phase_picture
from sublinattn.plots import style
from sublinattn.theory import CLAIMS, symbols, verify
from sublinattn.theory.claim import evaluate

MINE = ["as23.taylor", "as23.degree-law", "as23.degree-wide", "as23.rank", "as23.rank-bound", "as23.phase"]


@pytest.fixture(scope="module")
def verdicts():
    return {name: verify(name) for name in MINE}


@pytest.fixture(scope="module")
def degrees():
    return degree_and_rank.minimal_degrees(Run())


@pytest.fixture(scope="module")
def constants():
    return degree_and_rank.law_constant(Run())


@pytest.fixture(scope="module")
def maps():
    return phase_picture.maps(Run())


@pytest.fixture(scope="module")
def curves():
    return phase_picture.curves(Run())


# ---------------------------------------------------------------------------------------------------------- the claims
@pytest.mark.parametrize("name", MINE)
def test_claims_are_supported_and_their_sabotages_are_caught(verdicts, name):
    assert verdicts[name].outcome == "supported", verdicts[name].reason
    assert all(sabotage.caught for sabotage in verdicts[name].sabotages)


def test_a_longer_interval_is_seen_in_the_radius_only(verdicts):
    """R^1.5 for R is a growth 1.5 times as steep in R; in log(1/eps) it changes none."""
    (sabotage,) = verdicts["as23.degree-wide"].sabotages
    assert "measured exponent 1.5" in sabotage.reason
    assert verdicts["as23.degree-law"].sabotages[0].reason.startswith("in R:")


def test_rank_grows_like_n_on_the_threshold(verdicts):
    drops = {drop.assumption: drop for drop in verdicts["as23.phase"].drops}
    assert drops["B = o(sqrt(log n))"].outcome == "refuted"
    assert "measured exponent 1 " in drops["B = o(sqrt(log n))"].reason
    assert drops["d = O(log n)"].outcome != "supported"


def test_rank_passes_n_where_n_is_below_the_onset(verdicts):
    v = verdicts["as23.phase"]
    assert [case.vacuous for case in v.cases] == [case.facts["log_t"] >= case.facts["Lambda"] for case in v.cases]
    assert 0 < v.vacuity.share < 1
    assert 100 < v.vacuity.onset < 1000  # n = 10^100 to 10^1000


# ------------------------------------------------------------------------------------------------------------- degrees
def test_bounds_in_sympy_are_the_functions():
    assert float(evaluate(symbols.TAYLOR_ERROR.subs(symbols.g, 5), {"R": 2.0})) == pytest.approx(taylor_bound(5, 2.0))
    assert symbols.RANK.subs({symbols.d: 3, symbols.g: 4}) == 35
    assert symbols.RANK_BOUND.subs({symbols.d: 3, symbols.g: 4}) == math.comb(14, 8)
    assert evaluate(symbols.DEGREE_GROWTH, {"L": 10.0, "R": 2.0}) == pytest.approx(10 / math.log(5))
    assert evaluate(symbols.DEGREE_GROWTH, {"L": 1.0, "R": 2.0}) == 2


@pytest.mark.parametrize("basis", ["taylor", "chebyshev", "minimax"])
def test_crossing_lies_below_the_minimal_degree_and_meets_it_at_its_error(basis):
    for big in (0.4, 3.0, 20.0):
        least = minimal_degree(basis, math.exp(-big), 2.0)
        assert least - 1 < corollary2_2_degree.crossing(basis, big, 2.0) <= least
    before, after = (-math.log(approximant(basis, g, 2.0).error) for g in (6, 7))
    assert corollary2_2_degree.crossing(basis, after - 1e-9, 2.0) == pytest.approx(7, abs=1e-6)
    assert corollary2_2_degree.crossing(basis, (before + after) / 2, 2.0) == pytest.approx(6.5)


def test_crossing_of_the_explicit_bound_meets_it():
    for g, radius in ((7, 2.0), (900, 30.0)):
        before, after = (-math.log(radius) * (i + 1) + math.lgamma(i + 2) - 2 * radius for i in (g - 1, g))
        assert corollary2_2_degree.crossing("explicit", after - 1e-9, radius) == pytest.approx(g, abs=1e-6)
        assert corollary2_2_degree.crossing("explicit", (before + after) / 2, radius) == pytest.approx(g - 0.5)


def test_constant_of_the_law_to_leading_order(constants):
    table = degree_and_rank.leading_constant(2000)
    top = table.loc[table["constant"].idxmax()]
    assert top["constant"] == pytest.approx(1.5, abs=1e-4)
    assert top["ratio"] == pytest.approx(math.e**3, rel=0.02)
    assert constants[constants["ratio"] > 25]["constant"].min() > 1.3
    assert constants["constant"].max() < 1.5


def test_minimal_degrees_are_ordered(degrees):
    table = degrees.pivot_table(index=["varies", "eps", "radius"], columns="what", values="degree")
    assert (table["minimax"] <= table["chebyshev"]).all()
    assert (table["minimax"] <= table["taylor"]).all() and (table["taylor"] <= table["explicit"]).all()
    assert len(table) == 18


# --------------------------------------------------------------------------------------------------------------- ranks
def test_modular_rank_by_hand():
    rng = np.random.default_rng(0)
    for rank in (0, 1, 4, 6):
        a = rng.integers(1000, size=(9, rank)) @ rng.integers(1000, size=(rank, 6))
        assert corollary2_2_degree.modular_rank(a.astype(np.int64)) == rank == np.linalg.matrix_rank(a.astype(float))
    assert corollary2_2_degree.modular_rank(np.array([[0, 2], [0, 3]])) == 1
    assert corollary2_2_degree.modular_rank(np.array([[0, 1], [1, 0]])) == 2
    assert (
        corollary2_2_degree.modular_rank(np.array([[0, 1], [corollary2_2_degree.PRIME, 0]]) % corollary2_2_degree.PRIME)
        == 1
    )


def test_rank_in_floating_point_agrees():
    """The same matrix by an SVD, small enough that rounding leaves a gap."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((60, 3)) @ rng.standard_normal((60, 3)).T
    singular = np.linalg.svd(1 + x + x**2 / 2 + x**3 / 6, compute_uv=False)
    assert singular[19] / singular[0] > 1e-6 > 1e-12 > singular[20] / singular[0]
    trial = corollary2_2_degree.polynomial_rank(rng, np, d=3, degree=3)
    assert trial.measured == trial.bound == 20


def test_ranks_are_binomials():
    table = degree_and_rank.ranks().set_index(["d", "degree"])
    assert table.loc[(8, 4), "rank"] == 495
    assert table.loc[(8, 4), "bound"] == math.comb(24, 8)


# --------------------------------------------------------------------------------------------------------------- phase
def test_log_rank_is_that_of_the_binomial():
    assert theorem1_4_phase.log_rank(20, 7) == pytest.approx(math.log(math.comb(27, 7)))


def test_onset_is_where_the_rank_meets_n():
    family = {"width": 1.0, "entries": 1.0, "beta": 0.25}
    log_n = theorem1_4_phase.onset(**family)
    assert theorem1_4_phase.log_rank_at(log_n, **family) == pytest.approx(log_n, rel=0.02)  # d is whole
    assert theorem1_4_phase.onset(width=1.0, entries=1.0, beta=0.5) == math.inf
    assert theorem1_4_phase.onset(width=0.01, entries=0.1, beta=0.25) == 1


def test_phase_map_grows_with_entries_and_width(maps):
    for _, cells in maps.groupby(["polynomial", "size"]):
        table = cells.pivot(index="width", columns="entries", values="exponent")
        assert (table.diff().iloc[1:] > 0).all(axis=None) and (table.T.diff().iloc[1:] > 0).all(axis=None)
    both = maps[maps["size"] == "2^40"].pivot(index=["width", "entries"], columns="polynomial", values="exponent")
    assert (both["minimax"] < both["explicit"]).all()


def test_widest_head_of_each_picture(maps):
    widest = phase_picture.share_below(maps)
    assert list(widest.index) == [("minimax", s) for s in phase_picture.MEASURED] + [
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
    found = phase_picture.onsets(curve)["log10 n from which t < n"].item()
    assert found == pytest.approx(math.exp(3 + 1 / 3) / math.log(10))
    assert phase_picture.onsets(curve.iloc[:3])["log10 n from which t < n"].item() == math.inf


# ------------------------------------------------------------------------------------------------------------- figures
def drawn(fig) -> list:
    with style.paper_style():
        fig.savefig(io.BytesIO(), format="svg")
    return fig.axes


def test_degree_figure_has_bound_and_law(degrees, constants):
    laws = degree_and_rank.laws(20)
    for ax in drawn(degree_and_rank.draw_degrees(degrees, laws, constants, degree_and_rank.leading_constant(20))):
        assert any(line.get_linestyle() == "--" and line.get_color() == "black" for line in ax.get_lines())
    shown = laws[laws["degree"].notna()]
    ratio = -np.log(shown["eps"]) / shown["radius"]
    assert not ratio.between(1, math.e, inclusive="neither").any()


def test_phase_figures_draw(maps, curves):
    assert len(drawn(phase_picture.draw_maps(maps))) == 7
    (ax,) = drawn(phase_picture.draw_curves(curves))
    assert len(ax.get_lines()) >= 4 * 2 + 2
    assert set(MINE) <= set(CLAIMS)
