"""The reviewers' questions about SubGen, at tiny sizes."""

import numpy as np
import pandas as pd
import pytest
import references
from toy_comparison import RUN

from sublinattn.lab.workloads import real
from sublinattn.methods.subgen.studies import ablation, questions


def test_lengths_are_those_of_the_heads():
    table = questions.lengths(RUN)
    assert len(table) == 3 * 72
    one = real().head(2, 5).first(128)
    radius = references.greedy_k_center(one.k.astype(np.float64), round(128**0.5))[1][-1]
    r = one.scale * np.linalg.norm(one.q.astype(np.float64), axis=1).max()
    row = table[table["n"] == 128].loc[2 * 12 + 5]
    assert row["delta_r"] == pytest.approx(radius * r, rel=1e-5)
    assert row["ratio"] == pytest.approx(radius * r / np.log(128), rel=1e-5)


def test_questions_measure_what_they_say():
    assert questions.differing(RUN) == (0, 4, 200)
    assert max(questions.uncompressed(RUN).values()) < 1e-5


def test_answers_follow_the_values():
    costs = {"n": 100, **{f"{m} {x}": 1024.0 for m in ("subgen", "exact") for x in ("bytes", "token", "query")}}
    heads = pd.DataFrame({"n": [8, 8, 64, 64], "factor": [7.0, 8.0, 63.0, 65.0], "ratio": [0.5, 0.5, 0.25, 0.75]})
    theorem = pd.DataFrame({"measured": [0.1, 0.2, 0.1, 9.0], "bound": [0.4, 0.4, 0.5, 0.4]})
    theorem["role"] = ["claim"] * 3 + ["sabotage:fewer"]
    names = (*ablation.NORMALISERS, ablation.SHARED)
    made = [("a", name, "value-norm", r, 0.5 * (1 + r)) for name in names for r in (0, 1)]
    parts = pd.DataFrame(made, columns=["input", "normaliser", "numerator", "replicate", "relative"])
    table = questions.answers((3, 4, 200), costs, heads, theorem, {"a": 1e-7, "b": 3e-7}, parts)["value"]
    values = {number: value for (_, number), value in table.items()}
    assert values["numbers of its state that differ between chunks and single tokens (4 streams of 200 tokens)"] == 3
    assert values["KiB stored, SubGen, 100 tokens"] == 1 and values["µs per query, the exact cache, 100 tokens"] == 1024
    assert values["median of delta r / ln n, n = 8"] == values["median of delta r / ln n, n = 64"] == 0.5
    assert values["share of the heads where that is below n"] == 0.5
    assert (values["median of bound / error"], values["min of bound / error"]) == (pytest.approx(4), pytest.approx(2))
    assert values["largest relative error on 2 inputs"] == 3e-7
    assert values["relative error, a: value-norm slots, normaliser exact"] == 0.75
    assert values["largest / smallest error over streams and draws, a"] == 2
