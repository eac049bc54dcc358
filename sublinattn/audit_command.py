"""The command `sublinattn audit`: it stands apart from `cli`, because it has two jobs, to advise and to apply."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .complete import complete_models
from .options import Backend, BackendOption, SeedOption
from .terminal import console, counting, fail, print_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLES = (
    "Examples: [bold]sublinattn audit qkv.safetensors --out audit[/]; another tolerance, nothing measured again: "
    "[bold]sublinattn audit audit --tolerance 0.05[/]; the advice put to the test: "
    "[bold]sublinattn audit --apply audit/recommendation.json --model smollm2[/]"
)


def _fraction(text: str) -> float:
    """A number such as 1/8 or 0.125."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"it takes a number such as 1/8 or 0.125, got {text!r}") from None


def _sweep(text: str) -> Sequence[float]:
    """The shares of 1/32..1/2, each twice the one before it, or a single one."""
    first, _, last = text.partition("..")
    shares = [_fraction(first)]
    while last and 0 < 2 * shares[-1] <= _fraction(last):
        shares.append(2 * shares[-1])
    return tuple(shares)


def audit(
    source: Annotated[
        Path | None,
        typer.Argument(
            help="File that `sublinattn capture` wrote, or any safetensors file with q, k, v; or the folder of an "
            "earlier audit, whose measurements are advised on again.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the page, tables and figures.", show_default="audit, or the earlier audit's"),
    ] = None,
    sweep: Annotated[
        Any,
        typer.Option(
            "--sweep",
            "--share",
            parser=_sweep,
            metavar="FROM..TO",
            help="Shares of the exact cache's bytes to measure: a range that doubles, or one share.",
            show_default="1/32..1/2, of these what leaves 16 tokens",
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Largest relative error that a query head may have.")] = 0.1,
    budget: Annotated[
        Any,
        typer.Option(
            parser=_fraction,
            metavar="SHARE",
            help="Advise for so many bytes in all, as a share of the exact caches', and not for a tolerance.",
        ),
    ] = None,
    apply: Annotated[
        Path | None,
        typer.Option(
            metavar="RECOMMENDATION",
            help="Run a model with exactly this advice and report its perplexity and its answers to questions, beside "
            "exact attention and every single method in the same bytes.",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(help="With --apply: the model, as `sublinattn capture` takes it.", autocompletion=complete_models),
    ] = "tiny",
    text: Annotated[
        str, typer.Option(help="With --apply: code, prose or a file.", show_default="the model's texts after the first")
    ] = "",
    tokens: Annotated[
        int | None,
        typer.Option(
            "-n", "--tokens", min=128, help="With --apply: tokens of a passage or document.", show_default="the audit's"
        ),
    ] = None,
    passages: Annotated[
        int, typer.Option(min=2, help="With --apply: number of passages, whose perplexity is measured.")
    ] = 8,
    documents: Annotated[
        int,
        typer.Option(
            min=0, help="With --apply: number of documents, each with a question that no cache knew; 0 for none."
        ),
    ] = 12,
    seed: SeedOption = 0,
    backend: BackendOption = Backend.auto,
) -> None:
    """Recommend a cache for each key head and a method for each layer's prompt, from errors measured on a model.

    All methods are measured at several shares of the exact cache's bytes. The page says how many bytes the advice
    saves, and why; `recommendation.json` has it for programs. `--apply` runs a model with it.
    """
    if (source is None) == (apply is None):
        fail("audit takes a captured file or an earlier audit's folder, or else --apply RECOMMENDATION")
    try:
        if apply is not None:
            _apply(apply, model, text, tokens, passages, documents, seed, backend.value)
        else:
            _advise(source, out, sweep, tolerance, budget, seed, backend.value)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        fail(error)


def _advise(
    source: Any, out: Path | None, shares: Any, tolerance: float, budget: float | None, seed: int, backend: str
) -> None:
    from .core.files import check_writable
    from .suite.audit import page
    from .suite.audit.advice import check_tolerance

    check_tolerance(tolerance)
    out = out or (source if source.is_dir() else Path("audit"))
    check_writable(out)  # before anything is measured
    with counting("heads") as progress:
        result = page.open_or_measure(source, shares=shares, seed=seed, backend=backend, progress=progress)
    written = page.write(result, out, tolerance=tolerance, budget=budget, seed=result.about["seed"])
    title, table = page.summary(result, tolerance=tolerance, budget=budget)
    print_frame(table)
    console.print(f"{title}\nPage: {written}", soft_wrap=True, highlight=False)


def _apply(
    path: Path, name: str, text: str, tokens: int | None, passages: int, documents: int, seed: int, backend: str
) -> None:
    from .core.files import check_writable
    from .lab.models import open_model
    from .suite.audit import apply, page
    from .suite.audit.applied import Applied
    from .suite.audit.recommendation import read

    check_writable(path.parent)
    recommended, model, answers = read(path), open_model(name, text, backend=backend), None
    with counting("passages") as progress:
        losses = apply.losses(recommended, model, tokens=tokens, count=passages, seed=seed, progress=progress)
    if documents:
        with counting("documents") as progress:
            answers = apply.answers(recommended, model, tokens=tokens, count=documents, seed=seed, progress=progress)
    measured = Applied(losses, answers)
    measured.save(path.parent)
    for verdict, table in page.applied(measured):
        print_frame(table)
        console.print(verdict, soft_wrap=True, highlight=False)
    if page.rewrite(path.parent):
        console.print(f"Page: {path.parent / 'index.html'}", soft_wrap=True, highlight=False)
