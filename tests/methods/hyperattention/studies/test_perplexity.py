"""Replacing layers: which, in which order, on which texts, and on the device of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import toy_llama

from sublinattn.lab.models import Model, open_model
from sublinattn.lab.run import Run
from sublinattn.lm.attend import replacing
from sublinattn.methods.hyperattention.claims.replaced_layers import (
    HYPER,
    HYPER_SINKS,
    LOCAL,
    WINDOW,
    ZERO,
    Pass,
    Passage,
)
from sublinattn.methods.hyperattention.studies import perplexity
from sublinattn.methods.hyperattention.studies.perplexity import ALPHA, ERROR, FIRST, GREEDY, HARM, LAST, Grid

SIZES = {"vocab_size": 256, "num_hidden_layers": 3, "max_position_embeddings": 512}
EVERY = (0, 1, 2, 3)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run on a small random model and a text."""
    toy_llama.checkpoint(tmp_path / "model", **SIZES)
    (tmp_path / "text.txt").write_text("".join(map(chr, np.random.default_rng(0).integers(32, 127, 3000))))
    return Run(backend="numpy", knobs={"model": str(tmp_path / "model"), "text": str(tmp_path / "text.txt")})


def alone(turn: bool = True) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "method": [HYPER] * 3 + [HYPER_SINKS] * 3,
            "layer": [0, 1, 2] * 2,
            "alpha": [3.0, 1.0, 2.0, 1.0, 2.0, 3.0],
            "error": [0.3, 0.2, 0.1, 0.1, 0.3, 0.2],
            "harm": [0.1, 0.3, 0.2, 0.3, 0.1, 0.2],
            "turn": [1, 2, 0, 2, 0, 1],
        }
    )
    return table if turn else table.drop(columns="turn")


def test_orders() -> None:
    found = perplexity.orders(alone())
    assert found[HYPER] == {LAST: [2, 1, 0], FIRST: [0, 1, 2], ALPHA: [1, 2, 0], ERROR: [2, 1, 0], GREEDY: [2, 0, 1]}
    assert found[HYPER_SINKS] == {
        LAST: [2, 1, 0],
        FIRST: [0, 1, 2],
        ALPHA: [0, 1, 2],
        ERROR: [0, 2, 1],
        GREEDY: [1, 2, 0],
    }
    deep = perplexity.orders(alone(turn=False))
    assert GREEDY not in deep[HYPER] and (deep[HYPER][HARM], deep[HYPER_SINKS][HARM]) == ([0, 2, 1], [1, 2, 0])


def test_replaced_layers_are_those_of_the_order(run: Run) -> None:
    rows = perplexity.replaced_layers(run, alone(), [Grid(256, 2, EVERY), Grid(1024, 2, (0, 3), orders=False)])
    assert (rows["attention"] > 0).all() and (rows["attention"] < rows["forward"]).all()
    assert rows.groupby("n")["stretched"].first().to_dict() == {256: False, 1024: True}
    assert rows[rows["n"] == 1024]["order"].unique().tolist() == [LAST] and set(rows["text"]) == {"text"}
    unreplaced = rows[rows["replaced"] == 0].groupby(["n", "passage"])
    assert (unreplaced["nats"].nunique() == 1).all() and (unreplaced["relative"].max() == 1).all()
    exact = rows[rows["replaced"] == 0].groupby(["n", "passage"])["nats"].first()
    assert (
        rows["relative"].tolist()
        == (rows["nats"] / exact.loc[list(zip(rows["n"], rows["passage"], strict=True))].to_numpy()).tolist()
    )
    hyper, ways = rows[rows["method"].isin(perplexity.ORDERED)], perplexity.orders(alone())
    chosen = [frozenset(ways[x.method][x.order][: x.replaced]) for x in hyper.itertuples()]
    same = hyper.assign(chosen=chosen, method=hyper["method"].where(hyper["replaced"] > 0, "exact"))
    same = same.groupby(["n", "passage", "method", "chosen"])["nats"]
    assert (same.nunique() == 1).all() and same.first().nunique() == len(same)  # the same layers, one loss

    model, rng = run.open_model(), run.rng("replaced", 256)
    model.passage(rng, 256)
    tokens = model.passage(rng, 256)
    for name in (ZERO, LOCAL, WINDOW):
        method = perplexity.methods(256, rng)[name]
        for number, layers in enumerate(([], [2], [1, 2], [0, 1, 2])):
            want = model.decoder.losses(tokens, attend=replacing({layer: method for layer in layers})).mean()
            found = (rows["method"] == name) & (rows["replaced"] == number) & (rows["n"] == 256)
            assert rows.loc[found & (rows["passage"] == 0), "nats"].item() == pytest.approx(want, rel=1e-5)


def test_a_passage_resumes_what_its_exact_pass_computed(run: Run) -> None:
    model = run.open_model()
    tokens = model.passage(run.rng(), 64)
    zero = perplexity.methods(64, run.rng())[ZERO]
    passage = Passage(model.decoder, tokens, {1})
    exact, replaced = passage.read({}), passage.read({1: zero, 2: zero})
    assert exact.nats == model.decoder.losses(tokens).mean(dtype=np.float64)
    assert replaced.nats == model.decoder.losses(tokens, attend=replacing({1: zero, 2: zero})).mean(dtype=np.float64)
    assert 0 < replaced.attention < exact.attention < exact.forward  # layers 1 and 2 attend to nothing
    with pytest.raises(KeyError):
        passage.read({0: zero})


