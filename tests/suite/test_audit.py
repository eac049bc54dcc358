"""The audit: its numbers against dense references, its advice against heads made to favour one method, its files."""

import json
import math
import re
import runpy
from itertools import count
from pathlib import Path

import fake_device
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

import sublinattn
from sublinattn.lab.workloads.instance import Captured
from sublinattn.suite.audit import answers, figures, measure, page, recommendation, study
from sublinattn.suite.audit.advice import advice, choices, methods, prompt_advice, saved, theorems
from sublinattn.suite.audit.facts import EPS, FAILURE, SIZES
from sublinattn.suite.audit.measure import audit

N, D, QUERIES = 512, 16, 128
KINDS = ("spread", "window", "heavy")
SHARES = (1 / 8, 1 / 4, 1 / 2)


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
    return audit(model(*map(np.stack, zip(*heads, strict=True))), shares=SHARES, backend_name="numpy")


@pytest.fixture(scope="module")
def written(result, tmp_path_factory):
    """The folder with the files of the audit."""
    folder = tmp_path_factory.mktemp("written")
    page.write(result, folder)
    return folder


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
        mass = dense(q[N - QUERIES :], k[: N - QUERIES]).mean(axis=0)
        assert facts["sink_mass"] == pytest.approx(mass[:4].sum(), rel=1e-4)
        assert facts["heaviest_mass"] == pytest.approx(mass.max(), rel=1e-4)
        assert mass[facts["heaviest"]] == pytest.approx(mass.max(), rel=1e-4)
        falling = np.sort(mass)[::-1].cumsum()
        assert falling[facts["keys_90"] - 2] < 0.9 <= falling[facts["keys_90"] - 1]


def test_on_a_device_the_numbers_are_the_same(result, model, heads, monkeypatch):
    monkeypatch.setattr(measure, "backend", lambda name: fake_device)
    before = fake_device.counts.launches
    there = measure.audit(model(*map(np.stack, zip(*heads, strict=True))), shares=SHARES)
    assert fake_device.counts.launches > before
    for name in ("heads", "errors", "prompts", "radii"):
        mine, its = getattr(result, name), getattr(there, name)
        numbers = mine.select_dtypes("number").columns
        np.testing.assert_allclose(its[numbers].to_numpy(float), mine[numbers].to_numpy(float), rtol=2e-3, atol=1e-6)


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
        radii = result.radii[(result.radii["key_head"] == facts["key_head"])]
        r = facts["query_norm"] / math.sqrt(D)
        samples = np.maximum(1, np.sinh(np.minimum(radii["radius"] * r, 300)) ** 2 / (EPS**2 * FAILURE))
        rows = (radii["m"] * (1 + samples)).min()
        slots = facts["subgen_size"] - rows
        assert rows > 1e12 * D or 1 <= slots * EPS**2 * FAILURE <= D  # the stable rank of V
    table = theorems(result).set_index("paper")
    for size, paper in SIZES.items():
        ratio = result.heads[size] / N
        assert table.loc[paper, "heads"] == (ratio < 1).sum() and table.loc[paper, "smallest_over_n"] == ratio.min()


def test_errors_are_those_of_answers_from_the_keys_before(result, heads):
    errors = result.errors.set_index(["method", "share", "head"]).sort_index()
    for head, (q, k, v) in enumerate(heads):
        exact = dense(q[N - QUERIES :], k[: N - QUERIES]) @ v[: N - QUERIES]
        kept = np.r_[0:4, N - QUERIES - 92 : N - QUERIES]  # a quarter of 384 tokens
        out = dense(q[N - QUERIES :], k[kept]) @ v[kept]
        relative = np.linalg.norm(out - exact) / np.linalg.norm(exact)
        assert errors.loc[("sinks", 1 / 4, head), "relative"] == pytest.approx(relative, rel=1e-3, abs=1e-5)
        whole = dense(q, k, causal=True)[N - QUERIES :] @ v
        logits = q[N - QUERIES :].astype(float) @ k.astype(float).T / math.sqrt(D)
        seen = np.r_[kept, N - QUERIES : N]
        logits = np.where(np.c_[np.ones((QUERIES, 96)), np.tri(QUERIES)] > 0, logits[:, seen], -np.inf)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        out = weights / weights.sum(axis=1, keepdims=True) @ v[seen]
        relative = np.linalg.norm(out - whole) / np.linalg.norm(whole)
        assert errors.loc[("sinks", 1 / 4, head), "decoded"] == pytest.approx(relative, rel=1e-3, abs=1e-5)
    assert (errors.loc["exact", "relative"] < 1e-5).all() and (errors.loc["zero", "relative"] == 1).all()


