"""A ledger entry as the report shows it: numbers in words that a reader takes in, cases in groups, slack pooled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .glossary import symbols

REAL = "real"
"""Name of the workload that comes from a trained model."""

MARKS = {"supported": "✓", "refuted": "✗", "undecided": "?", "vacuous": "○"}
MEANINGS = {
    "supported": "the statement held on every input tried; where it speaks of chances or growth, with 99 % confidence",
    "refuted": "the measurements contradict the statement",
    "undecided": "more trials are needed to decide, or the check misses a deliberate error",
    "vacuous": "on every input tried, the statement promises no more than the exact answer or zero would give",
}
ORDER = {outcome: rank for rank, outcome in enumerate(("refuted", "undecided", "vacuous", "supported"))}


def number(value: Any) -> str:
    """A number with three significant digits, powers of ten written out; a dash if it is missing; text unchanged."""
    if value is None or value == "nan":
        return "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {number(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(number, value))
    if isinstance(value, float) and not math.isfinite(value):
        return number(str(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return {"inf": "∞", "-inf": "−∞"}.get(value, value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ") if abs(value) >= 10000 else str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}".replace("-", "−") if abs(value) < 1000 else number(round(value))
    mantissa, exponent = f"{value:.2e}".split("e")
    digits = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa.rstrip('0').rstrip('.')}×10{digits}".replace("-", "−")


def percent(value: Any) -> str:
    """A rate as a percentage."""
    return "–" if value in (None, "nan") else f"{number(100 * float(value))} %"


def claim_view(record: Mapping[str, Any]) -> dict[str, Any]:
    """An entry, the machine's numbers in their places, with what the templates need beside it."""
    whole = {**record, **record["machine"]}
    trained = bool(whole.get("model"))  # the claim is about a trained decoder
    whole["cases"] = [{**case, "case": _flat(case["case"]), "input": _input(case, trained)} for case in whole["cases"]]
    kind = whole["promise"]["kind"]
    ratios = kind == "probability" or whole["promise"].get("relation") == "<="
    slack = _pooled(whole["cases"]) if ratios else None
    sabotages = whole["sabotages"]
    whole["fits"] = [_of_quantity(fit, whole.get("quantity")) for fit in whole["fits"]]
    measured = [_measured(case) for case in whole["cases"]]
    return {
        **whole,
        "kind": kind,
        "evidence": _evidence(whole, kind),
        "slack_range": slack,
        "slack_lines": [f"×{number(slack[1])}"] if slack else list(map(_exponents, whole["fits"])),
        "fits": [{**fit, "symbol": _symbol(fit["variable"]), "points": _points(fit)} for fit in whole["fits"]],
        "caught": sum(bool(s["caught"]) for s in sabotages),
        "unverified": not sabotages or not all(s["caught"] for s in sabotages),
        "inputs": sorted({case["input"] for case in whole["cases"]}, reverse=True),
        "groups": _groups(whole["cases"]),
        "symbols": symbols(
            whole["paper"],
            [whole["statement"], whole["vacuous_when"] or "", *(a["latex"] for a in whole["assumptions"])],
            [name for case, facts in zip(whole["cases"], measured, strict=True) for name in (*case["case"], *facts)],
        ),
        "constants": _constants(whole["cases"]),
        "command": f"{_command(whole)} --effort {whole['effort']} --seed {whole['seed']}",
    }


def _command(whole: Mapping[str, Any]) -> str:
    """What verifies the claim again: its notebook, where it stands in that alone."""
    return f"sublinattn run --only '{whole['notebook']}'" if whole.get("own") else f"sublinattn verify {whole['id']}"


def span(low: Any, middle: Any, high: Any, domain: tuple[float, float]) -> tuple[float, float, float] | None:
    """Positions of an interval and its middle on a logarithmic axis, in percent; None if there is nothing to draw."""
    left, right = (math.log(edge) for edge in domain)
    if any(not isinstance(value, int | float) for value in (low, middle)) or low <= 0:
        return None
    top = domain[1] if not isinstance(high, int | float) else high
    places = [100 * (math.log(max(value, 1e-300)) - left) / (right - left) for value in (low, middle, top)]
    start, centre, end = (min(max(place, 0.0), 100.0) for place in places)
    return round(start, 2), round(centre, 2), round(end, 2)


def slack_domain(ranges: Iterable[tuple[Any, Any, Any] | None]) -> tuple[float, float]:
    """The logarithmic axis that all claims share: whole decades from the smallest slack to at most 10^6."""
    ends = [v for r in ranges if r for v in r if isinstance(v, int | float) and v > 0]
    low = 10.0 ** math.floor(math.log10(min([*ends, 0.5])))
    high = 10.0 ** math.ceil(math.log10(min(max([*ends, 10.0]), 1e6)))
    return low, high


