"""The decoder computes what Hugging Face's `LlamaForCausalLM` computes, on folders that transformers wrote.

`tests/data/llama` holds small ones with transformers' own logits (`scripts/make_llama_fixtures`); where transformers is
installed, more are made on the fly. Tolerance: 1e-4 in float32, on logits of size 2.
"""

from __future__ import annotations

import json
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_llama import DATA

from sublinattn.core import backends
from sublinattn.lm.config import Config
from sublinattn.lm.decoder import Decoder

CASES = sorted(path.name for path in DATA.iterdir())
SCRIPT = Path(__file__).parents[2] / "scripts" / "make_llama_fixtures"


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(xp: Any, case: str) -> None:
    want = np.load(DATA / case / "want.npz")
    got = Decoder.load(DATA / case, xp=xp).logits(want["tokens"])
    assert got.dtype == np.float32
    np.testing.assert_allclose(backends.asnumpy(got), want["logits"], rtol=0, atol=1e-4)


def test_the_cases_are_what_they_are_called() -> None:
    configs = {case: Config.load(DATA / case) for case in CASES}
    assert configs["multi-head"].heads == configs["multi-head"].kv_heads > configs["grouped-query"].kv_heads
    assert configs["grouped-query"].head_dim * configs["grouped-query"].heads != configs["grouped-query"].width
    assert configs["biases"].attention_bias and configs["biases"].mlp_bias and configs["tied"].tied
    assert len(list((DATA / "sharded").glob("*.safetensors"))) > 2
    assert "rope_scaling" in json.loads((DATA / "old-config" / "config.json").read_text())
    assert all(configs[case].rope.magnitude > 1 for case in ("yarn", "yarn-defaults"))
    plain = configs["grouped-query"].rope.frequencies
    for case in ("linear", "llama3", "yarn", "old-config"):
        assert not np.allclose(configs[case].rope.frequencies, plain)


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


# ------------------------------------------------------------------------------------------------ transformers, if here
def random_fields(rng: np.random.Generator) -> dict[str, Any]:
    """A small configuration that `LlamaConfig` takes, all kinds of rotations among them."""
    kv_heads, group, head_dim = int(rng.integers(1, 4)), int(rng.integers(1, 4)), 2 * int(rng.integers(1, 9))
    heads = kv_heads * group
    trained = int(rng.choice([64, 256, 1024]))
    factor = float(rng.uniform(1, 8))
    rope: dict[str, Any] = {"rope_type": str(rng.choice(["default", "linear", "llama3", "yarn"])), "factor": factor}
    if rope["rope_type"] == "llama3":
        low = float(rng.uniform(0.5, 4))
        rope |= {"low_freq_factor": low, "high_freq_factor": low * float(rng.uniform(1.5, 8))}
    if rope["rope_type"] == "yarn":
        rope |= {"beta_slow": float(rng.uniform(0.5, 2)), "beta_fast": float(rng.uniform(4, 40))}
        rope |= [{}, {"attention_factor": 1.3}, {"mscale": 1.2, "mscale_all_dim": 0.7}][rng.integers(3)]
        rope |= [{}, {"truncate": False}][rng.integers(2)]
    if rope["rope_type"] in ("llama3", "yarn"):
        rope["original_max_position_embeddings"] = trained
    rope["rope_theta"] = float(rng.choice([100.0, 10000.0, 500000.0]))
    return {
        "vocab_size": int(rng.integers(2, 60)),
        "hidden_size": heads * int(rng.integers(2, 9)),
        "intermediate_size": int(rng.integers(1, 40)),
        "num_hidden_layers": int(rng.integers(1, 4)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": max(trained, round(trained * factor)),
        "rms_norm_eps": float(rng.choice([1e-6, 1e-5, 1e-1])),
        "tie_word_embeddings": bool(rng.integers(2)),
        "attention_bias": bool(rng.integers(2)),
        "mlp_bias": bool(rng.integers(2)),
        "rope_parameters": rope,
    }


@pytest.mark.parametrize("seed", range(20))
def test_random_configurations_of_transformers(tmp_path: Path, seed: int) -> None:
    for package in ("torch", "transformers"):
        pytest.importorskip(package)
    loader = SourceFileLoader("make_llama_fixtures", str(SCRIPT))
    script: Any = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(script)
    rng = np.random.default_rng(seed)
    fields = random_fields(rng)
    dtype, shard = str(rng.choice(["float32", "float16", "bfloat16"])), str(rng.choice(["2KB", "1GB"]))
    script.save(tmp_path, fields, rng, dtype=dtype, shard=shard)
    tokens = rng.integers(fields["vocab_size"], size=(int(rng.integers(1, 4)), int(rng.integers(1, 41))))
    got, want = Decoder.load(tmp_path).logits(tokens), script.wanted(tmp_path, tokens)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
