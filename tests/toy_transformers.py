"""Tiny random models of Hugging Face families; `transformers` and PyTorch are imported when one is made."""

from __future__ import annotations

from typing import Any

LAYERS = 4
SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
GEMMA = {**SIZES, "head_dim": 24, "query_pre_attn_scalar": 50, "sliding_window": 16}
GEMMA3 = ("Gemma3Text", GEMMA | {"layer_types": ["sliding_attention", "full_attention"] * 2})
GPT2 = {"vocab_size": 97, "n_embd": 64, "n_layer": LAYERS, "n_head": 4, "n_positions": 128, "eos_token_id": None}
ALL = tuple(range(LAYERS))
FAMILIES: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "Llama": ("Llama", SIZES, ALL),
    "Mistral": ("Mistral", SIZES | {"sliding_window": None}, ALL),
    "Mistral, windows shorter than the text": ("Mistral", SIZES | {"sliding_window": 16}, ALL),
    "Qwen2": ("Qwen2", SIZES, ALL),
    "Qwen3 (norms of q and k)": ("Qwen3", SIZES | {"head_dim": 24}, ALL),
    "Gemma 2 (soft cap)": ("Gemma2", GEMMA | {"sliding_window": 64}, ALL),
    "Gemma 2 without its soft cap": ("Gemma2", GEMMA | {"sliding_window": 64, "attn_logit_softcapping": None}, ALL),
    "Gemma 3 (windows)": (*GEMMA3, ALL),
    "Gemma 3, the layers without a window": (*GEMMA3, (1, 3)),
    "Phi-3": ("Phi3", SIZES, ALL),
    "GPT-NeoX": ("GPTNeoX", SIZES, ALL),
    "GPT-2": ("GPT2", GPT2, ALL),
    "GPT-2, a scale per layer": ("GPT2", GPT2 | {"scale_attn_by_inverse_layer_idx": True}, ALL),
    "GPT-OSS (learned sinks)": ("GptOss", SIZES | {"head_dim": 16, "num_local_experts": 4}, ALL),
    "BLOOM (biases by distance)": ("Bloom", {"vocab_size": 97, "hidden_size": 64, "n_layer": LAYERS, "n_head": 4}, ALL),
}
"""By name: the class's name in transformers, its sizes, and the layers that are captured, replaced and cached."""


def family(name: str, **fields: Any) -> Any:
    """A model whose heads attend unevenly: with the initial weights, attention would be nearly uniform."""
    import torch
    import transformers

    kind, sizes, _ = FAMILIES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**sizes | fields)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(0, 0.15)
    return model.requires_grad_(False)


def text(n: int, seed: int = 0) -> Any:
    """Token numbers, (1, n), without that of padding."""
    import torch

    return torch.randint(1, 97, (1, n), generator=torch.Generator().manual_seed(seed))
