"""Every writer where the disk ends: an error with the path, no part of a file, what was there before still there."""

from __future__ import annotations

from pathlib import Path

import pytest
from torture import full_disk


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", full_disk.WRITERS)
def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path: Path, name: str, share: float) -> None:
    assert full_disk.full(tmp_path, name, share) == full_disk.GOOD
