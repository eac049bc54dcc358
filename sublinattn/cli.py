"""The command line. Everything heavy is imported by the command that needs it, so that `--help` is instant."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    help="Checks what the sublinear-attention papers promise.\n\nExample: [bold]sublinattn run --effort smoke[/]",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console()

COLOURS = {"supported": "green", "refuted": "red", "undecided": "yellow", "vacuous": "blue"}


class Effort(StrEnum):
    """How many trials, and how large."""

    smoke = "smoke"
    standard = "standard"
    full = "full"


class Backend(StrEnum):
    """Array library."""

    auto = "auto"
    numpy = "numpy"
    cupy = "cupy"


class Bench(StrEnum):
    """What can be benchmarked."""

    hyper = "hyper"
    stream = "stream"
    subgen = "subgen"
    verdicts = "verdicts"


EffortOption = Annotated[Effort, typer.Option(help="smoke: minutes; standard: an hour; full: for a GPU or a cluster.")]
SeedOption = Annotated[int, typer.Option(min=0, help="The same seed gives the same ledger.")]
BackendOption = Annotated[Backend, typer.Option(help="auto takes CuPy where there is a GPU.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(epilog="Example: [bold]sublinattn run --effort smoke --only '0*' --jobs 2 --resume[/]")
def run(
    notebooks: Annotated[
        Path | None, typer.Option(help="Folder of notebooks.", show_default="notebooks, or those installed")
    ] = None,
    effort: EffortOption = Effort.smoke,
    seed: SeedOption = 0,
    backend: BackendOption = Backend.auto,
    out: Annotated[Path, typer.Option(help="Folder for everything that the run makes.")] = Path("out"),
    only: Annotated[str | None, typer.Option(metavar="GLOB", help="Run the notebooks with such a name.")] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A notebook's parameter, JSON or text; repeatable.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Notebooks at a time.", show_default="CPUs")] = None,
    scheduler: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler that runs them.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skip what is complete and unchanged.")] = False,
    record: Annotated[
        Path | None, typer.Option(help="The ledger on record.", show_default="ledger.json, where there is one")
    ] = None,
) -> None:
    """Execute the notebooks; write the ledger and the report.

    Fails when a notebook fails, or when a claim is refuted that the ledger on record has as supported.
    """
    from .suite import runner

    try:
        result = runner.run(
            notebooks,
            effort=effort.value,
            seed=seed,
            backend=backend.value,
            out=out,
            only=only,
            parameters=dict(map(_parameter, param or [])),
            jobs=jobs,
            scheduler=scheduler,
            resume=resume,
            record=record,
        )
    except (ValueError, OSError) as error:
        _fail(error)
    counts = result.ledger["summary"]
    console.print(
        f"{counts['claims']} claims: "
        + ", ".join(f"[{colour}]{counts[outcome]} {outcome}[/]" for outcome, colour in COLOURS.items())
        + f"; {counts['sabotages_caught']} of {counts['sabotages']} sabotages caught"
    )
    for claim in result.flips:
        reason = escape(result.ledger["claims"][claim]["reason"])
        console.print(f"[red]{claim} is refuted, and the ledger on record has it as supported[/]: {reason}")
    for outcome in result.failed:
        console.print(f"[red]notebook {escape(outcome.name)} failed[/]: {escape(outcome.error)}")
    console.print(f"Ledger: {out / 'ledger.json'}\nReport: {result.report}", soft_wrap=True, highlight=False)
    raise typer.Exit(result.exit_code)


@app.command(epilog="Example: [bold]sublinattn verify ha24.lsh-collision --effort standard --seed 1[/]")
def verify(
    claim: Annotated[str, typer.Argument(help="Its id; `sublinattn claims` lists them.")],
    effort: EffortOption = Effort.smoke,
    seed: SeedOption = 0,
    backend: BackendOption = Backend.auto,
    jobs: Annotated[int, typer.Option(min=1, help="Processes for the trials; they change no number.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Verify one claim. The exit code is 1 when it is refuted."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from . import theory
    from .lab import ledger

    if claim not in theory.CLAIMS:
        _fail(f"no claim {claim!r}; `sublinattn claims` lists them")
    # Workers are spawned: a fork of a process that has started threads may hang.
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) if jobs > 1 else nullcontext()
    try:
        with pool as executor:
            verdict = theory.verify(claim, effort=effort.value, rng=seed, backend=backend.value, executor=executor)
    except RuntimeError as error:
        _fail(error)
    record = ledger.entry(theory.CLAIMS[claim], verdict)
    if as_json:
        print(json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        _show(record)
    raise typer.Exit(int(record["outcome"] == "refuted"))


@app.command(epilog="Example: [bold]sublinattn claims --json | jq '.[].id'[/]")
def claims(as_json: JsonOption = False) -> None:
    """List the claims."""
    from .theory import CLAIMS

    keys = ("id", "paper", "title", "kind", "sabotages")
    known = [CLAIMS[name] for name in sorted(CLAIMS)]
    rows = [(c.id, c.paper, c.title, type(c.kind).__name__.lower(), len(c.sabotages)) for c in known]
    if as_json:
        print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=2, ensure_ascii=False))
    else:
        _table(keys, rows)


@app.command(epilog="Example: [bold]sublinattn report out[/]")
def report(out: Annotated[Path, typer.Argument(help="Folder of a run.")] = Path("out")) -> None:
    """Make the report of a run again."""
    from .suite import report as pages

    try:
        console.print(f"Report: {pages.build(out)}", soft_wrap=True, highlight=False)
    except (ValueError, OSError) as error:
        _fail(error)


@app.command(epilog="Example: [bold]sublinattn bench hyper[/]")
def bench(
    what: Annotated[
        Bench, typer.Argument(help="hyper, stream, subgen: speed and memory; verdicts: the engine's error rates.")
    ],
) -> None:
    """Measure speed, or the error rates of the verdict engine."""
    if what is Bench.hyper:
        from .suite import bench as speed

        _frame(speed.hyper())
        _frame(speed.memory())
    elif what is Bench.stream:
        from .suite import bench_stream

        _frame(bench_stream.stream())
    elif what is Bench.subgen:
        from .suite import bench_subgen

        _frame(bench_subgen.ingest())
        _frame(bench_subgen.query())
        _frame(bench_subgen.held())
    else:
        from .theory import error_rates

        _frame(error_rates.bars(error_rates.measure()))


@app.command(epilog="Example: [bold]sublinattn capture --model tiny --text book.txt -n 32768 --out qkv.safetensors[/]")
def capture(
    out: Annotated[Path, typer.Option(help="safetensors file to write.")],
    model: Annotated[str, typer.Option(help="tiny, or a folder in Llama's Hugging Face layout.")] = "tiny",
    text: Annotated[
        Path | None, typer.Option(help="UTF-8 text.", show_default="Python modules that tiny was not trained on")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option("-n", "--tokens", min=1, help="First tokens of the text.", show_default="the trained context"),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Write float16: half of the bytes.")] = False,
    backend: BackendOption = Backend.auto,
) -> None:
    """Write the queries and keys (rotated) and the values of every layer and head of a model on a text.

    Beyond the context that the model was trained on, its rotations are stretched by YaRN.
    """
    from .lab import models
    from .lm.capture import capture as write

    try:
        opened = models.open_model(model, str(text or ""), backend=backend.value)
        read = opened.beginning(tokens)
        decoder = opened.decoder.stretched(len(read))
        how = "" if decoder is opened.decoder else f", stretched by YaRN from {decoder.trained} tokens"
        with _counting("tokens") as progress:
            dtype, source = "float16" if half else "float32", f"{model}, {opened.source}{how}"
            write(decoder, read, out, dtype=dtype, source=source, progress=progress)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        _fail(error)
    console.print(f"Captured {len(read)} tokens{how}: {out}", soft_wrap=True, highlight=False)


@app.command(epilog="Example: [bold]sublinattn audit qkv.safetensors --share 0.125 --tolerance 0.05[/]")
def audit(
    captured: Annotated[Path, typer.Argument(help="What `sublinattn capture` wrote, or any q, k, v: see the README.")],
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and the page.")] = Path("audit"),
    share: Annotated[float, typer.Option(help="Of the exact cache's bytes that a method may hold.")] = 1 / 16,
    tolerance: Annotated[float, typer.Option(help="Largest relative error that is acceptable.")] = 0.1,
    seed: SeedOption = 0,
) -> None:
    """Say which method suits which head: hardness, whose theorem holds there, and every method's measured error."""
    from .lab.workloads.instance import Captured
    from .suite.audit import page
    from .suite.audit.advice import check_tolerance
    from .suite.audit.measure import audit as measure

    try:
        check_tolerance(tolerance)
        opened = Captured.open(captured)
        with _counting("heads") as progress:
            found = measure(opened, share=share, seed=seed, progress=progress)
        written = page.write(found, out, tolerance=tolerance, seed=seed)
    except (ValueError, OSError, ImportError) as error:
        _fail(error)
    _frame(page.summary(found, tolerance=tolerance))
    console.print(f"Page: {written}", soft_wrap=True, highlight=False)


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told how much is done, and of how much; nothing where there is no terminal."""
    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn(what), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"--param takes NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _fail(error: Exception | str) -> Any:
    Console(stderr=True).print(f"[red]Error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
    raise typer.Exit(2)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on a terminal; tab-separated lines, which tools can cut, elsewhere."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            print("\t".join(map(str, row)))
        return
    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row))
    console.print(table)


def _frame(frame: pd.DataFrame) -> None:
    values = [[f"{v:.4g}" if isinstance(v, float) else v for v in row] for row in frame.itertuples(index=False)]
    _table(list(map(str, frame.columns)), values)


def _show(record: Mapping[str, Any]) -> None:
    """Summary of one verdict."""
    from .suite.report.views import claim_view, number, percent

    view = claim_view(record)
    colour = COLOURS[view["outcome"]]
    console.print(f"[bold]{escape(view['title'])}[/]  {escape(view['id'])}, [{view['paper']}] {escape(view['source'])}")
    console.print(f"[bold {colour}]{view['outcome']}[/]  {escape(view['reason'])}")
    console.print(
        f"promise: {escape(view['promise']['text'])}; slack {'; '.join(view['slack_lines']) or '–'}", highlight=False
    )
    table = Table("case", "outcome", "trials", "failures", "99 % limits", "slack", box=None, header_style="bold")
    for case in view["cases"]:
        show = number if view["kind"] == "mean" else percent
        shown = ", ".join(f"{key}={value}" for key, value in case["case"].items())
        limits = f"{show(case['lower'])} to {show(case['upper'])}"
        outcome = f"[{COLOURS[case['outcome']]}]{case['outcome']}[/]"
        slack = number(case["slack"]["q50"])
        table.add_row(escape(shown), outcome, str(case["trials"]), str(case["failures"]), limits, slack)
    console.print(table)
    for drop in view["drops"]:
        console.print(f"without [bold]{escape(drop['assumption'])}[/]: {drop['outcome']}, {escape(drop['reason'])}")
    for sabotage in view["sabotages"]:
        caught = "[green]caught[/]" if sabotage["caught"] else "[red]not caught[/]"
        console.print(f"sabotage [bold]{escape(sabotage['name'])}[/] ({escape(sabotage['what'])}): {caught}")
