"""Claims: all of them found, in order, with their trials' places in the source; predicates over measurements."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sympy
import toys

from sublinattn.theory import CLAIMS
from sublinattn.theory.claim import Growth, evaluate
from sublinattn.theory.symbols import kappa, norm

ROOT = Path(__file__).parents[2]


def test_claims_are_ordered_by_id_and_say_where_their_trial_is():
    assert list(CLAIMS) == sorted(CLAIMS) and all(claim.id == name for name, claim in CLAIMS.items())
    for claim in CLAIMS.values():
        file, line = claim.where.split(":")
        assert (ROOT / file).read_text().splitlines()[int(line) - 1].startswith(f"def {claim.trial.__name__}(")
    assert toys.HOLDS.where.startswith("tests/toys.py:")


def test_listing_the_claims_loads_nothing_heavy():
    heavy = {"pandas", "scipy.special", "scipy.optimize", "scipy.stats", "matplotlib", "IPython", "jinja2", "seaborn"}
    code = "import sys; from sublinattn.theory import CLAIMS; CLAIMS; import sublinattn.lab.run; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "sublinattn.methods.exact.claims" in loaded and heavy & set(loaded) == set()


def test_evaluate():
    assert evaluate(kappa**2 >= 9, {"kappa": 3, "other": 1.0})
    assert evaluate(norm("P", "F") + 1, {r"\left\|P\right\|_F": 2.0}) == 3
    with pytest.raises(ValueError, match=r"speaks of \['b'\], which the trial does not report \(facts \['a'\]\)"):
        evaluate(sympy.Symbol("a") + sympy.Symbol("b"), {"a": 1.0})


def test_a_resolution_is_of_a_variable():
    with pytest.raises(ValueError, match=r"resolution of \['m'\], the variables are \['n'\]"):
        Growth({"n": sympy.Symbol("n")}, resolution={"m": 0.1})


@pytest.mark.parametrize("name", ["alpha", "own.Alpha", "own.alpha bound", "../own.alpha", "own.a.b"])
def test_an_id_that_no_file_can_be_called_is_refused(name):
    with pytest.raises(ValueError, match=rf"id must be <paper>.<slug> of a-z, .* got {re.escape(repr(name))}"):
        dataclasses.replace(toys.HOLDS, id=name)
