"""Tables of the study of retrieval, how much it measures of which model, and what it says about the one at hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import toy_llama
from scipy.stats import binomtest

from sublinattn.lab.comparison.documents import PLAIN
from sublinattn.lab.run import Run
from sublinattn.lm.retrieval import TASKS
from sublinattn.methods.subgen.claims.reported import THEIRS
from sublinattn.methods.subgen.studies import line_retrieval
from sublinattn.methods.subgen.studies.retrieval_findings import findings


def run_on_a_folder(path: Path, *, chat: str = "", effort: str = "smoke") -> Run:
    toy_llama.checkpoint(path / "model", max_position_embeddings=256, **toy_llama.OF_BYTES)
    (path / "text.txt").write_text("some text")
    if chat:
        (path / "model" / "tokenizer_config.json").write_text(json.dumps({"chat_template": chat}))
    knobs = {"model": str(path / "model"), "text": str(path / "text.txt")}
    return Run(effort, backend="numpy", knobs=knobs)


def test_experiments_run_on_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_on_a_folder(tmp_path)
    assert line_retrieval.over_length(run)["n"].unique().tolist() == [256]  # nothing is right: no longer ones
    monkeypatch.setattr(line_retrieval, "ANSWERED", 0.0)
    rows = line_retrieval.over_length(run)
    assert rows.groupby("n")["document"].nunique().to_dict() == {256: 8, 512: 8}
    assert rows.groupby("n")["stretched"].first().to_dict() == {256: False, 512: True}
    rows = line_retrieval.over_bytes(run, {PLAIN: [256]})
    assert rows.groupby(["method", "share"], dropna=False)["document"].nunique().eq(6).all()
    shares = rows["share"].to_numpy()
    assert (rows["held"].to_numpy()[~np.isnan(shares)] <= shares[~np.isnan(shares)]).all()


def test_a_model_that_chats_is_asked_every_task(tmp_path: Path) -> None:
    run = run_on_a_folder(tmp_path, chat="{% for each in messages %}> {{ each.content }}\n{% endfor %}< ")
    rows = line_retrieval.over_length(run)
    assert rows["task"].unique().tolist() == list(TASKS) and (rows["n"] == 256).all()
    rows = line_retrieval.over_bytes(run, {"sentences": [256], "passkey": [256]})
    assert rows.groupby(["task", "method"])["document"].nunique().eq(6).all()
    assert line_retrieval.over_slots(run).groupby("slots")["document"].nunique().eq(4).all()


def test_a_large_model_reads_fewer_and_shorter_documents(tmp_path: Path) -> None:
    run = run_on_a_folder(tmp_path)
    model = run.open_model()
    large = SimpleNamespace(shapes=lambda: {"x": (134_500_000,)}, layers=30, heads=9, head_dim=64)
    decoder: Any = SimpleNamespace(config=large, trained=8192)
    smollm2 = replace(model, decoder=decoder)
    assert line_retrieval.lengths_of(run, model) == [256, 512]
    assert line_retrieval.lengths_of(run, smollm2) == [256]
    standard = replace(run, effort="standard")
    assert line_retrieval.lengths_of(standard, smollm2) == [256, 512, 1024, 2048]
    counts = [line_retrieval.affordable(standard, smollm2, n) for n in (256, 512, 1024, 2048)]
    assert counts == [101, 50, 25, 12]
    assert "small" in line_retrieval.estimate(run)
    assert line_retrieval.affordable(run, model, 512) > 8


def test_estimate_of_a_large_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_on_a_folder(tmp_path)
    monkeypatch.setattr(line_retrieval, "affordable", lambda *_: 3)
    said = line_retrieval.estimate(run)
    assert re.search(r"about \d+ minutes if it answers all 1 tasks at all lengths \(2304 tokens\), less if not$", said)


def accuracies(rates: dict[tuple[str, int], float]) -> pd.DataFrame:
    rows = [(task, n, False, i < 100 * rate, 1.0) for (task, n), rate in rates.items() for i in range(100)]
    table = pd.DataFrame(rows, columns=["task", "n", "stretched", "right", "bits"])
    table.loc[::2, "bits"] = 2.0
    return line_retrieval.accuracies(table, ["task", "n", "stretched"])


def test_settings_are_lengths_at_which_tasks_are_answered() -> None:
    plain = {(PLAIN, 256): 1.0, (PLAIN, 512): 0.95, (PLAIN, 1024): 0.9, (PLAIN, 2048): 0.85}
    assert line_retrieval.settings(accuracies(plain)) == {PLAIN: [256, 512, 1024]}
    assert line_retrieval.settings(accuracies({(PLAIN, 512): 0.5, (PLAIN, 256): 0.5, (PLAIN, 128): 0.4})) == {
        PLAIN: [256]
    }
    several = {("a", 256): 0.2, ("b", 256): 0.95, ("b", 512): 0.8, ("c", 256): 1.0, ("d", 256): 1.0, ("d", 512): 0.9}
    assert line_retrieval.settings(accuracies(several)) == {"b": [256], "d": [256, 512]}


def test_paired_counts_discordant_documents() -> None:
    right = {"subgen": "1110", "subgen, window": "1111", "k-center": "0000", "sinks": "1000", "heavy hitters": "0001"}
    rows = pd.DataFrame(
        [("t", 9, i, name, 0.5, x == "1", 2.0 - (x == "1")) for name, xs in right.items() for i, x in enumerate(xs)],
        columns=["task", "n", "document", "method", "share", "right", "bits"],
    )
    found = line_retrieval.paired(rows).set_index(["method", "against"])
    assert found.loc[("subgen", "sinks"), ["gained", "lost"]].tolist() == [2, 0]
    assert found.loc[("subgen", "heavy hitters"), ["gained", "lost"]].tolist() == [3, 1]
    assert found.loc[("k-center", "sinks"), ["gained", "lost"]].tolist() == [0, 1]
    assert found.loc[("subgen", "heavy hitters"), "p"] == pytest.approx(binomtest(3, 4).pvalue)
    assert found.loc[("subgen, window", "sinks"), "bits"] == pytest.approx(-0.75)


# ------------------------------------------------------------------------------------------------------------- findings
def under_caches(task: str, exact: float, rates: dict[str, float], *, count: int = 40) -> tuple[pd.DataFrame, ...]:
    """Accuracies and pairs of caches that answer the first so many documents, in a quarter of the bytes."""
    every = {**{name: 0.0 for name in (*line_retrieval.OURS, *THEIRS)}, **rates}
    methods = {"exact": (exact, np.nan), **{name: (rate, 0.25) for name, rate in every.items()}}
    rows = pd.DataFrame(
        [
            (task, 512, i, name, share, i < rate * count, 1.0 + i % 2)
            for name, (rate, share) in methods.items()
            for i in range(count)
        ],
        columns=["task", "n", "document", "method", "share", "right", "bits"],
    )
    return line_retrieval.accuracies(rows, ["task", "n", "method", "share"]), line_retrieval.paired(rows)


SLOTS = pd.DataFrame({"slots": [0.25, 4.0], "rate": [0.0, 0.5], "low": [0.0, 0.3], "high": [0.1, 0.7]})


def test_findings_say_what_the_model_at_hand_answers() -> None:
    lengths = accuracies(
        {("sentences", 256): 0.6, ("sentences", 512): 0.4, ("passkey", 256): 1.0, ("passkey", 512): 0.95}
    )
    table, pairs = under_caches("passkey", 1.0, {"k-center": 0.8, "sinks": 0.2})
    said = findings("some-model", lengths, table, pairs, SLOTS)
    assert (
        "With everything stored, some-model does not reach 90% at *sentences*: 60% (47% to 72%) at 256 tokens" in said
    )
    assert "some-model answers *passkey* up to 512 tokens: 95% (86% to 99%) there." in said
    assert "*passkey*, 512 tokens, best cache by its part of the bytes. 1/4: offline k-center 80% (59% to 93%)" in said
    assert "more often than it stores the line by chance: offline k-center." in said
    assert "at their best: SubGen, half a window 0% (0% to 12%) in 1/4, SubGen 0% (0% to 12%) in 1/4, offline" in said
    assert "offline k-center ahead of sinks and window in 1/4 of the bytes" in said
    assert "SubGen behind sinks and window in 1/4 of the bytes" in said and "SubGen ahead" not in said
    assert "0.25 n: 0% (0% to 10%), 4 n: 50% (30% to 70%)" in said
    assert "tiny" not in said and "ships" not in said


def test_findings_turn_with_the_tables() -> None:
    lengths = accuracies({(PLAIN, 256): 0.85, (PLAIN, 512): 0.97, (PLAIN, 1024): 0.5})
    table, pairs = under_caches(PLAIN, 0.95, {"subgen": 0.9, "sinks": 0.1})
    said = findings("m", lengths, table, pairs, SLOTS)
    assert (
        "m answers up to 512 tokens: 97% (89% to 100%) there, though fewer than 90% at 256; 50% (37% to 63%) at 1024."
        in said
    )
    assert "SubGen ahead of sinks and window in 1/4 of the bytes" in said
    even, no_pairs = under_caches(PLAIN, 0.95, {})
    said = findings("m", lengths, even, no_pairs, SLOTS)
    assert "1/4: none answers at all." in said and "no sign test at 1% tells SubGen" in said


def test_caches_are_not_judged_where_the_model_does_not_answer() -> None:
    lengths = accuracies({("passkey", 512): 0.5})
    table, pairs = under_caches("passkey", 0.5, {"k-center": 0.5})
    said = findings("m", lengths, table, pairs, SLOTS)
    assert "*passkey*, 512 tokens: with everything stored 50% (29% to 71%): too few to judge any cache." in said
    assert "of the bytes" not in said
