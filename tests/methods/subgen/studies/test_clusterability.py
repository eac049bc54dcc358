"""Clusterability: its numbers against brute force on a few points and known streams."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import references

from sublinattn.lab.run import Run, generator
from sublinattn.lab.statistics import growth_exponents
from sublinattn.lab.workloads import real
from sublinattn.lab.workloads.inputs import GAUSSIAN
from sublinattn.methods.subgen.studies import clusterability as lab

RUN = Run(backend="numpy")


@pytest.fixture(scope="module")
def small():
    """The experiments with streams of at most 128 tokens, one replicate less than usual, and six heads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "pick", lambda self, *, smoke, **_: min(smoke, 128) if smoke == 512 else smoke)
        patch.setattr(lab, "heads_measured", lambda run: slice(0, 72, 12))
        return {
            "curves": lab.cost_curves(RUN),
            "over": lab.over_delta(RUN),
            "heads": lab.head_table(RUN),
            "grown": lab.over_n(RUN),
            "found": lab.online(RUN),
        }


def plain_clusters(x, delta):
    """SubGen's rule, point by point: the members of each cluster."""
    centres, members = [], []
    for point in x.tolist():
        near = [math.dist(point, centre) for centre in centres]
        if near and min(near) <= delta:
            members[near.index(min(near))].append(point)
        else:
            centres.append(point)
            members.append([point])
    return members


def test_clusters_and_their_widths_are_those_of_the_plain_rule():
    x = generator(0, "clustered").standard_normal((40, 2))
    for delta in (0.5, 1.0, 3.0):
        members = plain_clusters(x, delta)
        widths = [math.dist(a, b) for its in members for a, b in itertools.combinations(its, 2)]
        assert lab.clustered(np, x, delta) == (len(members), pytest.approx(max(widths)))
        assert max(widths) <= 2 * delta
    pair = np.array([[0.0, 0.0], [9.0, 0.0], [0.3, 0.4]])
    assert lab.clustered(np, pair, 1.0) == (2, pytest.approx(0.5))
    count, widest = lab.clustered(np, x, 1e-6)
    assert count == 40 and np.isnan(widest)


def test_a_head_of_the_cost_table_is_what_its_arrays_say(small):
    x = real().head(5, 0).k.astype(np.float64)  # the ends are the farthest
    rows = small["curves"].query("source == 'real' and replicate == 60 and what == 'keys'").set_index(["variant", "m"])
    for variant, points in ((lab.CAPTURED, x), (lab.WITHOUT, x[1:-1])):
        every = np.linalg.norm(points[:, None] - points[None], axis=2)
        nearest = every[:, references.greedy_k_center(points, 64)[0]].min(axis=1)
        expected = nearest.max() / every.max(), nearest.mean() / every.max()
        assert tuple(rows.loc[(variant, 64), ["radius", "mean"]]) == pytest.approx(expected, rel=1e-4)


def test_twins_are_drawn_from_the_heads_moments_and_kept_in_its_unit(small):
    x = real().head(1, 0).v.astype(np.float64)
    rng = generator(0, "null", "values", 12)
    drawn = rng.multivariate_normal(x.mean(axis=0), np.cov(x.T), size=512, method="eigh")
    rows = small["curves"].query("source == 'real' and replicate == 12 and what == 'values' and m == 1")
    found = rows.set_index("variant").loc[lab.NULL, "radius"]
    unit = np.linalg.norm(x[:, None] - x[None], axis=2).max()
    assert found == pytest.approx(np.linalg.norm(drawn - drawn[0], axis=1).max() / unit, rel=1e-4)


def test_costs_fall_with_the_centres(small):
    groups = small["curves"].groupby(["input", "replicate", "what", "variant"])
    assert groups["radius"].apply(lambda radius: radius.is_monotonic_decreasing).all()
    assert small["curves"].query(f"variant != '{lab.NULL}'")["radius"].max() <= 1 + 1e-6


