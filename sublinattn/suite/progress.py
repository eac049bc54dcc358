"""The progress of a run: on a terminal a bar per notebook, elsewhere a line per finished notebook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from .notebook import Job, Outcome, code_cells, execute


class Progress:
    """Shows each notebook when it starts, after every cell, and when it ends."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._bars = Bars(
            TextColumn("{task.fields[mark]} {task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("cells"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    @contextmanager
    def track(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Show these jobs while the context lasts."""
        for job in jobs:
            self._tasks[job.name] = self._bars.add_task(job.name, total=code_cells(job.path), start=False, mark="·")
        with self._bars:
            yield

    def execute(self, job: Job) -> Outcome:
        """Run a job in this thread and count its cells."""
        task = self._tasks[job.name]
        self._bars.start_task(task)
        self._bars.update(task, mark="[cyan]▶[/]")
        return execute(job, cell_done=lambda: self._bars.advance(task))

    def finish(self, outcome: Outcome) -> None:
        """Mark a job as completed or failed, and print the traceback of a failure."""
        failed = outcome.status == "failed"
        task = self._tasks[outcome.name]
        self._bars.update(task, mark="[red]✗[/]" if failed else "[green]✓[/]")
        self._bars.stop_task(task)
        if failed:
            self._console.print(f"[red]{escape(outcome.name)} failed: {escape(outcome.error)}[/]")
            if outcome.traceback:
                self._console.print(Text.from_ansi("\n".join(outcome.traceback)), soft_wrap=True)
        elif not self._console.is_terminal:
            line = f"{outcome.name}: {outcome.status} in {outcome.seconds:.1f} s"
            self._console.print(line, markup=False, highlight=False)
