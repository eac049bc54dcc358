"""An executed notebook as a fragment of HTML that needs no network: its mathematics is MathML, not MathJax.

This module stands apart from the rest of the report because nbconvert is slow to import.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from ...core import files
from .mathml import mathml

_WIDGET = "application/vnd.jupyter.widget-view+json"


def to_html(path: Path) -> str:
    """Body of an executed notebook."""
    notebook = files.read_notebook(path)
    with files.reading(path, "an executed notebook"):
        return _html(notebook)


def _html(notebook: nbformat.NotebookNode) -> str:
    notebook.metadata.pop("widgets", None)  # need a script, which the report's pages may not run
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if _WIDGET not in output.get("data", {})]
        for output in cell.get("outputs", ()):
            if "data" in output:
                _prefer_mathml(output.data)
    body, _ = _exporter().from_notebook_node(notebook)
    body = re.sub(r"<th>\s*</th>", "<td></td>", str(body))  # above the index of a table: a heading of nothing
    return body.replace('<div class="output">', '<div class="output" tabindex="0">')  # scrolls, so keys must reach it


def markdown(text: str) -> str:
    """Markdown with formulas as HTML."""
    return str(MarkdownWithMath(renderer=_Renderer(escape=False, exclude_anchor_links=True)).render(text))


class _Renderer(IPythonRenderer):
    """Markdown cells."""

    def block_math(self, body: str) -> str:
        return mathml(body, display=True)

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", display=True)


class _Exporter(HTMLExporter):
    @pass_context
    def markdown2html(self, context: Mapping[str, Any], source: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = _Renderer(escape=False, attachments=attachments, exclude_anchor_links=True)
        return str(MarkdownWithMath(renderer=renderer).render(source))


@cache
def _exporter() -> _Exporter:
    """One for all notebooks: each compiles its templates anew."""
    return _Exporter(template_name="basic")


def _prefer_mathml(data: dict[str, Any]) -> None:
    """Formulas that a cell has put out (SymPy does) come as LaTeX for MathJax."""
    if "text/latex" in data:
        latex = data.pop("text/latex").strip().strip("$").removeprefix(r"\displaystyle")
        data["text/html"] = mathml(latex, display=True)
