"""Replacing layers: the yardsticks against plain loops, the same tokens in every context, orders and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import toy_llama

from sublinattn.core.exact import attention
from sublinattn.lab.models import open_model
from sublinattn.lab.run import Run
from sublinattn.lm.attend import replacing
from sublinattn.methods.hyperattention.claims import replaced_layers
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
def test_context_compares_the_same_tokens(run: Run) -> None:
    without_attention(run)
    rows = perplexity.over_context(run)
    assert sorted(rows["n"].unique()) == [128, 256, 512] and not rows["stretched"].any()
    by_passage = rows.groupby("passage")["bits"]
    assert (by_passage.max() - by_passage.min()).max() < 1e-4 and rows["bits"].nunique() > 1


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
    assert perplexity.falls_until(table) == 4
    assert perplexity.falls_until(table[:2]) == 4 and perplexity.falls_until(table[:1]) == 2
    assert perplexity.falls_until(table.assign(change=[np.nan, 0.1, -0.1])) == 2


# ------------------------------------------------------------------------------------------------------- the yardsticks
def test_own_block_is_attention_in_each_block(xp: Any) -> None:
    q, k, v = (np.random.default_rng(i).standard_normal((2, 3, 12, 5)) for i in range(3))
    from sublinattn.core import backends

    out = backends.asnumpy(replaced_layers.own_block(*(backends.to_device(x, xp) for x in (q, k, v)), rows=4))
    for at in np.ndindex(2, 3, 12):
        seen = slice(at[2] // 4 * 4, at[2] + 1)
        weights = np.exp(k[at[:2]][seen] @ q[at] / np.sqrt(5))
        assert out[at] == pytest.approx(weights @ v[at[:2]][seen] / weights.sum())


@pytest.mark.parametrize("name", [perplexity.HYPER, perplexity.LOCAL, perplexity.ZERO])
def test_no_method_looks_ahead(name: str) -> None:
    n, cut = 256, 150
    q, k, v = (np.random.default_rng(i).standard_normal((1, 2, n, 8)) for i in range(3))
    changed = [np.where(np.arange(n)[:, None] < cut, x, -x) for x in (q, k, v)]
    outs = [
        perplexity.methods(n, np.random.default_rng(0))[name](*given)[..., : cut // 2, :]
        for given in ((q, k, v), (changed[0], changed[1], changed[2]))
    ]
    assert np.array_equal(*outs)


def test_a_uniform_sample_stands_for_the_keys_before_the_block() -> None:
    """With all of them sampled it is exact attention; else each counts `start / size` times, and its own block once."""
    rng = np.random.default_rng(4)
    q, k, v = (rng.standard_normal((1, 2, 12, 3)) for _ in range(3))
    np.testing.assert_allclose(
        replaced_layers.uniform_before(q, k, v, rows=4, size=12, rng=rng), attention(q, k, v, causal=True), rtol=1e-12
    )
    found = replaced_layers.uniform_before(q, k, v, rows=4, size=2, rng=np.random.default_rng(5))
    again = np.random.default_rng(5)
    chosen = {start: again.choice(start, 2, replace=False) for start in (4, 8)}
    for head, i in np.ndindex(2, 12):
        start = i // 4 * 4
        seen = [*range(start, i + 1), *chosen.get(start, ())]
        counts = np.array([1.0] * (i + 1 - start) + [start / 2] * (len(seen) - (i + 1 - start)))
        weights = counts * np.exp(q[0, head, i] @ k[0, head, seen].T / np.sqrt(3))
        np.testing.assert_allclose(found[0, head, i], weights @ v[0, head, seen] / weights.sum(), rtol=1e-12)


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
    zero, own = perplexity.methods(256, rng)[perplexity.ZERO], perplexity.methods(256, rng)[perplexity.LOCAL]
    for method, name in ((zero, perplexity.ZERO), (own, perplexity.LOCAL)):
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
