"""Hugging Face models (extra `hf`): capture what they attend with, replace their attention, decode with our caches.

Any causal model of transformers whose layers look their attention up in the library's registry. The methods answer
plain causal softmax attention; a layer that asks for something else (a soft cap, a window that is shorter than the
text, a learned sink, padding) is refused by name when it asks. The model is left as it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Self, cast

import numpy as np

from ..core import backends
from ..core.checks import flags
from ..core.files import atomic
from ..lm.attend import CachedAttention
from ..lm.capture import DTYPES, create, store
from ..lm.mixed_caches import PromptCached
from ..methods.caches.base import KVCache
from .attending import Call, attending, attentions, plain_queries

import torch  # isort: skip  # after `attending`, whose message says what is missing
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache  # isort: skip


def capture(
    model: Any,
    ids: Any,
    out: str | os.PathLike[str],
    *,
    layers: Iterable[int] | None = None,
    dtype: str = "float32",
    source: str = "",
) -> None:
    """Write q (layers, heads, n, d) and k, v (layers, kv_heads, n, d) of a text, as the layers attend with them.

    The file is a safetensors file like that of `sublinattn capture`, written whole or not at all; `sublinattn audit`
    reads it. Queries and keys are after their norms and rotations. The file's scale is `1/sqrt(d)`: where the model's
    is another, its queries are multiplied by the quotient.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Causal, in `eval` mode; it attends by its own attention.
    ids : integer array or tensor, shape (n,) or (1, n)
        The text.
    out : path
        Where to write.
    layers : iterable of int, optional
        All by default. The others may do what no file can say, such as a sliding window.
    dtype : {"float32", "float16"}
        Dtype of the tensors in the file.
    source : str
        Which model and text; written into the file. The model's name by default.

    Raises
    ------
    TypeError, ValueError
        Not one text of integers; no such model or layer; a layer whose attention is no plain causal softmax; layers
        with different shapes; another dtype; numbers that float16 cannot hold. No file is left.

    Examples
    --------
    >>> from safetensors import safe_open
    >>> from sublinattn.interop.transformers import capture
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3}
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=100, **sizes)).eval()
    >>> capture(model, [5, 7, 11, 13], "captured.safetensors", layers=[0, 2])
    >>> with safe_open("captured.safetensors", "np") as file:
    ...     print(file.get_slice("q").get_shape(), file.get_slice("k").get_shape())
    [2, 4, 4, 8] [2, 2, 4, 8]
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {tuple(DTYPES)}, got {dtype!r}")
    tokens, numbers = torch.as_tensor(ids), sorted(attentions(model, layers))
    if tokens.is_floating_point() or tokens.numel() != tokens.shape[-1] or not tokens.numel():
        raise ValueError(f"ids must be integers of one text, shape (n,), got {tokens.dtype} {tuple(tokens.shape)}")
    if not numbers:
        raise ValueError("layers must not be empty")
    arrays: dict[str, np.memmap] = {}
    with atomic(out) as temporary, torch.no_grad():

        def record(call: Call) -> Any:
            rows = {"q": plain_queries(call)[0], "k": call.k[0], "v": call.v[0]}
            shapes = {name: (len(numbers), *x.shape) for name, x in rows.items()}
            if not arrays:
                about = {
                    "name": "captured",
                    "scale": call.q.shape[-1] ** -0.5,
                    "params": {"model_layers": numbers},
                    "source": source or str(getattr(model, "name_or_path", "")) or type(model).__name__,
                }
                arrays.update(create(temporary, shapes, dtype, about))
            elif shapes != (first := {name: x.shape for name, x in arrays.items()}):
                call.refuse("q, k, v", f"of the shapes {first} of layer {numbers[0]}", shapes)
            place = numbers.index(call.layer)
            store(arrays, place, 0, {name: x.detach().float().cpu().numpy() for name, x in rows.items()})
            return call.own()

        with attending(model, dict.fromkeys(numbers, record)):
            model.base_model(input_ids=tokens.reshape(1, -1).to(model.device), use_cache=False)
        for array in arrays.values():
            array.flush()


