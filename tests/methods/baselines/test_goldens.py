"""The authors' public code, on its own random draws: `tests/data/baselines.npz`, from scripts/make_baseline_goldens.

Both work in float64 and agree to rounding wherever the algorithm is the same; where it is not, the test says what
differs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import references

from sublinattn import nystrom_attention
from sublinattn.core import backends
from sublinattn.methods.baselines import kdeformer, performer, reformer, thinformer
from sublinattn.methods.baselines.common import biased_attention, enter
from sublinattn.methods.hyperattention.sort_lsh import sort_blocks

GOLDEN = np.load(Path(__file__).parents[2] / "data" / "baselines.npz")
PROVENANCE = json.loads(str(GOLDEN["provenance"]))
NONE: dict[str, Any] = {"scale": None, "check_finite": True}


def case(method: str, name: str) -> dict[str, np.ndarray]:
    start = f"{method}/{name}/"
    return {key.removeprefix(start): GOLDEN[key] for key in GOLDEN.files if key.startswith(start)}


def each(method: str) -> Any:
    return pytest.mark.parametrize("name", PROVENANCE[method]["cases"])


def problem(xp: Any, held: dict[str, np.ndarray], **options: Any) -> Any:
    return enter(*(xp.asarray(held[name]) for name in "qkv"), **(NONE | options))


def close(out: Any, held: dict[str, np.ndarray], tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(backends.asnumpy(out), held["out"], rtol=0, atol=tolerance)


def test_where_they_come_from_is_on_record() -> None:
    assert set(PROVENANCE) == {"performer", "nystrom", "reformer", "kdeformer", "thinformer"}
    assert all(len(source["commit"]) == 40 and source["path"] for source in PROVENANCE.values())


@each("performer")
def test_performer(xp: Any, name: str) -> None:
    """Without the constant that the public code adds to every feature the two agree; it moves an entry by 1e-3."""
    held = case("performer", name)
    drawn = xp.asarray(held["directions"][None])
    total = performer.random_feature_attention(problem(xp, held), drawn, causal="causal" in name)
    if name.endswith(" 0"):
        close(total.output()[0], held)
    else:
        assert 1e-5 < np.abs(backends.asnumpy(total.output()[0]) - held["out"]).max() < 2e-3


@each("nystrom")
def test_nystrom(xp: Any, name: str) -> None:
    held = case("nystrom", name)
    arrays = (held[key] for key in "qkv")
    close(references.on(xp, nystrom_attention, arrays, landmarks=int(held["landmarks"])), held)


@each("reformer")
def test_reformer(xp: Any, name: str) -> None:
    """One round; keys are the queries, brought to unit length as there, and none is masked out for being the query."""
    held, causal = case("reformer", name), "causal" in name
    held["k"] = held["q"] / np.sqrt((held["q"] ** 2).sum(axis=1, keepdims=True) + 1e-6 * held["q"].shape[1])
    x, rotations = problem(xp, held, scale=1.0), xp.asarray(held["rotations"][None])
    factors = tuple(map(int, held["buckets"]))
    hashed = backends.asnumpy(reformer.hash_buckets(xp, x.q, rotations, factors))[0, 0]
    np.testing.assert_array_equal(hashed, held["hashed"])
    total = reformer.lsh_attention(x, rotations, factors, int(held["chunk"]), causal=causal)
    close(total.output()[0], held)
    np.testing.assert_allclose(backends.asnumpy(total.lse())[0], held["lse"], rtol=0, atol=1e-12)


@each("kdeformer")
def test_kdeformer(xp: Any, name: str) -> None:
    """From the orders that the public code sorts by, with its law and the columns that it drew."""
    held = case("kdeformer", name)
    x = problem(xp, held)
    places = [xp.asarray(np.argsort(held[order])[None].astype(np.uint16)) for order in ("q_order", "k_order")]
    start = np.zeros(1, int)
    blocks = sort_blocks(xp, *places, block_size=int(held["block"]), q_start=start, k_start=start)
    total = kdeformer.block_attention(x, blocks)
    if "law" in held:
        order = held["k_order"]
        law = np.empty_like(held["law"])
        law[order] = held["law"]
        np.testing.assert_allclose(kdeformer.value_law(x)[0], law, rtol=1e-5)  # 32 steps of the power method there
        total.merge(kdeformer.sampled_attention(x, blocks, order[held["columns"]][None], law[None]))
    close(total.output()[0], held)


@each("thinformer")
def test_thinformer(xp: Any, name: str) -> None:
    """Powers of four; the coin that the public code tosses once for a round is given to every bucket."""
    held = case("thinformer", name)
    x, g = problem(xp, held), int(held["oversampling"])
    noise = [held[f"noise {i}"] for i in range(len(held["coins"]))]
    draws = [(y[None], np.full((1, len(y)), coin)) for y, coin in zip(noise, held["coins"], strict=True)]
    rows, weights = thinformer.coreset(x, g, 0.5, draws)
    assert set(weights) == {2.0 ** len(noise)} and len(weights) == 2**g * len(held["k"]) ** 0.5
    k, v = (xp.take_along_axis(y, rows[..., None], axis=1) for y in (x.k, x.v))
    close(biased_attention(xp, x.q, k, v, scale=x.scale).output()[0], held)
