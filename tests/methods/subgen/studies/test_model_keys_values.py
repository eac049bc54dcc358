"""Clusters of a decoder's keys and values: against plain loops on a small random checkpoint."""

import math

import numpy as np
import pandas as pd
import pytest
import references
import toy_llama

from sublinattn.lab.models import open_model
from sublinattn.lab.run import Run
from sublinattn.methods.subgen.studies import clusterability, model_keys_values

RUN = Run(backend="numpy")
N = 256
LAYERS, HEADS, KV_HEADS = 2, 4, 2


@pytest.fixture(scope="module")
def which(tmp_path_factory):
    return toy_llama.model_and_text(tmp_path_factory.mktemp("clusters"))


@pytest.fixture(scope="module")
def clusters(which):
    """Curves, counts, needs, the plane; two passages of N tokens."""
    with pytest.MonkeyPatch.context() as patch:
        small = {(512, 4): (N, 2), 3: 1}
        patch.setattr(Run, "pick", lambda self, *, smoke, **_: small.get(smoke, smoke))
        run = Run(backend="numpy", knobs=which)
        curves = model_keys_values.cost_curves(run)
        return {
            "curves": curves,
            "over": model_keys_values.over_delta(run),
            "heads": model_keys_values.head_table(run),
            "plane": model_keys_values.projection(run, curves),
        }


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
    chosen = plane.groupby("which")[["layer", "head"]].first()
    assert tuple(chosen.loc["least"]) == ratio.idxmin() and tuple(chosen.loc["most"]) == ratio.idxmax()
    one = plane.query("which == 'least' and what == 'keys'").sort_values("position")
    x = k[one["layer"].iloc[0], one["head"].iloc[0]]
    true = np.linalg.norm(x[:, None] - x[None], axis=2)
    flat = one[["x", "y"]].to_numpy()
    assert (np.linalg.norm(flat[:, None] - flat[None], axis=2) <= true / true.max() + 1e-6).all()
    variances = np.sort(np.linalg.eigvalsh(np.cov(x.T)))[::-1]
    assert one["share"].iloc[0] == pytest.approx(variances[:2].sum() / variances.sum(), rel=1e-6)
    assert np.cov(flat.T) * true.max() ** 2 == pytest.approx(np.diag(variances[:2]), rel=1e-3, abs=1e-6)
