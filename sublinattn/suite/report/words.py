"""A verdict in sentences for a reader who has not seen the test: what is claimed, measured, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from .citations import citations
from .mathml import mathml
from .views import number, percent

Entry = Mapping[str, Any]

_BASIS = {
    "theorem": "Proved in {paper}, {source}.",
    "reported": "Measured in an experiment, and no theorem, of {paper}, {source}.",
    "reading": "Said loosely in {paper}, {source}; this is how we read it.",
    "derived": "Ours, and proved here, about a method of {paper}, {source}.",
    "implementation": "About the code of this package, which follows {paper}, {source}.",
    "property": "Found here, and stated by no paper, about a method of {paper}, {source}.",
}
_CONTRADICTED = {
    "theorem": "This contradicts the paper as it stands, or this code of it.",
    "reported": "The paper measured something else on other inputs; no proof is contradicted.",
    "reading": "This contradicts our reading of a loose sentence, and nothing that the paper proves.",
    "derived": "A statement of ours is wrong, or the code is.",
    "implementation": "The code does not do what we say of it.",
    "property": "It is not so on the inputs tried.",
}


def headline(summary: Entry) -> str:
    """What became of the theorems, or of the other claims where a run has no theorem."""
    counts, what = (
        (summary["by_basis"]["theorem"], "theorem") if "theorem" in summary["by_basis"] else (summary, "claim")
    )
    total, held, refuted = counts["claims"], counts["supported"], counts["refuted"]
    if not total:
        return "No claim was checked"
    where = f"where {'it was' if total == 1 else 'they were'} tried"
    parts = [f"{held} of {total} {what}{_s(total)} {'holds' if held == 1 else 'hold'} {where}"]
    if not held:
        parts = [f"Of {total} {what}{_s(total)} none is supported so far"]
    parts.append(f"{refuted} {'is' if refuted == 1 else 'are'} refuted" if refuted else "none is refuted")
    if counts["undecided"]:
        parts.append(f"{counts['undecided']} {'is' if counts['undecided'] == 1 else 'are'} undecided")
    if counts["vacuous"]:
        parts.append(
            f"{counts['vacuous']} {'promises' if counts['vacuous'] == 1 else 'promise'} nothing at these sizes"
        )
    return ", ".join(parts) + "."


def says(claim: Entry) -> Markup:
    """What the statement rests on, and what kind of promise it is."""
    promise = claim["promise"]
    match claim["kind"]:
        case "probability":
            kind = f"Draws are random: it may fail, but in at most {percent(promise['p'])} of them."
        case "exact" if promise.get("relation") == "==":
            kind = "It is an equality: on every input both sides are the same, up to rounding."
        case "exact":
            kind = "It has no exception: a single input that violates it by more than rounding refutes it."
        case "mean":
            kind = "It is about the average over many draws, not about a single one."
        case _:
            kind = "It is about growth: a constant factor is left open; what is checked is how fast {size} changes."
    cited = citations().get(claim["paper"])
    paper = Markup("<cite>{}</cite>").format(cited.title) if cited else claim["paper"]
    return Markup(f"{_BASIS[claim['basis']]} {kind}").format(paper=paper, source=claim["source"], size=size(claim))


def verdict(claim: Entry) -> Markup:
    """The outcome in one sentence with the numbers that decided."""
    if claim["outcome"] == "vacuous":
        vacuity = claim["vacuity"]
        text = "On every input tried, a trivial answer keeps the promise too."
        if vacuity["onset"] is not None:
            text += f" It begins to say something at {vacuity['variable']} = {number(vacuity['onset'])}."
        return Markup.escape(text)
    if claim["outcome"] == "undecided" and any(not s["caught"] for s in claim["sabotages"]):
        return Markup.escape(f"The check cannot be trusted: it passes a deliberate error. {claim['reason']}")
    if (claim.get("search") or {}).get("counterexample"):
        return Markup(
            "An adversary’s search found an input on which it fails: the left side is {} times the right one."
        ).format(number(claim["search"]["ratio"]))
    return {"growth": _growth, "probability": _rate, "mean": _mean}.get(claim["kind"], _exact)(claim)


def measured(claim: Entry) -> Markup:
    """How much was measured, and on what."""
    trials, cases = claim["trials"], claim["cases"]
    what = "measurement" if claim["kind"] == "growth" else "trial"
    many = f"{number(trials)} independent {what}{_s(trials)} in {number(len(cases))} case{_s(len(cases))}"
    inputs = " and ".join({"real": "a trained model", "synthetic": "made-up data"}[name] for name in claim["inputs"])
    text = f"{many}, on {inputs}."
    if claim["kind"] == "growth":
        return Markup(" ").join([Markup.escape(text), *(_doubling(claim, fit) for fit in claim["fits"])])
    if claim["slack_range"] and isinstance(claim["slack_range"][1], float):
        text += f" In the middle trial the bound was {number(claim['slack_range'][1])} times the measured value."
    if search := claim.get("search"):
        text += (
            f" Then an adversary changed inputs for the worse, {number(search['steps'])} times: the measured value "
            f"came to {number(search['ratio'])} times the bound at most."
        )
    return Markup.escape(text)


def follows(claim: Entry) -> Markup:
    """What a user may conclude."""
    more = {"smoke": "standard", "standard": "full"}.get(claim["effort"])
    match claim["outcome"], claim["kind"]:
        case "refuted", _:
            text = f"Do not count on it. {_CONTRADICTED[claim['basis']]}"
        case "vacuous", _:
            text = "At such sizes it does not say how much to sample or to store; judge the method by measured errors."
        case "undecided", _:
            text = "Conclude nothing from it, neither for nor against."
            if more:
                text += f" A run with --effort {more} measures more."
        case _, "growth":
            text = "On inputs of this kind you may extrapolate with this law, a little beyond the sizes tried."
        case _, "probability":
            text = "On inputs of this kind you may rely on it"
            slack = claim["slack_range"]
            if slack and isinstance(slack[1], float) and slack[1] > 2:
                text += f", and it is cautious: errors are usually {number(slack[1])} times smaller than it allows"
            text += "."
        case _, "mean":
            text = f"A bias above {percent(claim['promise']['resolution'])} is ruled out; single draws still scatter."
        case _, _ if claim["promise"].get("relation") == "==":
            text = "You may take one side for the other."
        case _:
            text = "You may rely on it, without a margin of your own."
    guarantee = claim["kind"] in ("probability", "growth") and claim["basis"] != "implementation"
    if claim["outcome"] == "supported" and guarantee and claim["inputs"] == ["synthetic"]:
        text += " On inputs of a trained model it was not tried."
    return Markup.escape(text)


def _rate(claim: Entry) -> Markup:
    rank = ("refuted", "undecided", "supported").index
    tried = [case for case in claim["cases"] if not case["vacuous"] or case["outcome"] == "refuted"]
    case = min(tried or claim["cases"], key=lambda case: (rank(case["outcome"]), case["p_value"]))
    lower, upper, promised = case["lower"], case["upper"], claim["promise"]["p"]
    rate = {
        "supported": f"at most {percent(min(upper, promised))} of draws fail",
        "refuted": f"at least {percent(lower)} of draws fail",
    }.get(case["outcome"], f"between {percent(lower)} and {percent(upper)} of draws fail")
    text = f"{number(case['failures'])} of {number(case['trials'])} trials failed"
    if len(claim["cases"]) > 1:
        text += " in the case nearest to failing"
    more = "" if case["outcome"] != "undecided" else ": too few trials to tell"
    return Markup.escape(f"{text}. With 99 % confidence {rate}; at most {percent(promised)} may{more}.")


def _mean(claim: Entry) -> Markup:
    width = percent(claim["promise"]["resolution"])
    return Markup.escape(
        {
            "supported": f"With 99 % confidence the mean is within {width} of the stated value, in every case.",
            "refuted": "The mean is not the stated value.",
        }.get(claim["outcome"], f"The mean agrees, but a deviation of {width} is not ruled out yet.")
    )


def _exact(claim: Entry) -> Markup:
    if claim["outcome"] == "refuted":
        return Markup.escape(f"{number(claim['failures'])} of {number(claim['trials'])} inputs contradict it.")
    if claim["outcome"] == "undecided":
        return Markup.escape(claim["reason"])
    return Markup.escape(f"None of {number(claim['trials'])} inputs contradicts it.")


def _growth(claim: Entry) -> Markup:
    """The fit that decided: of the worst outcome, and among these the one with the least p-value."""
    rank = ("refuted", "undecided", "supported").index
    fit = min(claim["fits"], key=lambda fit: (rank(fit["outcome"]), fit["p_value"]))
    if not isinstance(fit["measured_exponent"], int | float):
        return Markup.escape(f"In {fit['variable']}: {fit['reason']}.")
    base = fit["symbol"]
    least = (claim.get("quantity") or {}).get("power", 1) < 0
    text = Markup("{} changes like {} (99 % limits of the exponent: {} to {}); the claim is {} on this grid").format(
        _capital(size(claim)),
        _power(base, fit["measured_exponent"]),
        number(fit["lower"]),
        number(fit["upper"]),
        Markup("{} {}").format("at least" if least else "at most", _power(base, fit["theory_exponent"])),
    )
    if fit["outcome"] == "refuted":
        text += f". Did it hold, chance would give this with probability {number(fit['p_value'])}"
    elif fit["outcome"] == "undecided":
        text += _open(claim, fit)
    others = sum(other["outcome"] == fit["outcome"] for other in claim["fits"]) - 1
    return text + Markup.escape(f" (and alike in {others} other variable{_s(others)})." if others else ".")


def _power(base: str, exponent: float) -> Markup:
    return Markup(mathml(f"{base}^{{{number(exponent)}}}"))


def _open(claim: Entry, fit: Entry) -> str:
    """Why a fit decides nothing."""
    direction = (claim.get("quantity") or {}).get("power") or (-1 if fit["theory_exponent"] < 0 else 1)
    low, high = sorted(direction * (fit[end] - fit["theory_exponent"]) for end in ("lower", "upper"))
    if low > 0:
        p_value, needed = number(fit["p_value"]), number(claim["level"])
        return f". That is beyond the claim, but short of a refutation (p-value {p_value}, {needed} is needed)"
    allowed = claim["promise"].get("resolution", {}).get(fit["variable"], 0)
    repetitions = len(fit["sizes"][0])
    return (
        f". That agrees, but {repetitions} repetitions cannot exclude an excess of {number(high)}; for "
        f"support no more than {number(allowed)} may be left"
    )


def _doubling(claim: Entry, fit: Entry) -> Markup:
    exponent, theory = fit["measured_exponent"], fit["theory_exponent"]
    if not isinstance(exponent, int | float):
        return Markup("")
    falls = theory < 0 and not claim.get("quantity")  # sizes grow as eps falls
    verb, sign = ("halving", -1) if falls else ("doubling", 1)
    low, high = min(fit["abscissas"]), max(fit["abscissas"])
    return Markup("From {x} = {} to {}, {verb} {x} multiplies {size} by {}, by the claim {}.").format(
        number(low),
        number(high),
        number(2.0 ** (sign * exponent)),
        number(2.0 ** (sign * theory)),
        x=Markup(mathml(fit["symbol"])),
        verb=verb,
        size=size(claim),
    )


def size(claim: Entry) -> Markup:
    """What grows: what the title speaks of, or the left side of the formula."""
    if quantity := claim.get("quantity"):
        return Markup(mathml(quantity["latex"]))
    left, is_growth, _ = claim["statement"].partition(" = O{")
    return Markup(mathml(left)) if is_growth and len(left) < 80 else Markup("the size")


def _capital(text: Markup) -> Markup:
    return Markup(text[0].upper()) + Markup(text[1:]) if text[:1].isalpha() else text


def _s(count: int) -> str:
    return "" if count == 1 else "s"
