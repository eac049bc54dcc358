"""What the trials of Lemmas 1 and 2 and Theorem 1 rest on: inputs whose dials hold, masks, sabotaged draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sublinattn.methods.hyperattention.claims import lemma1, lemma2, theorem1
from sublinattn.methods.hyperattention.claims.lemma1 import bench, critical_sample, fresh
from sublinattn.methods.hyperattention.claims.theorem1 import theory_maker

ALPHA: dict[str, Any] = {"workload": "alpha", "n": 60, "d": 8, "d_v": 3, "knobs": {"alpha": 30.0, "noise": 0.3}}


def test_row_sums_are_spread_and_the_softmax_matrix_stays() -> None:
    plain, spread = fresh(**ALPHA), fresh(**ALPHA, row_sums=20.0)
    np.testing.assert_allclose(spread.p, plain.p, rtol=1e-9)
    steps = np.diff(np.sort(spread.log_normaliser))
    np.testing.assert_allclose(steps, np.log(20) / 59, rtol=1e-8)
    assert np.any(np.diff(spread.log_normaliser) < 0)  # in random order


def test_orthonormal_values_have_full_rank_and_are_not_averaged_away() -> None:
    x = fresh(**{**ALPHA, "values": "orthonormal"})
    np.testing.assert_allclose(x.v.T @ x.v, np.eye(3), atol=1e-12)
    assert x.facts["zero"] > 0.9


def test_the_mask_is_a_block_diagonal_in_sorted_order() -> None:
    b = bench(fresh(**ALPHA), np, np.random.default_rng(0), copies=2, block_size=10, sample_size=3)
    order = [x[0] for x in (b.blocks.q_order, b.blocks.k_order)]
    assert np.array_equal(b.mask[np.ix_(*order)], np.kron(np.eye(6), np.ones((10, 10))) > 0)


@pytest.mark.parametrize("m", [7, 60, 90])
def test_consecutive_keys_are_a_window_and_at_most_all(m: int) -> None:
    b = bench(fresh(**ALPHA), np, np.random.default_rng(0), copies=1, block_size=10, sample_size=m, dtype=np.float64)
    sample: Any = theory_maker(kappa=1.0, eps=0.5, variant="consecutive keys")(b.problem, b.blocks)
    keys = b.problem.k[0][b.blocks.k_order[0]]  # in sorted order
    places = [int(np.flatnonzero((keys == k).all(axis=1))[0]) for k in sample.k_uniform[0]]
    assert np.array_equal(places, places[0] + np.arange(min(m, 60)))
    assert np.array_equal(sample.places[0], places) and sample.weight == 60 / min(m, 60)
    np.testing.assert_allclose(sample.k_norm, sample.k_uniform)
    values = b.problem.v[0][b.blocks.k_order[0]][places]
    np.testing.assert_allclose(sample.v_norm[0], values * 60 / min(m, 60))


def test_both_ways_of_drawing_columns_give_the_product() -> None:
    """No error is small enough here, so the search ends at its cap, with very many samples."""
    errors: dict[str, list[float]] = {}
    for columns in ("together", "apart"):

        def error(x: Any, log_d: np.ndarray, out: np.ndarray, key: str = columns) -> np.ndarray:
            errors.setdefault(key, []).append(float(lemma2.product_errors(x, log_d, out).max()))
            return np.full(len(out), 10.0)

        trial = critical_sample(
            np.random.default_rng(0), np, error, eps=0.5, blocks=6, trials=4, columns=columns, **ALPHA, row_sums=4.0
        )
        assert np.isinf(trial.measured) and trial.facts["kappa"] == pytest.approx(4, rel=0.5)
    together, apart = errors["together"], errors["apart"]
    assert max(together[-1], apart[-1]) < 0.15 < min(together[0], apart[0])


def test_the_critical_size_is_where_a_tenth_of_the_draws_miss() -> None:
    """An error of 8/sqrt(m), whatever was drawn, is at most 0.5 from m = 256 on."""
    sizes: list[int] = []

    def error(x: Any, log_d: np.ndarray, out: np.ndarray) -> np.ndarray:
        return np.array([8 * sizes[-1] ** -0.5] * 19 + [100.0])

    def counted(*args: Any, **given: Any) -> Any:
        sizes.append(given["sample_size"])
        return bench(*args, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(critical_sample.__globals__, "bench", counted)
        trial = critical_sample(np.random.default_rng(0), np, error, eps=0.5, blocks=6, trials=20, **ALPHA)
    assert trial.measured == pytest.approx(256, rel=0.01)


def test_the_floor_is_the_smallest_sum_once_the_largest_is_tested() -> None:
    case: dict[str, Any] = {"workload": "alpha", "n": 40, "row_sums": 9.0}
    assert lemma1.floor_over_rows(np.random.default_rng(0), np, sample_size=400, **case).measured == pytest.approx(1)
    few = [lemma1.floor_over_rows(np.random.default_rng(i), np, sample_size=2, **case).measured for i in range(5)]
    assert max(few) <= 1 and min(few) < 0.9
    for tau in ("largest row sum", "sum of unmasked sums"):
        assert lemma1.floor_over_rows(np.random.default_rng(0), np, sample_size=400, tau=tau, **case).measured > 1.01


def test_the_composed_bound_holds_the_measured_normaliser() -> None:
    case = {**theorem1.COMPOSED[2], "n": 128}
    trial = theorem1.composed_error(np.random.default_rng(0), np, **case)
    facts = trial.facts
    assert trial.bound == pytest.approx(facts["E_norm"] * 0.25 + facts["eta"]) and trial.measured < trial.bound
    assert theorem1.composed_error(np.random.default_rng(0), np, **case, bound_over=10.0).bound < trial.bound / 9


def test_end_to_end_is_the_public_function() -> None:
    case: dict[str, Any] = {"variable": "n", "n": 128, "values": "mean", **theorem1.END_TO_END}
    trial = theorem1.end_to_end(np.random.default_rng(0), np, **case)
    assert trial.facts["m"] == round(16 * 128**0.2) and trial.measured < 0.5
    assert trial.facts["alpha"] == pytest.approx(16, rel=0.05) and trial.facts["kappa"] == pytest.approx(4, rel=0.5)
    broken = theorem1.end_to_end(np.random.default_rng(0), np, **case, product_over="1")
    assert broken.measured > 10