def replace(model: Any, layers: Iterable[int], method: Callable[[Any, Any, Any], Any]) -> AbstractContextManager[None]:
    """Within `with`, the given layers of a model attend by `method`.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Causal; run it without gradients, and generate with `use_cache=False`: a method reads whole texts.
    layers : iterable of int
        Their numbers, from 0.
    method : callable
        Causal attention `method(q, k, v)` of tensors (b, heads, n, d), with scale `1/sqrt(d)`: the keys and values of
        grouped heads are repeated, and queries multiplied where the model's scale is another. Such as
        `functools.partial(hyper_attention, causal=True)`.

    Raises
    ------
    TypeError, ValueError
        No such model or layer; a layer whose attention is replaced already. When the model runs: a layer whose
        attention is no plain causal softmax over the text that it reads; an answer of another shape.

    Examples
    --------
    >>> with torch.no_grad(), replace(model, range(15, 30), partial(hyper_attention, causal=True)):  # doctest: +SKIP
    ...     logits = model(ids, use_cache=False).logits
    """

    def answer(call: Call) -> Any:
        if (tokens := call.k.shape[2]) != call.q.shape[2]:
            call.refuse("k", f"of the {call.q.shape[2]} tokens of q (use_cache=False)", f"{tokens} with those before")
        q = plain_queries(call)
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (call.k, call.v))
        out = method(q, k, v)
        if not isinstance(out, torch.Tensor) or out.shape != (*q.shape[:-1], v.shape[-1]):
            got = tuple(out.shape) if hasattr(out, "shape") else type(out).__name__
            call.refuse("the method's answer", f"a tensor of shape {(*q.shape[:-1], v.shape[-1])}", got)
        return out.to(q.dtype).transpose(1, 2).contiguous()

    return attending(model, dict.fromkeys(attentions(model, layers), answer))


def _refusal(name: str) -> Callable[..., Any]:
    """A method that beam search, assisted generation or offloading would call."""

    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise ValueError(f"SublinCache must take in one batch's tokens in their order, got a call of {name}")

    return refuse


class _OneProblem:
    """A state that takes rows without leading axes, such as `PolynomialState`, as the cache of one head of one text."""

    def __init__(self, state: Any) -> None:
        self._state = state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def update(self, k: Any, v: Any, **options: Any) -> None:
        if k.shape[:2] != (1, 1):
            takes = "one text, and as many states as there are heads of keys"
            raise ValueError(f"{type(self._state).__name__} must have {takes}, got k of shape {k.shape}")
        self._state.update(*(x.reshape(-1, x.shape[-1]) for x in (k, v)), **options)

    def attend(self, q: Any, **options: Any) -> Any:
        return self._state.attend(q.reshape(-1, q.shape[-1]), **options).reshape(*q.shape[:-1], -1)


