"""The trials that enumerate all samples: unbiased as the code is, and every planted bug shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sublinattn.methods.hyperattention.claims.algorithms2_3_estimators import (
    PRACTICAL,
    VARIANTS,
    amm_variance,
    practical_mean,
    theory_mean,
)

SIZES: dict[str, Any] = {"n": 6, "block_size": 2, "sample_size": 2, "queries": 7, "exact_keys": 2}


@pytest.mark.parametrize("variant", PRACTICAL)
def test_bias_of_the_practical_estimator(xp: Any, variant: str) -> None:
    trial = practical_mean(np.random.default_rng(0), xp, **SIZES, variant=variant)
    assert trial.measured < 1e-12 if variant == "paper" else trial.measured > 0.1


def test_without_a_sample_outside_the_block_the_rest_is_missing() -> None:
    sizes: dict[str, Any] = {"n": 6, "block_size": 4, "sample_size": 2}
    assert practical_mean(np.random.default_rng(1), np, **sizes, least=1).measured < 1e-12
    assert practical_mean(np.random.default_rng(1), np, **sizes, least=0).measured > 0.1


@pytest.mark.parametrize("variant", [*VARIANTS, "uniform weights"])
def test_bias_of_the_theory(xp: Any, variant: str) -> None:
    broken = {"law": "uniform"} if variant == "uniform weights" else {"variant": variant}
    trial = theory_mean(np.random.default_rng(0), xp, **SIZES, eps=1.0, **broken)
    assert trial.measured < 1e-11 if variant == "paper" else trial.measured > 0.05


def test_variance_of_row_norm_sampling(xp: Any) -> None:
    exact, uniform = (
        amm_variance(np.random.default_rng(2), xp, n=4, sample_size=2, law=law) for law in ("row-norm", "uniform")
    )
    assert exact.measured == pytest.approx(exact.bound, rel=1e-11)
    assert abs(uniform.measured / uniform.bound - 1) > 0.01
