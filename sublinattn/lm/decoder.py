"""A decoder-only transformer in Llama's layout, for inference, with attention as a parameter.

RMSNorm, rotary positions, grouped-query attention, SwiGLU; the same numbers as Hugging Face's `LlamaForCausalLM` up to
rounding (float32). The decoder has no memory of earlier calls: the attention passed to it (`attend`) decides what
queries see of earlier tokens, by exact attention, by HyperAttention or by caches.

Cost per token: `2 * parameters` operations, and those of the attention. Memory beyond the weights: a few rows of hidden
state per token; rows inside the MLP and logits of a loss exist for some tokens at a time (8 MiB and less on a CPU).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from ..core import backends, checks
from ..core.backends import Array
from ..core.exact import partial_attention
from .attend import Attend, causal
from .checkpoint import read_weights
from .config import Config
from .gguf import GGUF
from .llama_gguf import read_config, read_gguf_weights
from .rope import rotated
from .tokens import checked

ROWS = 256
"""Tokens that a thread takes through a layer's matrix products at a time: so many that it does not wait for weights."""


class State(NamedTuple):
    """What a decoder has computed of a text before one of its layers.

    Attributes
    ----------
    layer : int
        Number of the layer that comes next; behind the last one, the number of layers.
    x : array of float32, shape (b, n, width)
        The hidden states of all tokens. No later layer changes them.
    """

    layer: int
    x: Array


