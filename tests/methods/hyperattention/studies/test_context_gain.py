"""The same tokens in every context, and what context gains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy_llama

from sublinattn.lab.run import Run
from sublinattn.methods.hyperattention.studies import context_gain

SIZES = {"vocab_size": 256, "num_hidden_layers": 3, "max_position_embeddings": 512}


def test_context_is_what_a_model_with_attention_sees(tmp_path: Path) -> None:
    toy_llama.checkpoint(tmp_path / "model", **SIZES)
    (tmp_path / "text.txt").write_text("".join(map(chr, np.random.default_rng(0).integers(32, 127, 3000))))
    run = Run(backend="numpy", knobs={"model": str(tmp_path / "model"), "text": str(tmp_path / "text.txt")})
    rows = context_gain.over_context(run)
    model = run.open_model()
    rng = run.rng("context")
    tokens = model.passage(rng, 512)
    first = rows[rows["passage"] == 0].set_index("n")["bits"]
    for n in (128, 256, 512):
        logits = model.decoder.logits(tokens[-n:]).astype(float)
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        bits = [-np.log2(chances[i - 1, tokens[-n:][i]]) for i in range(n - context_gain.TARGETS, n)]
        assert first[n] == pytest.approx(np.mean(bits), rel=1e-4)
    assert first.nunique() == 3 and set(rows["text"]) == {"text"}


def test_kinds_of_text_take_turns(tmp_path: Path) -> None:
    toy_llama.checkpoint(tmp_path / "model", **SIZES)
    run = Run(backend="numpy", knobs={"model": str(tmp_path / "model")})
    rows = context_gain.over_context(run)
    assert rows.groupby("passage")["text"].unique().map(list).tolist() == [["code"], ["prose"]] * 2


def test_gains_are_paired() -> None:
    """Passages differ by far more than context changes: the change is seen all the same."""
    level = np.array([1.0, 5.0, 9.0])
    rows = pd.DataFrame(
        [(n, n > 4, i, x - gain + 0.01 * i) for n, gain in ((2, 0.0), (4, 0.5), (8, 0.4)) for i, x in enumerate(level)],
        columns=["n", "stretched", "passage", "bits"],
    )
    table = context_gain.gains(rows)
    assert table["change"].tolist()[1:] == pytest.approx([-0.5, 0.1])
    assert (table["change_reach"][1:] < 1e-9).all() and (table["reach"] > 5).all()
    assert table["stretched"].tolist() == [False, False, True]
