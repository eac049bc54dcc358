"""Small random Llamas in GGUF files, written with the package gguf."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from toy_llama import random_weights

from sublinattn.lm.config import Config

FIELDS: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,  # not 64 / 4
    "max_position_embeddings": 200,
    "rms_norm_eps": 1e-2,
    "rope_theta": 100.0,
}
KEYS: dict[str, Any] = {
    "llama.vocab_size": 40,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 96,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.key_length": 8,
    "llama.attention.value_length": 8,
    "llama.rope.dimension_count": 8,
    "llama.context_length": 200,
    "llama.attention.layer_norm_rms_epsilon": 1e-2,
    "llama.rope.freq_base": 100.0,
}
NAMES = {
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


def stored_name(name: str) -> str:
    name = name.replace("model.layers.", "blk.")
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


def stored_rows(name: str, x: np.ndarray, head_dim: int = 8) -> np.ndarray:
    """As llama.cpp's converter stores them: the two halves of each head of queries and keys are interleaved."""
    if "q_proj" not in name and "k_proj" not in name:
        return x
    return x.reshape(-1, 2, head_dim // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def write(
    path: Path,
    kind: str = "F32",
    *,
    keys: Mapping[str, Any] = {},
    change: Callable[[dict[str, Any]], Any] = lambda tensors: None,
    architecture: str = "llama",
    **fields: Any,
) -> tuple[Config, dict[str, np.ndarray]]:
    """Write a file whose matrices are of this kind; return its config and what its weights should be read as.

    `keys` are changes of `KEYS` (None: left out); `change` may change the tensors, by their names in the file: arrays,
    or pairs of bytes and kind.
    """
    import gguf

    config = Config.of(FIELDS | fields)
    weights, tensors = random_weights(config), {}
    quantised = gguf.GGMLQuantizationType[kind]
    for name, x in weights.items():
        if x.ndim == 1:
            tensors[stored_name(name)] = stored_rows(name, x)
            continue
        tensors[stored_name(name)] = (gguf.quantize(stored_rows(name, x), quantised), quantised)
        weights[name] = gguf.dequantize(gguf.quantize(x, quantised), quantised)
    change(tensors)
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (KEYS | dict(keys)).items():
        if key == "general.alignment":
            writer.add_custom_alignment(value)
        elif value is not None:
            kinds = {str: "string", bool: "bool", int: "uint32", float: "float32", list: "array"}
            getattr(writer, f"add_{kinds[type(value)]}")(key, value)
    for name, tensor in tensors.items():
        data, dtype = tensor if isinstance(tensor, tuple) else (tensor, None)
        writer.add_tensor(name, data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return config, weights
