"""What the commands print: progress, tables, a verdict, an error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    import pandas as pd

    from .suite.runner import Result
    from .suite.sweep import Sweep

console = Console()

COLOURS = {"supported": "green", "refuted": "red", "undecided": "yellow", "vacuous": "blue"}


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows (done, total) as a bar, with the time spent and left; without a terminal nothing."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn(what), TimeElapsedColumn())
    left = (TextColumn("left"), TimeRemainingColumn())
    terminal = Console(stderr=True)  # what is printed may go elsewhere, as JSON into a file
    with Progress(*columns, *left, console=terminal, disable=not terminal.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def note(text: str) -> None:
    """Print a sentence to the error stream."""
    Console(stderr=True).print(escape(text), soft_wrap=True, highlight=False)


def fail(error: Exception | str) -> Any:
    """Print the error, and end with status 2."""
    Console(stderr=True).print(f"[red]Error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
    raise typer.Exit(2)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table on a terminal, tab-separated lines for other programs elsewhere."""
    from rich.table import Table

    if not sys.stdout.isatty():
        for row in (columns, *rows):
            print("\t".join(map(str, row)))
        return
    table = Table(box=None, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")  # in a narrow window text is broken, never cut
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row))
    console.print(table)


def print_frame(rows: pd.DataFrame) -> None:
    """Print a table of numbers to four digits."""
    values = [[f"{v:.4g}" if isinstance(v, float) else v for v in row] for row in rows.itertuples(index=False)]
    print_table(list(map(str, rows.columns)), values)


def show_counts(ledger: Mapping[str, Any]) -> None:
    """Print how many claims have each outcome, by what they rest on, theorems first; and whether seeds agree."""
    counts = ledger["summary"]
    lines = {**counts["by_basis"], "all": counts}
    print_table(["claims", *COLOURS], [[name, *(line[outcome] for outcome in COLOURS)] for name, line in lines.items()])
    console.print(
        f"{counts['sabotages_caught']} of {counts['sabotages']} sabotages caught; {counts['sabotages_telling']} of "
        "these break the algorithm of a claim that is supported without them",
        highlight=False,
    )
    if seeds := ledger.get("seeds"):
        differing = {name: claim for name, claim in seeds["claims"].items() if len(set(claim["outcomes"])) > 1}
        agreeing = len(seeds["claims"]) - len(differing)
        listed = ", ".join(map(str, seeds["seeds"]))
        console.print(
            f"Seeds {listed}: the outcomes of {agreeing} of {len(seeds['claims'])} claims agree.", highlight=False
        )
        for name, claim in differing.items():
            console.print(
                f"[yellow]{name}[/]: {', '.join(claim['outcomes'])}; merged {claim['merged']}", highlight=False
            )


def show_changes(result: Result) -> None:
    """Print what differs from the ledger on record, and the notebooks that failed."""
    for change in result.changes:
        colour = "red" if change.fails else "yellow"
        reason = escape(result.ledger["claims"].get(change.claim, {}).get("reason", ""))
        console.print(f"[{colour}]{change.claim}: on record {change.was}, now {change.now}[/]: {reason}")
    for outcome in result.failed:
        console.print(f"[red]notebook {escape(outcome.name)} failed[/]: {escape(outcome.error)}")


def show_sweep(sweep: Sweep) -> None:
    """Print what went wrong in the runs of a sweep, its table, and where its figures are."""
    import pandas as pd

    for result in sweep.results.values():
        show_changes(result)
    if sweep.table:
        print_frame(pd.read_csv(sweep.table))
    else:
        console.print("[yellow]No figure of these notebooks says what a sweep should show.[/]")
    for folder, result in sweep.results.items():
        console.print(f"{escape(folder)}: {result.report}", soft_wrap=True, highlight=False)
    for path in (*sweep.figures, *([sweep.table] if sweep.table else ())):
        console.print(f"{'Table' if path == sweep.table else 'Figure'}: {path}", soft_wrap=True, highlight=False)


def show_verdict(record: Mapping[str, Any], trial: str) -> None:
    """Print one verdict."""
    from rich.table import Table

    from .suite.report.views import claim_view, number, percent
    from .theory.claim import BASES

    view = claim_view(record)
    colour = COLOURS[view["outcome"]]
    console.print(f"[bold]{escape(view['title'])}[/]  {escape(view['id'])}, [{view['paper']}] {escape(view['source'])}")
    console.print(f"[bold {colour}]{view['outcome']}[/]  {escape(view['reason'])}")
    unchecked = "" if view["source_checked"] else "; the text of the source could not be read here"
    console.print(f"rests on: {view['basis']}, {BASES[view['basis']]}{unchecked}", highlight=False)
    slack = "; ".join(view["slack_lines"]) or "–"
    console.print(f"promise: {escape(view['promise']['text'])}; slack {slack}", highlight=False)
    console.print(f"trial: {escape(trial)}", highlight=False, soft_wrap=True)
    limits = {"probability": percent, "mean": number}.get(view["kind"])  # of few instances those of a rate say nothing
    trials, columns = "instances" if view["kind"] == "exact" else "trials", ["99 % limits"] if limits else []
    table = Table("case", "outcome", trials, "failures", *columns, "slack", box=None, header_style="bold")
    for case in view["cases"]:
        table.add_row(
            escape(", ".join(f"{key}={number(value)}" for key, value in case["case"].items())),
            f"[{COLOURS[case['outcome']]}]{case['outcome']}[/]",
            str(case["trials"]),
            str(case["failures"]),
            *([f"{limits(case['lower'])} to {limits(case['upper'])}"] if limits else []),
            number(case["slack"]["q50"]),
        )
    console.print(table)
    for drop in view["drops"]:
        console.print(f"without [bold]{escape(drop['assumption'])}[/]: {drop['outcome']}, {escape(drop['reason'])}")
    for sabotage in view["sabotages"]:
        caught = "[green]caught[/]" if sabotage["caught"] else "[red]not caught[/]"
        console.print(f"sabotage [bold]{escape(sabotage['name'])}[/] ({escape(sabotage['what'])}): {caught}")
