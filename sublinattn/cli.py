"""The command line. A command imports what it needs when it runs, so that help and the claims appear at once."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .audit_command import EXAMPLES, audit
from .claims_command import JsonOption, claims
from .complete import complete_claims, complete_notebooks
from .leaderboard_command import EXAMPLE, leaderboard
from .model_commands import CAPTURE_EXAMPLE, FETCH_EXAMPLE, capture, fetch
from .options import Backend, BackendOption, Effort, EffortOption, SchedulerOption, SeedOption
from .terminal import console, counting, fail, note, print_frame, show_changes, show_counts, show_sweep, show_verdict

INTERNAL_ERROR = 3
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]

app = typer.Typer(
    help="Verify the statements of papers on sublinear attention, and audit a model.\n\n"
    "Exit code: 0 as wished; 1 a claim is refuted, or a run is worse than the record or has a failed notebook; "
    f"2 the command or a file is wrong; {INTERNAL_ERROR} an error of this program; "
    "from 128 on: ended by a signal.\n\n"
    "Example: [bold]sublinattn run --effort smoke[/]",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    from importlib.metadata import version

    if asked:
        print(f"sublinattn {version('sublinattn')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """What stands before the command; the program's help is `app`'s."""


def main() -> None:
    """The program: its own errors have an exit code apart, and what a terminal cannot show is replaced."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's is ignored
            signal.signal(number, _end)
    try:
        app(prog_name="sublinattn")
    except Exception:
        traceback.print_exc()
        sys.exit(INTERNAL_ERROR)


def _end(number: int, _: object) -> None:
    """End as after Ctrl-C, every `finally` included; once, because a lost terminal may send several signals."""
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
    if number == getattr(signal, "SIGHUP", None):  # nothing can be written to a terminal that is gone
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(nowhere, stream)
    sys.exit(128 + number)


Bench = StrEnum("Bench", ["hyper", "stream", "subgen", "decoder", "verdicts"])


@app.command(epilog="Example: [bold]sublinattn run --effort smoke --only '0*' --jobs 2 --resume[/]")
def run(
    notebooks: Annotated[
        Path | None, typer.Option(help="Folder of the notebooks to run.", show_default="notebooks, or those installed")
    ] = None,
    effort: EffortOption = Effort.smoke,
    seed: SeedOption = 0,
    seeds: Annotated[
        int, typer.Option(min=1, help="Run with this many seeds, from --seed on, and report how the verdicts agree.")
    ] = 1,
    backend: BackendOption = Backend.auto,
    out: Annotated[Path, typer.Option(help="Folder for the ledger, the report and all other results.")] = Path("out"),
    only: Annotated[
        str | None,
        typer.Option(
            metavar="GLOB",
            help="Run only the notebooks whose name matches this pattern.",
            autocompletion=complete_notebooks,
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Set a parameter of the notebooks (JSON or text); repeatable."),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE,...", help="Run once per value of a parameter, and show all of them in one figure."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Number of notebooks to run at the same time.", show_default="CPUs; 4 each on Dask"),
    ] = None,
    scheduler: SchedulerOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip notebooks that are complete and unchanged since.")
    ] = False,
    record: Annotated[
        Path | None,
        typer.Option(help="Earlier ledger to compare the verdicts with.", show_default="ledger.json, if it exists"),
    ] = None,
) -> None:
    """Run the notebooks, which verify the claims; write the ledger of verdicts and the report.

    Every verdict that differs from the earlier ledger is listed. The exit code is 1 when a notebook fails, or when a
    verdict is worse: refuted instead of supported, or, with the same effort and seed, no longer supported.
    """
    from .assignments import assignment, assignments

    options: dict[str, Any] = {"effort": effort.value, "seed": seed, "backend": backend.value, "out": out, "only": only}
    options |= {"jobs": jobs, "scheduler": scheduler, "resume": resume, "record": record}
    try:
        options["parameters"] = dict(assignment("--param", text) for text in param or [])
        if sweep is not None:
            from .suite import sweep as swept

            found = swept.run(notebooks, seeds=seeds, **assignments("--sweep", sweep), **options)
            show_sweep(found)
            raise typer.Exit(found.exit_code)
        from .suite import seeds as several

        result = several.run(notebooks, seeds=seeds, **options)
    except (KeyboardInterrupt, SystemExit):
        note(f"{out} keeps the notebooks that are done; the same command with --resume goes on from there.")
        raise
    except (ValueError, OSError) as error:
        fail(error)
    show_counts(result.ledger)
    show_changes(result)
    places = {"Ledger": out / "ledger.json", "Figures": out / "figures", "Report": result.report}
    console.print("\n".join(f"{what}: {path}" for what, path in places.items()), soft_wrap=True, highlight=False)
    raise typer.Exit(result.exit_code)


