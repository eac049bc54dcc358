"""Replacing layers: the same tokens in every context, orders, tables, and what the figures show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import toy_llama

from sublinattn.lab.models import open_model
from sublinattn.lab.run import Run
from sublinattn.lm.attend import replacing
from sublinattn.methods.hyperattention.studies import perplexity

SIZES = {"vocab_size": 256, "num_hidden_layers": 3, "max_position_embeddings": 512}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run on a small random model and a text."""
    toy_llama.checkpoint(tmp_path / "model", **SIZES)
    (tmp_path / "text.txt").write_text("".join(map(chr, np.random.default_rng(0).integers(32, 127, 3000))))
    return Run(backend="numpy", knobs={"model": str(tmp_path / "model"), "text": str(tmp_path / "text.txt")})


def without_attention(run: Run) -> None:
    """Rewrite the model so that what attention gives does not count."""
    path = Path(run.knobs["model"]) / "model.safetensors"
    weights = safetensors.numpy.load_file(path)
    silent = {name: np.zeros_like(x) if "o_proj" in name else x for name, x in weights.items()}
    safetensors.numpy.save_file(silent, path)


# ------------------------------------------------------------------------------------------------------------- context
def test_context_is_what_a_model_with_attention_sees(run: Run) -> None:
    rows = perplexity.over_context(run)
    model = run.open_model()
    rng = run.rng("context")
    tokens = model.passage(rng, 512)
    first = rows[rows["passage"] == 0].set_index("n")["bits"]
    for n in (128, 256, 512):
        logits = model.decoder.logits(tokens[-n:]).astype(float)
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        bits = [-np.log2(chances[i - 1, tokens[-n:][i]]) for i in range(n - perplexity.TARGETS, n)]
        assert first[n] == pytest.approx(np.mean(bits), rel=1e-4)
    assert first.nunique() == 3


def test_gains_are_paired() -> None:
    """Passages differ by far more than context changes: the change is seen all the same."""
    level = np.array([1.0, 5.0, 9.0])
    rows = pd.DataFrame(
        [(n, n > 4, i, x - gain + 0.01 * i) for n, gain in ((2, 0.0), (4, 0.5), (8, 0.4)) for i, x in enumerate(level)],
        columns=["n", "stretched", "passage", "bits"],
    )
    table = perplexity.gains(rows)
    assert table["change"].tolist()[1:] == pytest.approx([-0.5, 0.1])
    assert (table["change_reach"][1:] < 1e-9).all() and (table["reach"] > 5).all()
    assert table["stretched"].tolist() == [False, False, True]


# ------------------------------------------------------------------------------------------------------ the experiment
def test_replaced_layers_are_those_of_the_order(run: Run) -> None:
    alone = pd.DataFrame({"layer": [0, 1, 2], "alpha": [3.0, 1.0, 2.0], "turn": [1, 2, 0]})
    assert perplexity.orders(alone) == {
        perplexity.LAST: [2, 1, 0],
        perplexity.FIRST: [0, 1, 2],
        perplexity.ALPHA: [1, 2, 0],
        perplexity.GREEDY: [2, 0, 1],
    }
    rows = perplexity.replaced_layers(run, alone)
    assert (rows["attention"] > 0).all() and (rows["attention"] < rows["forward"]).all()
    assert rows.groupby("n")["stretched"].first().to_dict() == {256: False, 1024: True}
    unreplaced = rows[rows["replaced"] == 0].groupby(["n", "passage"])
    assert (unreplaced["nats"].nunique() == 1).all() and (unreplaced["relative"].max() == 1).all()
    hyper = rows[rows["method"] == perplexity.HYPER]
    chosen = [frozenset(perplexity.orders(alone)[x.order][: x.replaced]) for x in hyper.itertuples()]
    same = hyper.assign(chosen=chosen).groupby(["n", "passage", "chosen"])["nats"]
    assert (same.nunique() == 1).all() and same.first().nunique() == len(same) == 4 * 8  # the same layers, one loss

    model, rng = run.open_model(), run.rng("replaced", 256)
    model.passage(rng, 256)
    tokens = model.passage(rng, 256)
    for name in (perplexity.ZERO, perplexity.LOCAL):
        method = perplexity.methods(256, rng)[name]
        for number, layers in enumerate(([], [2], [1, 2], [0, 1, 2])):
            want = model.decoder.losses(tokens, attend=replacing({layer: method for layer in layers})).mean()
            chosen = (rows["method"] == name) & (rows["replaced"] == number) & (rows["n"] == 256)
            assert rows.loc[chosen & (rows["passage"] == 0), "nats"].item() == pytest.approx(want, rel=1e-5)


