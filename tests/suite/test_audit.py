"""The audit: its numbers against dense references, its advice against heads made to favour one method, its files."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest

from sublinattn.lab.comparison import error_over_bytes
from sublinattn.lab.comparison.registry import Stream
from sublinattn.lab.workloads.instance import Instance
from sublinattn.suite.audit import page
from sublinattn.suite.audit.advice import advice
from sublinattn.suite.audit.measure import EPS, FAILURE, SIZES, audit
from sublinattn.suite.audit.study import Passage

N, D, QUERIES = 512, 16, 128


def made(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A head whose attention is spread, on its sinks and window, or on a few keys that every query looks for."""
    q, k = (0.05 * rng.standard_normal((N, D)) for _ in range(2))
    v = rng.standard_normal((N, D)) + 1
    if kind == "window":
        place = np.arange(N) / N
        q[:, :2] = 40 * np.stack([np.cos(place), np.sin(place)], axis=1)
        k[:, :2] = 40 * np.stack([np.cos(place), np.sin(place)], axis=1)
    if kind == "heavy":
        chosen = rng.choice(N // 2, 8, replace=False)
        q[:, 0], k[chosen, 0] = 6, 6
    return q, k, v


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(0)
    q, k, v = (np.stack(x)[None].astype(np.float32) for x in zip(*(made(kind, rng) for kind in KINDS), strict=True))
    return audit(Passage(q, k, v, "made"), share=1 / 4)


KINDS = ("spread", "window", "heavy")


def dense(q, k, causal=False):
    logits = q.astype(np.float64) @ k.astype(np.float64).T / math.sqrt(D)
    if causal:
        logits = np.where(np.tri(len(q), dtype=bool), logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def test_the_numbers_of_a_head_are_those_of_its_dense_matrices(found):
    rng = np.random.default_rng(0)
    for (_, facts), kind in zip(found.heads.iterrows(), KINDS, strict=True):
        q, k, v = (x.astype(np.float32) for x in made(kind, rng))
        p = dense(q[N // 2 :], k[: N // 2])
        squares = N // 2 * (p**2).sum(axis=0)
        assert facts["alpha"] == pytest.approx(squares.max(), rel=1e-4)
        assert facts["alpha_residual"] == pytest.approx(squares[4:].max(), rel=1e-4)
        assert facts["srank"] == pytest.approx((p**2).sum() / np.linalg.norm(p, 2) ** 2, rel=1e-3)
        assert facts["entry_bound"] == pytest.approx(max(abs(x).max() for x in (q, k, v)))
        longest = np.linalg.norm(q, axis=1).max()
        assert facts["query_norm"] == pytest.approx(longest, rel=1e-5)
        assert facts["delta_r_log"] == pytest.approx(facts["radius"] * longest / math.sqrt(D) / math.log(N), rel=1e-5)
        out = np.sort((dense(q, k, causal=True) @ v) ** 2, axis=0)
        assert facts["tail"] == pytest.approx(math.sqrt(out[: N - N // 64].sum() / out.sum()), rel=1e-3)
        late = dense(q[N - QUERIES :], k[: N - QUERIES])
        mass, tokens = late.mean(axis=0), (N - QUERIES) // 4
        assert facts["heavy_mass"] == pytest.approx(np.sort(mass)[-tokens:].sum(), rel=1e-4)
        assert facts["window_mass"] == pytest.approx(mass[:4].sum() + mass[-(tokens - 4) :].sum(), rel=1e-4)


def test_the_exponent_of_alpha_is_a_least_squares_slope_over_three_prefixes(found):
    rng = np.random.default_rng(0)
    for (_, facts), kind in zip(found.heads.iterrows(), KINDS, strict=True):
        q, k, _ = (x.astype(np.float32) for x in made(kind, rng))
        alphas = []
        for n in (N // 4, N // 2, N):
            p = dense(q[n // 2 : n], k[: n // 2])
            alphas.append(n // 2 * (p**2).sum(axis=0)[4:].max())
        slope = np.polyfit(np.log([N // 4, N // 2, N]), np.log(alphas), 1)[0]
        assert facts["alpha_exponent"] == pytest.approx(slope, abs=1e-4)


def test_sizes_are_the_theorems_with_their_constants(found):
    for _, facts in found.heads.iterrows():
        assert facts["hyper_size"] == 2 * math.ceil(D * facts["srank"] / (EPS**2 * FAILURE))
        logit = facts["query_norm"] * facts["key_norm"] / math.sqrt(D)
        degree = 0  # Taylor's explicit bound, by trying
        while 2 * logit + (degree + 1) * math.log(logit) - math.lgamma(degree + 2) > math.log(EPS):
            degree += 1
        assert facts["polynomial_size"] == pytest.approx(math.comb(D + degree, degree), rel=1e-6)
        radii = found.radii[(found.radii["head"] == facts["head"])]
        r = facts["query_norm"] / math.sqrt(D)
        samples = np.maximum(1, np.sinh(np.minimum(radii["radius"] * r, 300)) ** 2 / (EPS**2 * FAILURE))
        least = (radii["m"] * (1 + samples)).min()
        slots = facts["subgen_size"] - least
        assert least > 1e12 * D or 1 <= slots * EPS**2 * FAILURE <= D  # the stable rank of V
    assert set(SIZES) <= set(found.heads.columns)


def test_the_best_cache_is_the_one_that_the_head_was_made_for(found):
    told = advice(found, tolerance=0.1).set_index("head")
    assert told.loc[1, "method"] == told.loc[1, "best"] == "sinks"
    assert told.loc[2, "best"] in ("heavy hitters", "k-center")
    errors = found.errors.pivot(index="head", columns="method", values="relative")
    assert (errors["exact"] < 1e-5).all() and (errors["zero"] == 1).all()
    assert told.loc[0, "best_relative"] == errors.drop(columns=["exact", "zero", "hyper practical"]).loc[0].min()


def test_no_cache_holds_more_than_its_share(found):
    limit = (N - QUERIES) * 2 * D * 4 / 4
    held = found.errors[~found.errors["method"].isin(["exact", "hyper practical"])]
    assert (held["nbytes"] <= limit).all() and (held["nbytes"] > limit / 2).any()


def test_a_head_that_no_cache_serves_keeps_exact_attention(found):
    told = advice(found, tolerance=1e-9)
    assert (told["method"] == "exact").all() and told["reason"].str.contains("no cache is within").all()
    with pytest.raises(ValueError, match="tolerance must be above 0, got 0"):
        advice(found, tolerance=0)


def test_the_same_seed_gives_the_same_audit():
    rng = np.random.default_rng(1)
    q, k, v = (x[None, None].astype(np.float32) for x in made("spread", rng))
    first, again, other = (audit(Passage(q, k, v, ""), share=1 / 4, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first.errors, again.errors)
    assert not first.errors.equals(other.errors)


def test_too_short_a_text_or_too_small_a_share_is_refused():
    x = np.zeros((1, 1, 100, 8), np.float32)
    with pytest.raises(ValueError, match="at least 128 tokens, got 100"):
        audit(Passage(x, x, x, ""))
    x = np.zeros((1, 1, 256, 8), np.float32)
    for share in (0.01, 1.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"share must be between .* got {share}"):
            audit(Passage(x, x, x, ""), share=share)


def test_what_is_wrong_with_a_head_names_it():
    x = np.ones((1, 2, 128, 8), np.float32)
    v = x.copy()
    v[0, 1, 3] = np.nan
    with pytest.raises(ValueError, match="^layer 0, head 1: v must be finite"):
        audit(Passage(x, x, v, ""), share=1 / 4)


def test_the_streaming_state_is_told_the_logits_of_the_queries_held_out_too(monkeypatch):
    class Told(Exception):
        """What the state was told."""

    def state(*args, radius, **how):
        raise Told(radius)

    monkeypatch.setattr(error_over_bytes, "PolynomialState", state)
    k = np.random.default_rng(3).standard_normal((64, 2)).astype(np.float32)
    x = Instance(0.1 * k, k, k, scale=1.0)
    with pytest.raises(Told) as told:
        list(error_over_bytes.unbudgeted(Stream.over(x, early=x.q, asked=np.ones(64, bool), late=k[:4])))
    assert told.value.args[0] == pytest.approx(abs(k[:4] @ k.T).max(), rel=1e-5)


def test_files_hold_what_was_measured_and_the_page_says_it(found, tmp_path):
    written = page.write(found, tmp_path, tolerance=0.1)
    heads = pd.read_parquet(tmp_path / "heads.parquet")
    told = advice(found, tolerance=0.1)
    assert heads["method"].tolist() == told["method"].tolist()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "errors.csv"), found.errors)
    pd.testing.assert_frame_equal(heads[found.heads.columns.tolist()], found.heads)
    text = written.read_text()
    assert all(reason.split(";")[0] in text for reason in told["reason"])
    for name in ("errors", "hardness", "theorems"):
        assert f'src="figures/{name}.svg"' in text and (tmp_path / f"figures/{name}.svg").exists()
        assert json.loads((tmp_path / f"figures/{name}.json").read_text())["params"]["tokens"] == N
    assert len(page.summary(found)) == 3


def test_progress_is_told_head_by_head():
    rng = np.random.default_rng(2)
    q, k, v = (np.stack([x, x])[None].astype(np.float32) for x in made("spread", rng))
    seen = []
    audit(Passage(q, k, v, ""), share=1 / 4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_grouped_heads_are_audited_with_their_own_keys():
    rng = np.random.default_rng(3)
    q, k, v = (x[None, None].astype(np.float32) for x in made("heavy", rng))
    other = rng.standard_normal((1, 1, N, D)).astype(np.float32)
    grouped = Passage(np.concatenate([q, q, q, q], 1), np.concatenate([k, other], 1), np.concatenate([v, other], 1), "")
    alone = dataclasses.replace(grouped, q=q, k=k, v=v)
    alphas = audit(grouped, share=1 / 4).heads["alpha"]
    assert alphas[0] == alphas[1] == audit(alone, share=1 / 4).heads["alpha"][0] != alphas[2] == alphas[3]
