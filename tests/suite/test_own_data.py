"""Notebook 23: a file of queries, keys and values, and its heaviest keys."""

from __future__ import annotations

import numpy as np
import pytest

from sublinattn.lab.run import Run
from sublinattn.lab.workloads import Instance
from sublinattn.suite.audit import own_data

HEAVY = (5, 9)  # keys of layer 0 that get nearly all the attention


@pytest.fixture
def run(tmp_path):
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 2, 64, 8)).astype(np.float32)  # layers, heads, tokens, features
    q[0, :, :, 0] = 6.0
    k[0, :, HEAVY, 0] = 9.0
    Instance(q, k, v, scale=0.5).save(tmp_path / "own.safetensors")
    return Run("smoke", 0, "numpy", tmp_path, knobs={"data": str(tmp_path / "own.safetensors")})


def test_alpha_is_that_of_dense_matrices_without_the_heaviest_columns(run, xp, monkeypatch):
    monkeypatch.setattr(Run, "xp", xp)
    captured = own_data.opened(run)
    rows = own_data.heaviest_keys(run, captured).set_index(["layer", "head", "without"])
    assert set(rows.index.get_level_values("without")) == {0, 1, 2, 4, 8, 16}  # of the earlier half's 32 keys
    for layer, head in ((0, 0), (0, 1), (1, 0), (1, 1)):
        x = captured.head(layer, head)
        p = np.exp(0.5 * x.q[32:].astype(float) @ x.k[:32].T)
        p /= p.sum(axis=1, keepdims=True)
        squares = 32 * (p**2).sum(axis=0)
        for count in (0, 2, 16):
            assert rows.loc[(layer, head, count), "alpha"] == pytest.approx(np.sort(squares)[-1 - count], rel=1e-5)
        assert rows.loc[(layer, head, 0), "key"] == squares.argmax()
        assert rows.loc[(layer, head, 0), "mass"] == pytest.approx(p.mean(axis=0)[squares.argmax()], rel=1e-5)


def test_what_is_told_and_drawn(run):
    rows = own_data.heaviest_keys(run, own_data.opened(run))
    median = rows[rows["without"] == 0]["alpha"].median()
    told = own_data.told(rows)
    assert f"instead of {median:.3g}" in told and "less than half on" in told
    (ax,) = own_data.draw(rows).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2", "4", "8", "16"]
    (middle,) = (line for line in ax.get_lines() if line.get_label() == "median head")
    assert middle.get_ydata()[0] == median


def test_without_a_file_the_decoder_that_ships_is_captured(tmp_path):
    captured = own_data.opened(Run("smoke", 0, "numpy", tmp_path, knobs={"data": ""}))
    assert captured.path == tmp_path / "own-data" / "qkv.safetensors"
    assert captured.tokens == 256 and captured.source.startswith("tiny")
