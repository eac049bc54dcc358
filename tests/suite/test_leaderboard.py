"""The leaderboard: a registered method has its row and needs nothing else; ranks, intervals and sentences follow."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import fake_device
import numpy as np
import pandas as pd
import pytest
import toy_comparison

from sublinattn.core.exact import attention
from sublinattn.lab.comparison.batch import BATCH, Batch
from sublinattn.lab.comparison.registry import REGISTRY
from sublinattn.lab.models import TINY, open_model
from sublinattn.lab.run import Run
from sublinattn.lm.decoder import Decoder
from sublinattn.suite.leaderboard import board as boards
from sublinattn.suite.leaderboard import contenders, decoding, errors, page
from sublinattn.suite.leaderboard.board import Board

SMALL = {"1024": 256, "512": 128, "(512, 8)": (128, 3), "(256, 12)": (256, 2), "16": 3, "4": 2}
TOY = Batch(
    attention, lambda m, n: {}, lambda n, d, options: 0.0, True, "it is exact", random=False, claim="rs21.merge"
)


@pytest.fixture(scope="module")
def measured():
    """A board of small inputs, with exact attention and a copy of the sinks registered as new methods."""
    with pytest.MonkeyPatch.context() as patch:
        toy_comparison.small(patch, **SMALL)
        patch.setitem(BATCH, "toy batch", TOY)
        patch.setitem(REGISTRY, "toy cache", replace(REGISTRY["sinks"], of="sinks"))
        board = boards.measure(Run(backend="numpy", seed=3), seeds=2)
        yield board, boards.table(board)


# --------------------------------------------------------------------------------------------------- a new method's row
def test_a_registered_method_has_its_row_and_needs_nothing_else(measured, tmp_path):
    board, table = measured
    rows = table.set_index(["kind", "method"])
    assert set(rows.loc["batch"].index) == {"exact", "zero", *BATCH} and "toy batch" in BATCH
    assert set(rows.loc["cache"].index) == {"exact", "zero", *(n for n, x in REGISTRY.items() if not x.hindsight)}
    toy, exact = rows.loc[("batch", "toy batch")], rows.loc[("batch", "exact")]
    assert toy["rank"] == 1 and max(toy[f"relative_{group}"] for group in ("synthetic", "MiniLM", "decoder")) < 1e-5
    assert toy["loss"] == pytest.approx(1, rel=1e-4) and toy["right"] == exact["right"]
    assert toy["bits"] == pytest.approx(exact["bits"], abs=1e-3)
    assert (toy["guarantee"], toy["claim"], toy["verdict"]) == ("it is exact", "rs21.merge", "supported")
    copy, sinks = (rows.loc[("cache", name)] for name in ("toy cache", "sinks"))
    same = [name for name in table if re.match("relative|spectral|loss|right|bits|bytes|parameters", name)]
    assert len(same) > 25 and copy[same].equals(sinks[same])
    text = unescape(page.write(board, tmp_path, backend="numpy").read_text())
    for words in (text, (tmp_path / "leaderboard.md").read_text(), (tmp_path / "leaderboard.csv").read_text()):
        assert "toy batch" in words and "toy cache" in words


def test_every_number_is_there_or_cannot_be(measured):
    board, table = measured
    assert set(board.errors["seed"]) == {3, 4} and board.errors["group"].nunique() == 3
    assert not board.errors[["spectral", "relative", "held"]].isna().any(axis=None)
    causal = {name for name, method in BATCH.items() if method.causal} | {"exact", "zero"}
    for row in table.to_dict("records"):
        assert np.isnan(row["right"]) == (row["kind"] == "batch" and row["method"] not in causal), row["label"]
        if row["kind"] == "cache" and row["method"] not in ("exact", "zero"):
            assert 0 < row["bytes"] <= contenders.SHARE and row["parameters"]
        for name in ("relative_synthetic", "spectral_MiniLM", "loss", "right", "bits"):
            low, middle, high = (row[f"{name}{end}"] for end in ("_low", "", "_high"))
            assert np.isnan(middle) or low <= middle <= high
    exact = table[table["method"] == "exact"]
    assert (exact["relative_decoder"] < 1e-4).all() and (exact["loss"] == 1).all() and exact["rank"].isna().all()
    zero = table[table["method"] == "zero"].set_index("kind")
    assert zero["relative_MiniLM"].tolist() == pytest.approx([1, 1]) and zero.loc["cache", "bytes"] == 0
    assert zero.loc["batch", "loss"] > zero.loc["cache", "loss"] > 1  # the window is exact for a cache


def test_the_page_sorts_by_its_own_script_alone_and_is_a_table_without_it(measured, tmp_path):
    board, table = measured
    text = page.write(board, tmp_path, backend="numpy").read_text()
    assert "script-src 'sha256-" in unescape(text) and text.count("<script>") == 1
    body = text[text.index("<tbody>") : text.index("</tbody>")]
    assert body.count("<tr>") == len(table) and body.count("<td") == body.count("data-value=")
    columns = text[text.index("<thead>") : text.index("</thead>")].count("<th data-sort")
    assert body.count("<td") == columns * len(table)
    assert (tmp_path / "figures" / "leaderboard.svg").exists()
    assert pd.read_parquet(tmp_path / "errors.parquet").equals(board.errors)


def test_on_a_device_the_measurements_are_the_same(measured, monkeypatch):
    here, model = measured[0], open_model()
    there = replace(model, decoder=Decoder.load(TINY, xp=fake_device))
    monkeypatch.setattr(Run, "xp", property(lambda run: fake_device))
    monkeypatch.setattr(Run, "open_model", lambda run: there)
    monkeypatch.setattr(errors, "peak_bytes", lambda xp, call: 0)
    run, before = Run(seed=3), fake_device.counts.launches
    for found, theirs in (
        (errors.measure(run), here.errors),
        (decoding.perplexity(run), here.losses),
        (decoding.retrieval(run), here.answers),
    ):
        wanted = theirs[theirs["seed"] == 3].reset_index(drop=True)
        assert found[["kind", "method"]].equals(wanted[["kind", "method"]])
        numbers = [name for name in ("spectral", "relative", "nats", "right", "bits") if name in found]
        alike = np.isclose(found[numbers], wanted[numbers], rtol=1e-2, atol=1e-5, equal_nan=True)
        assert alike.mean() > 0.99  # where two keys are almost as good, rounding chooses
    assert fake_device.counts.launches > before


# ------------------------------------------------------------------------------------------------- ranks and sentences
def made(values: dict[str, list[list[float]]], seeds: int = 1) -> Board:
    """A board of two inputs: for each cache, the relative errors of the draws of each input; two batch methods have the
    same.
    """
    alike = {"subgen": "Reformer", "sinks": "Nystrom"}
    lines = [
        (
            kind,
            alike.get(name, name) if kind == "batch" else name,
            "synthetic",
            what,
            8,
            draw // seeds,
            draw % seeds,
            1.0,
            error,
            1.0,
            0.25,
        )
        for kind in ("batch", "cache")
        for name, inputs in values.items()
        for what, errors in zip("AB", inputs, strict=True)
        for draw, error in enumerate(errors)
    ]
    columns = ["kind", "method", "group", "input", "n", "replicate", "seed", "spectral", "relative", "seconds", "held"]
    methods = [(*key, i) for key in dict.fromkeys(line[:2] for line in lines) for i in range(3)]
    losses = pd.DataFrame(methods, columns=["kind", "method", "passage"]).assign(nats=2.0, seed=0)
    losses.loc[losses["method"] == "zero", "nats"] = 4.0
    answers = pd.DataFrame(methods, columns=["kind", "method", "document"]).assign(right=0.0, bits=3.0, seed=0)
    answers.loc[answers["method"] == "exact", "right"] = 1.0
    about = {"effort": "smoke", "seeds": [0], "model": "tiny", "n": 64, "task": "lines"}
    return Board(about, pd.DataFrame(lines, columns=columns), losses, answers)


ORDERED = {
    "exact": [[1e-7] * 4, [1e-7] * 4],
    "zero": [[1.0] * 4, [1.0] * 4],
    "uniform": [[0.2, 0.3, 0.2, 0.3], [0.9, 0.8, 0.9, 0.8]],
    "subgen": [[0.4] * 4, [2.0] * 4],
    "sinks": [[0.1] * 4, [np.inf] * 4],
}


def test_ranks_are_those_of_geometric_means_and_swing_with_the_draws():
    found = boards.ranking(made(ORDERED).errors).query("kind == 'cache'").set_index("method")
    assert found["rank"].to_dict() == {"uniform": 1, "subgen": 2, "zero": 3, "sinks": 4}
    assert found["score"]["uniform"] == pytest.approx((0.2 * 0.3 * 0.9 * 0.8) ** 0.25)
    assert (found["rank_low"] == found["rank"]).all() and (found["rank_high"] == found["rank"]).all()
    wide = {**ORDERED, "subgen": [[0.1, 1.2, 0.1, 1.2], [0.5, 2.0, 0.5, 2.0]]}
    again = boards.ranking(made(wide).errors).query("kind == 'cache'").set_index("method").loc["subgen"]
    assert again["rank_low"] == 1 and again["rank_high"] > 1


@pytest.mark.parametrize(("seeds", "between"), [(1, "parts of the draws"), (2, "seeds")])
def test_agreement_is_kendalls(seeds, between):
    found = boards.agreement(made(ORDERED, seeds).errors)
    assert (found["between"] == between).all() and (found["number"] == (4 if seeds == 1 else 2)).all()
    assert found["mean"].tolist() == [1, 1] == found["least"].tolist()
    crossed = {**ORDERED, "uniform": [[0.2, 3.0, 0.2, 3.0], [0.9, 3.0, 0.9, 3.0]]}
    crossed = boards.agreement(made(crossed, 2).errors)
    # Of the six pairs uniform changes places with zero and subgen, not with what is infinite.
    assert crossed["mean"].tolist() == pytest.approx([1 / 3, 1 / 3])


def test_the_sentences_say_who_wins_where():
    board = made(ORDERED)
    words = boards.findings(board, boards.table(board))
    assert "uniform sampling has the least relative error over all 2 inputs (0.46" in words[1]
    assert "sinks and window on 1 (A) and uniform sampling on 1 (B)" in words[1]
    assert "of the caches SubGen (1), sinks and window (1)." in words[2]
    assert "none of the caches answers any" in words[4] and "exact attention: 100% right" in words[4]
    assert "parts of the draws, mean over all pairs of 4: 1.00 for the batch methods (least 1.00)" in words[5]


def test_without_a_record_there_are_no_verdicts(tmp_path):
    board = made(ORDERED)
    table = boards.table(board, tmp_path / "ledger.json")
    assert set(table["verdict"]) == {""}
    assert "| cache | sinks and window | 4 | ∞ | – | – |" in page.markdown(board, table, [])
    assert boards.table(board).set_index(["kind", "method"])["verdict"]["cache", "subgen"] == "supported"