@app.command(epilog="Example: [bold]sublinattn verify ha24.lsh-collision --effort standard --seed 1[/]")
def verify(
    claim: Annotated[
        str, typer.Argument(help="Id of the claim; `sublinattn claims` lists all.", autocompletion=complete_claims)
    ],
    effort: EffortOption = Effort.smoke,
    seed: SeedOption = 0,
    backend: BackendOption = Backend.auto,
    jobs: Annotated[
        int, typer.Option(min=1, help="Number of processes for the trials; it does not change the result.")
    ] = 1,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify one claim: run its trials and print the verdict. The exit code is 1 when the claim is refuted."""
    from .lab import ledger
    from .lab.cluster import connect
    from .theory import find
    from .theory.several import verdicts
    from .theory.trials import processes

    if scheduler and jobs > 1:
        fail(f"give --jobs, for processes of this machine, or --scheduler, not both; got {jobs} and {scheduler}")
    try:
        found = find(claim)
        workers = connect(scheduler, backend=backend.value, note=note) if scheduler else processes(jobs)
        options = {"effort": effort.value, "rng": seed, "backend": backend.value}
        with workers as executor, counting("percent of the trials") as count:
            ((_, verdict),) = verdicts(
                [found], executor=executor, progress=lambda share: count(int(100 * share), 100), **options
            )
    except KeyError as error:
        fail(error.args[0])
    except (RuntimeError, OSError) as error:
        fail(error)
    record = ledger.entry(found, verdict)
    if as_json:
        print(json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        show_verdict(record, found.where)
    raise typer.Exit(int(record["outcome"] == "refuted"))


app.command(epilog="Example: [bold]sublinattn claims --paper HA24 --kind growth --outcome undecided[/]")(claims)


@app.command(epilog="Example: [bold]sublinattn report out[/]")
def report(out: Annotated[Path, typer.Argument(help="Folder of the run's results.")] = Path("out")) -> None:
    """Write the report of an earlier run again, from its ledger."""
    from .suite import report as pages

    try:
        with counting("pages") as progress:
            index = pages.build(out, progress=progress)
        console.print(f"Report: {index}", soft_wrap=True, highlight=False)
    except (ValueError, OSError) as error:
        fail(error)


@app.command(epilog="Example: [bold]sublinattn bench hyper[/]")
def bench(
    what: Annotated[
        Bench, typer.Argument(help="Speed and memory of hyper, stream, subgen or decoder; error rates of verdicts.")
    ],
) -> None:
    """Measure the speed of the algorithms, or the error rates of the verdicts by simulation."""
    with counting("measurements") as progress:
        if what is Bench.verdicts:
            from .theory import error_rates

            tables = [error_rates.bars(error_rates.measure())]
        else:
            from .suite import bench

            try:
                tables = getattr(bench, what.value)(progress=progress)
            except FileNotFoundError as error:  # the model is not fetched yet
                fail(error)
    for table in tables:
        print_frame(table)


app.command(epilog=FETCH_EXAMPLE)(fetch)
app.command(epilog=CAPTURE_EXAMPLE)(capture)
app.command(epilog=EXAMPLES)(audit)
app.command(epilog=EXAMPLE)(leaderboard)
