"""The code of docs/hf.md runs as it stands there, in its order and one folder, on a tiny random Llama of 30 layers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from toy_transformers import family, text

from sublinattn.lab.workloads.instance import Captured
from sublinattn.suite.audit import recommendation
from sublinattn.suite.audit.advice import advice, prompt_advice
from sublinattn.suite.audit.measure import audit

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

PAGE = Path(__file__).parents[2] / "docs" / "hf.md"
CAPTURED, ADVISED, PRESSED = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
N, LAYERS, NEW = 128, 30, 20


def run(code: str, names: dict[str, Any]) -> dict[str, Any]:
    exec(compile(code, PAGE.name, "exec"), names)
    return names


@pytest.fixture(scope="module")
def model() -> Any:
    return family("Llama", num_hidden_layers=LAYERS, max_position_embeddings=2 * N)


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """With what the page's first code wrote, what it left in memory, and an audit of it, advised for half the bytes."""
    folder, ids = tmp_path_factory.mktemp("page"), text(N)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        names = run(CAPTURED, {"model": model, "ids": ids})
    measured, how = audit(Captured.open(folder / "qkv.safetensors"), shares=[1 / 4, 1 / 2]), {"tolerance": 0.1}
    key_heads, prompts = advice(measured, budget=1 / 2, **how), prompt_advice(measured, **how)
    recommendation.write(recommendation.recommendation(measured, key_heads, prompts, budget=1 / 2, **how), folder)
    return folder, names


@pytest.fixture
def prompt(folder: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of the length that the advice is for; the working folder holds the advice."""
    monkeypatch.chdir(folder[0])
    return text(json.loads(Path("recommendation.json").read_text())["prompt_tokens"])


def test_capture_replace_and_generate(model: Any, folder: Any) -> None:
    names, captured = folder[1], Captured.open(folder[0] / "qkv.safetensors")
    assert (captured.layers, captured.tokens) == (LAYERS, N)
    own = model(text(N), labels=text(N)).loss
    assert float((names["loss"] - own).abs()) < 1e-4  # so short a text is answered exactly
    assert names["out"].shape == (1, N + NEW) and names["cache"].get_seq_length() == N + NEW - 1


def test_the_advice_generates(model: Any, prompt: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(ADVISED, {"model": model, "prompt": prompt})
    held, advised = map(int, capsys.readouterr().out.split())
    assert names["out"].shape == (1, prompt.shape[1] + NEW)
    kept = [each for layer in range(LAYERS) for each in names["make"](layer)]
    assert [type(each).__name__ for each in kept] == [its["cache"] for its in names["advice"]["key_heads"]]
    assert advised == names["advice"]["bytes"] <= held


def test_the_preset_compresses(model: Any, prompt: Any) -> None:
    pytest.importorskip("kvpress")
    names = run(PRESSED, {"model": model, "prompt": prompt})
    want = [int(prompt.shape[1] * (1 - ratio)) for ratio in names["ratios"]]
    assert [layer.keys.shape[2] for layer in names["cache"].layers] == want
    assert len(set(want)) > 1
