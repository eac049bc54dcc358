"""Links that no page writes: names of the API, ids of claims, files and papers lead to their pages.

A file of the repository that a page names gets a page with its source. `source:path#L12` leads to a line of it.
"""

import re
from collections.abc import Iterator
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

from claim_pages import CLAIMS_PAGE, PAPER_PAGES, REFERENCES, method_of
from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import guess_lexer, guess_lexer_for_filename
from sphinx import addnodes
from sphinx.application import Sphinx

from sublinattn.suite.method_map import line_of
from sublinattn.suite.report.citations import citations

ROOT = Path(__file__).resolve().parents[2]
SHOWN = ("", ".bib", ".cu", ".py", ".toml")  # suffixes of files that get a page; others are downloads
CITATION = re.compile(r"\[([A-Z][A-Z0-9]+\d\d)\b")


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """Where an entry of the API stands."""
    try:
        file, line = line_of(attrgetter(info["fullname"])(import_module(info["module"])))
    except (ImportError, AttributeError, TypeError, OSError):  # a mocked library; a constant
        return None
    return f"source:{file.relative_to(ROOT)}#L{line}" if file.is_relative_to(ROOT) else None


def resolve(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give every link of a page its address."""
    if app.builder.format != "html":
        return
    for node in doctree.findall(nodes.reference):
        if (uri := node.get("refuri", "")).startswith("source:"):
            node["refuri"] = source_page(app, docname, *uri.removeprefix("source:").partition("#L")[::2])
    for node in list(doctree.findall(addnodes.download_reference)):
        path = (ROOT / docname).parent.joinpath(node["reftarget"]).resolve()
        if is_shown(path):
            address = source_page(app, docname, path.relative_to(ROOT).as_posix())
            node.replace_self(nodes.reference("", "", *node.children, refuri=address))
    apart = (nodes.reference, nodes.title, nodes.literal_block, addnodes.desc_signature, addnodes.download_reference)
    for node in list(doctree.findall(nodes.literal)):
        if not inside(node, apart) and (address := target(app, docname, node.astext())):
            node.replace_self(nodes.reference("", "", node.deepcopy(), refuri=address, internal=True))
    for node in list(doctree.findall(nodes.Text)):
        if not inside(node, (*apart, nodes.literal, nodes.raw, nodes.math, nodes.math_block)):
            cite(app, docname, node)


def inside(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def target(app: Sphinx, docname: str, text: str) -> str | None:
    """The address of what inline code names: a claim, something public, a file."""
    text = text.strip()
    if method := method_of().get(text):
        return relative(app, docname, CLAIMS_PAGE.format(method), nodes.make_id(text))
    name = text.removesuffix("()")
    objects = app.env.domains.python_domain.objects
    if entry := objects.get(name) or objects.get(f"sublinattn.{name}"):
        return relative(app, docname, entry.docname, entry.node_id)
    path = ROOT / name
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)+", name) or not path.is_file():
        return None
    if (page := name.rpartition(".")[0]) in app.env.found_docs:
        return relative(app, docname, page)
    return source_page(app, docname, name) if is_shown(path) else None


def cite(app: Sphinx, docname: str, node: nodes.Text) -> None:
    """Make a link of each [KEY] of the bibliography, to the paper's page or its entry."""
    pieces = CITATION.split(node.astext())
    if len(pieces) == 1:
        return
    made: list[nodes.Node] = [nodes.Text(pieces[0])]
    for key, after in zip(pieces[1::2], pieces[2::2], strict=True):
        page = PAPER_PAGES.get(key, REFERENCES)
        if key not in citations() or page == docname:
            made.append(nodes.Text(f"[{key}{after}"))
        else:
            address = relative(app, docname, page, "" if key in PAPER_PAGES else key.lower())
            made += [nodes.Text("["), nodes.reference("", key, refuri=address, internal=True), nodes.Text(after)]
    node.parent.replace(node, made)


def relative(app: Sphinx, docname: str, page: str, anchor: str = "") -> str:
    return app.builder.get_relative_uri(docname, page) + (f"#{anchor}" if anchor else "")


# ------------------------------------------------------------------------------------------------------ pages of source
def is_shown(path: Path) -> bool:
    return path.is_file() and path.is_relative_to(ROOT) and path.suffix in SHOWN


def source_page(app: Sphinx, docname: str, path: str, line: str = "") -> str:
    sources: set[str] = app.env.__dict__.setdefault("sublinattn_sources", set())
    sources.add(path)
    return relative(app, docname, f"source/{path}", f"L-{line}" if line else "")


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The file that each link of this build leads to, highlighted, a line an anchor."""
    style = HtmlFormatter(linenos="inline", anchorlinenos=True, lineanchors="L")
    for path in sorted(getattr(app.env, "sublinattn_sources", ())):
        text = (ROOT / path).read_text(encoding="utf-8")
        lexer = guess_lexer_for_filename(path, text) if Path(path).suffix else guess_lexer(text)
        body = f'<div class="source"><h1>{path}</h1>\n{highlight(text, lexer, style)}</div>'
        yield f"source/{path}", {"title": path, "body": body, "parents": [], "hide_toc": True}, "page.html"


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", resolve)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True}
