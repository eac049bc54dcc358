"""The inputs that a run names, and how often each is drawn."""

import pytest

from sublinattn.lab.run import Run
from sublinattn.lab.workloads.inputs import GAUSSIAN, REAL, SINKS, Input, chosen, each_draw

OTHER = Input("other", "gaussian")


def test_the_run_names_inputs_among_those_that_are_known():
    assert chosen(Run(), (SINKS,)) == (SINKS,)
    assert chosen(Run(knobs={"inputs": ("real", "gaussian")}), (SINKS,)) == (REAL, GAUSSIAN)
    assert chosen(Run(knobs={"inputs": ("other",)}), (SINKS,), known={"other": OTHER}) == (OTHER,)


@pytest.mark.parametrize(("knobs", "replicates", "heads"), [({}, 2, 3), ({"replicates": 4}, 4, 4)])
def test_real_heads_have_a_number_of_draws_of_their_own_unless_the_run_says_one(knobs, replicates, heads):
    expected = [(8, OTHER, i) for i in range(replicates)] + [(8, REAL, i) for i in range(heads)]
    assert each_draw(Run(knobs=knobs), 8, (OTHER, REAL), replicates=2, heads=3) == expected
    run, known = Run(knobs={"inputs": ("other", "mine"), **knobs}), {"other": OTHER, "mine": REAL}
    assert each_draw(run, 8, (SINKS,), replicates=2, heads=3, known=known) == expected
