"""What every claim of the suite must have."""

from __future__ import annotations

import pytest

from sublinattn.theory import CLAIMS


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_has_a_sabotage_that_breaks_its_algorithm(name):
    """One that alters the bound shows only that the bound is near. Reported comparisons may weaken an opponent."""
    claim = CLAIMS[name]
    breaks = {sabotage.breaks for sabotage in claim.sabotages}
    assert "algorithm" in breaks or (claim.basis == "reported" and "opponent" in breaks)
