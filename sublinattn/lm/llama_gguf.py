"""A Llama in a GGUF file: its sizes, its weights in the layout of Hugging Face, its tokenizer.

GGUF stores the rows of the query and key projections in another order (llama.cpp rotates neighbouring columns, Hugging
Face column i and i + d/2); they are put back. What the file asks for and the decoder does not have is refused by name.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from ..core import backends
from ..core.backends import Array
from .config import Config
from .gguf import GGUF

_SIZES = {
    "vocab_size": "llama.vocab_size",
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "head_dim": "llama.attention.key_length",
    "max_position_embeddings": "llama.context_length",
    "rms_norm_eps": "llama.attention.layer_norm_rms_epsilon",
    "rope_theta": "llama.rope.freq_base",
}
_ROPE = {
    "rope_type": "llama.rope.scaling.type",
    "factor": "llama.rope.scaling.factor",
    "original_max_position_embeddings": "llama.rope.scaling.original_context_length",
    "beta_fast": "llama.rope.scaling.yarn_beta_fast",
    "beta_slow": "llama.rope.scaling.yarn_beta_slow",
}
_KEYS = _SIZES | _ROPE
"""The key for each field of `config.json`."""
_ROTATED, _VALUES = "llama.rope.dimension_count", "llama.attention.value_length"
_HARMLESS = {"llama.tensor_data_layout", "llama.rope.scaling.finetuned"}
_TENSORS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_DIVISORS = "rope_freqs.weight"  # what Llama 3 divides its rotations' frequencies by


def read_config(file: GGUF) -> Config:
    """The sizes of the Llama in a file.

    Raises
    ------
    ValueError
        It is no Llama, lacks a key, or needs something that is not implemented; the message names the key.
    """
    fields, tensors = file.fields, file.shapes
    if (got := fields.get("general.architecture")) != "llama":
        raise ValueError(f"{file.path}: general.architecture must be 'llama', got {got!r}")
    if (parts := fields.get("split.count", 1)) > 1:
        raise ValueError(f"{file.path}: split.count must be 1 (merge the parts into one file), got {parts}")
    known = {*_KEYS.values(), _ROTATED, _VALUES, *_HARMLESS}
    if unknown := [key for key in fields if key.startswith("llama.") and key not in known and fields[key]]:
        raise ValueError(f"{file.path}: the key {unknown[0]!r} ({fields[unknown[0]]!r}) is not implemented")
    # Sizes that are out of all proportion are refused before anything of that size is made.
    largest = max([len(tensors), *(axis for shape in tensors.values() for axis in shape)])
    for key in ("llama.embedding_length", "llama.attention.key_length", "llama.block_count"):
        if isinstance(size := fields.get(key), int) and size > largest:
            raise ValueError(f"{file.path}: {key} is {size}, but no tensor of the file is so large")
    described = {name: fields[key] for name, key in _SIZES.items() if key in fields}
    described |= {
        "model_type": "llama",
        "vocab_size": fields.get("llama.vocab_size", len(fields.get("tokenizer.ggml.tokens", ()))),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in tensors,
        "rope_parameters": {name: fields[key] for name, key in _ROPE.items() if key in fields},
    }
    if described["rope_parameters"].get("rope_type") == "none":
        described["rope_parameters"] = {}
    try:
        if "rms_norm_eps" not in described:  # a config.json may leave it out
            raise ValueError("rms_norm_eps is missing")
        config = Config.of(described)
        for key in (_ROTATED, _VALUES):
            if fields.get(key, config.head_dim) != config.head_dim:
                raise ValueError(f"{key} must be the head dimension ({config.head_dim}), got {fields[key]!r}")
    except ValueError as error:
        message = re.sub(rf"\b({'|'.join(_KEYS)})\b", lambda name: _KEYS[name[0]], str(error))
        raise ValueError(f"{file.path}: {message}") from None
    if _DIVISORS in tensors:
        divisors = _tensor(file, _DIVISORS, (config.head_dim // 2,))
        if not (divisors > 0).all():
            raise ValueError(f"{_DIVISORS!r} in {file.path} must be positive")
        rope = replace(config.rope, frequencies=config.rope.frequencies / divisors)
        config = replace(config, rope=rope)
    return config


def read_gguf_weights(file: GGUF, config: Config, xp: Any) -> dict[str, Array]:
    """Every tensor of the file under its name in Hugging Face's layout, in float32, on the device of `xp`.

    Raises
    ------
    ValueError
        A tensor is missing, of another shape, of a type that cannot be dequantised or not finite, the file ends within
        it, or a Llama of this configuration has no such tensor; the message names the tensor as the file does.
    ImportError
        The package gguf is missing.
    """
    shapes = {_name(name): (name, shape) for name, shape in config.shapes().items()}
    if missing := [name for name in shapes if name not in file.shapes]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{file.path} lacks the tensor {missing[0]!r}{more}")
    if foreign := [name for name in file.shapes if name not in shapes and name != _DIVISORS]:
        raise ValueError(f"{file.path} holds {foreign[0]!r}, which a Llama of this configuration does not have")
    weights = {}
    for stored, (name, shape) in shapes.items():
        tensor = _tensor(file, stored, shape)
        if "q_proj" in name or "k_proj" in name:
            tensor = _halves_apart(tensor, config.head_dim)
        weights[name] = backends.to_device(tensor, xp)
    return weights


def _name(name: str) -> str:
    """The file's name of a tensor: `model.layers.0.mlp.up_proj.weight` is `blk.0.ffn_up.weight`."""
    module, _, kind = name.rpartition(".")
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", module)
    return f"blk.{layer[1]}.{_TENSORS[layer[2]]}.{kind}" if layer else f"{_TENSORS[module]}.{kind}"


def _tensor(file: GGUF, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if file.shapes[name] != shape:
        raise ValueError(f"{name!r} in {file.path} must be {shape}, got {file.shapes[name]}")
    tensor = file.tensor(name)
    if not np.isfinite(tensor).all():
        raise ValueError(f"{name!r} in {file.path} must be finite, got NaN or Inf")
    return tensor


def _halves_apart(x: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of each head from llama.cpp's order, 0, d/2, 1, d/2 + 1, ..., to Hugging Face's 0, 1, 2, ..."""
    return x.reshape(-1, head_dim // 2, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
