"""Encoders from text to tokens: a model's `tokenizer.json`, or bytes where the vocabulary is the 256 bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

Encode = Callable[[bytes], np.ndarray]
"""A function from UTF-8 text to token numbers of shape (n,)."""


def load_encoder(folder: str | os.PathLike[str], vocabulary: int) -> Encode:
    """The encoder of the checkpoint in `folder`.

    Special tokens that a `tokenizer.json` puts at the start or end of a text are included.

    Raises
    ------
    FileNotFoundError
        There is no `tokenizer.json`, and the vocabulary is not the 256 bytes.
    ImportError
        The package tokenizers is needed and not installed.
    ValueError
        `tokenizer.json` cannot be read, or (on encoding) the text is not UTF-8.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.exists():
        if vocabulary != 256:
            raise FileNotFoundError(
                f"{folder} has no tokenizer.json; without it a vocabulary must be the 256 bytes, got {vocabulary}"
            )
        return as_bytes
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError(f"{path} needs the package tokenizers: pip install 'sublinattn[lm]'") from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
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
