"""From text to a model's tokens: its own `tokenizer.json`, or bytes for a model whose vocabulary is the 256 bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

Encode = Callable[[bytes], np.ndarray]
"""From UTF-8 text to token numbers, shape (n,)."""


def load_encoder(folder: str | os.PathLike[str], vocabulary: int) -> Encode:
    """The encoder of the checkpoint in `folder`.

    With `tokenizer.json`, the special tokens that it puts at the start or end of a text are among the tokens.

    Raises
    ------
    FileNotFoundError
        No `tokenizer.json`, and a vocabulary that is not the 256 bytes.
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
    return lambda text: np.array(tokenizer.encode(text.decode("utf-8")).ids, dtype=np.int64)


def as_bytes(text: bytes) -> np.ndarray:
    """One token per byte."""
    return np.frombuffer(text, dtype=np.uint8).astype(np.int64)
