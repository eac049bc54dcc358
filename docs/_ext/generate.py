"""Pages that are made from the code, the claims and the record, anew for each build: they cannot go stale.

They are written as Markdown to docs/generated, which git ignores: the map of each method (included by the pages of the
papers), its claims with their verdicts, the gallery of figures, the reference of the API and of the commands.
"""

import json
import re
import shutil
from importlib import import_module
from typing import Any

from claim_pages import (
    NAMES,
    OUT,
    PAPER_PAGES,
    ROOT,
    called,
    capital,
    figures,
    plain,
    record,
    write,
    write_claims,
    write_map,
    write_papers,
)

import sublinattn
from sublinattn.lab import parameters
from sublinattn.suite.method_map import maps
from sublinattn.suite.report.citations import citations

API = {
    "streams": ("Data larger than memory", "sublinattn.streams", ["absorb"]),
    "theory": (
        "Claims and verdicts",
        "sublinattn.theory",
        ["find", "verify", "Verdict", "claim.Claim", "claim.Trial", "claim.Probability", "claim.Exact", "claim.Mean"]
        + ["claim.Growth", "claim.Assumption", "claim.Drop", "claim.Sabotage", "claim.Vacuity", "adversary.Search"],
    ),
    "lab": (
        "The lab: runs, inputs, models",
        "sublinattn.lab",
        ["run.Run", "workloads.make", "workloads.names", "workloads.real", "workloads.Instance"]
        + ["models.open_model", "models.Model"],
    ),
    "lm": (
        "A language model",
        "sublinattn.lm",
        ["decoder.Decoder", "attend.replacing", "attend.CachedAttention", "capture.capture"],
    ),
    "transformers": (
        "Models of Hugging Face",
        "sublinattn.interop.transformers",
        ["capture", "replace", "SublinCache"],
    ),
}
"""Public things outside of `sublinattn` itself: title, module, names in it."""


# --------------------------------------------------------------------------------------------------------------- lists
def write_list(name: str, title: str, intro: str, lines: list[str], pages: list[str]) -> None:
    """A page that leads to others, which stand below it in the contents."""
    contents = "\n".join(["```{toctree}", ":hidden:", "", *pages, "```"])
    write(name, "\n\n".join([f"# {title}", intro, "\n".join(lines), contents]))


def write_lists() -> None:
    pages = [f"claims-{method}" for method in sorted(maps(), key=[*NAMES, *maps()].index)]
    lines = [f"- [{capital(called(page.removeprefix('claims-')))}]({page}.md)" for page in pages]
    intro = "What each claim says as a formula, its verdict on record, and why; by the method that it is about."
    write_list("claims", "Every claim", intro, lines, pages)

    lines = [
        f"- [{title_of_api(page)}](api-{page}.md): "
        + ", ".join(f"`{name.removeprefix('sublinattn.')}`" for name in names)
        for page, names in public().items()
    ]
    intro = "Arrays are NumPy's, CuPy's, PyTorch's or JAX's, of shape (..., n, d), and come back as the caller's kind."
    write_list("api", "API", intro, lines, [f"api-{page}" for page in public()])

    lines, names = [], sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    for name in names:
        first = json.loads((ROOT / f"notebooks/{name}.ipynb").read_text())["cells"][0]["source"]
        title, _, paragraph = "".join(first).partition("\n\n")
        link = f"[{name[:2]} {title.lstrip('# ')}](/notebooks/{name}.ipynb)"
        lines.append(f"- {link}{'' if title.endswith('?') else ':'} {sentence(paragraph)}")
    intro = "Their numbers are in the first cell of code: `sublinattn run --only '01*' --param n=4096`, or JupyterLab."
    write_list("notebooks", "Notebooks", intro, lines, [f"/notebooks/{name}" for name in names])


def sentence(paragraph: str) -> str:
    """The first sentence."""
    return re.split(r"(?<=[.?!])\s", paragraph.partition("\n\n")[0].replace("\n", " "), maxsplit=1)[0]


def title_of_api(page: str) -> str:
    return API[page][0] if page in API else capital(called(page))


