"""`sublinattn capture` and `sublinattn audit`, end to end on the model that ships, and what they refuse."""

import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from sublinattn.cli import app
from sublinattn.lab.models import TINY, open_model
from sublinattn.lab.workloads.instance import Captured

RUN = CliRunner()


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    out = tmp_path_factory.mktemp("captured") / "qkv.safetensors"
    result = RUN.invoke(app, ["capture", "-n", "200", "--out", str(out), "--backend", "numpy"])
    assert result.exit_code == 0, result.output
    assert "Captured 200 tokens" in result.output
    return out


def test_capture_writes_what_the_model_computes(captured):
    found, model = Captured.open(captured), open_model()
    q, k, v = model.qkv(model.beginning(200))
    assert (found.layers, found.heads, found.kv_heads, found.tokens) == (4, 4, 4, 200)
    assert "tiny" in found.source and "held-out" in found.source
    for layer, head in ((0, 0), (3, 2)):
        x = found.head(layer, head)
        for tensor, whole in zip("qkv", (q, k, v), strict=True):
            np.testing.assert_allclose(getattr(x, tensor), whole[layer, head], atol=2e-5)


def test_audit_prints_a_line_per_head_and_leaves_tables_and_a_page(captured, tmp_path):
    result = RUN.invoke(app, ["audit", str(captured), "--out", str(tmp_path / "audit"), "--share", "0.25"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("head\talpha\t") and len(lines) == 1 + 16 + 1
    heads = pd.read_csv(tmp_path / "audit/heads.csv")
    assert [line.split("\t")[-1] for line in lines[1:17]] == heads["method"].tolist()
    assert "<h1>" in (tmp_path / "audit/index.html").read_text()


def test_half_precision_is_half_the_file(captured, tmp_path):
    out = tmp_path / "half.safetensors"
    assert RUN.invoke(app, ["capture", "-n", "200", "--out", str(out), "--half"]).exit_code == 0
    assert abs(out.stat().st_size / captured.stat().st_size - 0.5) < 0.01
    np.testing.assert_allclose(Captured.open(out).head(1, 1).k, Captured.open(captured).head(1, 1).k, atol=0.05)


def test_own_text_and_own_folder(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"def f(x):\n    return x\n" * 8)
    shutil.copytree(TINY, tmp_path / "model")
    out = tmp_path / "qkv.safetensors"
    arguments = ["capture", "--model", str(tmp_path / "model"), "--text", str(tmp_path / "text.txt"), "--out", str(out)]
    assert RUN.invoke(app, arguments).exit_code == 0
    assert Captured.open(out).tokens == 8 * 23


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["capture", "--model", "nowhere", "--out", "x"], "nowhere is no folder"),
        (["capture", "--text", "nowhere.txt", "--out", "x"], "nowhere.txt"),
        (["capture", "-n", "10000000", "--out", "x"], "n must be at most"),
        (["audit", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    result = RUN.invoke(app, arguments)
    assert result.exit_code == 2 and words in result.output
    assert not list(tmp_path.iterdir())


def test_a_missing_tensor_is_named(tmp_path):
    shutil.copytree(TINY, tmp_path / "model")
    config = (tmp_path / "model/config.json").read_text().replace('"num_hidden_layers": 4', '"num_hidden_layers": 5')
    (tmp_path / "model/config.json").write_text(config)
    result = RUN.invoke(app, ["capture", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "x")])
    assert result.exit_code == 2 and "lacks the tensor 'model.layers.4." in result.output
    assert not (tmp_path / "x").exists()
