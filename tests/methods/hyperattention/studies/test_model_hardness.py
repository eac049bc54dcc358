"""Hardness of a decoder's heads: against dense matrices on a small random checkpoint."""

import math

import numpy as np
import pandas as pd
import pytest
import toy_llama

from sublinattn.lab.run import Run
from sublinattn.methods.hyperattention.studies import model_hardness

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
        patch.setattr(Run, "pick", lambda self, **_: ((64, 128, 224, N), 2))
        return model_hardness.over_n(Run(backend="numpy", knobs=which), block_size=16)


def softmax(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n", [64, 224, N])
@pytest.mark.parametrize(("layer", "head"), [(0, 1), (1, 2)])
def test_a_head_is_what_its_dense_matrix_says(which, hard, n, layer, head):
    q, k, _ = toy_llama.arrays(which, "model hardness", 1, n)
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