# -------------------------------------------------------------------------------------------------- figures, references
def write_gallery() -> None:
    parts = [
        "# Gallery",
        "The figures of these pages, each with the command that draws it again (in `out/figures`).",
        "",
    ]
    for name, about in figures().items():
        params = about["params"]
        notebook = params.get("notebook") or notebook_of(about["claims"])
        command = f"sublinattn run --effort {params['effort']} --seed {about['seed']} --only '{notebook}'"
        command += parameters.options(notebook, params)
        claims = ", ".join(f"`{claim}`" for claim in about["claims"])
        formats = ", ".join(f"[{suffix}](../../figures/{name}.{suffix})" for suffix in ("svg", "pdf", "json"))
        parts.append(
            f"## {name}\n\n![{name}](../../figures/{name}.png)\n\n{plain(about['caption'])}\n\n```sh\n{command}\n```"
        )
        where = f"From [notebook {notebook}](/notebooks/{notebook}.ipynb)"
        where += f", measured on {params['measured']}" if "measured" in params else ""
        where += f"; claims: {claims}" if claims else ""
        parts.append(f"{where}. Also as {formats} (the plotted numbers).")
    write("gallery", "\n\n".join(parts))


def notebook_of(claims: list[str]) -> str:
    return next((record()[name]["notebook"] for name in claims if name in record()), "")


def write_references() -> None:
    parts = ["# References", "The papers, by the keys that code and pages cite."]
    for key, paper in sorted(citations().items()):
        link = f" [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})." if paper.arxiv else ""
        page = f" [Its page](/{PAPER_PAGES[key]}.md)." if key in PAPER_PAGES else ""
        venue = ", ".join(part for part in (paper.venue, paper.year) if part)
        parts.append(f"({key.lower()})=\n**{key}** {paper.authors}: *{paper.title}*, {venue}.{link}{page}")
    write("references", "\n\n".join(parts))


# ---------------------------------------------------------------------------------------------------- API and commands
def public() -> dict[str, list[str]]:
    """Dotted names of everything public, by the page that describes it."""
    grouped: dict[str, list[str]] = {}
    for name in sublinattn.__all__:
        parts = getattr(sublinattn, name).__module__.split(".")
        grouped.setdefault(parts[2] if parts[1] == "methods" else "exact", []).append(f"sublinattn.{name}")
    order = [*NAMES, *sorted(grouped.keys() - NAMES)]
    methods = {page: grouped[page] for page in order if page in grouped}
    return methods | {page: [f"{module}.{name}" for name in names] for page, (_, module, names) in API.items()}


def write_api() -> None:
    for page, names in public().items():
        parts = [f"# {title_of_api(page)}"]
        if page == "theory":
            parts.append("`CLAIMS` maps the id of each claim of the suite to the `Claim`.")
        for name in names:
            module, _, thing = name.rpartition(".")
            mocked = "transformers" in module  # a library that is not installed for the site
            isclass = thing[0].isupper() if mocked else isinstance(getattr(import_module(module), thing), type)
            kind = "autoclass" if isclass else "autofunction"
            directive = [f".. py:currentmodule:: {module}", "", f".. {kind}:: {name}"]
            if isclass:
                directive += ["   :members:", "   :inherited-members: Cache", "   :exclude-members: PARAMETERS"]
            parts.append("\n".join([f"## {thing}", "", "```{eval-rst}", *directive, "```"]))
        write(f"api-{page}", "\n\n".join(parts))


def write_commands() -> None:
    """What `--help` says of each command."""
    import typer
    from typer.cli import get_docs_for_click

    from sublinattn import cli

    command = typer.main.get_command(cli.app)
    with typer.Context(command) as context:
        text = get_docs_for_click(obj=command, ctx=context, name="sublinattn", title="Commands")
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", text)  # cut short there, and the headings are the same list
    write("commands", re.sub(r"\[bold\](.*?)\[/\]", r"`\1`", text))


def generate(app: Any) -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    for method, rows in maps().items():
        write_map(method, rows)
        write_claims(method, rows)
    write_papers()
    write_lists()
    write_gallery()
    write_references()
    write_api()
    write_commands()


def uncover(app: Any, docname: str, source: list[str]) -> None:
    """Make text of the comments `<!-- site ... -->`: directives, which a code host would show as they are written."""
    source[0] = re.sub(r"(?ms)^<!-- site\n(.*?)^-->$", r"\1", source[0])


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", generate)
    app.connect("source-read", uncover)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
