"""The documents say what is so: files, functions, claims, commands and links exist, code runs and prints what is shown,
and counts and verdicts are those of the record.
"""

from __future__ import annotations

import json
import pkgutil
import re
import shlex
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import pytest
import typer

from sublinattn import cli
from sublinattn.lab import ledger
from sublinattn.theory import CLAIMS, find

ROOT = Path(__file__).parents[1]
PAGES = [path for folder in (".", "docs", "docs/papers") for path in sorted((ROOT / folder).glob("*.md"))]
DOCUMENTS = [*PAGES, *sorted((ROOT / "sublinattn").rglob("*.md"))]
RECORD = json.loads((ROOT / "ledger.json").read_text())
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
CLAIM = re.compile(rf"`((?:{'|'.join({claim.split('.')[0] for claim in CLAIMS})})\.[a-z0-9-]+)`")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def with_code(language: str) -> list[Path]:
    return [path for path in PAGES if f"```{language}\n" in path.read_text()]


def test_the_pages_are_here():
    assert {"README.md", "docs/results.md", "docs/guide.md"} <= set(map(name, with_code("python") + PAGES))


def test_the_contents_of_the_site_have_every_page():
    contents = (ROOT / "docs/index.md").read_text()
    trees = re.findall(r"^```{toctree}\n(.*?)^```$", contents, re.MULTILINE | re.DOTALL)
    listed = re.findall(r"^(?:.*<)?([\w./-]+)>?$", "\n".join(trees), re.MULTILINE)
    pages = {(ROOT / "docs" / f"{page}.md").resolve() for page in listed}
    assert set(PAGES) - pages == {ROOT / "docs/index.md"}


# ------------------------------------------------------------------------------------------------------ what they name
@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_files_and_functions_exist(path):
    lost = []
    for word in re.findall(r"`([\w./-]+)`", path.read_text()):
        if re.match(r"(?:sublinattn|scripts|notebooks|tests|docs|figures)/", word) and not (ROOT / word).exists():
            lost.append(word)
        if re.match(r"sublinattn\.\w", word):
            pkgutil.resolve_name(word)  # raises where there is no such module or attribute
    assert lost == []


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_lead_somewhere(path):
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        page = path.parent / file if file else path
        if not page.exists() or anchor and anchor not in anchors(page):
            lost.append(target)
    assert lost == []


def anchors(page: Path) -> set[str]:
    """Fragments that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [path for path in PAGES if CLAIM.search(path.read_text())], ids=name)
def test_claims_exist(path):
    for claim in set(CLAIM.findall(path.read_text())):
        assert find(claim).id == claim  # KeyError for an id that no claim has


@pytest.mark.parametrize("path", with_code("sh"), ids=name)
def test_commands_take_these_arguments(path):
    lines = [
        line for language, code in FENCE.findall(path.read_text()) if language == "sh" for line in code.splitlines()
    ]
    program = typer.main.get_command(cli.app)
    commands = program.commands
    notebooks = [notebook.stem for notebook in (ROOT / "notebooks").glob("*.ipynb")]
    for words in (shlex.split(line, comments=True) for line in lines):
        if words[0] == "sublinattn" and words[1].startswith("-"):
            assert words[1] in {option for each in program.params for option in each.opts}
        elif words[0] == "sublinattn":
            given = commands[words[1]].make_context(words[1], words[2:]).params  # raises where it would refuse
            assert given.get("claim") is None or given["claim"] in CLAIMS
            assert not given.get("only") or any(fnmatch(notebook, given["only"]) for notebook in notebooks)
        elif words[0].startswith("scripts/"):
            assert (ROOT / words[0]).exists()


# ----------------------------------------------------------------------------------------------------------- their code
@pytest.mark.parametrize("path", with_code("python"), ids=name)
def test_code_runs_and_prints_what_is_shown(path, tmp_path, monkeypatch, capsys):
    """The blocks of a page in their order, in one namespace; a block of text shows what the code before it prints.

    Words must agree, numbers within 2 percent: the last digit may depend on the machine.
    """
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    blocks = FENCE.findall(path.read_text())
    for (language, code), (after, shown) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if language != "python":
            continue
        exec(compile(code, name(path), "exec"), namespace)
        printed = capsys.readouterr().out
        assert bool(printed) == (after == "text"), f"shown beside this code: {after}; printed: {printed!r}"
        if printed:
            assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split(), printed
            expected = [pytest.approx(float(x), rel=0.02) for x in NUMBER.findall(shown)]
            assert list(map(float, NUMBER.findall(printed))) == expected, printed


# -------------------------------------------------------------------------------------------------------- their numbers
COUNTS = re.compile(r"(\d+) claims: (\d+) supported, (\d+) refuted, (\d+) undecided and (\d+) vacuous")


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_counts_are_those_of_the_record(page):
    said = re.sub(r"\s+", " ", (ROOT / page).read_text())
    outcomes = Counter(entry["outcome"] for entry in RECORD["claims"].values())
    counts = [len(RECORD["claims"])] + [outcomes[o] for o in ("supported", "refuted", "undecided", "vacuous")]
    assert [list(map(int, found)) for found in COUNTS.findall(said)] == [counts]


def test_the_front_door_counts_theorems_first():
    said = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())
    counts = ledger.summary(RECORD["claims"])["by_basis"]["theorem"]
    outcomes = " and ".join(", ".join(f"{counts[o]} {o}" for o in ledger.OUTCOMES).rsplit(", ", 1))
    assert said.index(f"{counts['claims']} theorems of these papers: {outcomes}") < said.index(" claims: ")


def test_counts_by_basis_are_those_of_the_record():
    page = (ROOT / "docs/results.md").read_text()
    (table,) = re.findall(r"^\| what the claims rest on \|.*\n\|[-:|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    said = {row[0]: list(map(int, row[1:])) for row in (line.strip("| ").split(" | ") for line in table.splitlines())}
    outcomes = ("supported", "refuted", "undecided", "vacuous")
    counts = ledger.summary(RECORD["claims"])["by_basis"]
    assert said == {basis: [count[outcome] for outcome in outcomes] for basis, count in counts.items()}


def test_results_give_every_claim_the_verdict_on_record():
    page = (ROOT / "docs/results.md").read_text()
    said: list[tuple[str, str]] = []
    for table in re.findall(r"^\| claim \| on record \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE):
        for row in table.splitlines():
            claims, verdict, _ = row.strip("| ").split(" | ")
            said += [(claim, verdict) for claim in CLAIM.findall(claims)]
    assert sorted(said) == sorted((claim, entry["outcome"]) for claim, entry in RECORD["claims"].items())


def test_the_language_models_page_gives_the_verdicts_of_its_ledger():
    verdicts = ledger.load(ROOT / "ledger-smollm2.json")["claims"]
    rows = [line for line in (ROOT / "docs/smollm2.md").read_text().splitlines() if CLAIM.search(line) and "|" in line]
    said = {CLAIM.findall(row)[0]: row.split(" | ")[2].strip("* ") for row in rows}
    assert said == {claim: entry["outcome"] for claim, entry in verdicts.items()}
