"""The pages that the documentation site makes of claims, maps, figures and commands; `scripts/docs` builds them all."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import typer

from sublinattn import cli
from sublinattn.suite.method_map import maps
from sublinattn.theory import CLAIMS

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs/_ext"))
import claim_pages  # noqa: E402
import generate  # noqa: E402


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        out = tmp_path_factory.mktemp("site") / "generated"
        patch.setattr(claim_pages, "OUT", out)
        patch.setattr(generate, "OUT", out)
        generate.generate(None)
    return out


def test_each_claim_is_described_once_with_its_verdict(pages):
    text = "".join(path.read_text() for path in pages.glob("claims-*.md"))
    said = re.findall(r"^### (\S+)\n\n\[([\w ]+)\]", text, re.MULTILINE)
    assert sorted(said) == [(name, claim_pages.outcome(name)) for name in sorted(CLAIMS)]


def test_the_maps_link_to_the_lines_of_the_code(pages):
    links = [
        link
        for path in pages.glob("maps/*.md")
        for link in re.findall(r"`([\w.]+)` \[[\w.]+:\d+\]\(source:([^)]*)\)", path.read_text())
    ]
    assert len(links) == sum(len(row.places()) for rows in maps().values() for row in rows)
    for name, place in links:
        file, line = place.split("#L")
        code = "\n".join((ROOT / file).read_text().splitlines()[int(line) - 1 :][:6])  # below its decorators
        assert re.search(rf"(def|class) {name.rpartition('.')[2]}\b", code), place


def test_every_figure_has_the_command_that_draws_it(pages):
    gallery = (pages / "gallery.md").read_text()
    commands = re.findall(r"```sh\nsublinattn run .*--only '([^']+)'.*\n```", gallery)
    assert len(commands) == len(list((ROOT / "figures").glob("*.png")))
    assert {(ROOT / f"notebooks/{name}.ipynb").exists() for name in commands} == {True}


def test_every_command_is_in_the_reference(pages):
    said = re.findall(r"^## `sublinattn (\S+)`", (pages / "commands.md").read_text(), re.MULTILINE)
    assert said == list(typer.main.get_command(cli.app).commands)


def test_what_only_the_site_shows_is_hidden_in_the_repository():
    """Directives stand in comments, which the site's build makes text of."""
    for page in (*(ROOT / "docs").glob("*.md"), *(ROOT / "docs/papers").glob("*.md")):
        source = [page.read_text()]
        seen = re.sub(r"(?s)(`{4}).*?\1|<!--.*?-->", "", source[0])
        assert "{include}" not in seen and "{toctree}" not in seen, page
        directives = source[0].count("\n```{")
        generate.uncover(None, page.stem, source)
        shown = re.sub(r"(?s)(`{4}).*?\1|<!--.*?-->", "", source[0])
        assert shown.count("\n```{") == directives - (page.stem == "add-a-paper"), page


@pytest.mark.parametrize("method", maps())
def test_every_map_is_on_one_page(method):
    line = f"```{{include}} ../generated/maps/{method}.md\n"
    assert sum(page.read_text().count(line) for page in (ROOT / "docs/papers").glob("*.md")) == 1