def test_the_least_share_within_the_tolerance_is_advised_and_no_cache_stores_more(result):
    recommended = advice(result, tolerance=0.1).set_index("key_head")
    assert recommended.loc[1, "method"] == "sinks" and recommended.loc[1, "share"] == 1 / 8
    assert recommended.loc[2, "best"] in ("heavy hitters", "k-center")
    table = choices(result)
    for key_head, row in recommended.iterrows():
        within = table[(table["key_head"] == key_head) & (table["error"] <= 0.1)]
        assert row["share"] == within["share"].min()
        assert row["error"] == within.loc[within["share"] == row["share"], "error"].min()
    limit = (N - QUERIES) * 2 * D * 4
    caches = result.caches[result.caches["share"].notna() & result.caches["cache"].ne("")]
    assert (caches["nbytes"] <= limit * caches["share"]).all()
    assert saved(recommended) == pytest.approx(1 - recommended["nbytes"].sum() / (3 * limit))
    within = methods(result, tolerance=0.1).set_index(["method", "share"])["within"]
    assert within[("sinks", 1 / 2)] == (table.query("method == 'sinks' and share == 0.5")["error"] <= 0.1).sum()


def test_bytes_are_divided_so_that_squared_errors_are_least(result):
    """Of all divisions none is better in the bytes that the advice takes."""
    table = choices(result)
    exact = table.loc[table["method"] == "exact", "nbytes"].sum()
    for budget in (1 / 8, 1 / 4, 1 / 2):
        found = advice(result, budget=budget)
        taken, squares = found["nbytes"].sum(), (found["error"] ** 2).sum()
        assert taken <= budget * exact
        one, two, three = (part[["nbytes", "error"]].to_numpy() ** [1, 2] for _, part in table.groupby("key_head"))
        nbytes, squared = np.moveaxis(one[:, None, None] + two[:, None] + three, 3, 0)
        assert squares == pytest.approx(squared[nbytes <= taken].min())
    with pytest.raises(ValueError, match="budget must be at least 0.08.*, the least share that was measured, got 0.01"):
        advice(result, budget=0.01)


def test_a_head_that_no_cache_serves_keeps_exact_attention(result):
    recommended = advice(result, tolerance=1e-9)
    assert (recommended["method"] == "exact").all() and recommended["reason"].str.contains("no cache is within").all()
    assert saved(recommended) == 0
    with pytest.raises(ValueError, match="tolerance must be above 0, got 0"):
        advice(result, tolerance=0)


def test_query_heads_that_share_keys_must_agree(model, heads):
    """The worst of them decides: the query that looks for a few keys spoils what the spread one would allow."""
    (q, _, _), (asking, k, v) = heads[0], heads[2]
    pair = audit(model(np.stack([q, asking]), k[None], v[None]), shares=SHARES, backend_name="numpy")
    assert pair.heads["key_head"].tolist() == [0, 0] and len(choices(pair)["key_head"].unique()) == 1
    relative = pair.errors[pair.errors["share"] == 1 / 8].pivot(index="method", columns="head", values="decoded")
    table = choices(pair).query("share == 0.125").set_index("method")["error"]
    pd.testing.assert_series_equal(table, relative.loc[table.index].max(axis=1), check_names=False)


def test_the_seed_decides_and_progress_is_reported(model, heads):
    (q, k, v), calls = (np.stack([x, x]) for x in heads[0]), []
    pair, how = model(q, k, v), {"shares": (1 / 4,), "backend_name": "numpy"}
    first = audit(pair, progress=lambda done, total: calls.append((done, total)), **how)
    assert calls == [(2, 2)]
    again, other = (audit(pair, seed=seed, **how) for seed in (0, 1))
    pd.testing.assert_frame_equal(first.errors, again.errors)
    assert not first.errors.equals(other.errors)


