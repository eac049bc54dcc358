"""The reference of an attention problem against NumPy's own formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sublinattn.lab.workloads import Instance
from sublinattn.lab.workloads.reference import Reference, operator_norms, row_scaled_norms

rng = np.random.default_rng(0)
Q, K, V = (rng.standard_normal(shape) for shape in ((48, 8), (96, 8), (96, 3)))
P = np.exp(0.7 * Q @ K.T)
P /= P.sum(axis=1, keepdims=True)
P_NORM, V_NORM = np.linalg.norm(P, 2), np.linalg.norm(V, 2)


@pytest.fixture
def reference(xp: Any) -> Reference:
    return Reference(Instance(Q, K, V, scale=0.7).to(xp))


def test_output_and_softmax_matrix(reference: Reference) -> None:
    np.testing.assert_allclose(reference.p, P, rtol=1e-12)
    np.testing.assert_allclose(reference.output, P @ V, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(reference.log_normaliser, np.log(np.exp(0.7 * Q @ K.T).sum(axis=1)), rtol=1e-12)


def test_facts(reference: Reference) -> None:
    zero = np.linalg.norm(P @ V, 2) / (P_NORM * V_NORM)
    p_frobenius = np.linalg.norm(P)
    expected = {
        "n": 96, "d_v": 3, "alpha": 96 * (P**2).sum(axis=0).max(), "srank": (p_frobenius / P_NORM) ** 2, "zero": zero,
        "P_norm": P_NORM, "P_F": p_frobenius, "V_norm": V_NORM, "V_F": np.linalg.norm(V),
    }  # fmt: skip
    assert reference.facts == pytest.approx(expected, rel=1e-6)


def test_error_is_relative_to_the_norms_of_p_and_v(reference: Reference, xp: Any) -> None:
    out = P @ V + rng.standard_normal((48, 3))
    assert reference.error(xp.asarray(out)) == pytest.approx(np.linalg.norm(out - P @ V, 2) / P_NORM / V_NORM, rel=1e-6)


def test_logits_far_beyond_the_range_of_exp() -> None:
    x = Reference(Instance(1e3 * Q, K, V, scale=1.0))
    assert np.isfinite(x.log_normaliser).all()
    np.testing.assert_allclose(x.p.sum(axis=1), 1, rtol=1e-12)


def test_operator_norms_of_stacks() -> None:
    stack = rng.standard_normal((5, 20, 3))
    np.testing.assert_allclose(operator_norms(stack), [np.linalg.norm(x, 2) for x in stack], rtol=1e-10)
    scales = np.concatenate([rng.standard_normal((4, 48)), np.zeros((1, 48))])
    expected = [np.linalg.norm(r[:, None] * P, 2) for r in scales]
    np.testing.assert_allclose(row_scaled_norms(P, scales, rtol=1e-10, steps=10_000), expected, rtol=1e-6)
