"""Pages that are made from the code, the claims and the record, anew for each build: they cannot go stale.

They are written as Markdown to docs/generated, which git ignores: the map of each method (included by the pages of the
papers), its claims with their verdicts, the gallery of figures, the reference of the API and of the commands.
"""

import json
import re
import shutil
from collections import Counter
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import sympy

import sublinattn
from sublinattn.suite.method_map import Row, line_of, maps
from sublinattn.suite.report.citations import citations
from sublinattn.theory import CLAIMS
from sublinattn.theory.claim import BASES, Claim

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs/generated"
CLAIMS_PAGE, REFERENCES, GALLERY = "docs/generated/claims-{}", "docs/generated/references", "docs/generated/gallery"
PAPER_PAGES = {
    path.stem.upper(): f"docs/papers/{path.stem}"
    for path in sorted((ROOT / "docs/papers").glob("*.md"))
    if path.stem.upper() in citations()
}
NAMES = {
    "hyperattention": "HyperAttention",
    "subgen": "SubGen",
    "balancekv": "BalanceKV",
    "onepass": "one-pass streaming attention",
    "polynomial": "the polynomial method",
    "countsketch": "CountSketch",
    "exact": "exact attention",
    "caches": "the other caches",
    "baselines": "the batch baselines",
}
"""What a method is called in titles; a folder that is not listed has its own name."""

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


@cache
def record() -> dict[str, Any]:
    return json.loads((ROOT / "ledger.json").read_text())["claims"]


@cache
def figures() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "figures").glob("*.json"))}


@cache
def claim_pages() -> dict[str, str]:
    """The method of each claim."""
    return {name: method for method, rows in maps().items() for row in rows for name in row.matching(CLAIMS)}


def called(method: str) -> str:
    return NAMES.get(method, method)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def write(name: str, text: str) -> None:
    path = OUT / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.strip() + "\n", encoding="utf-8")


def source(thing: Any, shown: str) -> str:
    """A link to the line of something."""
    file, line = line_of(thing)
    return f"`{shown}` [{file.name}:{line}](source:{file.relative_to(ROOT).as_posix()}#L{line})"


def cell(text: str) -> str:
    return text.replace("|", r"\|")


def chip(outcome: str) -> str:
    return f"[{outcome}]{{.verdict .{outcome.split()[0]}}}"


def outcome(name: str) -> str:
    return record()[name]["outcome"] if name in record() else "not on record"


# ------------------------------------------------------------------------------------------------------------- the maps
def write_map(method: str, rows: tuple[Row, ...]) -> None:
    """Theorem, code, verdicts, figure; and how many of the claims of each basis have which outcome."""
    lines = ["| in the paper | code | claims and verdicts | figures and notebooks |", "|---|---|---|---|"]
    for row in rows:
        held = row.matching(CLAIMS)
        code = [source(thing, name) for _, name, thing in row.places()]
        claims = [f"`{name}` {chip(outcome(name))}" for name in held]
        shown = [f"[{f}](/{GALLERY}.md#{f})" for f, about in figures().items() if set(about["claims"]) & set(held)]
        shown += [f"[notebook {name}](/notebooks/{name}.ipynb)" for name in row.notebooks]
        columns = [row.where, *("<br>".join(column) for column in (code, claims, shown))]
        lines.append("| " + " | ".join(map(cell, columns)) + " |")
    names = [name for name, its in claim_pages().items() if its == method]
    by_basis = {basis: [CLAIMS[name] for name in names if CLAIMS[name].basis == basis] for basis in BASES}
    sums = [f"{basis}: {tally(claims)}" for basis, claims in by_basis.items() if claims]
    unread = [f"`{name}`" for name in names if not CLAIMS[name].source_checked]
    table = "\n".join(["{.map}", *lines])
    said = f"{len(names)} claims ({'; '.join(sums)}): [formulas and reasons](/{CLAIMS_PAGE.format(method)}.md), "
    said += "[what the words mean](/docs/verdicts.md#what-a-claim-rests-on)."
    if unread:
        said += f" The text of the source could not be read for {', '.join(unread)}: their statements are from memory."
    write(f"maps/{method}", f"{said}\n\n{table}")


def write_papers() -> None:
    """How the claims about each paper that has a page stand, theorems first."""
    lines = ["| paper | its theorems | all claims about it |", "|---|---|---|"]
    claims = {key: [claim for claim in CLAIMS.values() if claim.paper == key] for key in PAPER_PAGES}
    for key, mine in sorted(claims.items(), key=lambda item: -len(item[1])):
        theorems = [claim for claim in mine if claim.basis == "theorem"]
        lines.append(f"| [{citations()[key].title}](/{PAPER_PAGES[key]}.md) | {tally(theorems)} | {tally(mine)} |")
    write("maps/papers", "\n".join(lines))


