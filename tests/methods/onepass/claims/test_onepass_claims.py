"""Trials about the one-pass algorithm against plain counts: what they measure, and what their sabotages break."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sublinattn import OnePassSketch
from sublinattn.methods.countsketch.hashing import IndexHash, cubics
from sublinattn.methods.countsketch.recovery import bit_tables_for, tables_for, width_for
from sublinattn.methods.onepass.claims import algorithm1, main_theorem, sizes, space
from sublinattn.methods.onepass.claims import main_theorem_cost as cost

VARIANTS = ["paper", "fused"]


# ------------------------------------------------------------------------------------------------------------ the sizes
def test_lost_entries_are_counted_one_by_one() -> None:
    n, k, columns, eps1 = 30, 4, 2, 1.0
    found = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        case = {"n": n, "k": k, "columns": columns, "eps1": eps1, "narrow": 1, "fewer": 5, "fewer_bits": 3}
        trial = sizes.lost_entries(np.random.default_rng(seed), np, **case)
        hashed = IndexHash(cubics(rng, tables_for(n * columns, eps1))[::5], width_for(k, eps1))
        bucket, _ = hashed(np, np.arange(n)[None])
        lost = 0
        for _ in range(columns):
            heavy = set(rng.choice(n, k, replace=False).tolist())
            for i in range(n):
                met = [any(row[i] == row[h] for h in heavy - {i}) for row in bucket]
                lost += sum(met) > len(bucket) / 2
                lost += i in heavy and all(met[: bit_tables_for(k * columns, eps1) // 3])
        assert trial.measured == lost
        found += lost > 0
    assert found > 0


def test_variance_at_the_rows_of_psi() -> None:
    """Constant features and values: the product of two sums of signs, of which 2 n (n - 1) / m2 is the variance."""
    n, case = 50, {"n": 50, "d": 2, "d_v": 1, "degree": 0, "eps2": 0.5}
    trial = sizes.psi_variance(np.random.default_rng(0), np, **case)
    assert trial.measured == pytest.approx(2 * n * (n - 1) / 1600 / n**2) and trial.bound == 0.005 * 0.25
    assert trial.measured <= trial.bound
    broken = sizes.psi_variance(np.random.default_rng(0), np, **case, fewer=2)
    assert broken.measured > broken.bound


# ------------------------------------------------------------------------------------------------------------ the space
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("n", "d", "d_v", "degree", "k"), [(100, 3, 2, 4, 5), (64, 1, 3, 2, 1)])
def test_numbers_are_those_of_the_arrays(variant: str, n: int, d: int, d_v: int, degree: int, k: int) -> None:
    parameters: dict[str, Any] = {"degree": degree, "sparsity": k, "eps1": 0.7, "eps2": 0.4, "variant": variant}
    sketch = OnePassSketch(n, d, d_v, **parameters)
    rng = np.random.default_rng(0)
    sketch.absorb_keys(rng.uniform(-1, 1, (n, d)), rng.uniform(-1, 1, (n, d_v)))
    sketch.absorb_queries(rng.uniform(-1, 1, (n, d)))
    assert space.held(sketch) == space.numbers(n, d, d_v, **parameters)


@pytest.mark.parametrize("variant", VARIANTS)
def test_from_the_crossing_on_fewer_numbers_are_held(variant: str) -> None:
    parameters: dict[str, Any] = {"degree": 3, "sparsity": 1, "eps1": 0.9, "variant": variant}
    n = space.smallest_n(1, 2, **parameters)
    held = [space.numbers(length, 1, 2, **parameters) - 3 * length for length in range(n - 1, 3 * n)]
    assert held[0] >= 0 > max(held[1:])


def test_numbers_grow_as_the_parameter_that_is_squared() -> None:
    case = {"k": 3, "eps1": 0.5, "eps2": 0.5}
    for name in case:
        right, broken = (
            space.allocated(np.random.default_rng(0), np, variable=name, **case, squared=squared)
            for squared in ("", name)
        )
        assert right.facts == broken.facts and right.measured < broken.measured
        assert right.facts[name] != case[name] or name == "k"


def test_numbers_with_a_width_of_log_n() -> None:
    """At log n = 20: d = d_v = 20, the degree of Taylor's bound for e^-20 on [-1, 1]."""
    held, replaced = space.wide_logs(20.0)
    degree = next(g for g in range(40) if math.exp(2) / math.factorial(g + 1) <= math.exp(-20))
    sizes: dict[str, Any] = {"degree": degree, "sparsity": 8, "eps1": 0.5, "eps2": 1.0, "variant": "paper"}
    assert held == pytest.approx(math.log(space.numbers(int(math.exp(20)), 20, 20, **sizes)))
    assert replaced == pytest.approx(20 + math.log(40)) and held > replaced
    at = math.log(space.wide_onset())
    (fewer, more), (before, limit) = (space.wide_logs(at + shift) for shift in (0.0, -0.05))
    assert fewer < more and before >= limit
    assert space.wide_logs(60.0, True)[0] > 2 * space.wide_logs(60.0)[0]


# -------------------------------------------------------------------------------------------------------------- trials
def test_rows_of_psi_and_error_over_n() -> None:
    """Known from their definitions: at the found rows an answer as far off as 0; flat outputs lose all but k rows."""
    case = {"variable": "n", "n": 150, "d": 2, "d_v": 2, "degree": 2, "k": 4}
    right, broken = (cost.psi_rows(np.random.default_rng(0), np, **case, most=most).measured for most in (None, 4))
    assert 4 < right < 4 * 150 and broken == math.inf
    for shifted, low, high in ((False, 0.9, 1.05), (True, 1.0, 1.5)):
        trial = cost.relative_error(np.random.default_rng(0), np, variable="n", n=400, decay=0.0, shifted=shifted)
        assert low < trial.facts["error"] < high
        assert trial.measured == pytest.approx(trial.facts["error"] * trial.facts["n"] ** 0.1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_sketch_of_the_output_and_what_breaks_it(variant: str) -> None:
    for broken, low, high in (("", 0, 1e-12), ("normaliser", 1, math.inf), ("weights", 1e-2, math.inf)):
        case = {"variant": variant, "n": 60, "d": 2, "degree": 3, "broken": broken}
        assert low <= algorithm1.sketch_of_output(np.random.default_rng(1), np, **case).measured <= high


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("forget", [False, True])
def test_merged_sketches_store_what_one_does(variant: str, forget: bool) -> None:
    trial = algorithm1.merged(np.random.default_rng(1), np, variant=variant, parts=3, n=70, forget=forget)
    assert (trial.measured < 1e-12) != forget


@pytest.mark.parametrize("sketch", ["right", "all rows"])
def test_a_sparse_answer_leaves_out_the_tail(sketch: str) -> None:
    case = {"n": 90, "d": 2, "d_v": 2, "degree": 4, "k": 2, "decay": 1.0, "variant": "fused"}
    trial = main_theorem.floor(np.random.default_rng(0), np, **case, sketch=sketch)
    assert (trial.measured <= 1) == (sketch == "right")


@pytest.mark.parametrize(("variant", "sketch"), [("fused", "one table"), ("paper", "no normaliser")])
def test_broken_sketches_are_beyond_the_bound(variant: str, sketch: str) -> None:
    case = {"n": 400, "d": 1, "d_v": 2, "degree": 6, "k": 2, "decay": 1.0, "variant": variant}
    right, broken = (main_theorem.theorem(np.random.default_rng(0), np, **case, sketch=s) for s in ("right", sketch))
    assert right.measured <= 1 < broken.measured
    assert right.facts["replaced"] == 1200 and right.facts["held"] > 400
