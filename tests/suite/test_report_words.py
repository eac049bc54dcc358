"""Sentences of the report: what a verdict says, and that every symbol has a meaning."""

from __future__ import annotations

import re

import pytest
import sympy
import toys

from sublinattn.lab import ledger
from sublinattn.suite.report import glossary, views, words
from sublinattn.theory import CLAIMS, verify
from sublinattn.theory.claim import Growth, Quantity, Sabotage
from sublinattn.theory.cost import over

OPERATORS = r"""\\(frac|tfrac|sqrt|leq|geq|le|ge|lor|vee|wedge|neq|in|pm|mid|cup|circ|bmod|oplus
    |Rightarrow|Leftrightarrow|log|max|min|sum|prod|sinh|deg|binom|infty|pi|dots|partial|langle|rangle|lceil|rceil|top|text|mathbf|mathbb|begin|end
    |bigoplus|bigcup)(_.*|\^.*)?"""


def plain(text) -> str:
    return re.sub(r"<math.*?>(.*?)</math>", lambda m: re.sub(r"<.*?>", "", m[1]), str(text))


def view(claim, **changes):
    return {**views.claim_view(ledger.entry(claim, verify(claim, backend="numpy", rng=0))), **changes}


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        (
            toys.HOLDS,
            "in the case nearest to failing. With 99 % confidence at most 4.99 % of draws fail; at most 5 % may.",
        ),
        (toys.FAILS, r"\d+ of \d+ trials failed. With 99 % confidence at least \S+ % of draws fail; at most 5 % may."),
        (toys.OPEN, "With 99 % confidence between 0 % and .* of draws fail; at most 1 % may: too few trials to tell."),
        (toys.LOOSE, "The check cannot be trusted: it passes a deliberate error."),
        (toys.EMPTY, "On every input tried, a trivial answer keeps the promise too."),
        (toys.ALWAYS, "None of 20 inputs contradicts it."),
        (toys.MEAN, "With 99 % confidence the mean is within 5 % of the stated value, in every case."),
        (
            toys.CLOCK,
            r"The size changes like n0.9 \(99 % limits of the exponent: .*\); the claim is at most n1 on this grid.",
        ),
    ],
    ids=lambda value: getattr(value, "id", None),
)
def test_verdicts_are_sentences_with_the_numbers_that_decided(claim, verdict):
    shown = view(claim)
    assert re.search(verdict, plain(words.verdict(shown)))
    for part in (words.says, words.measured, words.follows):
        assert plain(part(shown)).endswith(".")


def test_an_undecided_growth_says_that_it_agrees_and_what_is_missing():
    few = toys.claim(
        "few", Growth({"n": toys.N}), toys.clock, toys.SIZES, trials=2, sabotages=toys.broken(power=2.0),
        title="t",
    )  # fmt: skip
    fit = {"outcome": "undecided", "lower": 0.9, "upper": 1.2, "measured_exponent": 1.05, "theory_exponent": 1.0}
    shown = view(few)
    shown["fits"] = [{**shown["fits"][0], **fit}]
    caught = [{**sabotage, "caught": True} for sabotage in shown["sabotages"]]  # on a busy machine its clock may fail
    text = plain(words.verdict({**shown, "outcome": "undecided", "sabotages": caught}))
    assert "That agrees, but 2 repetitions cannot exclude an excess of 0.2" in text


def test_a_growth_is_told_in_terms_of_what_the_title_speaks_of():
    """Bytes that grow like n^0.9 are measured as n over bytes, which grows like n^0.1."""
    claim = toys.claim(
        "least",
        Growth({"n": toys.N ** sympy.Rational(1, 4)}, quantity=Quantity("the bytes", "M(n)", power=-1, shift=1)),
        toys.clock,
        over("n", (64, 128, 256, 512), power=0.1),
        trials=4,
        sabotages=(Sabotage("broken", "it is broken", {"power": 2.0}),),
    )
    result = verify(claim, backend="numpy", rng=0)
    assert result.reason.startswith("In n: exponent of the bytes 0.9, at least 0.75 is claimed; as fitted: measured")
    shown = view(claim)
    (fit,) = shown["fits"]
    assert fit["measured_exponent"] == pytest.approx(0.9, abs=0.01) and fit["theory_exponent"] == pytest.approx(0.75)
    assert fit["lower"] <= fit["measured_exponent"] <= fit["upper"]
    assert [size for _, size in fit["points"]] == pytest.approx([64**0.9, 128**0.9, 256**0.9, 512**0.9], rel=0.01)
    assert "M&#x00028;n&#x00029; changes like n0.9" in plain(words.verdict(shown))
    assert "the claim is at least n0.75" in plain(words.verdict(shown))


@pytest.mark.parametrize(
    ("counts", "headline"),
    [
        ((2, 2, 0, 0, 0), "2 of 2 theorems hold where they were tried, none is refuted."),
        ((2, 0, 0, 2, 0), "Of 2 theorems none is supported so far, none is refuted, 2 are undecided."),
        ((1, 1, 0, 0, 0), "1 of 1 theorem holds where it was tried, none is refuted."),
        (
            (3, 1, 1, 0, 1),
            "1 of 3 theorems holds where they were tried, 1 is refuted, 1 promises nothing at these sizes.",
        ),
    ],
)
def test_headlines(counts, headline):
    outcomes = dict(zip(("claims", "supported", "refuted", "undecided", "vacuous"), counts, strict=True))
    assert words.headline({"by_basis": {"theorem": outcomes}}) == headline


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_every_symbol_of_a_formula_is_in_the_glossary(name):
    claim = CLAIMS[name]
    formulas = [ledger.latex(claim.statement), *(ledger.latex(a.predicate) for a in claim.assumptions)]
    formulas += [ledger.latex(claim.vacuity.predicate)] if claim.vacuity else []
    found = [latex for latex, _, _ in glossary.symbols(claim.paper, formulas) for latex in latex]
    rest = " ; ".join(map(glossary.tokens, formulas))
    for latex in sorted(found, key=lambda latex: -len(glossary.tokens(latex))):
        rest = re.sub(rf"(?<![^ ^]){re.escape(glossary.tokens(latex))}(?![^ _^])", ";", rest)
    known = re.compile(OPERATORS, re.VERBOSE)
    left = [t for t in rest.split() if re.match(r"\\?[A-Za-z]", t) and not known.fullmatch(t)]
    assert set(left) <= {"F", "max", "cases", "for", "otherwise", "sketch"}, left
    assert "False" not in formulas[0] and "True" not in formulas[0]


@pytest.mark.parametrize("name", [r"\left\|v_j\right\|", r"n\,d_v\,(1-h(e))", r"\|T-y\|_F/\|y\|_F"])
def test_a_symbol_written_in_latex_is_printed_as_it_is_written(name):
    assert ledger.latex(sympy.Symbol(name) * sympy.Symbol("told_kappa")).startswith(name)


def test_a_paper_may_have_its_own_meaning_of_a_symbol():
    (everywhere,) = [text for latex, _, text in glossary.symbols("", ["\\delta"]) if latex]
    (here,) = [text for latex, _, text in glossary.symbols("SG24", ["\\delta"]) if latex]
    assert "probability" in everywhere and "cluster" in here
    assert glossary.meaning("m", "SG24") == "number of clusters." and glossary.meaning("m", "HA24") != ""
    assert glossary.meaning("no such name", "SG24") == ""


def test_hover_escapes_and_marks_a_word_once():
    shown = str(glossary.hover("vacuous <b> & vacuous, a tau-vacuous"))
    assert shown.count("<abbr") == 1 and "&lt;b&gt; &amp;" in shown
