"""Models for the studies: packaged, fetched or a user's checkpoint, with texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..core import backends, checks
from ..core.names import suggestion
from ..lm import corpus

if TYPE_CHECKING:
    from ..lm.chat import Chat
    from ..lm.decoder import Decoder
    from ..lm.tokens import Encode

TINY = Path(__file__).resolve().parents[1] / "data" / "tiny_lm"
TEXTS: Mapping[str, tuple[Callable[[], dict[str, bytes]], str]] = {
    "code": (corpus.held_out, "held-out modules of Python's standard library"),
    "prose": (corpus.prose, "the help topics of Python"),
}
"""Texts that come with every Python, by their kind: where they are, and what they are in words."""


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
    kinds : tuple of str
        What each text is: a key of `TEXTS`, or "text" for the user's.
    chat : callable, optional
        Where the checkpoint has a chat format: see `lm.chat`.
    """

    name: str
    decoder: Decoder
    encode: Encode
    texts: tuple[np.ndarray, ...]
    source: str
    kinds: tuple[str, ...] = ()
    chat: Chat | None = None

    def only(self, kind: str) -> Self:
        """The same model with the texts of one kind alone."""
        texts = tuple(text for text, each in zip(self.texts, self.kinds, strict=True) if each == kind)
        return replace(self, texts=texts, kinds=(kind,) * len(texts))

    @property
    def large(self) -> bool:
        """More than 100 query heads: a trial cannot run such a model anew, and shares its passages with others."""
        return self.decoder.config.layers * self.decoder.config.heads > 100

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
        layers: list[tuple[Any, Any, Any]] = []
        self.each_layer(tokens, lambda _, *qkv: layers.append(qkv))
        q, k, v = (self.decoder.xp.stack(x) for x in zip(*layers, strict=True))
        return q, k, v

    def each_layer(self, tokens: np.ndarray, visit: Callable[[int, Any, Any, Any], object]) -> None:
        """Call `visit(layer, q, k, v)` with what each layer attends with on one text, as `qkv` gives it.

        Attention is exact, and one layer is in memory at a time.
        """
        from ..lm.attend import causal

        def attend(layer: int, q: Any, k: Any, v: Any) -> Any:
            visit(layer, q[0], k[0], v[0])
            return causal(layer, q, k, v)

        self.decoder.stretched(max(len(tokens), 1)).logits(tokens, attend=attend, last=1)

    def operations(self, n: int, passes: float) -> float:
        """Multiplications with additions of reading n tokens and of `passes` over all n x n entries of every head.

        Two cores make about 6e10 a second.
        """
        config = self.decoder.config
        weights = sum(math.prod(shape) for shape in config.shapes().values())
        return n * (weights + passes * config.layers * config.heads * config.head_dim * n)

    def affordable(self, longest: int, passages: int, passes: float, budget: float) -> tuple[int, int]:
        """Tokens of a passage, and how many passages, at most these, that a budget of `operations` allows.

        Tokens are a power of two within the trained context. Fewer passages go first, down to four, then tokens, down
        to 256.
        """
        n = 1 << int(min(longest, self.decoder.trained)).bit_length() - 1
        while passages * self.operations(n, passes) > budget and (passages > 4 or n > 256):
            passages, n = (passages - 1, n) if passages > 4 else (passages, n // 2)
        return n, passages


def place(model: str) -> Path:
    """The folder or file of a model's weights.

    FileNotFoundError if it is one to be fetched and is not fetched yet, or a misspelt name.
    """
    from ..lm import fetch

    if model == "tiny":
        return TINY
    if model in fetch.SOURCES:
        return fetch.fetched(model)
    if not Path(model).exists() and (nearest := suggestion(model, ["tiny", *fetch.SOURCES])):
        raise FileNotFoundError(f"{model} is no folder and no file{nearest}")
    return Path(model)


@cache
def open_model(model: str = "tiny", text: str = "", *, backend: str = "numpy") -> Model:
    """Load the packaged model ("tiny"), a fetched one ("smollm2") or the checkpoint in a local folder or file.

    Parameters
    ----------
    model : str
        "tiny", "smollm2" (`sublinattn fetch smollm2` gets it), a folder in Llama's Hugging Face layout, or a GGUF file;
        with the extra `hf`, a folder of any causal model of transformers.
    text : str
        "code" (the modules of Python's standard library that "tiny" was not trained on), "prose" (Python's help
        topics), or a UTF-8 file. By default code for "tiny", which has seen nothing else, and both for any other model.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As `Decoder.load` and `load_encoder`; the model is not fetched yet; or the text does not exist or is empty.

    Examples
    --------
    >>> from sublinattn.lab.models import open_model
    >>> model = open_model()  # the byte-level model that ships
    >>> q, k, v = model.qkv(model.beginning(64))
    >>> q.shape  # layers, heads, tokens, width
    (4, 4, 64, 64)
    """
    from ..lm.chat import load_chat
    from ..lm.tokens import load_encoder

    path = place(model)
    decoder = _load(path, backends.backend(backend))
    encode = load_encoder(path, decoder.config.vocabulary)
    names = (text,) if text else ("code",) if model == "tiny" else tuple(TEXTS)
    if text and text not in TEXTS:
        contents, source = [("text", Path(text).read_bytes())], text
    else:
        contents = [(name, content) for name in names for content in TEXTS[name][0]().values()]
        source = " and ".join(TEXTS[name][1] for name in names)
    tokens = tuple(encode(content) for _, content in contents)
    if not any(map(len, tokens)):
        raise ValueError(f"text must not be empty, got {source}")
    kinds = tuple(kind for kind, _ in contents)
    return Model(model, decoder, encode, tokens, source, kinds, load_chat(path, encode))


def _load(path: Path, xp: Any) -> Decoder:
    """Our decoder where it implements the model, else transformers where that is installed."""
    from ..lm.config import OtherFamily
    from ..lm.decoder import Decoder

    try:
        return Decoder.load(path, xp=xp)
    except OtherFamily as refusal:
        try:
            from ..interop.decoder import TransformersDecoder
        except ImportError as missing:
            raise ValueError(f"{refusal}; or run it by transformers: {missing}") from None
    return TransformersDecoder.load(path, xp=xp)
