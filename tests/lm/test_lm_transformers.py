"""The decoder computes what Hugging Face's `LlamaForCausalLM` computes, on folders that transformers wrote.

`tests/data/llama` holds small ones with transformers' own logits (`scripts/make_llama_fixtures`). Tolerance: 1e-4 in
float32, on logits of size 2.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_llama import DATA

from sublinattn.core import backends
from sublinattn.lm.decoder import Decoder

CASES = sorted(path.name for path in DATA.iterdir())


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(xp: Any, case: str) -> None:
    want = np.load(DATA / case / "want.npz")
    got = Decoder.load(DATA / case, xp=xp).logits(want["tokens"])
    assert got.dtype == np.float32
    np.testing.assert_allclose(backends.asnumpy(got), want["logits"], rtol=0, atol=1e-4)


def test_stretching_a_decoder_is_transformers_yarn(tmp_path: Path) -> None:
    """The same weights, with the config of before the stretching: to 4 times its 1024 positions."""
    fields = json.loads((DATA / "yarn-defaults" / "config.json").read_text())
    rope = fields["rope_parameters"]
    fields |= {"max_position_embeddings": 1024, "rope_parameters": {"rope_theta": rope["rope_theta"]}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    (tmp_path / "model.safetensors").write_bytes((DATA / "yarn-defaults" / "model.safetensors").read_bytes())
    want = np.load(DATA / "yarn-defaults" / "want.npz")
    plain = Decoder.load(tmp_path)
    stretched = plain.stretched(4096)
    assert (stretched.config.context, stretched.trained) == (4096, 1024)
    np.testing.assert_allclose(stretched.logits(want["tokens"]), want["logits"], rtol=0, atol=1e-4)
    assert abs(plain.logits(want["tokens"]) - want["logits"]).max() > 0.1
    assert plain.config.context == 1024 and plain.stretched(1024) is plain  # as it was
