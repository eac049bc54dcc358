"""A causal model of transformers in the place of our decoder: with it, `--model FOLDER` takes any family."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np

from ..core import backends, checks
from ..core.backends import Array
from ..lm.attend import Attend, causal
from ..lm.config import Config
from ..lm.decoder import Decoder, State
from ..lm.tokens import checked
from .attending import Call, attending, attentions, plain_queries

import torch  # isort: skip  # after `attending`, whose message says what is missing
from transformers import AutoModelForCausalLM  # isort: skip


@dataclass(frozen=True)
class Sizes:
    """Of `lm.config.Config`, those that say how a model is used; `layers` counts the layers with an attention."""

    vocabulary: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int


class TransformersDecoder(Decoder):
    """Next-token logits of a causal model of transformers, with attention as a parameter.

    By default a model attends by its own attention; any other `attend` gets what `lm.attend` says, where the layers'
    attention is a plain causal softmax (`attending.plain_queries` refuses others by name).
    """

    def __init__(self, model: Any, xp: Any = np) -> None:
        text = model.config.get_text_config(decoder=True)
        heads = text.num_attention_heads
        self._model, self._places = model.eval(), {layer: i for i, layer in enumerate(sorted(attentions(model)))}
        sizes = Sizes(
            vocabulary=text.vocab_size,
            layers=len(self._places),
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            context=text.max_position_embeddings,
        )
        super().__init__(cast(Config, sizes), {}, xp, sizes.context)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, xp: Any = np) -> Self:
        """Read a folder that `save_pretrained` wrote, in float32; nothing is downloaded, and no code of it is run.

        Raises
        ------
        OSError, ValueError
            transformers cannot read it, or weights are missing.
        """
        model, report = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        if missing := sorted(report["missing_keys"]):
            raise ValueError(f"{path} lacks the tensors {missing[:5]} of {type(model).__name__}")
        return cls(model if xp is np else model.to("cuda"), xp)

    def stretched(self, context: int) -> Self:
        """The model itself; ValueError beyond its context, for which its config would have to say how to rotate."""
        if checks.integer("context", context, minimum=1) > self.config.context:
            raise ValueError(f"context must be at most {self.config.context}, the model's own, got {context}")
        return self

    def logits(self, tokens: np.ndarray, *, attend: Attend = causal, start: int = 0, last: int = 0) -> Array:
        """As `Decoder.logits`."""
        start = checks.integer("start", start, minimum=0)
        _, (out,), _ = backends.enter(logits=self._run(tokens, attend, start, last))
        return out if np.ndim(tokens) == 2 else out[0]

    def states(self, tokens: np.ndarray, *, attend: Attend = causal, resume: State | None = None) -> Iterator[State]:
        """As `Decoder.states`, but a state remembers the attention, and what resumes it computes those layers again."""
        earlier = attend if resume is None else _resumed(attend, resume)
        return (State(layer, earlier) for layer in range(resume.layer if resume else 0, self.config.layers + 1))

    def losses(self, tokens: np.ndarray, *, attend: Attend = causal, resume: State | None = None) -> np.ndarray:
        """As `Decoder.losses`; all logits are in memory at once, and `resume` saves no time."""
        attend = attend if resume is None else _resumed(attend, resume)
        ahead = torch.as_tensor(checked(tokens, self.config.vocabulary)[:, 1:], device=self._model.device)
        if not ahead.numel():
            raise ValueError("tokens must be two or more for a loss, got 1")
        logits = self._run(tokens, attend, 0, last=0)[:, :-1]
        out = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ahead.flatten(), reduction="none")
        return out.cpu().numpy().reshape(*np.shape(tokens)[:-1], -1)

    def _run(self, tokens: np.ndarray, attend: Attend, start: int, last: int) -> Any:
        tokens = checked(tokens, self.config.vocabulary)
        if (end := start + tokens.shape[1]) > self.config.context:
            raise ValueError(f"tokens must end within the context of {self.config.context}, got {end}")
        ids = torch.as_tensor(tokens, device=self._model.device)
        positions = torch.arange(start, end, device=ids.device)[None]
        sizes = (self.config.heads, self.config.kv_heads, self.config.kv_heads), self.config.head_dim

        def answer(call: Call) -> Any:
            q, k, v = plain_queries(call), call.k, call.v
            if (got := tuple((x.shape[1], x.shape[-1]) for x in (q, k, v))) != tuple((h, sizes[1]) for h in sizes[0]):
                call.refuse("q, k, v", f"of {sizes[0]} heads of {sizes[1]} columns, as the config says", got)
            _, arrays, leave = backends.enter(q=q, k=k, v=v)
            return leave(attend(self._places[call.layer], *arrays)).transpose(1, 2).contiguous()

        own = attend is causal and not start
        with torch.no_grad(), attending(self._model, {} if own else dict.fromkeys(self._places, answer)):
            options = {"logits_to_keep": last} if last else {}
            return self._model(input_ids=ids, position_ids=positions, use_cache=False, **options).logits.float()


def _resumed(attend: Attend, state: State) -> Attend:
    """Attention as it was before the state, and `attend` from there on."""
    before: Attend = state.x
    if before is attend:
        return attend
    return lambda layer, *rows: (before if layer < state.layer else attend)(layer, *rows)
