"""Critical sizes over the accuracy: exponents of known laws, and sizes of methods whose error is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from toy_comparison import RUN

from sublinattn.lab.comparison import critical


def test_exponents_are_those_of_the_law_and_missing_sizes_are_left_out() -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        [
            (method, eps, r, eps**-power * np.exp(0.01 * rng.standard_normal()), 999)
            for method, power in (("one", 1.0), ("two", 2.0))
            for eps in (0.2, 0.1, 0.05)
            for r in range(6)
        ],
        columns=["method", "eps", "replicate", "size", "n"],
    )
    rows.loc[(rows["method"] == "two") & (rows["eps"] == 0.05) & (rows["replicate"] == 3), "size"] = np.inf
    found = critical.exponents(rows)
    assert found["points"].tolist() == [3, 2]
    for method, power in (("one", 1.0), ("two", 2.0)):
        row = found.loc[method]
        assert row["exponent"] == pytest.approx(power, abs=0.05) and row["lower"] < row["exponent"] < row["upper"]
    only = critical.exponents(rows[rows["eps"] == 0.2])
    assert only["exponent"].isna().all()


def test_a_uniform_sample_of_coins_is_off_by_one_over_its_root() -> None:
    """200 draws: the root mean square has a standard error of 5 percent, and 5 of these are allowed."""
    rng = np.random.default_rng(1)
    given = critical.stream(512, rng, np)
    errors = [critical.error("uniform", 40, given, rng) for _ in range(200)]
    held = 40 * 16 // (16 + 8)  # a token's bytes, and its priority
    expected = np.sqrt((1 - held / 512) / held)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(expected, rel=0.3)


def test_budgets_without_a_cache_or_parameters_are_infinitely_wrong() -> None:
    rng = np.random.default_rng(2)
    given = critical.stream(256, rng, np)
    assert critical.error("balancekv", 2, given, rng) == critical.error("Thinformer", 8, given, rng) == np.inf


def test_rows_name_every_method_and_accuracy() -> None:
    rows = critical.over_eps(RUN, n=256, epses=(0.5, 0.3), draws=2, methods=("uniform", "balancekv"))
    assert set(zip(rows["method"], rows["eps"], strict=True)) == {
        (method, eps) for method in ("uniform", "balancekv") for eps in (0.5, 0.3)
    }
    assert (rows["size"] >= 1).all() and rows["n"].unique().tolist() == [256]
