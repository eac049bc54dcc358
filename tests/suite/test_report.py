"""The report: everything a reader needs, from a folder, without a network."""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import nbformat
import pandas as pd
import pytest
import toys
from matplotlib.figure import Figure

from sublinattn.core import files, provenance
from sublinattn.lab import ledger
from sublinattn.plots.save import save
from sublinattn.suite import report
from sublinattn.suite.report import views
from sublinattn.suite.report.citations import citations
from sublinattn.suite.report.mathml import mathml

WIDGET = {"application/vnd.jupyter.widget-view+json": {"model_id": "m"}, "text/plain": "VBox(children=())"}


def fill(out):
    """Write what a run leaves: verdicts of every outcome, a figure, an executed notebook, a failed one."""
    ledger.check(toys.ALL, out=out, notebook="01-all")
    data = pd.DataFrame({"x": [1, 2]})
    fig = Figure()
    fig.subplots().plot([1, 2], [3, 4], "o", label="<i>ours</i>")
    save(fig, "a-figure", out=out, claim="toy.holds", params={}, seed=0, data=data, caption="Error over m < n.")
    cells = [
        nbformat.v4.new_markdown_cell("# Head\n\nInline $\\alpha^2$, display\n\n$$\\sum_i x_i$$\n\n`code $5$`"),
        nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("display_data", {"text/latex": "$\\beta$"})]),
        nbformat.v4.new_code_cell("y", outputs=[nbformat.v4.new_output("display_data", WIDGET)]),
    ]
    with files.atomic(out / "notebooks" / "01-all.ipynb") as path:
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    book = ledger.merge((out / "verdicts").glob("*.json"))
    book["run"] = {"effort": "smoke", "seed": 0, "backend": "auto", "parameters": {}}
    book["notebooks"] = {"01-all": {"ok": True, "error": ""}, "02-bad": {"ok": False, "error": "ValueError: <n>"}}
    book["machine"] = {"provenance": provenance.provenance(), "jobs": 1, "seconds": {"01-all": 1.5}}
    ledger.write(out / "ledger.json", book)
    return book


