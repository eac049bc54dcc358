"""The command `sublinattn leaderboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .complete import complete_models
from .options import Backend, BackendOption, Effort, EffortOption, SeedOption
from .terminal import console, fail, print_frame

EXAMPLE = "Example: [bold]sublinattn leaderboard --effort standard --model smollm2 --out out/board[/]"


def leaderboard(
    effort: EffortOption = Effort.smoke,
    seed: SeedOption = 0,
    seeds: Annotated[
        int, typer.Option(min=1, help="Measure with this many seeds, from --seed on, and compare their rankings.")
    ] = 1,
    backend: BackendOption = Backend.auto,
    out: Annotated[Path, typer.Option(help="Folder of the page, tables and figure.")] = Path("leaderboard"),
    model: Annotated[
        str, typer.Option(help="The decoder, as `sublinattn capture` takes it.", autocompletion=complete_models)
    ] = "tiny",
) -> None:
    """Compare every batch method and every cache at one budget, on the same inputs, in one sortable table.

    Errors on synthetic inputs, a trained encoder's heads and a decoder's; the decoder's loss and its answers with all
    layers replaced; time, bytes, what is proved, and the verdict on it. The page is `index.html`, the table
    `leaderboard.csv`.
    """
    from .core.files import check_writable
    from .lab.run import Run
    from .suite.leaderboard import board, page

    def said(words: str) -> None:
        console.print(f"[dim]{words}[/]", highlight=False)

    try:
        check_writable(out)  # before anything is measured
        found = board.measure(
            Run(effort.value, seed, backend.value, out, knobs={"model": model}), seeds=seeds, said=said
        )
        written = page.write(found, out, backend=backend.value)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        fail(error)
    table = board.table(found)
    print_frame(page.summary(table))
    console.print("\n".join(board.findings(found, table)), soft_wrap=True, highlight=False)
    console.print(f"Page: {written}", soft_wrap=True, highlight=False)
