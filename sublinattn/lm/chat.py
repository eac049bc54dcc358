"""The chat format of a checkpoint: the template that its GGUF file or its tokenizer's settings hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..core.files import read_json, reading
from .gguf import GGUF
from .tokens import Encode

Chat = Callable[[Sequence[str]], str]
"""A function from what user and model say in turn, the user first and last, to its text up to the model's next word."""


def load_chat(checkpoint: str | os.PathLike[str], encode: Encode) -> Chat | None:
    """The chat format of a checkpoint, a folder or a GGUF file; None if it has none.

    A token that `encode` puts at the start of every text is not put there a second time.

    Raises
    ------
    ValueError
        The tokenizer's settings are no JSON, or the template cannot be read or (when it is used) filled in.
    """
    template, begin, end = (_of_gguf if Path(checkpoint).is_file() else _of_folder)(Path(checkpoint))
    if template is None:
        return None
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    # Settings and names are those under which Hugging Face's library fills templates in.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    tokens = {"bos_token": "" if len(encode(b"")) else begin, "eos_token": end}

    def chat(said: Sequence[str]) -> str:
        messages = [{"role": ("user", "assistant")[i % 2], "content": each} for i, each in enumerate(said)]
        try:
            return environment.from_string(template).render(messages=messages, add_generation_prompt=True, **tokens)
        except (TemplateError, TypeError) as error:
            raise ValueError(f"the chat template of {checkpoint} cannot be used: {error}") from error

    return chat


def _of_gguf(path: Path) -> tuple[str | None, str, str]:
    """The template, and the tokens that begin and end a text."""
    fields = GGUF(path).fields
    tokens = fields.get("tokenizer.ggml.tokens", [])
    numbers = (fields.get(f"tokenizer.ggml.{side}_token_id", len(tokens)) for side in ("bos", "eos"))
    begin, end = ("".join(tokens[i : i + 1]) for i in numbers)
    return fields.get("tokenizer.chat_template"), begin, end


def _of_folder(folder: Path) -> tuple[str | None, str, str]:
    path, own = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    settings: dict[str, Any] = read_json(path) if path.exists() else {}
    with reading(path, "a tokenizer's configuration"):
        return _of_settings(settings, own)


def _of_settings(settings: dict[str, Any], own: Path) -> tuple[str | None, str, str]:
    template = own.read_text(encoding="utf-8") if own.exists() else settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {each["name"]: each["template"] for each in template}.get("default")
    tokens = (settings.get(f"{side}_token") or "" for side in ("bos", "eos"))
    begin, end = (token["content"] if isinstance(token, dict) else token for token in tokens)
    for name, text in (("chat_template", template), ("bos_token", begin), ("eos_token", end)):
        if not isinstance(text, str | None):
            raise TypeError(f"{name} must be text, got {text!r}")
    return template, begin, end
