"""The worst instances on record: each replays to its ratio, and belongs to a claim that is searched."""

from pathlib import Path

import numpy as np
import pytest

import sublinattn
from sublinattn.theory import CLAIMS, adversary

SEARCHED = sorted(name for name, claim in CLAIMS.items() if claim.search)


@pytest.mark.parametrize("name", SEARCHED)
def test_the_instance_on_record_replays_to_its_ratio(name):
    worst = adversary.stored(CLAIMS[name])
    assert worst is not None, "scripts/search_worst stores one"
    again = adversary.measured(CLAIMS[name], worst.arrays, worst.case, "numpy")
    assert again.ratio == pytest.approx(worst.ratio, rel=1e-6)
    assert again.counterexample == worst.counterexample
    inside = CLAIMS[name].search.keep(dict(worst.arrays), **worst.case)  # where the claim speaks: where it is already
    assert all(np.allclose(a, inside[key], rtol=1e-6) for key, a in worst.arrays.items())


def test_files_are_small_and_each_belongs_to_a_claim():
    files = list(Path(sublinattn.__file__).parent.rglob("worst/*.npz"))
    assert sorted(file.stem for file in files) == SEARCHED
    assert all(file.stat().st_size < 16_000 for file in files)
