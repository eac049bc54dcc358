"""Small random checkpoints in Llama's layout, and what their layers attend with."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from sublinattn.core import backends
from sublinattn.lab.models import Model, open_model
from sublinattn.lab.run import generator
from sublinattn.lm.attend import causal
from sublinattn.lm.config import Config
from sublinattn.lm.decoder import Decoder
from sublinattn.lm.tokens import as_bytes

DATA = Path(__file__).parent / "data" / "llama"
FIELDS: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 200,
    "rms_norm_eps": 1e-2,
    "attention_bias": True,
    "mlp_bias": True,
}
OF_BYTES = {"vocab_size": 256, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
"""Other sizes: of a model whose tokens are bytes."""


def random_weights(config: Config, seed: int = 0, size: float = 1.0) -> dict[str, np.ndarray]:
    """Every tensor random, the matrices such that a row's size grows by `1.5 size`."""
    rng, out = np.random.default_rng(seed), {}
    for name, shape in config.shapes().items():
        draws = rng.standard_normal(shape)
        scale = 1.5 * size / math.sqrt(shape[-1]) if "proj" in name and len(shape) == 2 else 0.5
        out[name] = (1 + 0.3 * draws if "norm" in name else scale * draws).astype(np.float32)
    return out


def checkpoint(folder: Path, *, seed: int = 0, size: float = 1.0, **fields: Any) -> dict[str, np.ndarray]:
    """Write a checkpoint: `FIELDS` with these changes, and its weights, which are returned."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(FIELDS | fields))
    weights = random_weights(Config.load(folder), seed, size)
    safetensors.numpy.save_file(weights, folder / "model.safetensors")
    return weights


def decoder(folder: Path, *, xp: Any = np, seed: int = 0, size: float = 1.0, **fields: Any) -> Decoder:
    checkpoint(folder, seed=seed, size=size, **fields)
    return Decoder.load(folder, xp=xp)


def of_bytes(folder: Path, *, xp: Any = np) -> Model:
    """A random model of bytes, without texts."""
    return Model("toy", decoder(folder, xp=xp, max_position_embeddings=1024, **OF_BYTES), as_bytes, (), "none")


def some_tokens(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(FIELDS["vocab_size"], size=shape)


def close(found: Any, expected: Any, tolerance: float = 2e-5) -> None:
    np.testing.assert_allclose(backends.asnumpy(found), backends.asnumpy(expected), rtol=tolerance, atol=tolerance)


def recorded(model: Decoder, tokens: Any, **options: Any) -> list[tuple[Any, Any, Any]]:
    """Queries, keys and values that exact attention gets in each layer, in one piece."""
    layers: list[tuple[Any, Any, Any]] = []

    def attend(layer: int, q: Any, k: Any, v: Any) -> Any:
        assert layer == len(layers)
        layers.append((q, k, v))
        return causal(layer, q, k, v)

    model.logits(tokens, attend=attend, **options)
    return layers


def model_and_text(folder: Path) -> dict[str, str]:
    """A random checkpoint with grouped queries and a text of 400 letters, as the knobs of a run."""
    checkpoint(folder / "model", vocab_size=256, size=0.7)
    letters = np.random.default_rng(0).integers(97, 123, 400).astype(np.uint8)
    (folder / "text").write_bytes(letters.tobytes())
    return {"model": str(folder / "model"), "text": str(folder / "text")}


def arrays(knobs: dict[str, str], label: str, replicate: int, n: int, longest: int = 256) -> list[np.ndarray]:
    """Queries, keys and values of a passage's first n tokens, run by themselves, float64."""
    model = open_model(knobs["model"], knobs["text"], backend="numpy")
    tokens = model.passage(generator(0, label, replicate), longest)
    return [x.astype(np.float64) for x in model.qkv(tokens[:n])]