class Page(HTMLParser):
    """Addresses and ids of a page, and its tags."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.ids, self.tags = [], [], set(), []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.ids.add(found.get("id"))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("script", "link", "img", "iframe", "source", "object"):
            self.loads += [found[key] for key in ("src", "href", "data") if key in found]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    fill(out)
    index = report.build(out)
    return index.parent, {p.relative_to(index.parent).as_posix(): Page(p) for p in index.parent.rglob("*.html")}


def test_every_page_is_there_and_loads_nothing_from_a_network(site):
    folder, pages = site
    claims = {f"claims/{claim.id}.html" for claim in toys.ALL}
    others = {"index.html", "figures.html", "glossary.html", "notebooks/01-all.html", "figures/a-figure.html"}
    assert set(pages) == {*others, *claims}
    for name, page in pages.items():
        assert not [a for a in page.loads if re.match(r"(https?:)?//", a)], name
        assert "MathJax" not in page.text and "require.js" not in page.text
        assert "<b>& stays" not in page.text, "text of claims is escaped"
    assert "It holds &lt;b&gt;&amp; stays&lt;/b&gt;" in pages["claims/toy.holds.html"].text
    assert not re.search(r"url\(|@import", (folder / "report.css").read_text())


def test_every_address_within_the_report_leads_somewhere(site):
    folder, pages = site
    inside = [(name, a) for name, page in pages.items() for a in page.links + page.loads if not re.match(r"\w+:", a)]
    assert len(inside) > 50
    for name, address in inside:
        file, _, anchor = unquote(address).partition("#")
        target = ((folder / name).parent / file).resolve() if file else folder / name
        assert target.is_file(), f"{name}: {address}"
        if anchor and "=" not in anchor:  # with it, a state of the filters
            assert anchor in pages[target.relative_to(folder.resolve()).as_posix()].ids, f"{name}: {address}"


def test_the_index_says_what_holds_and_shows_each_claim_with_its_outcome_in_words(site):
    text = site[1]["index.html"].text
    head = re.search(r"<h1>(.*?)</h1>", text, re.DOTALL)[1]
    assert re.sub(r"<.*?>", "", head).strip() == (
        "4 of 8 theorems hold where they were tried, 1 is refuted, 2 are undecided, 1 promises nothing at these sizes."
    )
    rows = re.findall(r'<tr data-outcome="(\w+)".*?</tr>', text, re.DOTALL)
    assert sorted(rows) == sorted(["supported"] * 4 + ["refuted"] + ["undecided"] * 2 + ["vacuous"])
    for name in ("outcome", "paper", "notebook", "text"):
        assert f'name="{name}"' in text
    assert "02-bad" in text and "ValueError: &lt;n&gt;" in text
    assert "it refuted 7 of 8" in re.sub(r"\s+", " ", text), "sabotages caught"


def test_a_claim_page_has_all_that_is_needed_to_judge(site):
    page = site[1]["claims/toy.holds.html"]
    assert "<math" in page.text and "Insu Han et al." in page.text
    assert "sublinattn run --only &#39;01-all&#39; --effort smoke --seed 0" in page.text  # `verify` does not know it
    assert "../notebooks/01-all.html" in page.links and "../figures/a-figure.svg" in page.loads
    assert "Error over m &lt; n." in page.text and "../figures/a-figure.json" in page.links
    sides = re.search(r'<div class="sides">(.*?)</table>', page.text, re.DOTALL)[1]
    assert sides.index("synthetic") < sides.index("real"), "synthetic and real side by side"
    always = site[1]["claims/toy.always.html"].text
    assert "limits of the failure rate" in page.text and "<th>Trials</th>" in page.text
    assert "limits" not in always and "<th>Instances</th>" in always, "a failure rate of few instances says nothing"


def test_growth_is_held_against_the_theory_and_the_loose_claim_is_called_unverified(site):
    clock = site[1]["claims/toy.clock.html"].text
    assert "Measured exponent" in clock and re.search(r"Median of .* at <math.*> = 64: ", clock)
    assert "not caught" in site[1]["claims/toy.loose.html"].text
    assert "not verified" in site[1]["index.html"].text


def test_a_claim_page_begins_with_plain_words_and_ends_with_the_source_of_the_trial(site):
    text = site[1]["claims/toy.holds.html"].text
    told = [
        "What it says",
        "What was measured",
        "What follows",
        "Repeat it",
        "Formula",
        "Cases",
        "Sabotage",
        "tests/toys.py:",
    ]
    places = [text.index(words) for words in told]
    assert places == sorted(places)
    assert '<span class="nf">coin</span>' in text, "the trial's source is highlighted"
    assert "99 % confidence at most" in text


def test_no_page_shows_what_only_python_can_read(site):
    for name, page in site[1].items():
        assert not re.search(r"\{(&#39;|')\w+(&#39;|'): |Decimal\(|np\.float64|nan &|&lt;NA", page.text), name


def test_a_figure_comes_with_its_numbers_on_hover_and_as_csv(site):
    folder, pages = site
    assert (folder / "figures" / "a-figure.csv").read_text() == "x\n1\n2\n"
    for name in ("claims/toy.holds.html", "figures/a-figure.html"):
        points = re.findall(r"<circle [^>]*><title>(.*?)</title></circle>", pages[name].text)
        assert points == ["&lt;i&gt;ours&lt;/i&gt;, x = 1, y = 3", "&lt;i&gt;ours&lt;/i&gt;, x = 2, y = 4"]
        assert "../figures/a-figure.csv" in pages[name].links
        assert 'alt="Error over m &lt; n"' in pages[name].text, "short, as the caption stands below"


def test_the_tables_of_a_figure_may_have_any_name(tmp_path):
    out = tmp_path / "figures"
    tables = {"../../x": pd.DataFrame({"a": [1]}), "<b>": pd.DataFrame({"b": [2]})}
    save(Figure(), "two", out=tmp_path, params={}, seed=0, data=tables, caption="C.")
    found = report.figures.described(out / "two.json")["tables"]
    assert [table["file"] for table in found] == ["two-1.csv", "two-2.csv"]
    assert not [path for path in tmp_path.rglob("*") if path.name == "x.csv"]


@pytest.mark.parametrize(
    ("caption", "title"),
    [
        ("Error over m (n = 4; all draws), and its bound. More.", "Error over m, and its bound"),
        ("kappa over n: 3 cases.", "kappa over n"),
        ("tiny, i.e. small", "tiny, i.e. small"),
        ("a " * 80, "a " * 59 + "a …"),
    ],
)
def test_a_figure_is_titled_by_the_beginning_of_its_caption(caption, title):
    assert report.figures.title(caption) == title


def test_a_report_says_what_differs_from_the_record(tmp_path):
    book = fill(tmp_path)
    book["machine"]["differs"] = [
        {"claim": "toy.holds", "was": "vacuous", "now": "supported", "fails": False, "why": "the <code> has changed"}
    ]
    ledger.write(tmp_path / "ledger.json", book)
    text = report.build(tmp_path).read_text()
    assert "1 difference from the verdicts on record" in text
    assert "supported, on record vacuous: the &lt;code&gt; has changed." in text


def test_mathematics_of_notebooks_is_mathml(site):
    page = site[1]["notebooks/01-all.html"]
    assert page.tags.count("math") == 3, "inline, display, and the cell's output"
    assert page.tags.count("script") == 1 and "VBox" not in page.text, "no widget, which needs a script of its own"
    assert "$" not in re.sub(r"<code>.*?</code>|<script>.*?</script>", "", page.text, flags=re.DOTALL)
    assert "<code>code $5$</code>" in page.text


def test_a_report_that_cannot_be_made_leaves_the_old_one(tmp_path):
    fill(tmp_path)
    before = report.build(tmp_path).read_bytes()
    assert report.build(tmp_path).read_bytes() == before
    nothing = {"schema": ledger.SCHEMA, "claims": {"toy.x": {"id": "toy.x", "outcome": "vacuous"}}, "summary": {}}
    files.write_json(tmp_path / "ledger.json", nothing)
    with pytest.raises(ValueError, match="ledger.json lacks what the report shows"):
        report.build(tmp_path)
    assert (tmp_path / "report" / "index.html").read_bytes() == before
    assert not list(tmp_path.glob(".report*"))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.12345, "0.123"), (1234.5, "1234"), (123456, "123 456"), (1.5e-7, "1.5×10⁻⁷"), (-2.0, "−2"), (0.0, "0"),
        ("inf", "∞"), ("nan", "–"), (None, "–"), (float("inf"), "∞"), (True, "yes"), ("gaussian", "gaussian"),
        ({"sinks": 2, "p": 0.5}, "sinks = 2, p = 0.5"), ([1, 2.0], "1, 2"),
    ],
)  # fmt: skip
def test_numbers_read_well(value, shown):
    assert views.number(value) == shown


def test_span_places_an_interval_on_the_axis():
    assert views.span(1, 10, 100, (1, 100)) == (0, 50, 100)
    assert views.span(0.001, 1, "inf", (1, 100)) == (0, 0, 100)
    assert views.span("nan", "nan", "nan", (1, 100)) is None


def test_citations_are_plain_text():
    found = citations()
    assert found["HA24"].title == "HyperAttention: Long-context Attention in Near-Linear Time"
    assert not [c for c in found.values() if re.search(r"[{}\\$]", f"{c.authors}{c.title}{c.venue}")]


def test_what_is_no_latex_is_shown_as_it_is():
    assert mathml("x^2").startswith("<math")
    assert mathml(r"\sqrt[10]{n_{\mathrm{a}}}") == mathml(r"{n_{\mathrm{a}}}^{1/10}")
    assert mathml(r"n^{\frac{9}{10}}") == mathml("n^{9/10}")
    assert "1.068<" in mathml("1.06836853919203")
    assert "<mtext>heavy&#x000A0;values</mtext>" in mathml("n_{heavy values}^2") and "mtext" not in mathml("a_{ij}")
    assert mathml(r"\frac{") == r"<code>\frac{</code>"


# ---------------------------------------------------------------------------------------------- a ledger from elsewhere
@pytest.mark.parametrize(
    "latex", [r"\text{<script>alert(1)</script>}", r"\href{javascript:alert(2)}{x}", r"\text{<img src=x onerror=y>}"]
)
def test_formulas_let_nothing_but_mathematics_through(latex):
    shown = mathml(latex)
    assert not re.search(r"<(script|img|a)\b|<[^>]+(href|onerror)=", shown), shown
    assert "<math" in mathml(r"\frac{\alpha^2}{n} \leq \text{a bound}")


def test_no_script_but_the_reports_own_may_run(site):
    text = site[1]["index.html"].text
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    for page in site[1].values():
        policy = html.unescape(re.search(r'Content-Security-Policy" content="(.*?)"', page.text)[1])
        assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda book: book["claims"]["toy.holds"].update(id="../../escaped"), "has a claim 'toy.holds' with the id"),
        (lambda book: book["claims"].update({"../x": {"id": "../x"}}), "has a claim '../x'"),
        (lambda book: book["claims"]["toy.holds"].update(outcome="<b>"), "toy.holds with the outcome '<b>'"),
        (lambda book: book["notebooks"].update({"../y": {"ok": True}}), "has a notebook '../y'"),
    ],
)
def test_names_that_would_leave_the_folder_are_refused(tmp_path, change, message):
    book = fill(tmp_path / "out")
    change(book)
    ledger.write(tmp_path / "out" / "ledger.json", book)
    with pytest.raises(ValueError, match=re.escape(message)):
        report.build(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_progress_counts_every_page(tmp_path):
    fill(tmp_path)
    told = []
    index = report.build(tmp_path, progress=lambda done, total: told.append((done, total)))
    pages = len(list(index.parent.rglob("*.html")))
    assert told == [(done, pages) for done in range(1, pages + 1)]


def test_the_umask_says_who_may_read_the_report(tmp_path):
    fill(tmp_path)
    before = os.umask(0o027)
    try:
        for _ in range(2):  # a new one, and one in the place of another
            index = report.build(tmp_path)
            assert (index.parent.stat().st_mode & 0o777, index.stat().st_mode & 0o777) == (0o750, 0o640)
    finally:
        os.umask(before)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_damaged_ledger_is_named(tmp_path):
    (tmp_path / "ledger.json").write_text('{"schema": 2')
    with pytest.raises(ValueError, match="ledger.json is not JSON: "):
        report.build(tmp_path)