class _Layer(CacheLayerMixin):
    """A layer of the library's `Cache` that passes new rows on; the attention hands them to the key-value caches."""

    is_sliding = False

    def __init__(self, made: Any, prompt_only: bool) -> None:
        super().__init__()
        self.caches = list(made) if isinstance(made, list | tuple) else [made]
        for cache in self.caches:
            if not all(hasattr(cache, x) for x in ("update", "attend", "nbytes", "tokens_seen")) or cache.tokens_seen:
                raise TypeError(f"make must return empty caches, such as SinkCache(256), got {made!r}")
            if prompt_only and not isinstance(cache, KVCache):
                raise TypeError(f"prompt_only takes key-value caches, whose answers merge with others, got {cache!r}")
        wrapped = [x if isinstance(x, KVCache) else _OneProblem(x) for x in self.caches]
        attention = PromptCached if prompt_only else CachedAttention
        self.parts = [attention([cast(KVCache, x)]) for x in wrapped]
        self.rows, self.open, self.seen = None, False, 0

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if not self.open or self.rows is not None:
            raise ValueError("a SublinCache answers the layers of its own model, within its `with` block")
        self.rows = key_states
        return key_states, value_states

    def answer(self, call: Call) -> Any:
        if call.k is not self.rows:
            call.refuse("past_key_values", "the SublinCache", "another cache or none")
        self.rows = None
        q = plain_queries(call, self.get_seq_length())
        parts, kv_heads = len(self.parts), call.k.shape[1]
        if parts not in (1, kv_heads):
            call.refuse("the caches", f"one, or one for each of {kv_heads} heads of keys", parts)
        _, arrays, leave = backends.enter(q=q, k=call.k, v=call.v)
        heads = ((x[:, i * x.shape[1] // parts : (i + 1) * x.shape[1] // parts] for x in arrays) for i in range(parts))
        out = [leave(part(0, *rows)) for part, rows in zip(self.parts, heads, strict=True)]
        self.seen += call.k.shape[2]
        return torch.cat(out, dim=1).transpose(1, 2).contiguous()

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None: ...

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        new = getattr(query_length, "shape", [query_length])[0]  # transformers 5.0 says where the queries are
        return self.get_seq_length() + new, 0

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name in earlier versions

    reset, reorder_cache, crop, offload, prefetch, batch_repeat_interleave, batch_select_indices = map(
        _refusal,
        ("reset", "reorder_cache", "crop", "offload", "prefetch", "batch_repeat_interleave", "batch_select_indices"),
    )


class SublinCache(Cache):
    """Key-value caches of this package as the cache that a transformers model generates with.

    The prompt is attended to exactly, and the caches absorb it; then each token goes into the cache, and its query is
    answered by the cache itself, whatever its answer is (a softmax over stored tokens, weighted estimators).

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Causal.
    make : callable
        `make(layer)` is the layer's empty cache, which serves all of its heads, or a list of one for each head of keys.
        A `PolynomialState` takes one head of one text.
    layers : iterable of int, optional
        All by default. The others keep the model's own kind of cache.
    prompt_only : bool
        Compress the prompt alone: tokens that come later are kept exactly, and an answer merges both. It is what an
        audit's advice is for.

    Attributes
    ----------
    nbytes : int
        Bytes that the caches of this package hold, and the later tokens.

    Raises
    ------
    TypeError, ValueError
        No such model or layer; `make` returned something else. When the model runs: a layer whose attention is no plain
        causal softmax; another model, or a call outside of `with`; beam search, assisted generation and whatever else
        goes back over tokens; with `prompt_only`, a cache whose answers cannot be merged with those of later tokens.

    Examples
    --------
    >>> with SublinCache(model, lambda layer: SinkCache(256)) as cache:  # doctest: +SKIP
    ...     out = model.generate(ids, past_key_values=cache)
    """

    def __init__(
        self,
        model: Any,
        make: Callable[[int], Any],
        layers: Iterable[int] | None = None,
        *,
        prompt_only: bool = False,
    ) -> None:
        flags(prompt_only=prompt_only)
        self._model, self._stack = model, ExitStack()
        self._ours = {layer: _Layer(make(layer), prompt_only) for layer in attentions(model, layers)}
        made = [id(cache) for ours in self._ours.values() for cache in ours.caches]
        if len(set(made)) < len(made):
            raise ValueError("make must return caches of their own for each layer and head, got the same one twice")
        own = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
        super().__init__(layers=[self._ours.get(layer, kept) for layer, kept in enumerate(own)])

    def __enter__(self) -> Self:
        hooks = {layer: ours.answer for layer, ours in self._ours.items()}
        self._stack.enter_context(attending(self._model, hooks))
        for ours in self._ours.values():
            ours.open = True
            self._stack.callback(setattr, ours, "open", False)
        return self

    def __exit__(self, *failure: Any) -> None:
        self._stack.close()

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for layer in self._ours.values() for part in layer.parts)
