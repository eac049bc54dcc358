"""The engine on toy claims whose truth is known: every kind, every outcome, every role."""

import json
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import sympy

from sublinattn.theory import verify
from sublinattn.theory.claim import Assumption, Claim, Drop, Exact, Growth, Mean, Probability, Sabotage, Trial, Vacuity
from sublinattn.theory.trials import TrialError

m, n, x, y = sympy.symbols("m n x y", positive=True)


# The toys' trials. Module level, so that they can be sent to workers.
def fails(rng, xp, *, rate, n=10, m=5):
    return Trial(float(rng.random() < rate), 0.5, facts={"n": n, "m": m, "noise": rng.random()})


def average(rng, xp, *, bias=0.0, sigma=0.3):
    return Trial(rng.normal(1 + bias, sigma), 1.0, sigma, {"sigma": sigma})


def rounding(rng, xp, *, error=0.0):
    value = rng.normal()
    return Trial(value + error, value, abs(value))


def size(rng, xp, *, variable, x=8.0, y=8.0, steep=1.0, cap=1e9):
    found = x**steep * y**2 * math.exp(0.05 * rng.normal())
    return Trial(found if found <= cap else math.inf, facts={"x": x, "y": y, "cap": cap})


def explode(rng, xp, *, at):
    if rng.random() > at:
        raise ZeroDivisionError("boom")
    return Trial(0.0, 1.0)


def toy(kind, trial, cases, limit=2000, **options):
    return Claim(
        id="toy.claim",
        paper="TOY",
        source="Theorem 1",
        title="A toy",
        statement=sympy.Le(x, y),
        kind=kind,
        trial=trial,
        cases={"smoke": tuple(cases)},
        max_trials={"smoke": limit},
        **options,
    )


SUPPORTED = toy(
    Probability(0.1),
    fails,
    [{"rate": 0.01}, {"rate": 0.02}],
    assumptions=(Assumption("enough samples", m >= 5), Assumption("small", n <= 100)),
    drops=(Drop("enough samples", ({"rate": 0.6, "m": 1}, {"rate": 0.01, "m": 2})),),
    sabotages=(Sabotage("always", "fails every time", {"rate": 1.0}),),
    vacuity=Vacuity(m >= n, "n", onset=2 * m),
)
GROWTH = toy(
    Growth({"x": x**2, "y": y**3}),
    size,
    [*({"variable": "x", "x": v} for v in (1.0, 2.0, 4.0, 8.0)), *({"variable": "y", "y": v} for v in (2.0, 4.0, 8.0))],
    limit=6,
    sabotages=(Sabotage("steep", "one power too many", {"steep": 3.0}),),
)


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as executor:
        yield executor


def check(claim, **options):
    return verify(claim, backend="numpy", **options)


def test_a_true_probability_claim_in_all_its_roles():
    verdict = check(SUPPORTED)
    assert verdict.outcome == "supported"
    assert verdict.level == 1e-4 / 2
    assert [c.outcome for c in verdict.cases] == ["supported"] * 2
    assert all(c.upper <= 0.1 and c.lower == pytest.approx(0, abs=0.01) for c in verdict.cases)
    assert verdict.trials == sum(c.trials for c in verdict.cases) < 600
    assert verdict.cases[0].slack["q50"] == math.inf  # bound / 0
    assert verdict.cases[0].facts["n"] == 10
    assert [(d.assumption, d.case["m"], d.outcome) for d in verdict.drops] == [
        ("enough samples", 1, "refuted"),
        ("enough samples", 2, "supported"),
    ]
    sabotage = verdict.sabotages[0]
    assert (sabotage.caught, sabotage.outcome, sabotage.name) == (True, "refuted", "always")
    assert (verdict.vacuity.share, verdict.vacuity.onset, verdict.vacuity.variable) == (0.0, 10.0, "n")


def test_rows_are_tidy_and_complete():
    verdict = check(SUPPORTED)
    rows = verdict.rows
    assert list(rows.columns[:7]) == ["claim", "role", "case", "trial", "measured", "bound", "scale"]
    assert set(rows["role"]) == {"claim", "drop:enough samples", "sabotage:always"}
    main = rows[rows["role"] == "claim"]
    assert list(main.groupby("case").size()) == [c.trials for c in verdict.cases]
    assert (main["measured"] > main["bound"]).sum() == verdict.failures
    assert (rows["role"] == "sabotage:always").sum() == verdict.sabotages[0].trials
    assert rows.groupby(["role", "case"])["trial"].apply(lambda t: list(t) == list(range(len(t)))).all()