def test_a_prompt_takes_the_fewest_exact_keys_within_the_tolerance(result):
    sums = result.prompts.assign(gap=result.prompts["gap"] ** 2, size=result.prompts["size"] ** 2)
    errors = np.sqrt(sums.groupby("exact")["gap"].sum() / sums.groupby("exact")["size"].sum())
    for tolerance in (errors.min() / 2, errors.median(), 2 * errors.max()):
        row = prompt_advice(result, tolerance=tolerance).iloc[0]
        within = errors[errors <= tolerance]
        assert row["method"] == ("exact" if within.empty else "hyper practical")
        assert row["exact"] == (0 if within.empty else within.index[0])
    heavy = result.prompts.query("head == 2 and exact == 16")["positions"].iloc[0]
    assert len(json.loads(heavy)) == 16


def test_what_cannot_be_audited_is_refused(model):
    x = np.ones((2, 256, 8), np.float32)
    with pytest.raises(ValueError, match="at least 128 tokens, got 100"):
        audit(model(*3 * [x[:, :100]]))
    for share in (0.01, 1.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"share must be between .* got {share}"):
            audit(model(x, x, x), shares=(1 / 4, share))


def test_another_tolerance_needs_no_new_measurement(result, written, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "measure", None)
    again = page.open_or_measure(written)
    for name in ("heads", "caches", "errors", "prompts", "radii"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(result, name))
    assert again.about == json.loads(json.dumps(result.about))
    with pytest.raises(ValueError, match=r"shares must be those that .* holds, 1/8, 1/4, 1/2"):
        page.open_or_measure(written, shares=(1 / 16,))
    (tmp_path / "audit.json").write_text("{}")
    with pytest.raises(ValueError, match="holds an audit in the format None, not 'sublinattn audit 1': audit anew"):
        page.open_or_measure(tmp_path)


@pytest.mark.parametrize("name", ["tiny", "smollm2", "folder"])
def test_a_model_in_place_of_a_captured_file_gets_the_hint(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=f"first run `sublinattn capture --model {name}"):
        page.open_or_measure(name)


def test_files_hold_the_measurements_and_the_page_says_them(result, written):
    text, recommended = (written / "index.html").read_text(), advice(result)
    pd.testing.assert_frame_equal(pd.read_csv(written / "errors.csv"), result.errors)
    assert all(reason in text for reason in recommended["reason"])
    assert f"<h1>Saves {saved(recommended):.0%} of the cache’s bytes" in text.replace("&#39;", "’")
    for name in ("advice", "tolerance", "errors", "hardness", "theorems"):
        assert f'src="figures/{name}.svg"' in text and (written / f"figures/{name}.svg").exists()
        assert json.loads((written / f"figures/{name}.json").read_text())["params"]["tokens"] == N
    headline, table = page.summary(result)
    assert headline in text.replace("&#39;", "'") and table["layer"].tolist() == [0]


EDITS = {
    "tokens must be at least 1": lambda advice: advice.update(tokens=-1),
    "heads must be at least 1": lambda advice: advice.update(heads=0),
    "bytes must be at least 1": lambda advice: advice.update(bytes=-1),
    "bytes must be at most": lambda advice: advice.update(bytes=advice["exact_bytes"] + 1),
    "key_heads must be": lambda advice: advice["key_heads"].reverse(),
    "key_heads must be .* one for each": lambda advice: advice["key_heads"].pop(),
    "key_heads must be .* in order": lambda advice: advice["key_heads"][0].update(layer=10**30),
    "key_head must be at least 0": lambda advice: advice["key_heads"][0].update(layer=1, key_head=-advice["kv_heads"]),
    "method must be one of": lambda advice: advice["key_heads"][0].update(method="x"),
    "share must be between": lambda advice: advice["key_heads"][0].update(share=float("nan")),
    "share must be": lambda advice: advice["key_heads"][0].update(share=1e308),
    "prompt must be": lambda advice: advice["prompt"].append(advice["prompt"][0]),
    "method of a prompt must be one of": lambda advice: advice["prompt"][0].update(method="x"),
    "exact_keys must be at least 0": lambda advice: advice["prompt"][0].update(exact_keys=-1),
}


@pytest.mark.parametrize("message", EDITS)
def test_advice_that_was_edited_into_nonsense_is_refused_before_a_model_runs(written, tmp_path, message):
    """It was applied: to other heads than it names, or to none, or ended in a KeyError after the exact passes."""
    advice = json.loads((written / "recommendation.json").read_text())
    EDITS[message](advice)
    path = tmp_path / "recommendation.json"
    path.write_text(json.dumps(advice))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is not a whole recommendation: {message}"):
        recommendation.read(path)


