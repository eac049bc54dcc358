"""Hand the attention of some layers of a transformers model to a function, through the library's attention registry.

A layer looks its attention up by the name in its config. A layer that is handed over gets a copy of the config with our
name in it; the other layers, and the masks, remain the model's own. What the function cannot do (soft caps, sinks,
windows, padding, dropout, gradients) reaches the registry as arguments and as the mask, and `plain_queries` refuses it.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from ..core import checks

try:
    import torch
    from transformers import AttentionInterface
except ImportError as error:
    raise ImportError("this needs PyTorch and transformers: pip install 'sublinattn[hf]'") from error

NAME = "sublinattn"
"""Our name in the registry."""
_HARMLESS = {"position_ids", "cache_position", "use_cache", "is_causal", "logits_to_keep"}
"""Arguments that change nothing in the attention of a layer whose queries and keys are rotated already."""


@dataclass(frozen=True)
class Call:
    """What a layer asks of its attention.

    Attributes
    ----------
    layer : int
    q : tensor, shape (b, heads, n, d)
    k, v : tensor, shape (b, kv_heads, m, d)
        As the layer's cache returns them; without one they have the rows of q.
    mask : tensor or None
        In the form of the model's own attention.
    arguments : mapping
        All others, by the library's names.
    own : callable
        `own()` is the model's own answer, (b, n, heads, d).
    """

    layer: int
    module: Any
    q: Any
    k: Any
    v: Any
    mask: Any
    arguments: Mapping[str, Any]
    own: Callable[[], Any]

    def refuse(self, name: str, takes: str, got: Any) -> None:
        """Raise a ValueError that names the layer and the argument."""
        got = f"a tensor of shape {tuple(got.shape)}" if isinstance(got, torch.Tensor) else got
        where = f"{name} of layer {self.layer} ({type(self.module).__name__})"
        raise ValueError(f"{where} must be {takes}, got {got}")


Hook = Callable[[Call], Any]
"""Answers a call, in the library's layout (b, n, heads, d)."""
_HOOKS: WeakKeyDictionary[Any, tuple[Hook, Any]] = WeakKeyDictionary()
"""By attention module: the hook, and the config that the model made the module with."""


def _dispatch(module: Any, q: Any, k: Any, v: Any, mask: Any, *dropout: Any, **arguments: Any) -> tuple[Any, None]:
    hook, config = _HOOKS[module]
    if dropout:  # kvpress, when it is imported, wraps all functions of the registry, and passes this on by its place
        (arguments["dropout"],) = dropout

    def own() -> Any:
        file = vars(sys.modules[type(module).__module__])  # a model may have an attention, or a registry, of its own
        function = file["ALL_ATTENTION_FUNCTIONS"].get(config._attn_implementation, file["eager_attention_forward"])
        ours, module.config = module.config, config
        try:
            return function(module, q, k, v, mask, **arguments)[0]
        finally:
            module.config = ours

    return hook(Call(module.layer_idx, module, q, k, v, mask, arguments, own)), None


AttentionInterface.register(NAME, _dispatch)


@functools.cache
def _asks_registry(kind: Any) -> bool:
    """Whether modules of this class look their attention up in the registry."""
    try:
        return "ALL_ATTENTION_FUNCTIONS" in inspect.getsource(kind)
    except (OSError, TypeError):
        return False


def attentions(model: Any, layers: Iterable[int] | None = None) -> dict[int, Any]:
    """The attention modules of the layers, by number; of all layers by default.

    Raises
    ------
    TypeError, ValueError
        Not a transformers model that uses the registry; no such layer; a layer with several attentions.
    """
    found: dict[int, list[Any]] = {}
    for module in model.modules() if isinstance(model, torch.nn.Module) else ():
        kind: Any = type(module)
        if _asks_registry(kind) and getattr(module, "layer_idx", None) is not None:
            found.setdefault(module.layer_idx, []).append(module)
    if not found:
        takes = "a transformers model whose layers look up their attention in the library's registry"
        raise TypeError(f"model must be {takes}, got {type(model).__name__}")
    chosen = [checks.integer("layers", layer, minimum=0) for layer in (found if layers is None else layers)]
    for layer in chosen:
        if layer not in found:
            raise ValueError(f"layers must be among those with an attention, {sorted(found)}, got {layer}")
        if len(several := [type(module).__name__ for module in found[layer]]) > 1:
            raise ValueError(f"layer {layer} must have one attention, got {several}: no cross attention is implemented")
    return {layer: found[layer][0] for layer in chosen}


@contextmanager
def attending(model: Any, hooks: Mapping[int, Hook]) -> Iterator[None]:
    """Within `with`, the layers that `hooks` names attend by them.

    Raises
    ------
    TypeError, ValueError
        As `attentions`; a layer that is handed over already.
    """
    modules = attentions(model, hooks)
    if taken := [layer for layer, module in modules.items() if module in _HOOKS]:
        raise ValueError(f"layers must have their model's own attention, got {taken}, handed over already")
    for layer, module in modules.items():
        _HOOKS[module] = hooks[layer], module.config
        module.config = copy.copy(module.config)
        module.config._attn_implementation = NAME
    try:
        yield
    finally:
        for module in modules.values():
            module.config = _HOOKS.pop(module)[1]


def plain_queries(call: Call, seen: int = 0) -> Any:
    """The queries, scaled so that the logits' factor is `1/sqrt(d)`, if the layer's answer is a plain causal softmax.

    `seen` is the number of tokens before the first query.

    Raises
    ------
    ValueError
        It is another attention: the message names the layer, the argument, and what it got and takes.
    """
    q, (n, d) = call.q, call.q.shape[-2:]
    if q.requires_grad:
        call.refuse("q", "without gradients (torch.no_grad: there is no backward pass)", "one that tracks them")
    arguments = dict(call.arguments)
    scale = arguments.pop("scaling", None)
    if arguments.pop("dropout", 0):
        call.refuse("dropout", "0 (model.eval())", call.arguments["dropout"])
    window = arguments.pop("sliding_window", None)
    if window is not None and window < seen + n:
        call.refuse("sliding_window", f"None or at least the text's {seen + n} tokens", window)
    if not (arguments.get("is_causal") is not False and getattr(call.module, "is_causal", True)):
        call.refuse("is_causal", "true", False)
    for name, value in arguments.items():
        if name not in _HARMLESS and value is not None and value is not False:
            call.refuse(name, "None (a method gets q, k and v alone)", value)
    if call.mask is not None and not _is_causal(call.mask, n, seen):
        takes = "plain causal, without padding, windows, biases or packed texts"
        call.refuse("attention_mask", takes, f"another one, of shape {tuple(call.mask.shape)}")
    factor = 1.0 if scale is None else scale * d**0.5
    return q if abs(factor - 1) < 1e-6 else q * factor


def _is_causal(mask: Any, n: int, seen: int) -> bool:
    """Whether a mask, boolean or added to the logits, hides from each query what comes after it and nothing else."""
    if mask.ndim == 2:  # of flash attention: the tokens that are no padding
        return bool((mask != 0).all())
    causal = torch.ones(n, seen + n, dtype=torch.bool, device=mask.device).tril(seen)
    if mask.shape[-2:] != causal.shape:
        return False
    if mask.dtype == torch.bool:
        return bool((mask == causal).all())
    hidden = mask <= torch.finfo(mask.dtype).min / 2
    return bool((hidden != causal).all() and (mask.masked_fill(hidden, 0) == 0).all())
