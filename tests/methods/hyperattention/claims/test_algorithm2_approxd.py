"""The trial that compares ApproxD with a dense A: it holds as the code is, and every planted bug shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sublinattn.methods.hyperattention.claims.algorithm2_approxd import VARIANTS, printed

SIZES: dict[str, Any] = {"n": 33, "queries": 29, "block_size": 5, "sample_size": 12, "eps": 0.6, "exact_keys": 1}


@pytest.mark.parametrize("kappa", [None, 3.0])
@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_paper_agrees_with_the_dense_matrix(xp: Any, variant: str, kappa: float | None) -> None:
    trial = printed(np.random.default_rng(1), xp, **SIZES, kappa=kappa, variant=variant)
    assert (trial.measured < 1e-11) == (variant == "paper") and trial.measured >= 0
