"""Trials of the state: its answers, and the bytes it holds."""

import numpy as np
import pytest

from sublinattn.methods.polynomial.approximants import BASES
from sublinattn.methods.polynomial.claims.theorem3_8_stream import state_bytes, streamed


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("basis", BASES)
def test_streams_agree_unless_tokens_are_left_out(basis, causal):
    given = {"n": 30, "parts": 3, "causal": causal, "basis": basis}
    assert streamed(np.random.default_rng(0), np, **given).measured < 1e-12
    assert streamed(np.random.default_rng(0), np, **given, forget=True).measured > 1e-3


def test_state_bytes_are_those_of_its_arrays():
    right = state_bytes(np.random.default_rng(0), np, n=50, d=2, d_v=3, degree=2)
    assert right.measured == right.bound == 8 * 6 * 5
    kept = state_bytes(np.random.default_rng(0), np, n=50, d=2, d_v=3, degree=2, keep=True)
    assert kept.measured == kept.bound + 8 * 50 * 5
