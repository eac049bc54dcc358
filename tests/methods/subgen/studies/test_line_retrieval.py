"""Tables of the study of line retrieval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy_llama
from scipy.stats import binomtest

from sublinattn.lab.run import Run
from sublinattn.methods.subgen.studies import line_retrieval

SIZES = {"vocab_size": 256, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}


def test_experiments_run_on_a_folder(tmp_path: Path) -> None:
    toy_llama.checkpoint(tmp_path / "model", max_position_embeddings=256, **SIZES)
    (tmp_path / "text.txt").write_text("some text")
    run = Run(backend="numpy", knobs={"model": str(tmp_path / "model"), "text": str(tmp_path / "text.txt")})
    rows = line_retrieval.over_length(run)
    assert rows.groupby("n")["document"].nunique().to_dict() == {256: 8, 512: 8}
    assert rows.groupby("n")["stretched"].first().to_dict() == {256: False, 512: True}
    rows = line_retrieval.over_bytes(run, longest=256)
    assert rows.groupby(["method", "share"], dropna=False)["document"].nunique().eq(6).all()
    shares = rows["share"].to_numpy()
    assert (rows["held"].to_numpy()[~np.isnan(shares)] <= shares[~np.isnan(shares)]).all()


def test_longest_answered() -> None:
    rates = {256: 1.0, 512: 0.95, 1024: 0.9, 2048: 0.85}
    rows = pd.DataFrame([(n, i < 100 * rate) for n, rate in rates.items() for i in range(100)], columns=["n", "right"])
    assert line_retrieval.longest_answered(rows) == 1024
    assert line_retrieval.longest_answered(rows[rows["n"] == 2048]) == 2048
    assert line_retrieval.longest_answered(rows.assign(right=False)) == 256


def test_paired_counts_discordant_documents() -> None:
    right = {"subgen": "1110", "subgen, window": "1111", "k-center": "0000", "sinks": "1000", "heavy hitters": "0001"}
    rows = pd.DataFrame(
        [(9, i, name, 0.5, x == "1", 2.0 - (x == "1")) for name, xs in right.items() for i, x in enumerate(xs)],
        columns=["n", "document", "method", "share", "right", "bits"],
    )
    found = line_retrieval.paired(rows).set_index(["method", "against"])
    assert found.loc[("subgen", "sinks"), ["gained", "lost"]].tolist() == [2, 0]
    assert found.loc[("subgen", "heavy hitters"), ["gained", "lost"]].tolist() == [3, 1]
    assert found.loc[("k-center", "sinks"), ["gained", "lost"]].tolist() == [0, 1]
    assert found.loc[("subgen", "heavy hitters"), "p"] == pytest.approx(binomtest(3, 4).pvalue)
    assert found.loc[("subgen, window", "sinks"), "bits"] == pytest.approx(-0.75)
