"""The dense definitions of hardness on inputs with known answers, and alpha over n."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sublinattn.core.softmax_matrix import SoftmaxMatrix
from sublinattn.lab.models import Model, open_model
from sublinattn.methods.hyperattention.claims import section2_alpha_growth as growth
from sublinattn.methods.hyperattention.claims import section2_hardness as dense

SETTINGS: dict[str, Any] = {"scale": 1.0, "causal": False, "block_size": 2, "exact_keys": 0}


def test_definitions_on_even_attention() -> None:
    """Zero keys: P is uniform, so alpha and the stable rank are 1, and each row has the sum n - b outside its block."""
    q, k, v = np.ones((6, 2)), np.zeros((6, 2)), np.full((6, 3), -5.0)
    planes = np.ones((2, 1))

    def found(quantity: str, **change: Any) -> list[float]:
        return dense.defined(q, k, v, quantity, planes=planes, **{**SETTINGS, **change})

    assert found("alpha")[:3] == pytest.approx([1, 1, 6**-0.5])
    assert found("srank") == pytest.approx([1, 1]) and found("kappa") == pytest.approx([1])
    assert found("norms") == pytest.approx([5, 2**0.5, 0])
    assert found("clusters")[:3] == [1, 1, 1] and found("clusters")[3:] == [0, 0, 0]
    # Causal: row i has 1/(i + 1) in its first i + 1 columns.
    causal = found("alpha", causal=True, exact_keys=1)
    squares = [sum(1 / (i + 1) ** 2 for i in range(first, 6)) for first in (0, 1)]
    assert causal[:2] == pytest.approx([6 * s for s in squares])


def test_kappa_leaves_the_own_block_and_the_exact_keys_out() -> None:
    """Keys 0..5 in sorted order (one hyperplane, all on one side), blocks of 2; query i has logits i log 2."""
    q, k = np.arange(6)[:, None] * np.log(2), np.ones((6, 1))
    planes = np.ones((1, 1))
    q[0] = 1e-9  # on the same side as the others
    assert dense.kappa_of(q, k, planes, **SETTINGS) == pytest.approx(2**5)
    k[0] = 10.0  # only queries of other blocks meet it, unless it is exact
    assert dense.kappa_of(q, k, planes, **SETTINGS) > 2**40
    assert dense.kappa_of(q, k, planes, **{**SETTINGS, "exact_keys": 1}) < 2**7


@pytest.mark.parametrize("quantity", ["alpha", "kappa", "srank"])
def test_an_ignored_argument_is_seen(quantity: str) -> None:
    case: dict[str, Any] = {"quantity": quantity, "n": 40, "causal": True, "times_scale": 0.5, "block_size": 4}
    assert dense.deviation(np.random.default_rng(0), np, **case).measured < 1e-3
    for change in ({"wrong": {"causal": False}}, {"wrong": {"scale": None}}, {"first_head": True}):
        assert dense.deviation(np.random.default_rng(0), np, **case, **change).measured > 1e-2


def test_alpha_over_n_of_the_encoder_and_a_workload() -> None:
    squares = growth.encoder("numpy", 64)
    trial = growth.alpha_over_n(np.random.default_rng(1), np, variable="n", source="encoder", exact_keys=1, n=64)
    heads = np.random.default_rng(1).permutation(squares)[:24]
    assert trial.measured == pytest.approx(np.exp(np.log(64 * heads[:, 1:].max(axis=1)).mean()))
    case: dict[str, Any] = {"variable": "n_a", "source": "sinks", "n_a": 64}
    sinks = growth.alpha_over_n(np.random.default_rng(0), np, **case)
    assert sinks.measured == pytest.approx((64 * 0.5 / 4) ** 2, rel=0.1) and sinks.facts["sink_mass"] == 0.5
    rest = growth.alpha_over_n(np.random.default_rng(0), np, exact_keys=4, **case)
    assert rest.measured < 2 and rest.facts["sink_mass"] == 0
    means = growth.alpha_over_n(np.random.default_rng(0), np, rows="mean", **case)
    assert means.measured == pytest.approx(64**2 * sinks.measured)


def test_the_decoder_is_measured_on_its_largest_block() -> None:
    model = open_model()
    tokens = model.passage(np.random.default_rng([2402, 3]), 2048)[:128]
    q, k, _ = (x.reshape(-1, *x.shape[2:]) for x in model.qkv(tokens))
    p = SoftmaxMatrix(np, q[:, 64:], np.ascontiguousarray(k[:, :64]), scale=q.shape[-1] ** -0.5, causal=False)
    squares = growth.decoder("numpy", "tiny", 3, 256)
    assert set(squares) == {128, 256}
    np.testing.assert_allclose(squares[128], p.column_squares(), rtol=1e-3)


def test_a_large_model_has_fewer_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def decoder(backend: str, model: str, number: int, longest: int) -> dict[int, np.ndarray]:
        asked.append((number, longest))
        return {256: np.ones((1, 256)), 2048: np.ones((1, 2048))}

    monkeypatch.setattr(growth, "decoder", decoder)
    for large, passages in ((False, growth.PASSAGES), (True, growth.FEW)):
        monkeypatch.setattr(Model, "large", large)
        asked.clear()
        for seed in range(200):
            n = 256 if seed % 2 else 2048
            growth.alpha_over_n(np.random.default_rng(seed), np, variable="n", source="decoder", n=n)
        numbers, lengths = zip(*asked, strict=True)
        assert set(numbers) == set(range(passages)) and set(lengths) == {1024, 2048}