@pytest.mark.parametrize(
    ("claim", "expected", "said"),
    [
        (toy(Probability(0.1), fails, [{"rate": 0.01}, {"rate": 0.4}]), "refuted", "Case 1 (rate=0.4)"),
        (toy(Probability(0.1), fails, [{"rate": 0.1}], limit=60), "undecided", "promised 0.1; "),
        (toy(Mean(0.05), average, [{}]), "supported", "within 0.05"),
        (toy(Mean(0.05), average, [{"bias": 0.15}]), "refuted", "p-value"),
        (toy(Mean(0.001), average, [{}], limit=50), "undecided", "not ruled out"),
        (toy(Exact(), rounding, [{}], limit=20), "supported", "20 trials"),
        (toy(Exact(), rounding, [{"error": 1e-3}], limit=20), "refuted", "trial 0"),
        (toy(Exact("<="), rounding, [{"error": -1e-3}], limit=20), "supported", "20 trials"),
        (replace(GROWTH, sabotages=()), "supported", "theory"),
        (replace(GROWTH, sabotages=(), kind=Growth({"x": x**0.5, "y": y**3})), "refuted", "In x: grows faster"),
    ],
)
def test_outcomes(claim, expected, said):
    verdict = check(claim)
    assert verdict.outcome == expected
    assert said in verdict.reason


def test_growth_has_fits_per_variable_and_exact_replicates():
    verdict = check(GROWTH)
    assert verdict.outcome == "supported"
    assert [f.variable for f in verdict.fits] == ["x", "y"]
    assert [c.trials for c in verdict.cases] == [6] * 7
    for fit, true in zip(verdict.fits, (1, 2), strict=True):
        assert fit.lower < true < fit.upper
        assert fit.theory_exponent == pytest.approx(true + 1)
        assert fit.outcome == "supported"
    assert verdict.fits[0].abscissas == (1, 2, 4, 8)
    assert np.shape(verdict.fits[0].sizes) == (4, 6)
    assert verdict.sabotages[0].caught
    assert "in x" in verdict.sabotages[0].reason


def test_a_sabotaged_growth_stops_at_a_look_that_refutes_one_variable():
    """`x` is refuted by the first look's replicates; `y` has not come that far, and stops too."""
    clear = check(GROWTH)
    seen = clear.rows[clear.rows["role"] == "sabotage:steep"].groupby("case").size()
    assert seen.tolist() == [4] * 4 + [3] * 3
    assert clear.sabotages[0].trials == len(clear.rows[clear.rows["role"] == "sabotage:steep"]) == 25
    assert f"level {clear.level / 2:.2g}" in clear.sabotages[0].reason


@pytest.mark.parametrize("steep", [0.0, 0.001])
def test_a_sabotaged_growth_that_passes_makes_all_of_its_trials(steep):
    passing = check(replace(GROWTH, sabotages=(Sabotage("mild", "hardly anything changes", {"steep": steep}),)))
    assert not passing.sabotages[0].caught
    assert passing.sabotages[0].trials == 42
    assert passing.outcome == "undecided"


def test_growth_of_what_is_never_found_is_refuted():
    verdict = check(replace(GROWTH, sabotages=(Sabotage("hopeless", "no size will do", {"cap": 1e-3}),)))
    assert verdict.sabotages[0].caught
    assert "no size up to the cap" in verdict.sabotages[0].reason
    failing = check(replace(GROWTH, cases={"smoke": tuple({**c, "cap": 1e-3} for c in GROWTH.cases["smoke"])}))
    assert failing.outcome == "refuted"
    assert failing.failures == failing.trials == 42


def test_a_claim_that_lets_sabotage_pass_is_not_verified():
    claim = replace(SUPPORTED, sabotages=(Sabotage("nothing", "changes nothing", {"rate": 0.001}),))
    verdict = check(claim)
    assert not verdict.sabotages[0].caught
    assert verdict.outcome == "undecided"
    assert "nothing" in verdict.reason


def test_sabotage_stops_at_the_first_refuted_case():
    """Ten times the rate is refuted at once on the second case, and would stay undecided on the first for 2000
    trials."""
    broken = Sabotage("tenfold", "ten times the rate", {"factor": 10})
    verdict = check(toy(Probability(0.1), scaled, [{"rate": 0.01}, {"rate": 0.1}], sabotages=(broken,)))
    assert verdict.sabotages[0].caught
    assert "case 1" in verdict.sabotages[0].reason
    assert verdict.sabotages[0].trials < 50


def scaled(rng, xp, *, rate, factor=1):
    return Trial(float(rng.random() < factor * rate), 0.5)


def test_slack_ignores_zero_over_zero():
    verdict = check(toy(Exact("<="), sometimes_zero, [{}], limit=40))
    assert verdict.cases[0].slack == {"q05": 2.0, "q50": 2.0, "q95": 2.0}


def sometimes_zero(rng, xp):
    size = float(rng.random() < 0.5)
    return Trial(size, 2 * size)


def test_vacuity():
    vacuous = replace(SUPPORTED, vacuity=Vacuity(m <= n, "n", onset=sympy.oo * m))
    verdict = check(vacuous)
    assert (verdict.outcome, verdict.vacuity.share, verdict.vacuity.onset) == ("vacuous", 1.0, None)
    mixed = replace(SUPPORTED, cases={"smoke": ({"rate": 0.01}, {"rate": 0.1, "n": 20})}, max_trials={"smoke": 200})
    assert check(mixed).outcome == "undecided"
    verdict = check(replace(mixed, vacuity=Vacuity(n >= 20)))  # the undecided case says nothing
    assert (verdict.outcome, verdict.vacuity.share) == ("supported", 0.5)
    assert [c.vacuous for c in verdict.cases] == [False, True]


