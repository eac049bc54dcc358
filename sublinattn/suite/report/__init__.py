"""The report: a static site that is read from a folder, without a network.

`index.html` lists the claims with their outcomes. Every claim, notebook and figure has a page; one page shows all
figures, one the glossary. Formulas are MathML.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError, select_autoescape
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from ...core import files
from ...lab import ledger
from ...theory.claim import BASES
from . import glossary, views, words
from .citations import citations
from .figures import EVERYWHERE, copied
from .mathml import mathml

CODE_STYLES = ("xcode", "github-dark")
"""Pygments styles, light and dark, whose colours are legible (WCAG AA) on the ground that the style sheet gives."""


def build(out: Path | str, *, progress: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Write `out/report/` from the ledger, the notebooks and the figures in `out`, in place of an earlier report.

    `progress(done, total)` is called after each page.

    Returns
    -------
    Path
        `index.html` of the report.

    Raises
    ------
    FileNotFoundError
        There is no ledger in `out`.
    """
    out = Path(out)
    if not (out / "ledger.json").exists():
        raise FileNotFoundError(f"{out} holds no ledger.json; `sublinattn run --out {out}` writes one, and the report")
    record = ledger.load(out / "ledger.json")
    with files.draft(out) as folder:
        site = folder / "report"
        site.mkdir()  # with the permissions that the user's umask leaves, which `folder` has not
        try:
            _write_site(site, out, record, progress)
        except (KeyError, TypeError, AttributeError, IndexError, UndefinedError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{out / 'ledger.json'} lacks what the report shows ({reason})") from error
        _swap(site, out / "report")
    return out / "report" / "index.html"


def _write_site(site: Path, out: Path, record: Mapping[str, Any], progress: Callable[[int, int], None]) -> None:
    claims = sorted(
        (views.claim_view(entry) for entry in record["claims"].values()),
        key=lambda claim: (
            list(BASES).index(claim["basis"]),
            views.ORDER[claim["outcome"]],
            claim["paper"],
            claim["id"],
        ),
    )
    figures = copied(out / "figures", site / "figures")
    notebooks = _notebooks(out / "notebooks", record.get("notebooks", {}), claims, figures)
    templates = environment(slack_domain=views.slack_domain(claim["slack_range"] for claim in claims))
    templates.globals.update(
        record=record,
        summary=record["summary"],
        seeds=record.get("seeds", {}).get("claims", {}),
        claims=claims,
        known={claim["id"] for claim in claims},
        by_paper=_by_paper(claims),
        titles={key: f"{paper.title}. {paper.authors}, {paper.year}" for key, paper in citations().items()},
        differs=record.get("machine", {}).get("differs", []),
        figures=figures,
        notebooks=notebooks,
    )

    executed = [notebook for notebook in notebooks.values() if notebook["file"]]
    written, total = count(1), 3 + len(figures) + len(claims) + len(executed)

    def page(name: str, template: str, **context: Any) -> None:
        text = templates.get_template(template).render(root="../" * name.count("/"), **context)
        files.write_text(site / name, text)
        progress(next(written), total)

    files.write_text(site / "report.css", stylesheet())
    page("index.html", "index.html.j2")
    page("figures.html", "figures.html.j2")
    for figure in figures.values():
        page(f"figures/{figure['name']}.html", "figure.html.j2", item=figure)
    for i, claim in enumerate(claims):
        neighbours = {"before": claims[i - 1] if i else None, "after": claims[i + 1] if i + 1 < len(claims) else None}
        shown = [figure for figure in figures.values() if claim["id"] in figure["claims"]]
        page(f"claims/{claim['id']}.html", "claim.html.j2", claim=claim, shown=shown, **neighbours)
    from .notebook_html import markdown, to_html  # brings nbconvert, which the audit page does without

    page("glossary.html", "glossary.html.j2", body=Markup(markdown(glossary.page())))

    for notebook in executed:
        body = Markup(to_html(notebook["file"]))
        page(f"notebooks/{notebook['name']}.html", "notebook.html.j2", notebook=notebook, body=body)


def stylesheet() -> str:
    """Style of every page and of the code in it, light and dark."""
    css = (Path(__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    light, dark = (HtmlFormatter(style=name, nobackground=True).get_style_defs(".highlight") for name in CODE_STYLES)
    return f"{css}{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def environment(**settings: Any) -> Environment:
    """The templates, with the functions and filters that they use; `settings` are further names for them."""
    script = (Path(__file__).parent / "templates" / "report.js").read_text(encoding="utf-8")
    templates = Environment(
        loader=PackageLoader("sublinattn.suite.report"),
        autoescape=select_autoescape(default_for_string=True, default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update(
        citations=citations(),
        marks=views.MARKS,
        meanings=views.MEANINGS,
        bases=BASES,
        script=Markup(script),
        policy=_policy(script),
        span=views.span,
        words=words,
        hover=glossary.hover,
        meaning=glossary.meaning,
        everywhere=EVERYWHERE,
        **settings,
    )
    templates.filters.update(
        number=views.number,
        search_text=_search_text,
        percent=views.percent,
        highlight=lambda code: Markup(highlight(code, PythonLexer(), HtmlFormatter())),
        math=lambda latex: Markup(mathml(latex)),
        display_math=lambda latex: Markup(mathml(latex, display=True)),
    )
    return templates


def _by_paper(claims: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Outcomes of each paper's claims, and how many of them are theorems."""
    theorems = ledger.by([claim for claim in claims if claim["basis"] == "theorem"], "paper")
    return {
        paper: {**counts, "theorems": theorems.get(paper, {}).get("claims", 0)}
        for paper, counts in ledger.by(claims, "paper").items()
    }


def _search_text(claim: Mapping[str, Any]) -> str:
    """What a search looks through: also the paper's title and authors, and the folder of its method."""
    paper = citations().get(claim["paper"])
    of_paper = [paper.title, paper.authors] if paper else []
    place = claim.get("trial", {}).get("where", "")
    return " ".join([*(claim[key] for key in ("title", "id", "source", "paper", "basis", "remark")), place, *of_paper])


def _policy(script: str) -> str:
    """What a page may load: pictures and styles beside it, and no script but this one, whatever a ledger brings along.

    The pages are opened from a folder, where 'self' names nothing in some browsers, so that files are named too.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = {
        "default-src": "'none'",
        "img-src": "'self' file: data:",
        "style-src": "'self' file: 'unsafe-inline'",
        "script-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _notebooks(
    folder: Path, status: Mapping[str, Any], claims: list[dict[str, Any]], figures: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """By name, the notebooks that were executed or failed, with their titles, claims and figures."""
    names = set(status) | {path.stem.removesuffix(".failed") for path in folder.glob("*.ipynb")}
    notebooks = {}
    for name in sorted(names):
        complete, failed = folder / f"{name}.ipynb", folder / f"{name}.failed.ipynb"
        outcome = status.get(name, {"ok": complete.exists(), "error": ""})
        file = complete if outcome["ok"] else failed
        notebooks[name] = outcome | {
            "name": name,
            "file": file if file.exists() else None,
            "title": _title(file) if file.exists() else name,
            "figures": [figure for figure in figures.values() if figure["notebook"] == name],
            "claims": [claim for claim in claims if claim["notebook"] == name],
        }
    return notebooks


def _title(notebook: Path) -> str:
    """The first heading of a notebook, or its file's name."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        heading = re.search(r"^# (.+)$", text, re.MULTILINE)
    except (ValueError, KeyError, TypeError):
        heading = None
    return re.sub(r"\\[,;]|[$*`]", "", heading[1]).strip() if heading else notebook.stem


def _swap(draft: Path, target: Path) -> None:
    """Put the new report in the place of the old one."""
    if target.exists():
        os.replace(target, draft.with_name("old"))
    os.replace(draft, target)
