"""The sizes of a decoder in Llama's layout, from its `config.json`; settings that are not implemented are refused.

Source: Touvron et al., *LLaMA: Open and Efficient Foundation Language Models*, arXiv 2302.13971; grouped-query
attention: Ainslie et al., arXiv 2305.13245. The fields are those of Hugging Face's `LlamaConfig`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .rope import Rope


class OtherFamily(ValueError):
    """The model is not a Llama."""


@dataclass(frozen=True)
class Config:
    """Sizes of a decoder.

    Attributes
    ----------
    vocabulary, width, inner, layers, heads, kv_heads, head_dim : int
        Number of tokens in the vocabulary; columns of the hidden state and inside the MLP; number of layers; heads of
        queries; heads of keys and values; columns of a head.
    context : int
        Largest number of positions: trained on, or reached by stretched rotations.
    norm_eps : float
        Added to the mean square under RMSNorm's root.
    tied : bool
        Whether the output projection is the embedding.
    attention_bias, mlp_bias : bool
        Whether the projections add a bias.
    rope : Rope
        Rotary position embeddings of queries and keys.
    """

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    norm_eps: float
    tied: bool
    attention_bias: bool
    mlp_bias: bool
    rope: Rope

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Config:
        """Read `config.json`.

        Raises
        ------
        FileNotFoundError
            There is no `config.json`.
        ValueError
            It is not a Llama's (`OtherFamily`), lacks a field, or needs something that is not implemented; the message
            names the field.
        """
        path = Path(folder) / "config.json"
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # no JSON, or no UTF-8
            raise ValueError(f"{path} is not JSON: {error}") from error
        try:
            return cls.of(fields)
        except ValueError as error:
            raise type(error)(f"{path}: {error}") from None

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Config:
        """The sizes that the fields of a `config.json` say; ValueError, which names the field, as `load`."""
        if not isinstance(fields, dict):
            raise ValueError(f"an object of fields is needed, got {type(fields).__name__}")
        if (family := fields.get("model_type")) != "llama":
            raise OtherFamily(f"model_type must be 'llama', got {family!r}")
        if fields.get("quantization_config"):
            raise ValueError("quantization_config says that the weights are quantised, which only a GGUF file may be")
        if (activation := fields.get("hidden_act", "silu")) != "silu":
            raise ValueError(f"hidden_act must be 'silu', got {activation!r}")

        def size(name: str, default: int | None = None) -> int:
            value = fields.get(name)
            value = default if value is None else value
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
            return value

        def flag(name: str) -> bool:
            value = fields.get(name) or False
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false, got {value!r}")
            return value

        eps = fields.get("rms_norm_eps", 1e-6)
        if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps < 1:
            raise ValueError(f"rms_norm_eps must be a number in [0, 1), got {eps!r}")
        width, heads = size("hidden_size"), size("num_attention_heads")
        kv_heads, context = size("num_key_value_heads", heads), size("max_position_embeddings")
        head_dim = size("head_dim", width // heads)
        if heads % kv_heads:
            raise ValueError(f"num_key_value_heads must divide num_attention_heads ({heads}), got {kv_heads}")
        return cls(
            vocabulary=size("vocab_size"),
            width=width,
            inner=size("intermediate_size"),
            layers=size("num_hidden_layers"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            context=context,
            norm_eps=float(eps),
            tied=flag("tie_word_embeddings"),
            attention_bias=flag("attention_bias"),
            mlp_bias=flag("mlp_bias"),
            rope=Rope.of(fields, head_dim, context),
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor in a checkpoint of these sizes."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        norms = ("input_layernorm.weight", "post_attention_layernorm.weight")
        layer: dict[str, tuple[int, ...]] = dict.fromkeys(norms, (self.width,))
        projections = {
            "self_attn.q_proj": (q, self.width),
            "self_attn.k_proj": (kv, self.width),
            "self_attn.v_proj": (kv, self.width),
            "self_attn.o_proj": (self.width, q),
            "mlp.gate_proj": (self.inner, self.width),
            "mlp.up_proj": (self.inner, self.width),
            "mlp.down_proj": (self.width, self.inner),
        }
        for name, shape in projections.items():
            layer[f"{name}.weight"] = shape
            if self.mlp_bias if name.startswith("mlp") else self.attention_bias:
                layer[f"{name}.bias"] = shape[:1]
        every: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.width)}
        for i in range(self.layers):
            every |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
        every["model.norm.weight"] = (self.width,)
        if not self.tied:
            every["lm_head.weight"] = (self.vocabulary, self.width)
        return every
