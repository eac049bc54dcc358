"""The small CUDA kernels against NumPy: their source as g++ builds it, and on a GPU themselves.

The attention kernel has `core/test_attend.py`, and the one that draws samples `primitives/test_sampling.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import emulator
import ml_dtypes
import numpy as np
import pytest

from sublinattn import hyper_attention
from sublinattn.core import backends
from sublinattn.methods.hyperattention.sort_lsh import buckets
from sublinattn.primitives.sampling import sample_without_replacement

HALVES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


# --------------------------------------------------------------------------------------------------------- what they do
def check_finite(xp: Any, dtype: str = "float16") -> None:
    """One bad number, at every place of a group of 16 bytes, and in the last of them."""
    size = 8 * 600  # of 16 bytes as many as three thread blocks take
    largest = float(ml_dtypes.finfo(HALVES[dtype]).max)
    x = np.resize([largest, -largest, 0, -0.0, 1, 2.0**-24], size).astype(np.float32)
    found = xp.zeros(1, np.int32)
    backends.find_not_finite(xp, xp.asarray(x).astype(HALVES[dtype]), found)
    assert not backends.asnumpy(found)[0]
    for place, bad in zip((*range(8), size // 2 + 3, size - 1), itertools.cycle((np.nan, np.inf, -np.inf))):
        y = x.copy()
        y[place] = bad
        found.fill(0)
        backends.find_not_finite(xp, xp.asarray(y).astype(HALVES[dtype]), found)
        assert backends.asnumpy(found)[0]


def check_hash(xp: Any, dtype: str = "float16", d: int = 32, bits: int = 9, n: int = 515, batch: int = 2) -> None:
    """Small integers: every order of summation gives the same projections, some of them 0."""
    rng = np.random.default_rng(bits)
    x = rng.integers(-3, 4, (batch, n, d)).astype(np.float32)
    planes = rng.integers(-3, 4, (batch, d, bits)).astype(np.float32)
    rows = xp.asarray(x).astype(HALVES.get(dtype, np.float32))
    np.testing.assert_array_equal(backends.asnumpy(buckets(xp, rows, xp.asarray(planes))), buckets(np, x, planes))


def check_samples(xp: Any) -> None:
    problems, n, m = 3, 300, 280
    ours = sample_without_replacement(xp, np.random.default_rng(7), problems, n, m)
    rng = np.random.default_rng(7)
    expected = [rng.choice(n, m, replace=False, shuffle=False) for _ in range(problems)]
    np.testing.assert_array_equal(backends.asnumpy(ours), expected)


def check_lists(xp: Any, sinks: int = 3) -> None:
    """Blocks, of which the last is short, sinks and a sample, as HyperAttention puts them together."""
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal((2, 210, 32)).astype(np.float16) for _ in range(3)]
    options = {"block_size": 40, "sample_size": 50, "min_exact": 64, "exact_keys": sinks, "rng": 5, "return_lse": True}
    expected, expected_lse = hyper_attention(*(x.astype(np.float32) for x in arrays), **options)
    out, lse = (backends.asnumpy(x) for x in hyper_attention(*map(xp.asarray, arrays), **options))
    np.testing.assert_allclose(lse, expected_lse, atol=1e-3)
    np.testing.assert_allclose(out, expected, atol=3e-3)


@pytest.mark.parametrize("dtype", HALVES)
def test_bad_numbers_are_found(kernel_xp: Any, dtype: str) -> None:
    check_finite(kernel_xp, dtype)


@pytest.mark.parametrize(
    ("dtype", "d", "bits"),
    [("float16", 32, 1), ("bfloat16", 64, 16), ("float16", 8, 7), ("float16", 33, 5), ("float32", 32, 16),
     ("bfloat16", 1024, 16)],
)  # fmt: skip
def test_hash(kernel_xp: Any, dtype: str, d: int, bits: int) -> None:
    check_hash(kernel_xp, dtype, d, bits)
    check_hash(kernel_xp, dtype, d, bits, n=1, batch=1)


@pytest.mark.parametrize("sinks", [0, 3])
def test_lists_of_keys(kernel_xp: Any, sinks: int) -> None:
    check_lists(kernel_xp, sinks)


# --------------------------------------------------------------------------------------------- the checks are checked
BARRIER, RACE, OUTSIDE, WRONG = "    __syncthreads();\n", "race: ", "outside of", "assert|equal"
LOOP = "    for (int i = threadIdx.x; i < m; i += THREADS) {\n        int "
DEFECTS: dict[str, tuple[Callable[[Any], None], str, str, str]] = {  # check, before, after, found as what
    "one half of each pair is not looked at": (check_finite, " || (pairs[j] & high) == high", "", WRONG),
    "the last round is left out": (check_finite, "i < eights", "i < eights - 1", WRONG),
    "one round too many": (check_finite, "i < eights", "i <= eights", OUTSIDE),
    "normals are used before they are there": (check_hash, BARRIER, "", RACE),
    "rows past the last are hashed": (check_hash, "if (first + r * THREADS < n) out", "out", f"{OUTSIDE}|{RACE}"),
    "the first problem's normals for all": (check_hash, "(problem * d + j) * BITS", "j * BITS", WRONG),
    "halves of a pair exchanged": (check_hash, "pair >> 16 * (e % 2)", "pair >> 16 * (1 - e % 2)", WRONG),
    "zero is a positive side": (check_hash, "sums[r][j] > 0", "sums[r][j] >= 0", WRONG),
    "what was drawn is read too early": (check_samples, BARRIER + LOOP + "b", LOOP + "b", RACE),
    "what was drawn before is read too early": (check_samples, BARRIER + LOOP + "j", LOOP + "j", RACE),
    "a place that had to be taken is free": (check_samples, "while (", "while (false && ", WRONG),
    "the block's own sampled keys count": (check_lists, "inside(place) ? -infinity() : weight", "weight", WRONG),
    "the last block is as long as the others": (check_lists, "float>(n - c)", "float>(n - 40)", WRONG),
    "no sink": (check_lists, "i < c + s ? 0", "i < c ? 0", WRONG),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_defects_are_found(emulated: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    check, before, after, found = DEFECTS[name]
    planted = []

    def module(*files: str, options: tuple[str, ...] = ()) -> emulator.Module:
        source = (emulator.PACKAGE / files[-1]).read_text()
        planted.append(before in source)
        return emulator.build(source.replace(before, after), options)

    monkeypatch.setattr(backends, "cuda_module", module)
    with pytest.raises((AssertionError, emulator.KernelError), match=found):
        check(emulated)
    assert any(planted)
