"""Degree and rank: the constant of the law, where it is shown, and the order of the bases."""

import math

import numpy as np
import pytest

from sublinattn.lab.run import Run
from sublinattn.methods.polynomial.studies import degree_and_rank


@pytest.fixture(scope="module")
def degrees():
    return degree_and_rank.minimal_degrees(Run())


@pytest.fixture(scope="module")
def constants():
    return degree_and_rank.law_constant(Run())


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


def test_ranks_are_binomials():
    table = degree_and_rank.ranks().set_index(["d", "degree"])
    assert table.loc[(8, 4), "rank"] == 495
    assert table.loc[(8, 4), "bound"] == math.comb(24, 8)


def test_the_law_is_left_out_where_its_cases_meet():
    laws = degree_and_rank.laws(Run(), 20)
    shown = laws[laws["degree"].notna()]
    ratio = -np.log(shown["eps"]) / shown["radius"]
    assert not ratio.between(1, math.e, inclusive="neither").any()
