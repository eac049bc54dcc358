"""Controls made of a claim's trial: what they offer, what they ask, what they show."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from sublinattn.suite.explore import Question, ask, draw, settings, sweep
from sublinattn.suite.explore.panel import Panel
from sublinattn.suite.explore.question import changed, flat
from sublinattn.theory import CLAIMS


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_every_claim_has_settings_whose_controls_hold_the_case(claim):
    found = settings(claim)
    assert found
    assert len({setting.name for setting in found}) == len(found)
    for setting in found:
        own = flat(setting.case)
        for name, values in setting.choices.items():
            assert own[name] in values
            assert len(set(values)) == len(values) > 1
            assert changed(setting.case, name, values[0]) != setting.case or own[name] == values[0]


def test_what_stays_below_one_in_all_cases_stays_there():
    choices = settings(CLAIMS["sg24.theorem"])[0].choices
    assert max(choices["eps"]) < 1
    assert max(choices["p"]) < 1
    assert max(choices["instance.n"]) > max(case["instance"]["n"] for case in CLAIMS["sg24.theorem"].cases["smoke"])


def test_arguments_inside_a_mapping_change_there_alone():
    case = {"n": 2, "knobs": {"n": 3, "deep": {"n": 4}}}
    assert changed(case, "knobs.deep.n", 5) == {"n": 2, "knobs": {"n": 3, "deep": {"n": 5}}}
    assert case["knobs"]["deep"]["n"] == 4


@pytest.mark.parametrize(
    ("claim", "sabotage"), [("ha24.amm-explicit", ""), ("ha24.lsh-collision", ""), ("sg24.theorem", "scarce samples")]
)
def test_the_copied_code_prints_the_first_trial(claim, sabotage):
    if sabotage:
        sabotage = CLAIMS[claim].sabotages[0].name
    question = Question(claim, settings(CLAIMS[claim])[0].case, sabotage)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(question.code(seed=3), {})
    first = ask(question, trials=1, seed=3).rows.iloc[0]
    assert [float(word) for word in printed.getvalue().split()] == [first["measured"], first["bound"]]


def test_a_sweep_draws_its_trials_and_the_bound_of_each():
    answers = sweep("ha24.amm-explicit", "eps", (0.2, 0.7), trials=3)
    dots, bound, crosses = draw(answers, "eps").axes[0].get_lines()
    assert np.array_equal(dots.get_xdata(), np.repeat([0.2, 0.7], 3))
    assert np.array_equal(dots.get_ydata(), [x for answer in answers for x in answer.rows["measured"]])
    assert np.array_equal(bound.get_ydata(), [0.2, 0.7])
    assert np.array_equal(crosses.get_xdata(), [0.2])  # more samples than keys


def test_a_sweep_starts_from_the_setting_that_is_named():
    (answer,) = sweep("ha24.alpha-sublinear-synthetic", "n", (128,), setting="dropped: no planted", trials=1)
    assert answer.question.case["source"] == "planted"
    with pytest.raises(ValueError, match="setting must begin one of .*source=gaussian.*, got 'nothing'"):
        sweep("ha24.alpha-sublinear-synthetic", "n", (128,), setting="nothing")


def test_words_count_the_trials_within_the_bound():
    answer = ask(Question("ha24.amm-explicit", settings(CLAIMS["ha24.amm-explicit"])[0].case), trials=5)
    assert answer.words()[0].startswith("5 of 5 trials are within the bound, which may fail with probability 0.1.")


def test_a_dropped_assumption_is_named():
    claim = CLAIMS["ha24.alpha-sublinear-synthetic"]
    setting = next(setting for setting in settings(claim) if setting.name.startswith("dropped: no sink"))
    said = " ".join(ask(Question(claim.id, setting.case), trials=2).words())
    assert "assumes no sink among the sampled keys, which is not so here" in said


def test_what_the_algorithm_refuses_is_shown():
    answer = ask(Question("ha24.lsh-collision", {"angle": 0.1, "bits": -1, "d": 16, "draws": 10}))
    assert "Error: " in answer.problem
    assert answer.words() == [f"No trial ran: {answer.problem}"]
    assert not draw([answer]).axes[0].get_lines()


def test_a_slider_adds_to_the_figure_and_another_one_begins_anew():
    panel = Panel(["ha24.lsh-collision"], 3, 0)
    controls = {control.description: control for control in panel.controls.children}
    first, code = panel.image.value, panel.code.value
    for value in list(controls["angle"].options)[:2]:
        controls["angle"].value = value[1]
    assert panel.image.value != first
    assert panel.code.value != code
    angles = [answer.question.case["angle"] for answer in panel.answers]
    assert len(angles) == 3
    assert len(set(angles)) == 3
    controls["bits"].value = controls["bits"].options[0][1]
    assert len(panel.answers) == 2  # before and after this move
    assert {answer.question.case["angle"] for answer in panel.answers} == {angles[-1]}


def test_another_claim_with_the_same_settings_is_asked():
    panel = Panel(["ha24.causality*"], 1, 0)
    panel.claim.value = "ha24.causality-queries"
    assert panel.answers[-1].question.claim == "ha24.causality-queries"


def test_a_sabotage_is_asked_and_named():
    panel = Panel(["ha24.lsh-collision"], 2, 0)
    sabotage = CLAIMS["ha24.lsh-collision"].sabotages[0]
    panel.sabotage.value = sabotage.name
    assert panel.answers[-1].question.sabotage == sabotage.name
    assert sabotage.what in panel.said.value


def test_no_claim_is_refused():
    with pytest.raises(ValueError, match=r"claims must match ids of claims .* got 'nothing'"):
        Panel(["ha24.*", "nothing"], 1, 0)