def test_ratios_of_costs_are_taken_head_by_head():
    ratios = {"keys": (0.2, 0.4, 0.5), "values": (0.1, 0.3, 0.4)}
    rows = [
        ("real", 64, head, what, variant, 8, value * (head + 1), value)
        for head in (0, 1, 2)
        for what, values in ratios.items()
        for variant, value in zip((lab.CAPTURED, lab.WITHOUT, lab.NULL), values, strict=True)
    ]
    columns = ["source", "n", "replicate", "what", "variant", "m", "radius", "mean"]
    table = lab.keys_over_values(pd.DataFrame(rows, columns=columns))
    expected = {
        "keys / values": 2.0,
        f"keys / values, {lab.WITHOUT}": 4 / 3,
        "keys / their Gaussian twin": 0.4,
        "values / their Gaussian twin": 0.25,
    }
    for name, value in expected.items():
        for measure in ("radius", "mean"):
            assert table.loc[(name, measure), "median"] == pytest.approx(value)
            assert table.loc[(name, measure), "share below 1"] == (value < 1)


def test_planted_streams_have_the_clusters_that_were_planted(small):
    grown = small["grown"]
    known = grown.dropna(subset="parts")
    assert set(known["input"]) == {lab.FIXED.label, lab.SQRT.label, lab.LINEAR.label}
    assert (known["clusters"] == known["parts"]).all()
    fits = growth_exponents(grown, "clusters").set_index("input")
    assert fits.loc[lab.FIXED.label, ["exponent", "lower", "upper"]].tolist() == [0, 0, 0]
    assert fits.loc[lab.LINEAR.label, "exponent"] == pytest.approx(1)
    assert fits.loc[lab.SQRT.label, "exponent"] == pytest.approx(0.5, abs=0.02)  # parts are whole numbers


def test_widths_stay_below_their_bound(small):
    assert small["over"]["widest"].max() <= 2 * (1 + 1e-5)
    synthetic = small["over"].query(f"source == 'synthetic' and input == '{lab.FIXED.label}'")
    inside = synthetic[synthetic["delta"].between(1.0, 3.0)]  # delta of the parts, and their separation
    assert len(inside) and (inside["clusters"] == 32).all()


def test_head_table_is_what_its_arrays_say(small):
    row = small["heads"].set_index(["layer", "head"]).loc[(4, 7)]
    x = real().head(4, 7)
    r = x.scale * max(math.hypot(*q) for q in x.q.astype(np.float64).tolist())
    delta = references.greedy_k_center(x.k.astype(np.float64), 64)[1][-1]
    assert (row["n"], row["m"]) == (512, 64)
    assert row["r"] == pytest.approx(r, rel=1e-5) and row["delta"] == pytest.approx(delta, rel=1e-4)
    assert row["ratio"] == pytest.approx(r * delta / math.log(512), rel=1e-4)
    assert row["factor"] == pytest.approx(math.exp(2 * r * delta), rel=0.02)
    assert not small["heads"].duplicated(["layer", "head"]).any() and len(small["heads"]) == 72


def test_doubling_keeps_its_promise_and_its_budget(small):
    found = small["found"]
    assert (found["held"] <= found["m"]).all()
    assert found["promised"].max() <= lab.PROMISE
    assert (found["reached"] <= found["promised"] * (1 + 1e-5)).all()
    assert found["reached"].min() >= 0.5 * (1 - 1e-5)  # the greedy radius is at most twice the least possible one
    assert set(found["input"]) == {what.label for what in lab.SYNTHETIC} | {lab.REAL.label}


def test_at_full_length_both_tables_ask_the_same_of_a_head(small):
    grown = small["grown"].query("source == 'real' and n == 512").set_index("replicate")
    heads = small["heads"].loc[grown.index]
    assert len(grown) == 6
    np.testing.assert_allclose(grown["ratio"], heads["ratio"], rtol=1e-12)
    np.testing.assert_allclose(grown["delta"], heads["delta"], rtol=1e-12)
    assert grown.loc[12, "clusters"] == len(plain_clusters(real().head(1, 0).k.astype(float), heads["delta"].loc[12]))


def test_gaussian_keys_have_a_delta_of_their_own(small):
    mine = small["grown"][small["grown"]["input"] == GAUSSIAN.label]
    assert (mine.groupby("replicate")["delta"].nunique() == 1).all() and mine["delta"].min() > 1