def _flat(case: Mapping[str, Any]) -> dict[str, Any]:
    """A case with the nested parameters of its workload beside the others, unless two have the same name."""
    flat: dict[str, Any] = {}
    for key, value in case.items():
        if isinstance(value, Mapping) and not set(value) & set(case):
            flat |= value
        else:
            flat[key] = value
    return flat


def _input(case: Mapping[str, Any], trained: bool) -> str:
    """Whether a case's data come from a trained model: by its workload, its source, or all of the claim's."""
    given = case["case"]
    own = given.get("workload") == REAL or {given.get("source"), given.get("model")} & {"encoder", "decoder"}
    return "real" if trained or own else "synthetic"


def _finite(values: Iterable[Any]) -> list[float]:
    return [value for value in values if isinstance(value, int | float)]


def _pooled(cases: Sequence[Mapping[str, Any]]) -> tuple[Any, Any, Any] | None:
    """Slack over all cases: the smallest q05, the median of the medians, the largest q95."""
    middles = sorted(_finite(case["slack"]["q50"] for case in cases))
    if not middles:
        return None
    low = _finite(case["slack"]["q05"] for case in cases)
    unbounded = any(case["slack"]["q95"] == "inf" for case in cases)
    high = "inf" if unbounded else max(_finite(case["slack"]["q95"] for case in cases))
    return min(low, default=middles[0]), middles[len(middles) // 2], high


def _exponents(fit: Mapping[str, Any]) -> str:
    """The measured exponent, and the theory's in brackets."""
    name = fit["variable"].removeprefix("var")
    letter = {"epsilon": "ε", "alpha": "α", "kappa": "κ", "rho": "ρ", "Lambda": "Λ"}.get(name, name)
    return f"{letter}: {number(fit['measured_exponent'])} ({number(fit['theory_exponent'])})"


def _of_quantity(fit: Mapping[str, Any], quantity: Mapping[str, Any] | None) -> dict[str, Any]:
    """A fit in terms of what the claim's title speaks of, where the trial measures another size (`claim.Quantity`)."""
    if quantity is None or not isinstance(fit["measured_exponent"], int | float):
        return dict(fit)
    power, shift = quantity["power"], quantity["shift"]
    names = ("measured_exponent", "theory_exponent", "lower", "upper")
    shown = {name: (fit[name] - shift) / power for name in names}
    shown["lower"], shown["upper"] = sorted((shown["lower"], shown["upper"]))
    sizes = [
        [size if size == "inf" else (size / x**shift) ** (1 / power) for size in point]
        for x, point in zip(fit["abscissas"], fit["sizes"], strict=True)
    ]
    return {**fit, **shown, "sizes": sizes, "theory": f"{_symbol(fit['variable'])}^{{{shown['theory_exponent']:.3g}}}"}


def _symbol(name: str) -> str:
    import sympy

    return str(sympy.latex(sympy.Symbol(name)))


def _points(fit: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Value of the variable and median size at each point of the grid; a size that was not found is infinite."""
    sizes = [sorted(math.inf if size == "inf" else size for size in point) for point in fit["sizes"]]
    return [(x, point[len(point) // 2]) for x, point in zip(fit["abscissas"], sizes, strict=True)]


def _evidence(whole: Mapping[str, Any], kind: str) -> str:
    trials = number(whole["trials"])
    if kind == "growth":
        return f"{trials} sizes measured"
    if kind == "mean":
        return f"{trials} trials"
    return f"{number(whole['failures'])} of {trials} failed"


def _constants(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Parameters that all cases share, which are shown once above the table."""
    if len(cases) < 2:
        return {}
    shared = cases[0]["case"].items()
    return {key: value for key, value in shared if all((key, value) in case["case"].items() for case in cases)}


def _groups(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Cases on synthetic and on real input, each group with a summary, so that the two can be compared."""
    constants, groups = _constants(cases), []
    for name in ("synthetic", "real"):
        members = [{**case, "measured": _measured(case)} for case in cases if case["input"] == name]
        if members:
            groups.append(
                {
                    "name": name,
                    "cases": members,
                    "keys": [
                        key for key in dict.fromkeys(k for c in members for k in c["case"]) if key not in constants
                    ],
                    "outcomes": {o: n for o in MARKS if (n := sum(case["outcome"] == o for case in members))},
                    "trials": sum(case["trials"] for case in members),
                    "failures": sum(case["failures"] for case in members),
                    "slack": _pooled(members),
                }
            )
    return groups


def _measured(case: Mapping[str, Any]) -> dict[str, Any]:
    """Measurements of a case, without those that repeat its parameters."""
    return {name: value for name, value in case["facts"].items() if case["case"].get(name) != value}
