"""Clusters of a decoder's keys and values: against plain loops on a small random checkpoint."""

import math

import fake_device
import numpy as np
import pandas as pd
import pytest
import references
import toy_llama

from sublinattn.core import backends
from sublinattn.lab.models import Model, open_model
from sublinattn.lab.run import Run
from sublinattn.methods.subgen.studies import clusterability, model_keys_values

RUN = Run(backend="numpy")
N = 256
LAYERS, HEADS, KV_HEADS = 2, 4, 2


@pytest.fixture(scope="module")
def which(tmp_path_factory):
    return toy_llama.model_and_text(tmp_path_factory.mktemp("clusters"))


def measured(knobs, backend="numpy"):
    """Curves, counts, needs, growth, the plane; two passages of N tokens, all key heads."""
    with pytest.MonkeyPatch.context() as patch:
        small = {(512, 4, 4e11): (N, 2, 4e11), (1024, 2, 4, 3): (N, 2, 3, 2), 3: 1}
        patch.setattr(Run, "pick", lambda self, *, smoke, **_: small.get(smoke, smoke))
        patch.setattr(Model, "affordable", lambda self, longest, passages, *_: (longest, passages))
        run = Run(backend=backend, knobs=knobs)
        passages = model_keys_values.read(run)
        curves = model_keys_values.cost_curves(run, passages)
        return {
            "curves": curves,
            "over": model_keys_values.over_delta(run, passages),
            "heads": model_keys_values.head_table(passages),
            "grown": model_keys_values.over_n(run, passages),
            "plane": model_keys_values.projection(passages, curves),
        }


@pytest.fixture(scope="module")
def clusters(which):
    return measured(which)


# ------------------------------------------------------------------------------------------------------------ clusters
def plain_cost(x, m):
    """Covering radius of m greedy centres, and the mean distance to them, over the largest distance."""
    pairs = np.linalg.norm(x[:, None] - x[None], axis=2)
    nearest = pairs[:, references.greedy_k_center(x, m)[0]].min(axis=1)
    return nearest.max() / pairs.max(), nearest.mean() / pairs.max()


def turned_back(which, k):
    """Keys before the rotation, pair by pair as complex numbers."""
    rope = open_model(which["model"], which["text"], backend="numpy").decoder.stretched(N).config.rope
    half = k.shape[-1] // 2
    turns = np.exp(-1j * np.arange(len(k))[:, None] * rope.frequencies) / rope.magnitude
    pairs = (k[:, :half] + 1j * k[:, half:]) * turns
    return np.hstack([pairs.real, pairs.imag])


