"""Encoders from text to tokens: a model's `tokenizer.json`, the byte-level BPE that a GGUF file describes, or bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .gguf import GGUF

Encode = Callable[[bytes], np.ndarray]
"""A function from UTF-8 text to token numbers of shape (n,)."""


def load_encoder(checkpoint: str | os.PathLike[str], vocabulary: int) -> Encode:
    """The encoder of a checkpoint: a folder or a GGUF file.

    Special tokens that a tokenizer puts at the start or end of a text are included.

    Raises
    ------
    FileNotFoundError
        There is no `tokenizer.json`, and the vocabulary is not the 256 bytes.
    ImportError
        The package tokenizers is needed and not installed.
    ValueError
        The tokenizer cannot be read, a GGUF file has none or one that is not implemented, or (on encoding) the text is
        not UTF-8.
    """
    file = GGUF(checkpoint) if Path(checkpoint).is_file() else None
    path = file.path if file else Path(checkpoint) / "tokenizer.json"
    if vocabulary == 256 and not ("tokenizer.ggml.model" in file.fields if file else path.exists()):
        return as_bytes
    if not path.exists():
        raise FileNotFoundError(
            f"{checkpoint} has no tokenizer.json; without it a vocabulary must be the 256 bytes, got {vocabulary}"
        )
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError(f"{path} needs the package tokenizers: pip install 'sublinattn[lm]'") from error
    try:
        tokenizer = byte_level_bpe(file.fields) if file else Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower class
        raise ValueError(f"{path} is not a tokenizer: {error}") from error
    tokenizer.no_truncation()  # some files truncate or pad; here a text is encoded whole
    tokenizer.no_padding()

    def encode(text: bytes) -> np.ndarray:
        try:
            characters = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"text must be UTF-8, which {path} takes: {error}") from error
        return np.array(tokenizer.encode(characters).ids, dtype=np.int64)

    return encode


_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
SPLITS = ("gpt-2", "smollm", "llama-bpe")
"""Ways to cut a text into words before the merges (`tokenizer.ggml.pre`): GPT-2's, that with digits one by one, and
Llama 3's."""
_WHOLE = 3, 4  # types of tokens that are found in a text before it is cut: control tokens, and those of the user


def byte_level_bpe(fields: dict[str, Any]) -> Any:
    """The `tokenizers.Tokenizer` that the keys of a GGUF file describe.

    ValueError, which names the key, where one is missing or is not implemented.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    def key(name: str, default: Any = None) -> Any:
        return fields.get(f"tokenizer.ggml.{name}", default)

    if (kind := key("model")) != "gpt2":
        raise ValueError(f"tokenizer.ggml.model must be 'gpt2' (byte-level BPE), got {kind!r}")
    if (split := key("pre")) not in SPLITS:
        raise ValueError(f"tokenizer.ggml.pre must be one of {SPLITS}, got {split!r}")
    lists = {name: key(name) for name in ("tokens", "token_type", "merges")}
    for name, value in lists.items():
        if not isinstance(value, list):
            raise ValueError(f"tokenizer.ggml.{name} must be a list, got {value!r}")
    tokens, types = lists["tokens"], lists["token_type"]
    if len(types) != len(tokens):
        raise ValueError(f"tokenizer.ggml.token_type must have {len(tokens)} numbers, one per token, got {len(types)}")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ", 1)) for merge in lists["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=split == "llama-bpe"))
    cuts: dict[str, list[Any]] = {
        "gpt-2": [],
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
        "llama-bpe": [pre_tokenizers.Split(Regex(_LLAMA3), "isolated")],
    }
    prefix = bool(key("add_space_prefix", False))
    as_letters = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=split != "llama-bpe")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts[split], as_letters])
    tokenizer.decoder = decoders.ByteLevel()
    whole = [token for token, kind in zip(tokens, types, strict=True) if kind in _WHOLE]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in whole])
    ends = {}
    for side, default in (("bos", split == "llama-bpe"), ("eos", False)):
        if key(f"add_{side}_token", default):
            number = key(f"{side}_token_id")
            if not isinstance(number, int) or not 0 <= number < len(tokens):
                raise ValueError(f"tokenizer.ggml.{side}_token_id must be in 0..{len(tokens) - 1}, got {number!r}")
            ends[side] = number
    if ends:
        around = [
            *([tokens[ends["bos"]]] if "bos" in ends else []),
            "$A",
            *([tokens[ends["eos"]]] if "eos" in ends else []),
        ]
        special_tokens = [(tokens[number], number) for number in ends.values()]
        tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=special_tokens)
    return tokenizer


def as_bytes(text: bytes) -> np.ndarray:
    """One token per byte."""
    return np.frombuffer(text, dtype=np.uint8).astype(np.int64)


def checked(tokens: np.ndarray, vocabulary: int) -> np.ndarray:
    """Check tokens of shape (n,) or (b, n); return them as (b, n).

    Raises
    ------
    TypeError, ValueError
        The tokens are no integers, there are none, or one is outside the vocabulary.
    """
    tokens = np.atleast_2d(tokens)
    if not tokens.size or tokens.ndim != 2:
        raise ValueError(f"tokens must have shape (n,) or (b, n) and not be empty, got {tokens.shape}")
    if tokens.dtype.kind not in "iu":
        raise TypeError(f"tokens must be integers, got {tokens.dtype}")
    if not 0 <= tokens.min() <= tokens.max() < vocabulary:
        raise ValueError(f"tokens must be in 0..{vocabulary - 1}, got {tokens.min()} to {tokens.max()}")
    return tokens
