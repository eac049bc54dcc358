"""The progress of a run: on a terminal a bar per notebook and one for all, elsewhere a line per finished notebook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from .notebook import Job, Outcome, code_cells, execute
from .turns import Turns


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
            TextColumn("left"),
            TimeRemainingColumn(),
            speed_estimate_period=3600,  # a cell may take minutes
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    @contextmanager
    def track(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Show these jobs while the context lasts."""
        cells = {job.name: code_cells(job.path) for job in jobs}
        self._all = self._bars.add_task("all notebooks", total=sum(cells.values()), mark=" ")
        for name, total in cells.items():
            self._tasks[name] = self._bars.add_task(name, total=total, start=False, mark="·")
        with self._bars:
            yield

    def execute(self, job: Job, turns: Turns) -> Outcome:
        """Run a job, which takes part in `turns`, in this thread, and count its cells."""
        task = self._tasks[job.name]
        self._bars.start_task(task)
        self._bars.update(task, mark="[cyan]▶[/]")
        return execute(job, turns, lambda: self._cells_done(task, 1))

    def _cells_done(self, task: TaskID, number: float) -> None:
        for each in (task, self._all):
            self._bars.advance(each, number)

    def note(self, text: str) -> None:
        """Print a sentence, above the bars."""
        self._console.print(escape(text), highlight=False, soft_wrap=True)

    def finish(self, outcome: Outcome) -> None:
        """Mark a job as completed or failed, and print the traceback of a failure."""
        failed = outcome.status == "failed"
        task = self._tasks[outcome.name]
        self._bars.update(task, mark="[red]✗[/]" if failed else "[green]✓[/]")
        self._bars.stop_task(task)
        self._cells_done(task, self._bars.tasks[task].remaining or 0)  # what a failure left out
        if failed:
            self._console.print(f"[red]{escape(outcome.name)} failed: {escape(outcome.error)}[/]")
            if outcome.traceback:
                self._console.print(Text.from_ansi("\n".join(outcome.traceback)), soft_wrap=True)
        elif not self._console.is_terminal:
            line = f"{outcome.name}: {outcome.status} in {outcome.seconds:.1f} s"
            self._console.print(line, markup=False, highlight=False)
