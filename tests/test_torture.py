"""The short form of `scripts/torture`: kills, two runs at once, damaged files; nothing lost, nothing wrong accepted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_nothing_is_lost_and_nothing_wrong_is_accepted():
    script = Path(__file__).parents[1] / "scripts" / "torture"
    done = subprocess.run(
        [sys.executable, script, "--kills", "3", "--files", "60"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the second is refused" in done.stdout and "as before" in done.stdout and "refused" in done.stdout