def test_vacuous_is_not_an_excuse():
    assert check(replace(SUPPORTED, cases={"smoke": ({"rate": 0.9},)}, vacuity=Vacuity(m <= n))).outcome == "refuted"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"drops": (Drop("enough samples", ({"rate": 0.5, "m": 6},)),)},
            "toy.claim, drop:enough samples, case 0 .*to be dropped",
        ),
        ({"drops": (Drop("enough samples", ({"rate": 0.5, "m": 1, "n": 1000},)),)}, "assumption small .*does not hold"),
        ({"cases": {"smoke": ({"rate": 0.5, "m": 1},)}}, "toy.claim, claim, case 0 .*enough samples .*does not hold"),
        ({"drops": (Drop("unheard of", ({"rate": 0.5},)),)}, "unheard of"),
        ({"drops": 2 * SUPPORTED.drops}, "two drops"),
        ({"sabotages": 2 * SUPPORTED.sabotages}, "two sabotages"),
        ({"assumptions": (Assumption("unknown fact", y > 1),), "drops": ()}, r"speaks of \['y'\]"),
        ({"cases": {"smoke": ()}}, "at least one case"),
        ({"kind": Mean(0.1)}, "case 0 .*trial 0: a mean needs"),
    ],
)
def test_a_claim_that_contradicts_itself_is_an_error(change, message):
    if "kind" in change:
        change = {
            **change,
            "trial": average,
            "cases": {"smoke": ({"sigma": 0.0},)},
            "assumptions": (),
            "drops": (),
            "sabotages": (),
        }
    with pytest.raises(ValueError, match=message):
        check(replace(SUPPORTED, **change))


def test_growth_needs_its_variables():
    with pytest.raises(ValueError, match="vary"):
        check(replace(GROWTH, kind=Growth({"x": x})))
    with pytest.raises(ValueError, match=r"toy.claim, claim, case 3 \(variable=x, x=8.0\), trial 0: a growth needs"):
        check(replace(GROWTH, max_trials={"smoke": 1}))


def test_facts_may_not_hide_columns():
    with pytest.raises(ValueError, match="facts are called"):
        check(toy(Exact(), hiding, [{}], limit=1))


def hiding(rng, xp):
    return Trial(0.0, 0.0, facts={"bound": 1.0})


def test_a_trial_that_raises_is_an_error_not_a_verdict(pool):
    for executor in (None, pool):
        with pytest.raises(TrialError, match=r"claim toy.claim, claim, case 1 .*trial \d+: ZeroDivisionError: boom"):
            check(toy(Probability(0.001), explode, [{"at": 2.0}, {"at": 0.9}]), executor=executor)


@pytest.mark.parametrize("claim", [SUPPORTED, GROWTH, toy(Mean(0.1), average, [{}, {"sigma": 0.5}])])
def test_workers_change_no_byte(claim, pool):
    alone, shared = check(claim, rng=3), check(claim, rng=3, executor=pool)
    assert text(alone) == text(shared)
    assert alone.rows.equals(shared.rows)
    assert text(check(claim, rng=4)) != text(alone)


def text(verdict):
    found = verdict.to_dict()
    found.pop("machine")
    return json.dumps(found, allow_nan=False, sort_keys=True)


def test_what_the_machine_measured_stands_apart():
    claim = replace(GROWTH, kind=Growth(GROWTH.kind.variables, machine=True))
    one, other = check(claim, rng=1), check(claim, rng=2)
    assert text(one).replace('"seed": 1', '"seed": 2') == text(other)
    assert one.to_dict()["machine"]["fits"][0]["sizes"] != other.to_dict()["machine"]["fits"][0]["sizes"]
    assert set(one.to_dict()["machine"]) >= {"seconds", "cases", "fits", "reason"}


def test_claims_about_the_machine_run_alone():
    closed = ProcessPoolExecutor(1)
    closed.shutdown()  # would raise if a trial were sent to it
    claim = replace(GROWTH, kind=Growth(GROWTH.kind.variables, machine=True))
    assert check(claim, executor=closed).trials == 42
    with pytest.raises(RuntimeError, match="shutdown"):
        check(GROWTH, executor=closed)


def test_to_dict_is_strict_json():
    found = json.loads(text(check(SUPPORTED)))
    assert found["cases"][0]["slack"]["q50"] == "inf"
    assert "rows" not in found
    growth = json.loads(text(check(GROWTH)))
    assert growth["cases"][0]["lower"] == "nan"
    assert growth["fits"][0]["theory"] == "x^{2}"


def test_seeds():
    assert (
        check(toy(Exact(), rounding, [{}], limit=2), rng=None).seed
        != check(toy(Exact(), rounding, [{}], limit=2), rng=None).seed
    )
    for wrong in (-1, 1.5, True, "0"):
        with pytest.raises(ValueError, match="rng must be"):
            check(SUPPORTED, rng=wrong)
    with pytest.raises(KeyError, match=r"no\.such"):
        check("no.such")
    with pytest.raises(ValueError, match="effort"):
        check(SUPPORTED, effort="huge")
