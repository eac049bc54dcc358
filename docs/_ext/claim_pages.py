"""The claims as pages: the map of each method, from theorem to code to verdict to figure, and every claim in words."""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from sublinattn.lab import ledger
from sublinattn.suite.markdown import markdown_table
from sublinattn.suite.method_map import Row, line_of, maps
from sublinattn.suite.report import glossary, views, words
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


@cache
def record() -> dict[str, Any]:
    return json.loads((ROOT / "ledger.json").read_text())["claims"]


@cache
def figures() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "figures").glob("*.json"))}


@cache
def method_of() -> dict[str, str]:
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


def chip(outcome: str) -> str:
    return f"[{outcome}]{{.verdict .{outcome.split()[0]}}}"


def outcome(name: str) -> str:
    return record()[name]["outcome"] if name in record() else "not on record"


def write_map(method: str, rows: tuple[Row, ...]) -> None:
    """Theorem, code, verdicts, figure; and how many of the claims of each basis have which outcome."""
    head, lines = ["in the paper", "code", "claims and verdicts", "figures and notebooks"], []
    for row in rows:
        held = row.matching(CLAIMS)
        code = [source(thing, name) for _, name, thing in row.places()]
        claims = [f"`{name}` {chip(outcome(name))}" for name in held]
        shown = [f"[{f}](/{GALLERY}.md#{f})" for f, about in figures().items() if set(about["claims"]) & set(held)]
        shown += [f"[notebook {name}](/notebooks/{name}.ipynb)" for name in row.notebooks]
        lines.append([row.where, *("<br>".join(column) for column in (code, claims, shown))])
    names = [name for name, its in method_of().items() if its == method]
    by_basis = {basis: [CLAIMS[name] for name in names if CLAIMS[name].basis == basis] for basis in BASES}
    sums = [f"{basis}: {tally(claims)}" for basis, claims in by_basis.items() if claims]
    unread = [f"`{name}`" for name in names if not CLAIMS[name].source_checked]
    said = f"{len(names)} claims ({'; '.join(sums)}): [formulas and reasons](/{CLAIMS_PAGE.format(method)}.md), "
    said += "[what the words mean](/docs/verdicts.md#what-a-claim-rests-on)."
    if unread:
        said += f" The text of the source could not be read for {', '.join(unread)}: their statements are from memory."
    write(f"maps/{method}", f"{said}\n\n{{.map}}\n{markdown_table(head, lines)}")


def write_papers() -> None:
    """How the claims about each paper that has a page stand, theorems first."""
    rows = []
    claims = {key: [claim for claim in CLAIMS.values() if claim.paper == key] for key in PAPER_PAGES}
    for key, mine in sorted(claims.items(), key=lambda item: -len(item[1])):
        theorems = [claim for claim in mine if claim.basis == "theorem"]
        rows.append([f"[{citations()[key].title}](/{PAPER_PAGES[key]}.md)", tally(theorems), tally(mine)])
    write("maps/papers", markdown_table(["paper", "its theorems", "all claims about it"], rows))


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
    """One claim: what it says, its verdict in words, what follows, where it stands."""
    entry, statement = record().get(claim.id), ledger.latex(claim.statement)
    legend = [(latex, text) for latex, _, text in glossary.symbols(claim.paper, [statement]) if latex]
    facts = [
        f"{claim.basis} ({BASES[claim.basis]}): [{claim.paper}] {plain(claim.source)}",
        "" if claim.source_checked else "**the text of the source could not be read here**",
        f"reported: {plain(claim.reported)}" if claim.reported else "",
        f"note: {plain(claim.remark)}" if claim.remark else "",
        "broken on purpose: " + "; ".join(f"{plain(s.name)} ({plain(s.what)})" for s in claim.sabotages),
        f"trial: [{claim.where}](source:{claim.where.replace(':', '#L')})",
    ]
    if entry:
        facts[-1] += f", checked in [notebook {entry['notebook']}](/notebooks/{entry['notebook']}.ipynb)"
    shown = [
        f"```{{image}} /figures/{name}.png\n:alt: {name}\n:target: gallery.html#{name}\n:width: 30em\n```"
        for name, about in figures().items()
        if claim.id in about["claims"]
    ]
    parts = [
        f"### {claim.id}",
        f"{chip(outcome(claim.id))} **{plain(claim.title)}**",
        f"$$\n{statement}\n$$",
        " ".join(f"{', '.join(f'${one}$' for one in latex)}: {text}" for latex, text in legend),
        in_words(views.claim_view(entry)) if entry else "This claim is not on record yet.",
        *shown,
        "\n".join(f"- {fact}" for fact in facts if fact),
    ]
    return "\n\n".join(part for part in parts if part)


def in_words(view: dict[str, Any]) -> str:
    """The report's sentences, which are HTML, in one paragraph that Markdown leaves alone."""
    return f"<p>{' '.join(str(say(view)) for say in (words.verdict, words.measured, words.follows))}</p>"


def plain(text: str) -> str:
    """Text as it is: what means something in Markdown does not, except code and emphasis."""
    return re.sub(r"(?<!\\)([<>$_|^{}~])", r"\\\1", text).replace("*", r"\*")
