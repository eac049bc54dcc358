"""The study of self-normalised SubGen at tiny sizes: first-order variances against sums over all slots."""

from dataclasses import replace

import numpy as np
import pytest
import toy_comparison
from toy_comparison import RUN, N, small, softmax

from sublinattn.lab.comparison import error_over_bytes
from sublinattn.methods.subgen.studies import self_normalised


def test_first_orders_are_those_of_one_slot_enumerated():
    stream = toy_comparison.stream()
    p, v = softmax(stream), stream.x.v.astype(np.float64)
    found = {(exact, law): f for exact, law, f in self_normalised.first_orders(stream)}
    squares = (v**2).sum(axis=1)
    laws = {"norm": squares / squares.sum(), "uniform": np.full(N, 1 / N)}
    laws["half norm, half uniform"] = (laws["norm"] + laws["uniform"]) / 2
    for name, law in laws.items():
        one = [(law * (((pq / law)[:, None] * (v - pq @ v)) ** 2).sum(axis=1)).sum() for pq in p]
        assert found["none", name] == pytest.approx(np.mean(one))
    law = laws["norm"]
    one = [(law * (((pq / law)[:, None] * v - pq @ v) ** 2).sum(axis=1)).sum() for pq in p]
    assert found["none", self_normalised.EXACT_D] == pytest.approx(np.mean(one))
    assert all(f >= found[exact, self_normalised.BEST] for (exact, law), f in found.items() if "exact" not in law)


def test_an_exact_first_key_adds_no_variance():
    """The last queries look at nothing else: without it what is left of them decides."""
    stream = toy_comparison.stream()
    first = 50 * stream.x.k[:1] / np.linalg.norm(stream.x.k[0]) ** 2
    steep = replace(stream, late=np.repeat(first, 4, axis=0))
    found = {(exact, law): f for exact, law, f in self_normalised.first_orders(steep)}
    assert found["the first", "uniform"] < found["none", "uniform"]


def test_measured_on_every_input(monkeypatch):
    small(monkeypatch, **{"512": 64})
    inputs = (error_over_bytes.HEAVY_VALUES, error_over_bytes.REAL)
    monkeypatch.setattr(self_normalised, "INPUTS", inputs)
    laws, errors = self_normalised.measure(replace(RUN, knobs={"n": N, "replicates": 2}))
    names = [*(what.label for what in inputs), "real (tiny decoder)"]
    assert list(laws["input"].unique()) == list(errors["input"].unique()) == names
    assert (laws.loc[laws["law"] == "uniform", "over"] == 1).all() and np.isfinite(laws["first_order"]).all()
    assert set(errors["method"]) == {"subgen", "uniform", "zero", *(f"slots, {law}" for law in self_normalised.LAWS)}
    heavy = errors[errors["input"] == inputs[0].label].groupby("method")["relative"].median()
    assert heavy["slots, distance"] < heavy["slots, uniform"]
    table = self_normalised.against_uniform(laws)
    assert (table["lower"] <= table["over"]).all() and (table["over"] <= table["upper"]).all()
    assert ((table["wins"] == 1) | (table["over"] >= table["lower"])).all() and (table["heads"] >= 2).all()


def test_error_over_the_mean_grows_with_clusters_alone(monkeypatch):
    small(monkeypatch, **{"1024": N, "6": 2})
    rows = self_normalised.over_mean(RUN).groupby(["method", "mean"])["absolute"].median()
    assert rows["subgen", 4.0] > 3 * rows["subgen", 0.0]
    assert rows["value-norm", 4.0] < 2 * rows["value-norm", 0.0]
