"""The engine on toy claims whose truth is known: every kind, every outcome, every condition."""

import json
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import sympy
import toys

from sublinattn.theory import verify
from sublinattn.theory.claim import Assumption, Drop, Exact, Growth, Mean, Probability, Sabotage, Trial, Vacuity

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


def scaled(rng, xp, *, rate, factor=1):
    return Trial(float(rng.random() < factor * rate), 0.5)


def sometimes_zero(rng, xp):
    size = float(rng.random() < 0.5)
    return Trial(size, 2 * size)


def hiding(rng, xp):
    return Trial(0.0, 0.0, facts={"bound": 1.0})


def toy(kind, trial, cases, limit=2000, **options):
    return toys.claim("claim", kind, trial, cases, trials=limit, **options)


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


def test_a_true_probability_claim_under_all_conditions():
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
    ("claim", "expected", "reason"),
    [
        (toy(Probability(0.1), fails, [{"rate": 0.01}, {"rate": 0.4}]), "refuted", "Case 1 (rate=0.4)"),
        (toy(Probability(0.1), fails, [{"rate": 0.1}], limit=60), "undecided", "promised 0.1; "),
        (toy(Mean(0.05), average, [{}]), "supported", "within 0.05"),
        (toy(Mean(0.05), average, [{"bias": 0.15}]), "refuted", "p-value"),
        (toy(Mean(0.001), average, [{}], limit=50), "undecided", "not ruled out"),
        (toy(Exact(), rounding, [{}], limit=20), "supported", "20 instances"),
        (toy(Exact(), rounding, [{"error": 1e-3}], limit=20), "refuted", "trial 0"),
        (toy(Exact("<="), rounding, [{"error": -1e-3}], limit=20), "supported", "20 instances"),
        (replace(GROWTH, sabotages=()), "supported", "theory"),
        (replace(GROWTH, sabotages=(), kind=Growth({"x": x**0.5, "y": y**3})), "refuted", "In x: over this grid"),
    ],
)
def test_outcomes(claim, expected, reason):
    verdict = check(claim)
    assert verdict.outcome == expected
    assert reason in verdict.reason


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
    # `x` is refuted, and `y`, which has not come that far, stops as well.
    sabotage, rows = verdict.sabotages[0], verdict.rows[verdict.rows["role"] == "sabotage:steep"]
    assert rows.groupby("case").size().tolist() == [6] * 4 + [4] * 3
    assert sabotage.caught and sabotage.trials == len(rows) == 36
    assert "in x" in sabotage.reason and f"level {verdict.level:.2g}" in sabotage.reason


@pytest.mark.parametrize(
    ("claim", "change", "trials"),
    [
        (GROWTH, {"steep": 0.0}, 42),  # all of its trials
        (GROWTH, {"cap": 1e-3}, 42),  # no size found anywhere
        (GROWTH, {"steep": 0.001}, 42),
        (SUPPORTED, {"rate": 0.001}, None),
    ],
)
def test_a_claim_that_lets_sabotage_pass_is_not_verified(claim, change, trials):
    verdict = check(replace(claim, sabotages=(Sabotage("mild", "hardly anything changes", change),)))
    assert (verdict.sabotages[0].caught, verdict.outcome) == (False, "undecided")
    assert "mild" in verdict.reason
    assert trials in (None, verdict.sabotages[0].trials)


def test_an_undecided_sabotage_is_not_caught():
    """Trials that neither refute nor support the broken variant have not noticed that it is broken."""
    verdict = check(
        replace(SUPPORTED, sabotages=(Sabotage("on the edge", "the rate is p", {"rate": SUPPORTED.kind.p}),))
    )
    assert (verdict.sabotages[0].outcome, verdict.sabotages[0].caught) == ("undecided", False)
    assert verdict.outcome == "undecided"


@pytest.mark.parametrize(
    ("claim", "change", "reason", "maximum"),
    [
        (GROWTH, {"steep": 3.0}, "in x", 42),
        # Refuted at once on the second case; on the first it would stay undecided for 2000 trials.
        (toy(Probability(0.1), scaled, [{"rate": 0.01}, {"rate": 0.1}]), {"factor": 10}, "case 1", 50),
    ],
)
def test_sabotage_stops_at_the_first_refuted_case(claim, change, reason, maximum):
    sabotage = check(replace(claim, sabotages=(Sabotage("gross", "much changes", change),))).sabotages[0]
    assert sabotage.caught and reason in sabotage.reason and sabotage.trials < maximum


