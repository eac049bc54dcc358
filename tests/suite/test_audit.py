"""The audit: its numbers against dense references, its advice against heads made to favour one method, its files."""

import json
import math
from itertools import count
from pathlib import Path

import fake_device
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from sublinattn.lab.comparison import error_over_bytes
from sublinattn.lab.comparison.registry import Stream
from sublinattn.lab.workloads.instance import Captured, Instance
from sublinattn.suite.audit import measure, page
from sublinattn.suite.audit.advice import advice, methods, theorems
from sublinattn.suite.audit.measure import EPS, FAILURE, SIZES, audit

N, D, QUERIES = 512, 16, 128
KINDS = ("spread", "window", "heavy")


def made(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """A head whose attention is spread, on its first and latest keys, or on a few keys that every query looks for."""
    q, k = (0.05 * rng.standard_normal((N, D)) for _ in range(2))
    v = rng.standard_normal((N, D)) + 1
    if kind == "window":
        place = np.arange(N) / N
        q[:, :2] = k[:, :2] = 40 * np.stack([np.cos(place), np.sin(place)], axis=1)
    if kind == "heavy":
        q[:, 0], k[rng.choice(N // 2, 8, replace=False), 0] = 6, 6
    return tuple(x.astype(np.float32) for x in (q, k, v))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A function that captures q (heads, n, d), k and v (kv_heads, n, d) in a file, as a model of one layer."""
    folder, numbers = tmp_path_factory.mktemp("models"), count()

    def capture(q, k, v) -> Captured:
        path = Path(folder) / f"{next(numbers)}.safetensors"
        save_file({"q": q[None], "k": k[None], "v": v[None]}, path)
        return Captured.open(path)

    return capture


@pytest.fixture(scope="module")
def heads():
    """The arrays of each kind of head."""
    rng = np.random.default_rng(0)
    return [made(kind, rng) for kind in KINDS]


@pytest.fixture(scope="module")
def result(model, heads):
    return audit(model(*map(np.stack, zip(*heads, strict=True))), share=1 / 4)


def dense(q, k, causal=False):
    logits = q.astype(np.float64) @ k.astype(np.float64).T / math.sqrt(D)
    if causal:
        logits = np.where(np.tri(len(q), dtype=bool), logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def test_the_numbers_of_a_head_are_those_of_its_dense_matrices(result, heads):
    for (_, facts), (q, k, v) in zip(result.heads.iterrows(), heads, strict=True):
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
        mass, tokens = dense(q[N - QUERIES :], k[: N - QUERIES]).mean(axis=0), (N - QUERIES) // 4
        assert facts["heavy_mass"] == pytest.approx(np.sort(mass)[-tokens:].sum(), rel=1e-4)
        assert facts["window_mass"] == pytest.approx(mass[:4].sum() + mass[-(tokens - 4) :].sum(), rel=1e-4)


def test_on_a_device_the_numbers_are_the_same(result, model, heads, monkeypatch):
    monkeypatch.setattr(measure, "backend", lambda: fake_device)
    before = fake_device.counts.launches
    there = measure.audit(model(*map(np.stack, zip(*heads, strict=True))), share=1 / 4)
    assert fake_device.counts.launches > before
    numbers = [table.heads.drop(columns=["problem"]).to_numpy(float) for table in (there, result)]
    np.testing.assert_allclose(*numbers, rtol=1e-3)
    pd.testing.assert_frame_equal(there.errors, result.errors)


def test_the_exponent_of_alpha_is_a_least_squares_slope_over_three_prefixes(result, heads):
    sizes = [N // 4, N // 2, N]
    for exponent, (q, k, _) in zip(result.heads["alpha_exponent"], heads, strict=True):
        alphas = [n // 2 * (dense(q[n // 2 : n], k[: n // 2]) ** 2).sum(axis=0)[4:].max() for n in sizes]
        assert exponent == pytest.approx(np.polyfit(np.log(sizes), np.log(alphas), 1)[0], abs=1e-4)


def test_sizes_are_the_theorems_with_their_constants(result):
    for _, facts in result.heads.iterrows():
        assert facts["hyper_size"] == 2 * math.ceil(D * facts["srank"] / (EPS**2 * FAILURE))
        logit = facts["query_norm"] * facts["key_norm"] / math.sqrt(D)
        degree = 0  # Taylor's explicit bound, by trying
        while 2 * logit + (degree + 1) * math.log(logit) - math.lgamma(degree + 2) > math.log(EPS):
            degree += 1
        assert facts["polynomial_size"] == pytest.approx(math.comb(D + degree, degree), rel=1e-6)
        radii = result.radii[(result.radii["head"] == facts["head"])]
        r = facts["query_norm"] / math.sqrt(D)
        samples = np.maximum(1, np.sinh(np.minimum(radii["radius"] * r, 300)) ** 2 / (EPS**2 * FAILURE))
        rows = (radii["m"] * (1 + samples)).min()
        slots = facts["subgen_size"] - rows
        assert rows > 1e12 * D or 1 <= slots * EPS**2 * FAILURE <= D  # the stable rank of V
    table = theorems(result).set_index("paper")
    for size, paper in SIZES.items():
        ratio = result.heads[size] / N
        assert table.loc[paper, "heads"] == (ratio < 1).sum() and table.loc[paper, "smallest_over_n"] == ratio.min()


def test_the_best_cache_is_the_one_that_the_head_was_made_for(result):
    recommended = advice(result, tolerance=0.1).set_index("head")
    assert recommended.loc[1, "method"] == recommended.loc[1, "best"] == "sinks"
    assert recommended.loc[2, "best"] in ("heavy hitters", "k-center")
    errors = result.errors.pivot(index="head", columns="method", values="relative")
    assert (errors["exact"] < 1e-5).all() and (errors["zero"] == 1).all()
    assert recommended.loc[0, "best_relative"] == errors.drop(columns=["exact", "zero", "hyper practical"]).loc[0].min()
    table = methods(result, recommended).set_index("method")
    assert table["best_on"].sum() == 3 and table.loc["sinks", "median"] == errors["sinks"].median()


def test_no_cache_stores_more_than_its_share(result):
    limit = (N - QUERIES) * 2 * D * 4 / 4
    caches = result.errors[~result.errors["method"].isin(["exact", "hyper practical"])]
    assert (caches["nbytes"] <= limit).all() and (caches["nbytes"] > limit / 2).any()


def test_a_head_that_no_cache_serves_keeps_exact_attention(result):
    recommended = advice(result, tolerance=1e-9)
    assert (recommended["method"] == "exact").all() and recommended["reason"].str.contains("no cache is within").all()
    with pytest.raises(ValueError, match="tolerance must be above 0, got 0"):
        advice(result, tolerance=0)


def test_the_seed_decides_and_progress_is_reported_head_by_head(model, heads):
    (q, k, v), calls = (np.stack([x, x]) for x in heads[0]), []
    pair = model(q, k, v)
    first = audit(pair, share=1 / 4, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]
    again, other = (audit(pair, share=1 / 4, seed=seed) for seed in (0, 1))
    pd.testing.assert_frame_equal(first.errors, again.errors)
    assert not first.errors.equals(other.errors)


def test_grouped_heads_are_audited_with_their_own_keys(model, heads):
    q, k, v = (x[None] for x in heads[2])
    other = heads[0][0][None]
    grouped = model(np.concatenate([q] * 4), np.concatenate([k, other]), np.concatenate([v, other]))
    alphas = audit(grouped, share=1 / 4).heads["alpha"]
    assert alphas[0] == alphas[1] == audit(model(q, k, v), share=1 / 4).heads["alpha"][0] != alphas[2] == alphas[3]


def test_what_cannot_be_audited_is_refused(model):
    x = np.ones((2, 256, 8), np.float32)
    with pytest.raises(ValueError, match="at least 128 tokens, got 100"):
        audit(model(*3 * [x[:, :100]]))
    for share in (0.01, 1.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"share must be between .* got {share}"):
            audit(model(x, x, x), share=share)


def test_the_streaming_state_is_given_the_logits_of_the_queries_held_out_too(monkeypatch):
    class Given(Exception):
        """The radius that the state was given."""

    def state(*args, radius, **how):
        raise Given(radius)

    monkeypatch.setattr(error_over_bytes, "PolynomialState", state)
    k = np.random.default_rng(3).standard_normal((64, 2)).astype(np.float32)
    x = Instance(0.1 * k, k, k, scale=1.0)
    with pytest.raises(Given) as given:
        list(error_over_bytes.unbudgeted(Stream.over(x, early=x.q, asked=np.ones(64, bool), late=k[:4])))
    assert given.value.args[0] == pytest.approx(abs(k[:4] @ k.T).max(), rel=1e-5)


def test_files_hold_the_measurements_and_the_page_says_them(result, tmp_path):
    text = page.write(result, tmp_path, tolerance=0.1).read_text()
    heads, recommended = pd.read_parquet(tmp_path / "heads.parquet"), advice(result, tolerance=0.1)
    assert heads["method"].tolist() == recommended["method"].tolist()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "errors.csv"), result.errors)
    pd.testing.assert_frame_equal(heads[result.heads.columns.tolist()], result.heads)
    assert all(reason in text for reason in recommended["reason"])
    for name in ("errors", "hardness", "theorems"):
        assert f'src="figures/{name}.svg"' in text and (tmp_path / f"figures/{name}.svg").exists()
        assert json.loads((tmp_path / f"figures/{name}.json").read_text())["params"]["tokens"] == N
    assert page.summary(result)["take"].tolist() == recommended["method"].tolist()


def test_one_bad_head_does_not_cost_the_others(model, heads, tmp_path, recwarn):
    """A dead head is audited; one with NaN is not, and says why; padding and outlier keys cost nothing."""
    dead, padded, broken, sharp = ([x.copy() for x in heads[0]] for _ in range(4))
    dead[2][:] = 0
    for x in padded:
        x[:5] = 0
    broken[1][7, 3] = np.nan
    sharp[0][:] *= 100
    sharp[1][::37] *= 1e4
    found = audit(model(*map(np.stack, zip(dead, padded, broken, sharp, strict=True))), share=1 / 4)
    assert found.heads["problem"].map(bool).tolist() == [False, False, True, False]
    assert "must be finite, got NaN or Inf" in found.heads["problem"][2]
    assert found.errors["head"].unique().tolist() == [0, 1, 3]
    assert (found.errors.query("head == 0")["relative"] == 0).all(), "every method answers 0, which is right"
    measured = found.errors[found.errors["method"] != "streaming state"]  # which outlier keys leave unbuilt
    assert not measured[["error", "relative"]].isna().any(axis=None)
    advised = advice(found)
    assert advised["method"][2] == "exact" and advised["reason"][2].startswith("not audited: ")
    text = page.write(found, tmp_path).read_text()
    assert "not audited: " in text and len(pd.read_csv(tmp_path / "heads.csv")) == 4
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_a_model_of_bad_heads_is_refused(model, heads):
    q, k, v = (x.copy()[None] for x in heads[0])
    v[0, 3, 3] = np.inf
    with pytest.raises(ValueError, match=r"^no head can be audited; layer 0, head 0: v must be finite"):
        audit(model(q, k, v), share=1 / 4)
