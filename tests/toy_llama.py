"""Small random checkpoints in Llama's layout, and what a decoder should compute on them, by plain loops."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from sublinattn.core import backends
from sublinattn.lm.attend import causal
from sublinattn.lm.config import Config
from sublinattn.lm.decoder import Decoder

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


def reference_logits(weights: dict[str, np.ndarray], config: Config, tokens: Any) -> np.ndarray:
    """Logits (n, vocabulary) of one text in float64, token by token and head by head; plain rotations only."""
    w = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
    x = [w["model.embed_tokens.weight"][token] for token in tokens]

    def linear(name: str, row: np.ndarray) -> np.ndarray:
        return w[f"{name}.weight"] @ row + w.get(f"{name}.bias", 0.0)

    def norm(name: str, row: np.ndarray) -> np.ndarray:
        return row / math.sqrt(sum(a * a for a in row) / len(row) + config.norm_eps) * w[f"{name}.weight"]

    def turned(row: np.ndarray, position: int) -> np.ndarray:
        half, out = len(row) // 2, np.empty(len(row))
        for j in range(half):
            angle = position * config.rope.theta ** (-2 * j / len(row))
            a, b = row[j], row[j + half]
            out[j] = a * math.cos(angle) - b * math.sin(angle)
            out[j + half] = a * math.sin(angle) + b * math.cos(angle)
        return out

    for layer in range(config.layers):
        at, d = f"model.layers.{layer}", config.head_dim
        rows = [norm(f"{at}.input_layernorm", row) for row in x]
        q, k, v = ([linear(f"{at}.self_attn.{name}_proj", row) for row in rows] for name in "qkv")
        for i in range(len(tokens)):
            outputs = []
            for head in range(config.heads):
                own, read = slice(head * d, head * d + d), head // (config.heads // config.kv_heads) * d
                query = turned(q[i][own], i)
                logits = [query @ turned(k[j][read : read + d], j) / math.sqrt(d) for j in range(i + 1)]
                weight = [math.exp(logit - max(logits)) for logit in logits]
                outputs.append(sum(a * v[j][read : read + d] for j, a in enumerate(weight)) / sum(weight))
            x[i] = x[i] + linear(f"{at}.self_attn.o_proj", np.concatenate(outputs))
        for i in range(len(tokens)):
            row = norm(f"{at}.post_attention_layernorm", x[i])
            gate = linear(f"{at}.mlp.gate_proj", row)
            gate = np.array([a / (1 + math.exp(-a)) for a in gate])
            x[i] = x[i] + linear(f"{at}.mlp.down_proj", gate * linear(f"{at}.mlp.up_proj", row))
    head = "model.embed_tokens" if config.tied else "lm_head"
    return np.array([linear(head, norm("model.norm", row)) for row in x])