def test_layers_alone_are_zero_where_attention_does_not_count(run: Run) -> None:
    heard = perplexity.layers_alone(run)
    assert heard["layer"].tolist() == [0, 1, 2] and (heard["alpha"] >= 1).all() and heard["alpha"].nunique() == 3
    assert (heard["harm"].abs() > 1e-6).any()
    assert sorted(heard["turn"]) == [0, 1, 2] and heard["harm"].argmin() == heard["turn"].argmin()
    without_attention(run)
    open_model.cache_clear()
    silent = perplexity.layers_alone(run)
    assert silent["harm"].tolist() == [0, 0, 0]
    assert silent["alpha"][0] == pytest.approx(heard["alpha"][0])  # the first layer's queries and keys are the same


def test_greedily_each_layer_harms_least_given_those_before(run: Run, monkeypatch: Any) -> None:
    """Layer 2 harms least alone, but with it layer 0 harms less than layer 1, which is the second alone."""
    harm = {(): 0.0, (0,): 0.5, (1,): 0.4, (2,): 0.1, (0, 2): 0.2, (1, 2): 0.7, (0, 1): 0.6, (0, 1, 2): 1.0}
    monkeypatch.setattr(perplexity, "losses", lambda model, tokens, replaced=(): 3.0 + harm[tuple(sorted(replaced))])
    found = perplexity.layers_alone(run)
    np.testing.assert_allclose(found["harm"], [0.5, 0.4, 0.1])
    assert found["turn"].tolist() == [1, 2, 0]


@pytest.mark.parametrize(("layers", "wanted"), [(4, [0, 1, 2, 3, 4]), (32, [0, 4, 8, 12, 16, 20, 24, 28, 32])])
def test_numbers_of_replaced_layers(layers: int, wanted: list[int]) -> None:
    assert perplexity.numbers(layers) == wanted


def test_summary_is_over_exact_attention() -> None:
    columns = ["n", "stretched", "method", "order", "replaced", "passage", "nats", "relative", "attention", "forward"]
    rows = pd.DataFrame(
        [
            (8, False, "m", "o", r, p, nats, nats / base, seconds, 2 * seconds + 1)
            for p, base in ((0, 1.0), (1, 3.0))
            for r, nats, seconds in ((0, base, 4.0 + p), (2, base + 0.5, 1.0 + p))
        ],
        columns=columns,
    )
    none, both = perplexity.summary(rows).to_dict("records")
    assert (none["perplexity"], none["relative"], none["attention"], none["forward"]) == (np.exp(2.0), 1, 1, 1)
    assert both["perplexity"] == pytest.approx(np.exp(2.5)) and both["bits"] == pytest.approx(2.5 / np.log(2))
    assert both["relative"] == pytest.approx(1.25)
    assert (both["low"], both["high"]) == (pytest.approx(3.5 / 3), pytest.approx(1.5))
    assert (both["attention"], both["forward"]) == (pytest.approx(1 / 4), pytest.approx(3 / 9))


# -------------------------------------------------------------------------------------------------------------- figures
def summarised(**harm: float) -> pd.DataFrame:
    """A summary of no and one replaced layer of a model of exact perplexity 4, by order and by yardstick."""
    names = {"zero": perplexity.ZERO, "own": perplexity.LOCAL, "uniform": perplexity.UNIFORM}
    rows = [
        (64, False, names.get(key, perplexity.HYPER), perplexity.LAST if key in names else order, r, 4.0**x, x, x, x)
        for key, order in {**dict.fromkeys(names, ""), **ORDERS}.items()
        for r, x in ((0, 1.0), (1, 1 + harm.get(key, 0.3)))
    ]
    columns = ["n", "stretched", "method", "order", "replaced", "perplexity", "relative", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


ORDERS = {
    "last": perplexity.LAST,
    "first": perplexity.FIRST,
    "alpha": perplexity.ALPHA,
    "greedy": perplexity.GREEDY,
}


def test_orders_that_replace_the_same_layers_share_a_line() -> None:
    fig = perplexity.draw_layers(summarised(first=0.2, alpha=0.2, greedy=0.1), unit="byte")
    labels = {text.get_text() for text in fig.legends[0].get_texts()}
    assert {
        "HyperAttention from the last",
        "HyperAttention from the first = least alpha first",
        "HyperAttention greedily",
    } <= labels


@pytest.mark.parametrize(("harm", "notes"), [(0.4, []), (3.0, ["answering zero: up to 256"])])
def test_answering_zero_leaves_the_panel_where_it_is_far_above_and_its_value_is_written(
    harm: float, notes: list[str]
) -> None:
    ax = perplexity.draw_layers(summarised(zero=harm), unit="byte").axes[0]
    assert [text.get_text() for text in ax.texts] == notes
    assert (ax.get_ylim()[1] < 4.0 ** (1 + harm)) == bool(notes)
