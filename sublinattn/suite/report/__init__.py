"""The report: a static site that is read from a folder, without a network.

`index.html` lists the claims with their outcomes. Every claim and every notebook has a page, and one page shows all
figures. Formulas are MathML.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError, select_autoescape
from markupsafe import Markup
from pygments.formatters import HtmlFormatter

from ...core import files
from ...lab import ledger
from ...theory.claim import BASES
from . import views
from .citations import citations
from .mathml import mathml

FORMATS = ("svg", "pdf", "png", "json")


def build(out: Path | str) -> Path:
    """Write `out/report/` from the ledger, the notebooks and the figures in `out`, in place of an earlier report.

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
    draft = Path(tempfile.mkdtemp(prefix=".report-", dir=out))
    site = draft / "report"
    site.mkdir()  # with the permissions that the user's umask leaves, which `draft` has not
    try:
        try:
            _write_site(site, out, record)
        except (KeyError, TypeError, AttributeError, IndexError, UndefinedError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{out / 'ledger.json'} lacks what the report shows ({reason})") from error
        _swap(site, out / "report")
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out / "report" / "index.html"


def _write_site(site: Path, out: Path, record: Mapping[str, Any]) -> None:
    claims = sorted(
        (views.claim_view(entry) for entry in record["claims"].values()),
        key=lambda claim: (
            list(BASES).index(claim["basis"]),
            views.ORDER[claim["outcome"]],
            claim["paper"],
            claim["id"],
        ),
    )
    figures = _figures(out / "figures", site / "figures")
    notebooks = _notebooks(out / "notebooks", record.get("notebooks", {}), claims)
    templates = environment(slack_domain=views.slack_domain(claim["slack_range"] for claim in claims))
    templates.globals.update(
        record=record,
        summary=record["summary"],
        seeds=record.get("seeds", {}).get("claims", {}),
        claims=claims,
        figures=figures,
        notebooks=notebooks,
    )

    def page(name: str, template: str, **context: Any) -> None:
        text = templates.get_template(template).render(root="../" * name.count("/"), **context)
        files.write_text(site / name, text)

    files.write_text(site / "report.css", stylesheet())
    page("index.html", "index.html.j2")
    page("figures.html", "figures.html.j2")
    for i, claim in enumerate(claims):
        neighbours = {"before": claims[i - 1] if i else None, "after": claims[i + 1] if i + 1 < len(claims) else None}
        shown = [figure for figure in figures.values() if claim["id"] in figure["claims"]]
        page(f"claims/{claim['id']}.html", "claim.html.j2", claim=claim, shown=shown, **neighbours)
    from .notebook_html import to_html  # brings nbconvert, which the audit page does without

    for notebook in notebooks.values():
        if notebook["file"]:
            body = Markup(to_html(notebook["file"]))
            page(f"notebooks/{notebook['name']}.html", "notebook.html.j2", notebook=notebook, body=body)


def stylesheet() -> str:
    """Style of every page and of the code in it, light and dark."""
    css = (Path(__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("default", "github-dark"))
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
        **settings,
    )
    templates.filters.update(
        number=views.number,
        percent=views.percent,
        math=lambda latex: Markup(mathml(latex)),
        display_math=lambda latex: Markup(mathml(latex, display=True)),
    )
    return templates


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


def _figures(source: Path, target: Path) -> dict[str, dict[str, Any]]:
    """Copy the figures that have a sidecar. Returns by name: the sidecar's content, the claims, the formats."""
    figures = {}
    target.mkdir(parents=True)
    for sidecar in sorted(source.glob("*.json")):
        formats = [suffix for suffix in FORMATS if sidecar.with_suffix(f".{suffix}").exists()]
        if "svg" in formats:
            for suffix in formats:
                shutil.copyfile(sidecar.with_suffix(f".{suffix}"), target / f"{sidecar.stem}.{suffix}")
            facts = files.read_json(sidecar)
            figures[sidecar.stem] = facts | {"name": sidecar.stem, "claims": set(facts["claims"]), "formats": formats}
    return figures


def _notebooks(folder: Path, status: Mapping[str, Any], claims: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By name, the notebooks that were executed or failed, with their claims."""
    names = set(status) | {path.stem.removesuffix(".failed") for path in folder.glob("*.ipynb")}
    notebooks = {}
    for name in sorted(names):
        complete, failed = folder / f"{name}.ipynb", folder / f"{name}.failed.ipynb"
        outcome = status.get(name, {"ok": complete.exists(), "error": ""})
        file = complete if outcome["ok"] else failed
        notebooks[name] = outcome | {
            "name": name,
            "file": file if file.exists() else None,
            "claims": [claim for claim in claims if claim["notebook"] == name],
        }
    return notebooks


def _swap(draft: Path, target: Path) -> None:
    """Put the new report in the place of the old one."""
    if target.exists():
        os.replace(target, draft.with_name("old"))
    os.replace(draft, target)