class Decoder:
    """Next-token logits of a checkpoint in Llama's layout.

    Attributes
    ----------
    config : Config
        Its sizes.
    trained : int
        Number of positions that it was trained on: the config's context before any stretching.
    xp : module
        The namespace of the weights, NumPy or CuPy.

    Examples
    --------
    >>> from sublinattn.lab.models import open_model
    >>> model = open_model()
    >>> tokens = model.beginning(64)
    >>> model.decoder.logits(tokens).shape  # after each token, one number for each next byte
    (64, 256)
    >>> model.decoder.losses(tokens).shape
    (63,)
    """

    def __init__(self, config: Config, weights: dict[str, Array], xp: Any, trained: int) -> None:
        self.config, self.trained, self.xp, self._weights = config, trained, xp, weights

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, xp: Any = np) -> Self:
        """Read `config.json` and the safetensors of a local folder, or a GGUF file; nothing is downloaded.

        Raises
        ------
        FileNotFoundError, ValueError, ImportError
            As `Config.load` and `checkpoint.read_weights`, or `llama_gguf.read_config` and
            `llama_gguf.read_gguf_weights`: the message names the file, field, key or tensor.
        """
        if Path(path).is_file():
            file = GGUF(path)
            config = read_config(file)
            return cls(config, read_gguf_weights(file, config, xp), xp, config.context)
        if not Path(path).is_dir():
            message = (
                "is no folder and no file: a checkpoint is config.json and safetensors in a folder, or a GGUF file"
            )
            raise FileNotFoundError(f"{path} {message}")
        config = Config.load(path)
        return cls(config, read_weights(path, config, xp), xp, config.context)

    def stretched(self, context: int) -> Self:
        """The same weights for contexts up to `context`, by YaRN without training; the decoder itself if it has that.

        Source: Peng et al., arXiv 2309.00071. Beyond the trained context the quality is lower: measure it.

        Raises
        ------
        TypeError, ValueError
            `context` is no integer of at least 1, or it is beyond the context of a decoder that is stretched already,
            by this method or by its checkpoint.
        """
        if checks.integer("context", context, minimum=1) <= self.config.context:
            return self
        if self.config.rope.scaled:
            raise ValueError(
                f"context must be at most {self.config.context}, what this decoder is stretched to, got {context}"
            )
        rope = self.config.rope.stretched(context / self.trained, self.trained)
        return type(self)(replace(self.config, rope=rope, context=context), self._weights, self.xp, self.trained)

    def logits(self, tokens: np.ndarray, *, attend: Attend = causal, start: int = 0, last: int = 0) -> Array:
        """Logits of the next token after each token.

        Parameters
        ----------
        tokens : integer array, shape (n,) or (b, n)
            One sequence, or several of one length.
        attend : callable
            `attend(layer, q, k, v)` with q (b, heads, n, head_dim) and k, v (b, kv_heads, n, head_dim), rotated: the
            attention's outputs, shaped like q. An `attend` with a state serves one text only.
        start : int
            Position of the first token.
        last : int
            Only the logits after so many last tokens; 0: after all.

        Returns
        -------
        array, shape (n, vocabulary) or (b, n, vocabulary); (last, ...) or (b, last, ...) if `last`
            float32.

        Raises
        ------
        TypeError, ValueError
            Tokens that are no integers, none, outside the vocabulary or beyond the context (see `stretched`); `start`
            is no integer of at least 0.
        """
        hidden = self._hidden(self._states(tokens, attend, checks.integer("start", start, minimum=0)))
        out = _product(hidden[:, -last:], self._head)
        return out if np.ndim(tokens) == 2 else out[0]

    def states(self, tokens: np.ndarray, *, attend: Attend = causal, resume: State | None = None) -> Iterator[State]:
        """The hidden states before each layer and behind the last one, as they are computed.

        Passes that differ from some layer on share the layers before it, and to the bit what these compute::

            before = {state.layer: state for state in decoder.states(tokens)}
            for layer in layers:
                losses = decoder.losses(tokens, attend=replacing({layer: method}), resume=before[layer])

        Each state holds `width` numbers per token: keep those that are resumed. Parameters and errors are those of
        `losses`.
        """
        return self._states(tokens, attend, 0, resume)

    def losses(self, tokens: np.ndarray, *, attend: Attend = causal, resume: State | None = None) -> np.ndarray:
        """Negative log-likelihood, in nats, of each token but the first given the tokens before it.

        Logits exist for a tile of tokens and vocabulary at a time: 1 MiB per thread, 16 MiB on a GPU.

        Parameters
        ----------
        tokens, attend
            As `logits`; at least two tokens.
        resume : State, optional
            What `states` gave for these tokens: only the layers from there on are computed.

        Returns
        -------
        numpy array of float32, shape (n - 1,) or (b, n - 1)

        Raises
        ------
        TypeError, ValueError
            As `logits`; or `resume` is of other tokens.
        """
        xp = self.xp
        if checked(tokens, self.config.vocabulary).shape[1] < 2:
            raise ValueError("tokens must be two or more for a loss, got 1")
        hidden = self._hidden(self._states(tokens, attend, 0, resume))[:, :-1]
        ahead, head = backends.to_device(np.atleast_2d(tokens)[:, 1:], xp), self._head
        chosen = (hidden * head[ahead]).sum(axis=-1)
        # The log of the sum of all exponentials is attention's log normaliser with the head's rows as keys.
        rows, ones = hidden.reshape(-1, hidden.shape[-1]), xp.ones((len(head), 1), np.float32)
        total = partial_attention(rows, head, ones, scale=1.0, check_finite=False).lse()
        out = backends.asnumpy(total.reshape(chosen.shape) - chosen)
        return out if np.ndim(tokens) == 2 else out[0]

    # ------------------------------------------------------------------------------------------------------ the layers
    def _states(self, tokens: np.ndarray, attend: Attend, start: int, resume: State | None = None) -> Iterator[State]:
        xp, config = self.xp, self.config
        tokens = checked(tokens, config.vocabulary)
        if (end := start + tokens.shape[1]) > config.context:
            raise ValueError(f"tokens must end within the context of {config.context} (see stretched), got {end}")
        if resume is None:
            resume = State(0, self._weights["model.embed_tokens.weight"][backends.to_device(tokens, xp)])
        elif resume.x.shape != (shape := (*tokens.shape, config.width)):
            raise ValueError(f"resume must be a state of these tokens, x of shape {shape}, got {resume.x.shape}")
        return self._layers(resume, config.rope.turns(xp, start, tokens.shape[1]), attend)

    def _layers(self, resume: State, turns: tuple[Array, Array], attend: Attend) -> Iterator[State]:
        first, x = resume
        yield resume
        for layer in range(first, self.config.layers):
            x = self._layer(layer, x, turns, attend)
            yield State(layer + 1, x)

    def _hidden(self, states: Iterator[State]) -> Array:
        """Hidden states after the last norm, (b, n, width)."""
        return self._norm(deque(states, maxlen=1).pop().x, "norm")

    def _layer(self, layer: int, x: Array, turns: tuple[Array, Array], attend: Attend) -> Array:
        name, config, (b, n, _), (cosines, sines) = f"layers.{layer}", self.config, x.shape, turns
        heads = {"q": config.heads, "k": config.kv_heads, "v": config.kv_heads}
        projected = {kind: self.xp.empty((b, count, n, config.head_dim), x.dtype) for kind, count in heads.items()}
        y = self.xp.empty_like(x)

        def project(rows: slice) -> None:
            part = self._norm(x[:, rows], f"{name}.input_layernorm")
            for kind, out in projected.items():
                flat = self._linear(part, f"{name}.self_attn.{kind}_proj")
                of_heads = flat.reshape(b, -1, heads[kind], config.head_dim).swapaxes(1, 2)
                out[:, :, rows] = of_heads if kind == "v" else rotated(self.xp, of_heads, (cosines[rows], sines[rows]))

        def finish(rows: slice) -> None:
            of_heads = attended[:, :, rows].swapaxes(1, 2).reshape(b, -1, config.heads * config.head_dim)
            part = x[:, rows] + self._linear(of_heads, f"{name}.self_attn.o_proj")
            y[:, rows] = part + self._mlp(f"{name}.mlp", self._norm(part, f"{name}.post_attention_layernorm"))

        self._in_tiles(n, project)
        attended = attend(layer, *projected.values())
        self._in_tiles(n, finish)
        return y

    def _mlp(self, mlp: str, x: Array) -> Array:
        gate = self._linear(x, f"{mlp}.gate_proj")
        # x * sigmoid(x) as x/2 (1 + tanh(x/2)), which cannot overflow.
        gate *= 0.5 * (1 + self.xp.tanh(0.5 * gate))
        return self._linear(gate * self._linear(x, f"{mlp}.up_proj"), f"{mlp}.down_proj")

    def _norm(self, x: Array, name: str) -> Array:
        squares = backends.row_squares(self.xp, x)[..., None] / x.shape[-1]
        return x / self.xp.sqrt(squares + np.float32(self.config.norm_eps)) * self._weights[f"model.{name}.weight"]

    def _linear(self, x: Array, name: str) -> Array:
        out = _product(x, self._weights[f"model.{name}.weight"])
        bias = self._weights.get(f"model.{name}.bias")
        return out if bias is None else out + bias

    @property
    def _head(self) -> Array:
        return self._weights["model.embed_tokens.weight" if self.config.tied else "lm_head.weight"]

    def _in_tiles(self, n: int, work: Callable[[slice], None]) -> None:
        """Run `work` on all of n tokens: on the CPU `ROWS` of them at a time and per thread, if there are so many."""
        step = ROWS if self.xp is np else backends.feature_rows(self.xp, self.config.inner, np.float32)
        tiles = backends.cut(n, step)
        if len(tiles) == 1:
            work(tiles[0])  # with all threads that BLAS has
        else:
            backends.for_tiles(self.xp, tiles, work)


def _product(x: Array, weights: Array) -> Array:
    """Rows of x (b, n, width) times weights (columns, width); in two dimensions CuPy does not copy the transpose."""
    return (x.reshape(-1, x.shape[-1]) @ weights.T).reshape(*x.shape[:-1], len(weights))