def tally(claims: list[Claim]) -> str:
    """How many have each outcome."""
    found = Counter(outcome(claim.id) for claim in claims)
    order = ("supported", "refuted", "undecided", "vacuous", "not on record")
    return ", ".join(f"{found[o]} {o}" for o in order if found[o]) or "none yet"


def write_claims(method: str, rows: tuple[Row, ...]) -> None:
    """Every claim of a method, in the order of its map."""
    parts = [f"# Claims about {called(method)}", "What each says, and the verdict on record. "]
    parts[1] += "`sublinattn verify ID` checks one again; [how a verdict is reached](/docs/verdicts.md)."
    for row in rows:
        names = row.matching(CLAIMS)
        if names:
            parts.append(f"## {row.where}")
            parts += [described(CLAIMS[name]) for name in names]
    if len(parts) == 2:
        parts[1] = "None is stated yet."
    write(f"claims-{method}", "\n\n".join(parts))


def described(claim: Claim) -> str:
    """One claim: what it says, its verdict and why, what it rests on, where it stands."""
    entry = record().get(claim.id)
    unread = "" if claim.source_checked else "; **the text of the source could not be read here**"
    reported = f"; reported: {plain(claim.reported)}" if claim.reported else ""
    notebook = f"[notebook {entry['notebook']}](/notebooks/{entry['notebook']}.ipynb)" if entry else "a notebook"
    facts = [
        f"{claim.basis} ({BASES[claim.basis]}): [{claim.paper}] {plain(claim.source)}{unread}{reported}",
        f"trial: [{claim.where}](source:{claim.where.replace(':', '#L')}), checked in {notebook}",
        "broken on purpose: " + "; ".join(f"{plain(s.name)} ({plain(s.what)})" for s in claim.sabotages),
    ]
    shown = [
        f"```{{image}} /figures/{name}.png\n:alt: {name}\n:target: gallery.html#{name}\n:width: 30em\n```"
        for name, about in figures().items()
        if claim.id in about["claims"]
    ]
    parts = [
        f"### {claim.id}",
        f"{chip(outcome(claim.id))} **{plain(claim.title)}**",
        f"$$\n{sympy.latex(claim.statement)}\n$$",
        plain(entry["reason"]) if entry else "This claim is not on record yet.",
        plain(claim.remark),
        *shown,
        "\n".join(f"- {fact}" for fact in facts),
    ]
    return "\n\n".join(part for part in parts if part)


def plain(text: str) -> str:
    """Text as it is: what means something in Markdown does not, except code and emphasis."""
    return re.sub(r"(?<!\\)([<>$_|^{}~])", r"\\\1", text).replace("*", r"\*")


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
        f"- [{title_of_api(page)}](api-{page}.md): " + ", ".join(f"`{name.rpartition('.')[2]}`" for name in names)
        for page, names in public().items()
    ]
    intro = "Arrays are NumPy's, CuPy's, PyTorch's or JAX's, of shape (..., n, d), and come back as the caller's kind."
    write_list("api", "API", intro, lines, [f"api-{page}" for page in public()])

    lines, names = [], sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    for name in names:
        first = json.loads((ROOT / f"notebooks/{name}.ipynb").read_text())["cells"][0]["source"]
        title, _, paragraph = "".join(first).partition("\n\n")
        lines.append(f"- [{name[:2]} {title.lstrip('# ')}](/notebooks/{name}.ipynb): {sentence(paragraph)}")
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
        options = {k: v for k, v in about["params"].items() if k not in ("effort", "notebook", "measured") and v != ""}
        command = f"sublinattn run --effort {about['params']['effort']} --seed {about['seed']}"
        if notebook := about["params"].get("notebook") or notebook_of(about["claims"]):
            command += f" --only '{notebook}'"
            link = f"[notebook {notebook}](/notebooks/{notebook}.ipynb)"
        command += "".join(f" --param {key}={value}" for key, value in options.items())
        claims = ", ".join(f"`{claim}`" for claim in about["claims"])
        formats = ", ".join(f"[{suffix}](../../figures/{name}.{suffix})" for suffix in ("svg", "pdf", "json"))
        parts.append(
            f"## {name}\n\n![{name}](../../figures/{name}.png)\n\n{plain(about['caption'])}\n\n```sh\n{command}\n```"
        )
        parts.append(f"From {link}{'; claims: ' if claims else ''}{claims}. Also as {formats} (the plotted numbers).")
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


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