def test_the_snippet_builds_the_caches_of_the_file(written, tmp_path, monkeypatch):
    monkeypatch.chdir(written)
    (tmp_path / "snippet.py").write_text(recommendation.SNIPPET)
    shown = re.sub(r"<[^>]+>", "", (written / "index.html").read_text()).replace("&quot;", '"').replace("&#34;", '"')
    assert recommendation.SNIPPET.splitlines()[3] in shown
    built, found = runpy.run_path(str(tmp_path / "snippet.py"))["caches"], recommendation.read("recommendation.json")
    for its in found["key_heads"]:
        cache = built[its["layer"], its["key_head"]]
        assert type(cache) is getattr(sublinattn, its["cache"]) and cache.parameters() == its["parameters"]
        x = np.random.default_rng(0).standard_normal((found["prompt_tokens"], D)).astype(np.float32)
        assert cache.update(x, x).nbytes <= its["share"] * found["prompt_tokens"] * 2 * D * 4
    preset = json.loads((written / "preset.json").read_text())
    assert preset["method"] == [[its["method"] for its in found["key_heads"]]]
    assert preset["kept_tokens"] == [[int(its["share"] * 384) for its in found["key_heads"]]]
    assert preset["compression_ratios"] == pytest.approx([1 - np.mean([its["share"] for its in found["key_heads"]])])
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="other.json is no recommendation of an audit"):
        recommendation.read(tmp_path / "other.json")


def test_one_bad_head_does_not_cost_the_others(model, heads, tmp_path, recwarn):
    """A dead head is audited; one with NaN is not, and says why; padding and outlier keys cost nothing."""
    dead, padded, broken, sharp = ([x.copy() for x in heads[0]] for _ in range(4))
    dead[2][:] = 0
    for x in padded:
        x[:5] = 0
    broken[1][7, 3] = np.nan
    sharp[0][:] *= 100
    sharp[1][::37] *= 1e4
    four = model(*map(np.stack, zip(dead, padded, broken, sharp, strict=True)))
    found = audit(four, shares=(1 / 4,), backend_name="numpy")
    assert found.heads["problem"].map(bool).tolist() == [False, False, True, False]
    assert "must be finite, got NaN or Inf" in found.heads["problem"][2]
    assert found.errors["head"].unique().tolist() == [0, 1, 3]
    assert (found.errors.query("head == 0")["relative"] == 0).all(), "every method answers 0, which is right"
    assert not found.errors[["error", "relative"]].isna().any(axis=None)
    advised = advice(found)
    assert advised["method"][2] == "exact" and advised["reason"][2].startswith("not audited: ")
    assert prompt_advice(found, tolerance=10)["method"].tolist() == ["exact"]
    text = page.write(found, tmp_path).read_text()
    assert "not audited: " in text and len(pd.read_csv(tmp_path / "heads.csv")) == 4
    assert recommendation.read(tmp_path / "recommendation.json")["key_heads"][2]["error"] is None
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_a_model_of_bad_heads_is_refused(model, heads):
    q, k, v = (x.copy()[None] for x in heads[0])
    v[0, 3, 3] = np.inf
    with pytest.raises(ValueError, match=r"^no head can be audited; layer 0, head 0: v must be finite"):
        audit(model(q, k, v))


def test_the_streaming_state_is_given_the_logits_of_the_queries_held_out_too(model, heads, monkeypatch):
    class Given(Exception):
        """The radius that the state was given."""

    def state(*args, radius, **how):
        raise Given(radius)

    monkeypatch.setattr(answers, "PolynomialState", state)
    q, k, v = (x[None].copy() for x in heads[0])
    q[0, -1] *= 10
    with pytest.raises(Given) as given:
        audit(model(q, k, v), shares=(1 / 2,), backend_name="numpy")
    assert given.value.args[0] == pytest.approx(abs(q[0] @ k[0, : N - QUERIES].T).max() / 4, rel=1e-5)


def test_findings_are_sentences_about_what_was_measured(result):
    text = study.findings(result)
    assert text.count("\n") == 5 and f"{N} tokens" in text
    assert f"saves {1 - figures.saved_by_tolerance(result, (0.1,))['share'][1:].min():.0%}" in text
