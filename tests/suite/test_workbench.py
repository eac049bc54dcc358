"""A method on a workload: what is measured, the mask that is shown, the figure, the controls and the copied code."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from sublinattn import attention, hyper_attention
from sublinattn.suite.explore import Setup, bench, draw_look, look
from sublinattn.suite.explore.bench_panel import Bench
from sublinattn.suite.explore.matrix import pooled, rectangles
from sublinattn.suite.explore.workbench import CHOICES, METHODS

SMALL = {"n": 128, "d": 16, "block_size": 16, "sample_size": 16}


def test_errors_are_those_of_the_method_and_the_yardsticks():
    setup = Setup(**SMALL, exact_keys=2, seed=3)
    seen, x = look(setup, repetitions=3), setup.instance()
    p = np.exp(x.scale * x.q.astype(float) @ x.k.T)
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(seen.p, p, rtol=1e-9)
    unit = np.linalg.norm(p, 2) * np.linalg.norm(x.v.astype(float), 2)
    sizes = {"block_size": 16, "sample_size": 16, "exact_keys": 2, "min_exact": 0}
    for repetition in range(3):
        out = hyper_attention(x.q, x.k, x.v, scale=x.scale, rng=np.random.default_rng([3, repetition]), **sizes)
        (row,) = seen.rows[
            (seen.rows["method"] == "HyperAttention") & (seen.rows["repetition"] == repetition)
        ].itertuples()
        np.testing.assert_allclose(row.error, np.linalg.norm(out - p @ x.v, 2) / unit, rtol=1e-6)
    exact = attention(x.q, x.k, x.v, scale=x.scale)
    np.testing.assert_allclose(seen.error("exact"), np.linalg.norm(exact - p @ x.v, 2) / unit, rtol=1e-3)
    assert seen.error("zero") == pytest.approx(np.linalg.norm(p @ x.v, 2) / unit)
    assert (seen.rows["method"] == "uniform").sum() == 3 and seen.facts["columns"] == 34
    assert seen.facts["mass"] == pytest.approx(p[np.ix_(*seen.orders)][seen.mask].sum() / 128)
    assert seen.bound == pytest.approx(
        np.sqrt(16 * (np.linalg.norm(p) / np.linalg.norm(p, 2)) ** 2 / (16 * 0.1)), rel=1e-6
    )


def test_the_mask_is_what_the_first_repetition_computes_exactly():
    """Values that are large at one key alone: those outside the mask do not see it where it is not sampled."""
    seen = look(Setup(**SMALL, exact_keys=2), repetitions=1)
    q_order, k_order = seen.orders
    assert sorted(q_order) == sorted(k_order) == list(range(128)) and list(k_order[:2]) == [0, 1]
    assert seen.mask[:, :2].all() and set(seen.mask[:, 2:].sum(axis=1)) <= {16, 126 % 16}
    assert seen.facts["mass"] > 0.3 > seen.mask.mean()  # clustered keys: the mask has more than its share


@pytest.mark.parametrize("method", METHODS)
def test_every_method_answers_or_says_why_not(method):
    seen = look(Setup(method=method, **SMALL), repetitions=2)
    said = " ".join(seen.words())
    assert (seen.problem and said.startswith(f"{method} gave no answer: ")) or 0 < seen.error() < 2
    draw_look(seen)


@pytest.mark.parametrize("workload", CHOICES["workload"])
def test_every_workload_is_drawn(workload):
    seen = look(Setup(workload=workload, **SMALL), repetitions=1)
    assert np.isfinite(seen.rows["error"]).all() and len(seen.words()) == 4
    before, after, errors = draw_look(seen).axes
    assert len(after.patches) >= len(seen.p) // 16 and not before.patches
    assert [len(line.get_ydata()) for line in errors.get_lines()] == [1, 1, 1, 2]


def test_one_block_is_exact():
    seen = look(Setup(n=64, d=8, block_size=64), repetitions=1)
    assert seen.mask.all() and seen.facts["mass"] == pytest.approx(1) and seen.error() < 1e-5


def test_no_repetition_begins_after_the_time_is_over():
    assert look(Setup(**SMALL), repetitions=500, seconds=0).rows["repetition"].max() == 0


def test_the_copied_code_prints_the_first_error():
    setup = Setup(method="Performer", workload="gaussian", n=256, seed=2)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(setup.code(), {})
    assert float(printed.getvalue()) == look(setup, repetitions=1).error()


def test_pixels_are_the_largest_entries():
    matrix = np.arange(600.0 * 300).reshape(600, 300)
    shown = pooled(matrix)
    assert shown.shape == (200, 150) and shown[0, 0] == matrix[2, 1] and shown[-1, -1] == matrix[-1, -1]


def test_rectangles_cover_the_mask_once():
    rng = np.random.default_rng(0)
    mask = np.repeat(np.repeat(rng.random((5, 6)) < 0.5, 3, axis=0), 2, axis=1)
    covered = np.zeros(mask.shape, int)
    for row, column, height, width in rectangles(mask):
        covered[row : row + height, column : column + width] += 1
    np.testing.assert_array_equal(covered, mask)


def test_a_control_moves_the_picture_the_words_and_the_code():
    panel = Bench(Setup(**SMALL), 2)
    for name, value in (
        ("n", 256),
        ("workload", "gaussian"),
        ("lsh_bits", 3),
        ("exact_keys", 4),
        ("method", "uniform"),
    ):
        picture, words = panel.image.value, panel.said.value
        panel.controls[name].value = value
        assert getattr(panel.setup(), name) == value and panel.setup() == panel.seen.setup
        assert panel.image.value != picture and panel.said.value != words
        assert f"{name}={value!r}" in panel.code.value
    assert "repetitions" in panel.busy.value


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Setup(method="hyper"), "method must be one of HyperAttention, .*, got 'hyper'"),
        (lambda: Setup(workload="text"), "workload must be one of gaussian, .*, got 'text'"),
        (lambda: Setup(n=0), "n must be an integer of at least 1, got 0"),
        (lambda: Setup(lsh_bits=1.5), "lsh_bits must be an integer of at least 0, got 1.5"),
        (lambda: bench(Setup(n=100)), "n must be one of 128, .*, got 100"),
    ],
)
def test_bad_setups_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
