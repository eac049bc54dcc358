"""Hardness and clusters of a decoder's heads: against dense matrices and plain loops on a small random checkpoint."""

import math

import numpy as np
import pandas as pd
import pytest
import references
import toy_llama

from sublinattn.lab.models import open_model
from sublinattn.lab.run import Run, generator
from sublinattn.methods.hyperattention.studies import model_hardness
from sublinattn.methods.subgen.studies import clusterability, model_keys_values

RUN = Run(backend="numpy")
N = 256
TRAINED = 200  # so that longer texts are read by a stretched decoder, each length by another
LAYERS, HEADS, KV_HEADS = 2, 4, 2


@pytest.fixture(scope="module")
def which(tmp_path_factory):
    """A random checkpoint with grouped queries, and a text of 400 letters."""
    folder = tmp_path_factory.mktemp("hardness")
    toy_llama.checkpoint(folder / "model", vocab_size=256, size=0.7)
    letters = np.random.default_rng(0).integers(97, 123, 400).astype(np.uint8)
    (folder / "text").write_bytes(letters.tobytes())
    return {"model": str(folder / "model"), "text": str(folder / "text")}


@pytest.fixture(scope="module")
def hard(which):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "pick", lambda self, **_: ((64, 128, 224, N), 2))
        return model_hardness.over_n(Run(backend="numpy", knobs=which), block_size=16)


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


def arrays(which, label, replicate, n, longest=N):
    """Queries, keys and values of a passage's first n tokens, run by themselves, float64."""
    model = open_model(which["model"], which["text"], backend="numpy")
    tokens = model.passage(generator(0, label, replicate), longest)
    return [x.astype(np.float64) for x in model.qkv(tokens[:n])]


def softmax(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n", [64, 224, N])
@pytest.mark.parametrize(("layer", "head"), [(0, 1), (1, 2)])
def test_a_head_is_what_its_dense_matrix_says(which, hard, n, layer, head):
    q, k, _ = arrays(which, "model hardness", 1, n)
    q, k = q[layer, head], k[layer, head // (HEADS // KV_HEADS)]
    logits = q @ k.T / math.sqrt(q.shape[1])
    p = softmax(np.where(np.tri(n, dtype=bool), logits, -np.inf))
    block = softmax(logits[n // 2 :, : n // 2])
    columns, below = n * (p**2).sum(axis=0), n // 2 * (block**2).sum(axis=0)
    expected = {
        "alpha": columns.max(),
        "alpha_rest": columns[4:].max(),
        "block": below.max(),
        "block_rest": below[4:].max(),
        "srank": (block**2).sum() / np.linalg.norm(block, 2) ** 2,
        "query_norm": np.linalg.norm(q, axis=1).max(),
        "mass": p[n // 2 :, :4].sum(axis=1).mean(),
        "uniform": np.mean([4 / i for i in range(n // 2 + 1, n + 1)]),
    }
    row = hard.set_index(["layer", "head", "replicate", "n"]).loc[(layer, head, 1, n)]
    assert row[list(expected)].to_dict() == pytest.approx(expected, rel=1e-3)
    assert row["kappa"] > 1 and row["trained"] == TRAINED


def test_every_head_is_there_once(hard):
    assert len(hard) == LAYERS * HEADS * 2 * 4
    assert not hard.duplicated(["layer", "head", "replicate", "n"]).any()


def growing(trained: int) -> pd.DataFrame:
    """Two heads, three passages: powers of n up to 400, and a jump at 1000."""
    rows = [
        (layer, 0, r, n, trained, *[(1 + r) * n ** (slope + 0.1 * r) * (n < 1000 or 1e3)] * 8)
        for layer, slope in enumerate((0.2, 0.8))
        for r in range(3)
        for n in (100, 200, 400, 1000)
    ]
    names = ["layer", "head", "replicate", "n", "trained", *model_hardness.QUANTITIES, "query_norm"]
    return pd.DataFrame(rows, columns=names)


def test_exponents_are_those_within_the_trained_context():
    fits = model_hardness.exponents(growing(400))
    reach = 9.92484 * 0.1 / math.sqrt(3)  # Student's t, 2 degrees of freedom, 99.5 %
    row = fits.loc["block"]
    assert tuple(row[["exponent", "lower", "upper"]]) == pytest.approx((0.6, 0.6 - reach, 0.6 + reach), rel=1e-4)
    assert tuple(row[["10 %", "90 %"]]) == pytest.approx((0.3 + 0.06, 0.9 - 0.06))
    assert (row["sublinear"], row["heads"]) == (1, 2)  # 0.3 + 0.57 is below 1, 0.9 + 0.57 is not
    heads = model_hardness.head_exponents(growing(400), "kappa")
    assert heads.loc[(1, 0)].to_list() == pytest.approx([0.9, 0.9 - reach, 0.9 + reach], rel=1e-4)


def test_all_lengths_count_where_the_decoder_was_trained_for_fewer_than_two():
    assert set(model_hardness.within(growing(400))["n"]) == {100, 200, 400}
    assert set(model_hardness.within(growing(150))["n"]) == {100, 200, 400, 1000}


def test_heads_are_geometric_means_over_passages():
    table = model_hardness.by_head(growing(400)).set_index(["layer", "head"])
    assert table.loc[(0, 0), "srank"] == pytest.approx(
        math.prod((1 + r) * 400 ** (0.2 + 0.1 * r) for r in range(3)) ** (1 / 3)
    )


@pytest.mark.parametrize(("heads", "lines", "name"), [(20, 40, "one head"), (21, 2, "one layer's heads")])
def test_of_many_heads_each_layer_has_one_line(heads, lines, name):
    one = growing(400).assign(uniform=0.1)
    rows = pd.concat([one.assign(head=head) for head in range(heads)])
    fig = model_hardness.draw_over_n(rows)
    thin = [line for line in fig.axes[2].get_lines() if line.get_linewidth() < 1]
    assert len(thin) == lines
    assert name in {text.get_text() for text in fig.legends[0].get_texts()}


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
    _, k, v = arrays(which, "model clusters", 1, N)
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
        q, _, _ = arrays(which, "model clusters", replicate, N)
        r.append(np.linalg.norm(q[1, 2:4], axis=2).max() / math.sqrt(q.shape[-1]))
    assert table.loc[(1, 1), "r"] == pytest.approx(np.median(r), rel=1e-5)


def test_a_projection_shortens_distances_only(which, clusters):
    _, k, _ = arrays(which, "model clusters", 0, N)
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
