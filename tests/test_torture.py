"""A few faults of each kind; `scripts/torture` puts the package to many more."""

from __future__ import annotations

from pathlib import Path

from torture import children, damaged_files, kills, notebooks
from torture.targets import TARGETS


def test_calls_are_right_or_refused_by_name() -> None:
    table, wrong = children.run("calls", 4 * len(TARGETS), seed=1)
    assert not table.wrong, "\n".join(wrong)
    assert {"right", "finite", "refused by name"} <= {outcome for _, outcome in table}


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    damaged_files.make(tmp_path / "files", notebooks.make)
    table, wrong = children.run("damaged_files", len(damaged_files.FILES) + 4, str(tmp_path / "files"), seed=1)
    assert not table.wrong, "\n".join(wrong)
    assert len({kind for kind, _ in table}) > len(damaged_files.FILES) / 2


def test_what_is_killed_leaves_nothing_by_halves(tmp_path: Path) -> None:
    table = kills.run(4, tmp_path, only=("capture", "absorb"))
    assert not table.wrong, table
