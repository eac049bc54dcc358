"""The planted bugs: each can still be planted, and `scripts/mutate` tells one that is noticed from one that escapes."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LISTS = sorted((ROOT / "tests" / "mutations").glob("*.toml"))


@pytest.fixture(scope="module")
def entries() -> list[dict]:
    return [entry for path in LISTS for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutation"]]


def test_every_bug_can_be_planted(entries):
    """What it replaces is there exactly once, and what is then there compiles."""
    sources = {name: (ROOT / name).read_text(encoding="utf-8") for name in {entry["file"] for entry in entries}}
    found = {entry["name"]: sources[entry["file"]].count(entry["before"]) for entry in entries}
    assert {name: times for name, times in found.items() if times != 1} == {}
    for entry in entries:
        compile(sources[entry["file"]].replace(entry["before"], entry["after"]), entry["name"], "exec")


def test_names_are_unique_and_sentences_stand_in_a_table(entries):
    names = [entry["name"] for entry in entries]
    assert [name for name in names if names.count(name) > 1] == []
    assert [entry["name"] for entry in entries if set("|\n") & set(entry["what"])] == []


def test_tests_that_may_notice_exist():
    for path in LISTS:
        listed = tomllib.loads(path.read_text(encoding="utf-8"))
        for entry in (listed, *listed["mutation"]):
            assert [test for test in entry.get("tests", ()) if not (ROOT / test).exists()] == []


PLANTED = """
claims = ["rs21.merge"]
tests = ["tests/core/test_timing.py"]
[[mutation]]
name = "references-forgotten"
file = "sublinattn/core/exact.py"
what = "merging forgets the reference logits"
before = "keep, add = (xp.exp(part.m - _finite(xp, m)) for part in (self, other))"
after = "keep, add = (xp.exp(0 * (part.m - _finite(xp, m))) for part in (self, other))"
[[mutation]]
name = "nothing"
file = "sublinattn/core/exact.py"
what = "nothing changes"
before = "keep, add = ("
after = "keep, add = ( "
"""


def test_the_script_tells_a_bug_that_is_noticed_from_one_that_escapes(tmp_path):
    (tmp_path / "toy.toml").write_text(PLANTED)
    command = [sys.executable, str(ROOT / "scripts" / "mutate"), "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["noticed", "toy/references-forgotten", "rs21.merge", "-"]
    assert lines[1].split() == ["ESCAPED", "toy/nothing", "-", "-"]
    assert lines[-1] == "claims 1 of 2 (50%); tests 0 of 2 (0%); either 1 of 2 (50%)"
