"""Hardness of a decoder's heads: against dense matrices on a small random checkpoint."""

import math
from types import SimpleNamespace

import fake_device
import numpy as np
import pandas as pd
import pytest
import toy_llama

from sublinattn.core import backends
from sublinattn.lab.models import Model
from sublinattn.lab.run import Run
from sublinattn.methods.hyperattention.studies import model_hardness
from sublinattn.methods.hyperattention.studies import model_hardness_figures as figures

RUN = Run(backend="numpy")
N = 256
TRAINED = 200  # so that longer texts are read by a stretched decoder, each length by another
LAYERS, HEADS, KV_HEADS = 2, 4, 2


@pytest.fixture(scope="module")
def which(tmp_path_factory):
    return toy_llama.model_and_text(tmp_path_factory.mktemp("hardness"))


@pytest.fixture(scope="module")
def hard(which):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_hardness, "sizes", lambda run, opened: ((64, 128, 224, N), 2))
        return model_hardness.over_n(Run(backend="numpy", knobs=which), block_size=16)


def softmax(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n", [64, 224, N])
@pytest.mark.parametrize(("layer", "head"), [(0, 1), (1, 2)])
def test_a_head_is_what_its_dense_matrix_says(which, hard, n, layer, head):
    q, k, v = toy_llama.arrays(which, "model hardness", 1, n)
    q, k, v = q[layer, head], *(x[layer, head // (HEADS // KV_HEADS)] for x in (k, v))
    logits = q @ k.T / math.sqrt(q.shape[1])
    p = softmax(np.where(np.tri(n, dtype=bool), logits, -np.inf))
    block = softmax(logits[n // 2 :, : n // 2])
    columns, below = n * (p**2).sum(axis=0), n // 2 * (block**2).sum(axis=0)
    expected = {
        "causal": columns.max(),
        "block": below.max(),
        "srank": (block**2).sum() / np.linalg.norm(block, 2) ** 2,
        "query_norm": np.linalg.norm(q, axis=1).max(),
        "entry": max(abs(x).max() for x in (q, k, v)),
        "position": below.argmax(),
        "mass": block.mean(axis=0)[below.argmax()],
        "mass_first": block[:, :4].sum(axis=1).mean(),
    }
    for matrix, squares in (("causal", columns), ("block", below)):
        for c in (c for c in model_hardness.EXACT if c < len(squares)):
            expected[f"{matrix}_first{c}"] = squares[c:].max()
            expected[f"{matrix}_heaviest{c}"] = sorted(squares)[-1 - c]
    row = hard.set_index(["layer", "head", "replicate", "n"]).loc[(layer, head, 1, n)]
    assert row[list(expected)].to_dict() == pytest.approx(expected, rel=1e-3)
    assert row["kappa"] > 1 and row["trained"] == TRAINED
    held = np.sort(below)[::-1][: int(row["columns"])]
    assert held[:-1].sum() < 0.9 * below.sum() <= held.sum()
    assert np.isnan(row["block_first64"]) == (n // 2 <= 64)


def test_every_head_is_there_once(hard):
    assert len(hard) == LAYERS * HEADS * 2 * 4
    assert not hard.duplicated(["layer", "head", "replicate", "n"]).any()


def growing(trained: int, **measured: float) -> pd.DataFrame:
    """Two heads, three passages: powers of n up to 400, and a jump at 1000; `measured` are columns of one value."""
    names = [*model_hardness.QUANTITIES, "mass", "mass_first", "columns", "position"]
    rows = [
        (layer, 0, r, n, trained, *[(1 + r) * n ** (slope + 0.1 * r) * (n < 1000 or 1e3)] * len(names))
        for layer, slope in enumerate((0.2, 0.8))
        for r in range(3)
        for n in (100, 200, 400, 1000)
    ]
    return pd.DataFrame(rows, columns=["layer", "head", "replicate", "n", "trained", *names]).assign(**measured)


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


def test_what_is_not_positive_and_finite_is_left_out():
    rows = growing(400)
    rows.loc[(rows["n"] == 200) & (rows["replicate"] == 1), "kappa"] = np.inf
    assert model_hardness.slopes(rows, "kappa")[(0, 0, 1)] == pytest.approx(0.3)
    rows.loc[rows["n"] < 400, "kappa"] = np.nan
    assert model_hardness.slopes(rows, "kappa").empty


def test_heavy_keys_are_said_by_layer():
    rows = growing(400, position=0.0, mass=0.8, mass_first=0.9, columns=1.0)
    rows.loc[(rows["layer"] == 1) & (rows["replicate"] == 2), ["position", "mass"]] = 123.0, 0.2
    table = model_hardness.heavy_keys(rows)
    assert table["first"].to_list() == pytest.approx([1, 2 / 3])
    assert np.isnan(table.loc[0, "else"]) and table.loc[1, "else"] == 123
    assert table.loc[1, ["mass", "least mass", "largest mass"]].to_list() == [0.8, 0.2, 0.8]


def test_findings_follow_from_the_table():
    sink = growing(400, position=0.0, mass=0.8, block=lambda x: x["n"] ** 2.0)
    growth, heavy, needs = model_hardness.findings(sink).splitlines()
    assert "2 of 2 heads have a sink" in heavy and "first key in 100%" in heavy and "No head" not in heavy
    assert "like $n^{2.00}$ [2.00, 2.00] (not sublinear), with the first 4 keys exact like $n^{0.60}$" in growth
    assert "alpha 1.6e+05" in needs
    elsewhere = model_hardness.findings(sink.assign(position=123.0)).splitlines()[1]
    assert "2 of 2 heads have a sink" in elsewhere and "first key in 0%" in elsewhere
    even = growing(400, position=7.0, mass=0.01, **{name: 1.0 for name in model_hardness.ALPHAS})
    growth, heavy, needs = model_hardness.findings(even).splitlines()
    assert heavy.startswith("* No head has a sink") and "1.00% to 1.00% of the attention (0.50% if" in heavy
    assert growth.count("$n^{0.00}$ [0.00, 0.00] (sublinear)") == 3
    assert "undecided" in model_hardness.findings(growing(400, mass=0.8)).splitlines()[0]


@pytest.mark.parametrize(("trained", "weights", "expected"), [(2048, 1e6, (1024, 4)), (8192, 1.3e8, (512, 4))])
def test_a_large_model_reads_less_at_smoke(monkeypatch, trained, weights, expected):
    """Sizes of the model that ships, and of SmolLM2."""
    heads = 16 if weights < 1e7 else 270
    decoder = SimpleNamespace(trained=trained)
    monkeypatch.setattr(Model, "operations", lambda self, n, passes: n * (weights + passes * heads * 64 * n))
    opened = Model("any", decoder, None, (), "")
    lengths, passages = model_hardness.sizes(Run("smoke"), opened)
    assert (lengths[-1], passages) == expected and lengths[:-1] == tuple(n // 2 for n in lengths[1:])
    assert lengths[0] == 128
    lengths, passages = model_hardness.sizes(Run("standard"), opened)
    assert lengths[-1] == trained and 4 <= passages <= 10 and len(lengths) == 5
    assert model_hardness.sizes(Run("full"), opened)[0][-2:] == (2 * trained, 4 * trained)


def test_a_device_measures_the_same(which, hard, monkeypatch):
    chosen = backends.backend
    monkeypatch.setattr(backends, "backend", lambda name: fake_device if name == "fake_device" else chosen(name))
    monkeypatch.setattr(model_hardness, "sizes", lambda run, opened: ((64, 128, 224, N), 1))
    there = model_hardness.over_n(Run(backend="fake_device", knobs=which), block_size=16)
    here = hard[hard["replicate"] == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(there, here, rtol=2e-3, check_dtype=False)


@pytest.mark.parametrize(("heads", "lines", "name"), [(20, 40, "one head"), (21, 2, "one layer's heads")])
def test_of_many_heads_each_layer_has_one_line(heads, lines, name):
    one = growing(400)
    rows = pd.concat([one.assign(head=head) for head in range(heads)])
    fig = figures.draw_over_n(rows)
    thin = [line for line in fig.axes[2].get_lines() if line.get_linewidth() < 1]
    assert len(thin) == lines
    assert name in {text.get_text() for text in fig.legends[0].get_texts()}
