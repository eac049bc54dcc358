"""The outcome of a recommendation that was applied, as files beside it and as tables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd

from ...core import files
from ...core.plain import plain
from .advice import records
from .measure import write_table
from .ranking import answered, answers_verdict, ranking, verdict

FILE, FORMAT = "applied.json", "sublinattn applied 1"
_LOSSES, _ANSWERS = "applied", "applied_answers"


@dataclass(frozen=True)
class Applied:
    """What `apply` measured of one recommendation.

    Attributes
    ----------
    losses : DataFrame
        Of `apply.losses`.
    answers : DataFrame or None
        Of `apply.answers`; None if no question was asked.
    """

    losses: pd.DataFrame
    answers: pd.DataFrame | None

    def summary(self) -> dict[str, Any]:
        """The tables that the page shows, with what they say in words.

        `perplexity` has the verdict and the rows of `ranking.ranking`; `retrieval`, null if no question was asked, the
        verdict, the task, the tokens of a document (their median) and the rows of `ranking.answered`.
        """
        ranked = ranking(self.losses)
        found: dict[str, Any] = {"perplexity": {"verdict": verdict(ranked), "methods": records(ranked)}}
        found["retrieval"] = None
        if self.answers is not None:
            about = {"task": str(self.answers["task"][0]), "tokens": int(self.answers["tokens"].median())}
            about |= {"verdict": answers_verdict(self.answers), "methods": records(answered(self.answers))}
            found["retrieval"] = about
        return found

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the tables, and their `summary` as `applied.json`, in place of an earlier outcome."""
        folder = Path(folder)
        remove(folder)
        write_table(self.losses, folder / _LOSSES)
        if self.answers is not None:
            write_table(self.answers, folder / _ANSWERS)
        files.write_json(folder / FILE, plain({"format": FORMAT, **self.summary()}))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self | None:
        """What `save` wrote; None if nothing was applied."""
        losses, answers = (Path(folder) / f"{name}.parquet" for name in (_LOSSES, _ANSWERS))
        if not losses.exists():
            return None
        return cls(files.read_rows(losses), files.read_rows(answers) if answers.exists() else None)


def remove(folder: str | os.PathLike[str]) -> None:
    """Remove what `Applied.save` wrote: it is of another recommendation."""
    (Path(folder) / FILE).unlink(missing_ok=True)
    for name in (_LOSSES, _ANSWERS):
        for suffix in (".csv", ".parquet"):
            (Path(folder) / f"{name}{suffix}").unlink(missing_ok=True)
