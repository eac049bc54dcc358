"""Models for the studies: packaged, fetched or a user's checkpoint, with text that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import backends, checks

if TYPE_CHECKING:
    from ..lm.decoder import Decoder
    from ..lm.tokens import Encode

TINY = Path(__file__).resolve().parents[1] / "data" / "tiny_lm"


@dataclass(frozen=True)
class Model:
    """A decoder with its encoder and texts.

    Attributes
    ----------
    name : str
        "tiny", "smollm2", or the checkpoint's folder or file.
    decoder : Decoder
    encode : callable
        Function from UTF-8 text to tokens.
    texts : tuple of integer array
        As tokens; `source` says in words which texts these are.
    """

    name: str
    decoder: Decoder
    encode: Encode
    texts: tuple[np.ndarray, ...]
    source: str

    def passage(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """`n` consecutive tokens of one text, from a uniformly random position in all texts.

        Raises
        ------
        TypeError, ValueError
            If `n` is no integer of at least 1, or no text is so long.
        """
        n = checks.integer("n", n, minimum=1)
        self._check_length(n)
        places = np.array([max(0, len(text) - n + 1) for text in self.texts])
        chosen = rng.choice(len(places), p=places / places.sum())
        start = rng.integers(places[chosen])
        return self.texts[chosen][start : start + n]

    def beginning(self, n: int | None = None) -> np.ndarray:
        """The first `n` tokens of the first text with at least `n`; errors as `passage`.

        By default n is the length that the model was trained on, or the longest text's if that is shorter.
        """
        default = min(max(map(len, self.texts)), self.decoder.trained)
        n = default if n is None else checks.integer("n", n, minimum=1)
        self._check_length(n)
        return next(text for text in self.texts if len(text) >= n)[:n]

    def _check_length(self, n: int) -> None:
        if n > (longest := max(map(len, self.texts))):
            raise ValueError(f"n must be at most {longest}, the tokens of the longest text ({self.source}), got {n}")

    def qkv(self, tokens: np.ndarray) -> tuple[Any, Any, Any]:
        """Rotated queries and keys, and values, on one text: each (layers, heads or kv_heads, n, head_dim).

        All in memory, and by exact attention: `O(n^2)` operations. Errors as `Decoder.logits`.
        """
        from ..lm.attend import causal

        layers = []

        def attend(layer: int, q: Any, k: Any, v: Any) -> Any:
            layers.append((q[0], k[0], v[0]))
            return causal(layer, q, k, v)

        self.decoder.stretched(max(len(tokens), 1)).logits(tokens, attend=attend, last=True)
        q, k, v = (self.decoder.xp.stack(x) for x in zip(*layers, strict=True))
        return q, k, v


@cache
def open_model(model: str = "tiny", text: str = "", *, backend: str = "numpy") -> Model:
    """Load the packaged model ("tiny"), a fetched one ("smollm2") or the checkpoint in a local folder or file.

    Parameters
    ----------
    model : str
        "tiny", "smollm2" (`sublinattn fetch smollm2` gets it), a folder in Llama's Hugging Face layout, or a GGUF file.
    text : str
        A UTF-8 file; by default the modules of Python's standard library that "tiny" was not trained on.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As `Decoder.load` and `load_encoder`; the model is not fetched yet; or the text does not exist or is empty.
    """
    from ..lm import corpus, fetch
    from ..lm.decoder import Decoder
    from ..lm.tokens import load_encoder

    path = TINY if model == "tiny" else fetch.fetched(model) if model in fetch.SOURCES else Path(model)
    decoder = Decoder.load(path, xp=backends.backend(backend))
    encode = load_encoder(path, decoder.config.vocabulary)
    texts = {text: Path(text).read_bytes()} if text else corpus.held_out()
    source = text or "held-out modules of Python's standard library"
    tokens = tuple(encode(content) for content in texts.values())
    if not any(map(len, tokens)):
        raise ValueError(f"text must not be empty, got {source}")
    return Model(model, decoder, encode, tokens, source)