def test_a_head_costs_what_a_plain_loop_says(which, clusters):
    _, k, v = toy_llama.arrays(which, "model clusters", 1, N)
    rows = clusters["curves"].query(f"source == 'real' and passage == 1 and layer == 1 and head == 0 and m == {N // 8}")
    rows = rows.set_index(["what", "variant"])
    points = {"keys": k[1, 0], "values": v[1, 0], model_keys_values.BEFORE: turned_back(which, k[1, 0])}
    for what, x in points.items():
        for variant, some in ((clusterability.CAPTURED, x), (model_keys_values.WITHOUT, x[4:])):
            found = rows.loc[(what, variant), ["radius", "mean"]]
            assert tuple(found) == pytest.approx(plain_cost(some, N // 8), rel=1e-3)


def test_keys_before_the_rotation_are_the_tokens_in_the_first_layer(clusters):
    rows = clusters["curves"].query("layer == 0 and m >= 26 and variant == 'as captured'")  # 26 letters
    assert rows.query("what != 'keys'")["radius"].max() < 1e-5 < rows.query("what == 'keys'")["radius"].min()


def test_synthetic_keys_stand_beside_the_heads(clusters):
    curves = clusters["curves"]
    assert set(curves.loc[curves["source"] == "synthetic", "input"]) == {"32 parts", "Gaussian"}
    assert (curves.loc[curves["source"] == "synthetic", ["passage", "layer", "head"]] == -1).all(axis=None)
    assert clusters["over"].query("source == 'real'")["what"].nunique() == 2
    assert clusters["over"]["widest"].max() <= 2 * (1 + 1e-5)


def test_ratios_are_of_the_median_head_with_limits_over_passages():
    cost = {"keys": (0.4, 0.4, 0.5), "values": (0.2, 0.1, 0.8), model_keys_values.BEFORE: (0.8, 0.8, 0.4)}
    variants = (clusterability.CAPTURED, model_keys_values.WITHOUT, clusterability.NULL)
    rows = [
        ("real", 64, 3 * passage + head, passage, 0, head, what, variant, 8, x, x)
        for passage in range(3)
        for head in range(3)
        for what, values in cost.items()
        for variant, value in zip(variants, values, strict=True)
        for x in [
            0.0 if (head, what) == (2, "values") else value * (1.1**passage * (1 + head) if what == "keys" else 1)
        ]
    ]
    columns = ["source", "n", "replicate", "passage", "layer", "head", "what", "variant", "m", "radius", "mean"]
    table = model_keys_values.compared(pd.DataFrame(rows, columns=columns)).xs("radius", level=1)
    row = table.loc["keys / values"]
    reach = 9.92484 * math.log(1.1) / math.sqrt(3)
    limits = (4.4, 4.4 * math.exp(-reach), 4.4 * math.exp(reach))  # head 1: twice its values, times 2, at passage 1
    assert tuple(row[["ratio", "lower", "upper"]]) == pytest.approx(limits, rel=1e-4)
    assert tuple(row[["10 %", "90 %", "share below 1"]]) == pytest.approx((2.2, math.inf, 0))
    assert table.loc["keys / keys before the rotation", "share below 1"] == pytest.approx(1 / 3)
    assert table.loc["values / their Gaussian twin", "90 %"] == pytest.approx(0.25)


def test_needs_of_a_key_head_take_the_longest_query_that_reads_it(which, clusters):
    table = clusters["heads"].set_index(["layer", "head"])
    assert len(table) == LAYERS * KV_HEADS and (table["m"] == N // 8).all()
    r = []
    for replicate in (0, 1):
        q, _, _ = toy_llama.arrays(which, "model clusters", replicate, N)
        r.append(np.linalg.norm(q[1, 2:4], axis=2).max() / math.sqrt(q.shape[-1]))
    assert table.loc[(1, 1), "r"] == pytest.approx(np.median(r), rel=1e-5)


def test_a_projection_shortens_distances_only(which, clusters):
    _, k, _ = toy_llama.arrays(which, "model clusters", 0, N)
    plane = clusters["plane"]
    curves = clusters["curves"].query(f"passage == 0 and variant == 'as captured' and m == {N // 8}")
    cost = curves.pivot(index=["layer", "head"], columns="what", values="radius")
    ratio = cost["keys"] / cost["values"]
    assert (plane.groupby(["which", "what"])["center"].sum() == 16).all()
    chosen = plane.groupby("which")[["layer", "head"]].first()
    assert ratio[tuple(chosen.loc["least"])] == ratio.min() and ratio[tuple(chosen.loc["most"])] == ratio.max()
    one = plane.query("which == 'least' and what == 'keys'").sort_values("position")
    x = k[one["layer"].iloc[0], one["head"].iloc[0]]
    true = np.linalg.norm(x[:, None] - x[None], axis=2)
    flat = one[["x", "y"]].to_numpy()
    assert (np.linalg.norm(flat[:, None] - flat[None], axis=2) <= true / true.max() + 1e-6).all()
    variances = np.sort(np.linalg.eigvalsh(np.cov(x.T)))[::-1]
    assert one["share"].iloc[0] == pytest.approx(variances[:2].sum() / variances.sum(), rel=1e-6)
    assert np.cov(flat.T) * true.max() ** 2 == pytest.approx(np.diag(variances[:2]), rel=1e-3, abs=1e-6)


def test_every_key_head_has_its_numbers(which, clusters):
    real = clusters["curves"].query("source == 'real'")
    assert set(real.groupby(["passage", "layer", "head"])["replicate"].nunique()) == {1}
    assert (
        len(real["replicate"].unique())
        == 2 * LAYERS * KV_HEADS
        == len(real[["passage", "layer", "head"]].value_counts())
    )


@pytest.mark.parametrize("passage", [0, 1])
def test_clusters_over_n_are_those_of_the_first_tokens(which, clusters, passage):
    q, k, _ = toy_llama.arrays(which, "model clusters over n", passage, N)
    rows = clusters["grown"].query(f"passage == {passage}")
    assert list(rows["n"].unique()) == [N // 4, N // 2, N] and len(rows[["layer", "head"]].value_counts()) == 3
    for (layer, head), one in rows.groupby(["layer", "head"]):
        keys, asking = k[layer, head], q[layer, 2 * head : 2 * head + 2]
        delta = references.greedy_k_center(keys, N // 8)[1][-1]
        assert one["delta"].to_numpy() == pytest.approx(delta, rel=1e-4)
        for n, clusters_there, ratio in one[["n", "clusters", "ratio"]].itertuples(index=False):
            found, _ = clusterability.clustered(np, keys[:n].astype(np.float32), one["delta"].iloc[0])
            assert abs(clusters_there - found) <= 1
            needed = references.greedy_k_center(keys[:n], n // 8)[1][-1]
            r = np.linalg.norm(asking[:, :n], axis=2).max() / math.sqrt(keys.shape[1])
            assert ratio == pytest.approx(needed * r / math.log(n), rel=1e-4)


def test_a_device_measures_the_same(which, clusters, monkeypatch):
    chosen = backends.backend
    monkeypatch.setattr(backends, "backend", lambda name: fake_device if name == "fake_device" else chosen(name))
    there = measured(which, "fake_device")
    for name, columns in {
        "curves": ["radius", "mean"],
        "heads": ["delta", "r", "ratio"],
        "grown": ["delta", "ratio"],
        "plane": ["share"],
    }.items():
        np.testing.assert_allclose(there[name][columns], clusters[name][columns], rtol=1e-3, atol=1e-6)


def test_few_of_many_heads_are_kept(which):
    opened = open_model(which["model"], which["text"], backend="numpy")
    every = model_keys_values.some_heads(RUN, opened, 100)
    assert sorted(every) == list(np.ndindex(LAYERS, KV_HEADS))
    assert model_keys_values.some_heads(RUN, opened, 2) == every[:2]


def told(ratio, below, exponent, factor):
    """Findings of made-up tables: a ratio with its limits, and the growth of two heads' clusters."""
    pairs = [(name, "radius") for name in model_keys_values.PAIRS]
    columns = ["ratio", "lower", "upper", "10 %", "90 %", "share below 1"]
    ratios = pd.DataFrame([(*ratio, 1, 1, below)] * len(pairs), pd.MultiIndex.from_tuples(pairs), columns)
    heads = pd.DataFrame({"n": 100.0, "ratio": [1.5, 2.5], "factor": factor})
    rows = [(p, 0, h, n, n**exponent) for p in (0, 1) for h in (0, 1) for n in (64, 128)]
    over = pd.DataFrame(rows, columns=["passage", "layer", "head", "n", "clusters"])
    return model_keys_values.findings(ratios, heads, over).splitlines()


def test_findings_follow_from_the_tables():
    clusters, rotation, needs = told((1.5, 1.4, 1.6), 0.1, 0.5, [50, 1e9])
    assert clusters.startswith("* Keys cluster less than values") and "1.50 [1.40, 1.60] times" in clusters
    assert "in 10% of the heads keys are cheaper" in clusters and "1.50 [1.40, 1.60] times as much" in rotation
    assert "$n^{0.50}$ (0.50 to 0.50 over 2 heads" in needs and "exceeds the 100 keys in 1 of 2" in needs
    assert "1.50 to 2.50" in needs
    assert told((0.5, 0.4, 0.6), 1, 1, [1, 1])[0].startswith("* Keys cluster more than values")
    assert told((1.2, 0.9, 1.5), 0.5, 1, [1, 1])[0].startswith("* Keys cluster neither less nor more than values")