def test_progress_never_goes_back_and_ends_with_all():
    seen = []
    verify(SUPPORTED, progress=lambda done, total: seen.append((done, total)))
    assert len({total for _, total in seen}) == 1 and seen == sorted(seen)
    assert seen[0][0] == 1 and seen[-1][0] == seen[-1][1] and len(seen) < seen[-1][1], "cases are decided early"


def test_slack_ignores_zero_over_zero():
    verdict = check(toy(Exact("<="), sometimes_zero, [{}], limit=40))
    assert verdict.cases[0].slack == {"q05": 2.0, "q50": 2.0, "q95": 2.0}


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


def but(claim=SUPPORTED, **change):
    return replace(claim, **change)


def dropping(name="enough samples", **case):
    return but(drops=(Drop(name, ({"rate": 0.5, **case},)),))


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (dropping(m=6), "toy.claim, drop:enough samples, case 0 .*to be dropped"),
        (dropping(m=1, n=1000), "assumption small .*does not hold"),
        (dropping("unheard of"), "unheard of"),
        (but(cases={"smoke": ({"rate": 0.5, "m": 1},)}), "toy.claim, claim, case 0 .*enough samples .*does not hold"),
        (but(drops=2 * SUPPORTED.drops), "two drops"),
        (but(sabotages=2 * SUPPORTED.sabotages), "two sabotages"),
        (but(assumptions=(Assumption("unknown fact", y > 1),), drops=()), r"speaks of \['y'\]"),
        (but(cases={"smoke": ()}), "at least one case"),
        (toy(Mean(0.1), average, [{"sigma": 0.0}]), r"case 0 \(sigma=0.0\), trial 0: a mean needs"),
        (but(GROWTH, kind=Growth({"x": x})), "vary"),
        (
            but(GROWTH, kind=Growth({"x": x**2, "y": y**3}, resolution={"y": 0.8})),
            r"claim, case 6 .*resolution 0.8 of the exponent in y is more than 0.25 of .*, 3$",
        ),
        (but(GROWTH, max_trials={"smoke": 1}), r"claim, case 3 \(variable=x, x=8.0\), trial 0: a growth needs"),
        (toy(Exact(), hiding, [{}], limit=1), "facts are called"),
    ],
)
def test_a_claim_that_contradicts_itself_is_an_error(claim, message):
    with pytest.raises(ValueError, match=message):
        check(claim)


@pytest.mark.parametrize(
    ("claim", "options", "error", "message"),
    [
        *((SUPPORTED, {"rng": wrong}, ValueError, "rng must be") for wrong in (-1, 1.5, True, "0")),
        (SUPPORTED, {"effort": "huge"}, ValueError, "effort"),
        ("no.such", {}, KeyError, r"no\.such"),
    ],
)
def test_wrong_arguments(claim, options, error, message):
    with pytest.raises(error, match=message):
        check(claim, **options)


@pytest.mark.parametrize("claim", [SUPPORTED, GROWTH, toy(Mean(0.1), average, [{}, {"sigma": 0.5}])])
def test_workers_change_no_byte(claim, pool):
    alone, shared = check(claim, rng=3), check(claim, rng=3, executor=pool)
    assert text(alone) == text(shared)
    assert alone.rows.equals(shared.rows)
    assert not check(claim, rng=4).rows.equals(alone.rows)


def test_an_executor_is_one_of_concurrent_futures():
    with pytest.raises(TypeError, match=r"^executor must be one of concurrent\.futures, or None, got int"):
        check(toys.HOLDS, executor=1)


def text(verdict):
    found = verdict.to_dict()
    found.pop("machine")
    return json.dumps(found, allow_nan=False, sort_keys=True)


def test_what_the_machine_measured_stands_apart():
    claim = replace(GROWTH, kind=Growth(GROWTH.kind.variables, machine=True))
    one, other = check(claim, rng=1), check(claim, rng=2)
    assert text(one).replace('"seed": 1', '"seed": 2') == text(other)
    assert one.to_dict()["machine"]["fits"][0]["sizes"] != other.to_dict()["machine"]["fits"][0]["sizes"]
    whole = one.to_dict() | one.to_dict()["machine"]
    assert (whole["cases"][0]["case"], whole["failures"]) == ({"variable": "x", "x": 1.0}, 0)
    assert "theory 2" in whole["reason"]


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


def test_no_seed_is_fresh_entropy():
    claim = toy(Exact(), rounding, [{}], limit=2)
    assert check(claim, rng=None).seed != check(claim, rng=None).seed