def test_kinds_of_text_take_turns_and_without_orders_the_last_layers_go(run: Run) -> None:
    both = Run(backend="numpy", knobs={"model": run.knobs["model"]})
    rows = perplexity.replaced_layers(both, measured=[Grid(64, 3, (0, 2), compared=(ZERO,))])
    assert rows.groupby("passage")["text"].first().tolist() == ["code", "prose", "code"]
    assert set(rows["order"]) == {LAST} and set(rows["method"]) == {ZERO}


def test_layers_alone_are_zero_where_attention_does_not_count(run: Run) -> None:
    heard = perplexity.layers_alone(run)
    assert heard["layer"].tolist() == [0, 1, 2] * 2 and heard["method"].unique().tolist() == [HYPER, HYPER_SINKS]
    assert (heard["alpha"] >= 1).all() and heard["alpha"].nunique() >= 3 and heard["error"].between(1e-6, 10).all()
    for _, own in heard.groupby("method"):
        assert (own["harm"].abs() > 1e-6).any()
        assert sorted(own["turn"]) == [0, 1, 2] and own["harm"].argmin() == own["turn"].argmin()
    path = Path(run.knobs["model"]) / "model.safetensors"  # with what attention gives silenced
    weights = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file({name: 0 * x if "o_proj" in name else x for name, x in weights.items()}, path)
    open_model.cache_clear()
    silent = perplexity.layers_alone(run)
    assert silent["harm"].tolist() == [0] * 6
    assert silent["alpha"][0] == pytest.approx(heard["alpha"][0])  # the first layer's queries and keys are the same
    assert silent["error"][0] == pytest.approx(heard["error"][0], rel=1e-4)


def test_greedily_each_layer_harms_least_given_those_before(run: Run, monkeypatch: Any) -> None:
    """Layer 2 harms least alone, but with it layer 0 harms less than layer 1, which is the second alone."""
    harm = {(): 0.0, (0,): 0.5, (1,): 0.4, (2,): 0.1, (0, 2): 0.2, (1, 2): 0.7, (0, 1): 0.6, (0, 1, 2): 1.0}

    class Told(Passage):
        def read(self, methods: Mapping[int, Any]) -> Pass:
            return Pass(3.0 + harm[tuple(sorted(methods))], 0.0, 0.0)

    monkeypatch.setattr(perplexity, "Passage", Told)
    found = perplexity.layers_alone(run)
    np.testing.assert_allclose(found["harm"], [0.5, 0.4, 0.1] * 2)
    assert found["turn"].tolist() == [1, 2, 0] * 2
    monkeypatch.setattr(perplexity, "SEARCHED", 2)
    deep = perplexity.layers_alone(run)
    assert "turn" not in deep and perplexity.orders(deep)[HYPER][HARM] == [2, 1, 0]


def test_on_the_device_of_the_weights(xp: Any, run: Run, monkeypatch: Any) -> None:
    here = run.open_model()
    there = replace(here, decoder=here.decoder.load(run.knobs["model"], xp=xp))
    grids = [Grid(64, 2, (0, 2), orders=False)]
    want = perplexity.replaced_layers(run, measured=grids), perplexity.layers_alone(run)
    monkeypatch.setattr(Run, "open_model", lambda self: there)
    found = perplexity.replaced_layers(run, measured=grids), perplexity.layers_alone(run)
    np.testing.assert_allclose(found[0]["nats"], want[0]["nats"], rtol=1e-4)
    for column in ("alpha", "error", "harm"):
        np.testing.assert_allclose(found[1][column], want[1][column], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("layers", "wanted"), [(4, [0, 1, 2, 3, 4]), (32, [0, 4, 8, 12, 16, 20, 24, 28, 32])])
def test_numbers_of_replaced_layers(layers: int, wanted: list[int]) -> None:
    assert perplexity.numbers(layers) == tuple(wanted)


@pytest.mark.parametrize("effort", ["smoke", "standard", "full"])
def test_a_large_model_is_measured_in_few_passes(run: Run, monkeypatch: Any, effort: str) -> None:
    small = {grid.n: grid for grid in perplexity.grids(replace(run, effort=effort))}
    monkeypatch.setattr(Model, "large", True)
    large = {grid.n: grid for grid in perplexity.grids(replace(run, effort=effort))}
    assert not any(grid.orders for grid in [*large.values()][1:])
    if effort != "smoke":
        assert large[2048].passages >= 8 and small[2048].passages >= 8
        assert large[8192].passages == {"standard": 3, "full": 8}[effort]


def test_the_plan_counts_what_is_done(run: Run, monkeypatch: Any) -> None:
    reads = []

    class Counted(Passage):
        def read(self, methods: Mapping[int, Any]) -> Pass:
            reads.append(len(methods))
            return super().read(methods)

    monkeypatch.setattr(perplexity, "Passage", Counted)
    monkeypatch.setattr(perplexity, "grids", lambda run: [Grid(64, 2, EVERY)])
    plan = perplexity.plan(run).set_index("what")
    table = perplexity.layers_alone(run)
    assert len(reads) <= plan.loc["each layer alone", "passes"] <= len(reads) + 2 * 3
    reads.clear()
    perplexity.replaced_layers(run, table)
    assert len(reads) <= plan.loc["replaced layers", "passes"]  # orders may replace the same layers
    assert (plan["seconds"] >= 0).all() and plan.loc["replaced layers", "passages"] == 2
