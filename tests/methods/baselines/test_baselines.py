"""What all baselines promise alike: shapes, dtypes, draws, exact limits, unbiased normalisers, what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import references

from sublinattn import (
    kdeformer_attention,
    nystrom_attention,
    performer_attention,
    reformer_attention,
    thinformer_attention,
    uniform_attention,
)
from sublinattn.core import backends
from sublinattn.methods.baselines import performer

Method = Callable[..., Any]
RANDOM: dict[str, Method] = {
    "uniform": partial(uniform_attention, sample_size=7),
    "performer": partial(performer_attention, features=11),
    "reformer": partial(reformer_attention, chunk_size=4, rounds=2),
    "kdeformer": partial(kdeformer_attention, block_size=8, sample_size=9),
    "kdeformer by KDE": partial(kdeformer_attention, block_size=8, sample_size=9, kde_queries=5),
    "thinformer": partial(thinformer_attention, oversampling=1),
}
METHODS = {**RANDOM, "nystrom": partial(nystrom_attention, landmarks=6)}
CAUSAL = ("uniform", "performer", "reformer")
EXACT: dict[str, Method] = {
    "reformer": partial(reformer_attention, chunk_size=20, rounds=3),
    "reformer in many rounds": partial(reformer_attention, chunk_size=9, rounds=60),
    "kdeformer": partial(kdeformer_attention, block_size=39),
    "thinformer": partial(thinformer_attention, oversampling=3),
}
each_method = pytest.mark.parametrize("name", METHODS)
each_random = pytest.mark.parametrize("name", RANDOM)
forms = pytest.mark.parametrize(
    ("name", "causal"), [(name, causal) for name in METHODS for causal in (False, True) if not causal or name in CAUSAL]
)


def call(xp: Any, name: str, arrays: Any, **options: Any) -> Any:
    return references.on(xp, METHODS[name], arrays, **(({"rng": 0} if name in RANDOM else {}) | options))


@forms
@pytest.mark.parametrize("sizes", [(39, 39), (20, 39), (39, 21)])
def test_is_the_same_on_a_device_and_in_small_tiles(
    monkeypatch: pytest.MonkeyPatch, xp: Any, name: str, causal: bool, sizes: tuple[int, int]
) -> None:
    arrays = references.qkv(0, *sizes, lead=(2, 2))
    options = {"causal": causal} | ({"return_lse": True} if name in RANDOM else {})
    whole = call(np, name, arrays, **options)
    monkeypatch.setattr(backends, "tile_shape", lambda xp, batch: (2, 12, 7))
    monkeypatch.setattr(backends, "STRIP_BYTES", 1500)
    monkeypatch.setattr(performer, "CHUNK", 5)
    monkeypatch.setattr(backends, "feature_rows", lambda xp, features, dtype: 6)
    tiled = call(xp, name, arrays, **options)
    for x, y in zip(whole, tiled, strict=True) if name in RANDOM else [(whole, tiled)]:
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-10)


@forms
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_dtype_comes_back_and_is_accumulated_in_float32(xp: Any, name: str, causal: bool, dtype: Any) -> None:
    arrays = [x.astype(dtype) for x in references.qkv(1, 39, 39, lead=(2,), size=0.6)]
    out = call(xp, name, arrays, causal=causal)
    assert out.dtype == dtype and out.shape == (2, 39, 3)
    wide = call(np, name, [x.astype(np.float32) for x in arrays], causal=causal)
    np.testing.assert_allclose(out.astype(float), wide, atol=4 * float(ml_dtypes.finfo(dtype).eps))
    if name in RANDOM:
        assert call(xp, name, arrays, causal=causal, return_lse=True)[1].dtype == np.float32


@each_random
def test_draws_follow_the_seed_and_differ_between_heads(xp: Any, name: str) -> None:
    one = references.qkv(2, 39, 39)
    heads = [np.stack([x, x]) for x in one]
    out = call(xp, name, heads)
    assert (out[0] != out[1]).any()
    np.testing.assert_array_equal(out, call(xp, name, heads))
    np.testing.assert_array_equal(out, call(xp, name, heads, rng=np.random.default_rng(0)))
    assert (out != call(xp, name, heads, rng=1)).any()


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("causal", [False, True])
def test_exact_limits(name: str, causal: bool) -> None:
    if causal and name.split()[0] not in CAUSAL:
        pytest.skip("no causal form")
    arrays = references.qkv(3, 39, 39, lead=(2,), size=0.5)
    got = EXACT[name](*arrays, causal=causal, rng=0, return_lse=True)
    references.assert_close(got, references.attention(*arrays, causal=causal))


@forms
def test_large_logits_give_finite_answers_within_the_values(name: str, causal: bool) -> None:
    """Logits up to 1e4. Nystrom's matrix may have negative entries, so that its answers may leave the values' range."""
    for dtype in (np.float32, np.float64):
        q, k, v = references.qkv(4, 39, 39, size=70.0, dtype=dtype)
        assert np.abs(q @ k.T).max() > 1e4
        out = call(np, name, [q, k, v], causal=causal)
        assert np.isfinite(out).all()
        if name != "nystrom":
            assert (np.abs(out) <= np.abs(v).max(axis=0) * (1 + 1e-5)).all()


@pytest.mark.parametrize("name", ["performer", "kdeformer", "kdeformer by KDE", "thinformer"])
@pytest.mark.parametrize("statistic", ["normaliser", "product"])
def test_normaliser_and_product_are_unbiased(name: str, statistic: str) -> None:
    """z-test over 1500 heads; |z| <= 4.5 has a false alarm rate of 7e-6."""
    one = references.qkv(5, 4, 20, size=0.6)
    out, lse = references.attention(*one)
    probe = np.random.default_rng(3).standard_normal((4, 3))

    def functional(out: np.ndarray, lse: np.ndarray) -> np.ndarray:
        return (probe * np.exp(lse)[..., None] * (out if statistic == "product" else 1)).sum(axis=(-1, -2))

    heads = [np.broadcast_to(x, (1500, *x.shape)) for x in one]
    options = {"oversampling": 0} if name == "thinformer" else {"kde_queries": 3} if "KDE" in name else {}
    estimates = functional(*METHODS[name](*heads, rng=6, return_lse=True, **options))
    assert abs(references.z_score(estimates, float(functional(out, lse)))) <= 4.5


@each_method
def test_a_causal_mask_is_refused_by_name_where_there_is_none(name: str) -> None:
    arrays = references.qkv(6, 39, 39)
    if name in CAUSAL:
        assert call(np, name, arrays, causal=True).shape == (39, 3)
    else:
        with pytest.raises(ValueError, match=r"^causal must be False, got True: .* (mean|sample|queries)"):
            call(np, name, arrays, causal=True)


@pytest.mark.parametrize("name", CAUSAL)
def test_the_first_causal_query_sees_the_first_key_alone(xp: Any, name: str) -> None:
    q, k, v = references.qkv(7, 39, 39, lead=(2,))
    out, lse = call(xp, name, [q, k, v], causal=True, return_lse=True)
    np.testing.assert_allclose(out[:, 0], v[:, 0], rtol=1e-12)
    if name != "performer":
        np.testing.assert_allclose(lse[:, 0], (q[:, 0] * k[:, 0]).sum(axis=-1) / 2, rtol=1e-12)
