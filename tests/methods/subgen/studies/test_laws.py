"""Laws of SubGen's estimates: exact values against enumeration, drawn errors against their laws.

Seeds are fixed. Each statistical test states its false-alarm rate, if seeds were drawn anew.
"""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import references

from sublinattn.lab.run import Run, generator
from sublinattn.lab.workloads import real
from sublinattn.methods.subgen.claims.theorem1_estimators import ordered_tokens
from sublinattn.methods.subgen.studies import laws as lab

RUN = Run(backend="numpy")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    run = Run(backend="numpy", out=tmp_path_factory.mktemp("out"))
    run.check(*lab.LAWS, "sg24.tau-bound")
    return {"run": run, "trials": lab.pearson(run), "delta_r": lab.against_delta_r(run)}


@pytest.fixture(scope="module")
def drawn():
    """`errors` and `ratios` with 40 copies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "pick", lambda self, *, smoke, **_: 40)
        return {"errors": lab.errors(RUN), "ratios": lab.ratios(RUN)}


def test_statistics_are_those_of_the_trials_of_each_claim(tables):
    trials, run = tables["trials"], tables["run"]
    assert trials["claim"].tolist() == [claim for claim in lab.LAWS for _ in range(len(run.rows(claim)))]
    honest = trials["variant"] == "as claimed"
    for claim in lab.LAWS:
        rows = run.rows(claim)
        rows = rows[rows["role"] == "claim"]
        ratios = trials.loc[honest & (trials["claim"] == claim), "ratio"]
        np.testing.assert_allclose(ratios, rows["measured"] / rows["bound"])
        assert ratios.mean() == pytest.approx(1, abs=0.1)
    assert trials.loc[~honest, "ratio"].max() > 10 > trials.loc[honest, "ratio"].max()


def test_laws_of_the_errors_against_enumeration(drawn):
    """Exact means, bounds and yardsticks, from every token that one slot or one sample can hold."""
    _, laws = drawn["errors"]
    x = ordered_tokens(generator(0, "errors"), lab.N)
    unit = np.linalg.norm(x.e) ** 2 * np.linalg.norm(x.v, 2) ** 2
    by = laws.set_index(["estimate", "size"])
    for s in lab.SLOTS_OVER:
        for column, p in (("exact", x.law), ("uniform", np.full(lab.N, 1 / lab.N))):
            z = (x.e / p)[:, None] * x.v
            expected = p @ ((z - x.numerator) ** 2).sum(axis=1) / s / unit
            assert by.loc[("z", s), column] == pytest.approx(expected)
        assert by.loc[("z", s), "zero"] == pytest.approx((x.numerator**2).sum() / unit)
        assert by.loc[("z", s), "level"] == pytest.approx(
            np.linalg.norm(x.v) ** 2 / np.linalg.norm(x.v, 2) ** 2 / (s * 0.1)  # srank(V) = eps^2 p s
        )
    parts = lab.groups(x, lab.states(generator(0, "any"), np, x, 1)[0])
    assert sum(map(len, parts)) == lab.N
    variance = sum(len(e) ** 2 * e.var() for e in parts) / x.normaliser**2
    assert by.loc[("tau", 4), "exact"] == pytest.approx(variance / 4)
    assert by.loc[("tau", 4), "bound"] == pytest.approx(math.sinh(1.0) ** 2 / 4)  # delta = 1, queries of norm 1
    one = lab.N * x.e / x.normaliser
    assert by.loc[("tau", 4), "uniform"] == pytest.approx(((one - 1) ** 2).mean() / (4 * len(parts)))
    assert (laws["exact"] <= laws["bound"]).all()


def test_drawn_errors_agree_with_their_laws(drawn):
    # eight intervals of 99.99 %: false alarm below 1e-3, up to how normal a mean of 40 squares is
    rows, laws = drawn["errors"]
    table = lab.agreement(rows, laws)
    reach = (table["upper"] - table["measured"]) * 3.9 / lab.Z
    assert ((table["measured"] - 1).abs() <= reach).all()
    assert (table["exceeded"] <= 0.1).all()
    one = rows.query("estimate == 'z' and size == 8")["square"]
    exact = laws.set_index(["estimate", "size"]).loc[("z", 8), "exact"]
    assert table.loc[("z", 8), "measured"] == pytest.approx(one.mean() / exact)


def test_stretch_is_the_mean_over_all_samples():
    parts = [np.array([1.0, 3.0, 4.0]), np.array([2.0, 7.0])]
    for t in (1, 2):
        every = [itertools.product(e, repeat=t) for e in parts]
        tau = [
            sum(len(e) / t * sum(its) for e, its in zip(parts, held, strict=True))
            for held in itertools.product(*map(list, every))
        ]
        assert np.mean(tau) == pytest.approx(17.0)
        assert lab.stretch(parts, t) == pytest.approx(17.0 * np.mean(1 / np.array(tau)), rel=1e-8)


def test_bias_of_the_ratio_is_the_stretch(drawn):
    # nine intervals of 99.99 %: false alarm below 1e-3, up to how normal a mean of 40 ratios is
    rows, laws = drawn["ratios"]
    table = lab.bias(rows, laws)
    assert ((table["measured"] - table["exact"]).abs() <= (table["upper"] - table["measured"]) * 3.9 / lab.Z).all()
    assert table.loc["s", "exact"].nunique() == 1  # it does not depend on s
    assert (np.diff(table.loc["t", "exact"]) < 0).all() and (table["exact"] >= table["first_order"]).all()


def test_spread_of_tau_is_the_enumerated_one():
    rng = generator(0, "spread")
    q, k, labels = rng.standard_normal((2, 3)), rng.standard_normal((6, 3)), np.array([0, 1, 0, 0, 1, 2])
    for i, found in enumerate(lab.spread_of_tau(q, k, labels, 0.7)):
        e = [math.exp(0.7 * sum(a * b for a, b in zip(q[i], key, strict=True))) for key in k]
        groups = [[e[j] for j in range(6) if labels[j] == g] for g in range(3)]
        tau = [sum(len(g) * a for g, a in zip(groups, held, strict=True)) for held in itertools.product(*groups)]
        assert found == pytest.approx(np.var(tau) / np.mean(tau) ** 2)


def test_bound_holds_and_is_met_by_two_sided_clusters(tables):
    rows = tables["delta_r"]
    assert (rows["largest"] <= rows["bound"] * (1 + 1e-9)).all()
    planted = rows[rows["setting"] != "real heads"]
    assert (planted["whole"] <= planted["within"] * (1 + 1e-9)).all()
    two = rows[rows["setting"] == "two-sided"]
    assert (two["within"] / two["bound"]).min() > 0.9
    heads = rows[rows["setting"] == "real heads"]
    assert len(heads) == 72 and (heads["whole"] <= heads["largest"]).all()


def test_a_real_head_is_what_its_arrays_say(tables):
    row = tables["delta_r"].query("setting == 'real heads' and replicate == 17").iloc[0]
    x = real().head(1, 5)
    q, k = x.q.astype(np.float64), x.k.astype(np.float64)
    delta = references.greedy_k_center(k, 64)[1][-1]
    every = np.linalg.norm(k[:, None] - k[None], axis=2)
    centres, label = [], []
    for near in every:
        if not centres or near[centres].min() > delta * (1 + 1e-6):
            centres.append(len(label))
        label.append(near[centres].argmin())
    spread = lab.spread_of_tau(q, k, np.array(label), x.scale)
    assert row["delta_r"] == pytest.approx(delta * x.scale * np.linalg.norm(q, axis=1).max(), rel=1e-4)
    assert row["whole"] == pytest.approx(np.median(spread), rel=1e-2)
    assert row["largest"] == pytest.approx(max(spread), rel=1e-2)


def test_figures_show_means_limits_and_the_bound(tables):
    rows = pd.DataFrame([(v, 4, 4, x) for v in "st" for x in (0.1, 0.2, 0.6)], columns=["varies", "s", "t", "along"])
    laws = pd.DataFrame([(v, 4, 4, 0.3, 0.2) for v in "st"], columns=["varies", "s", "t", "exact", "first_order"])
    ax = lab.draw_bias(rows, laws).axes[0]
    ((_, low), (_, high)) = ax.containers[0].lines[2][0].get_segments()[0]
    reach = lab.Z * np.std([0.1, 0.2, 0.6], ddof=1) / math.sqrt(3)
    assert (low, high) == (pytest.approx(0.3 - reach), pytest.approx(0.3 + reach))
    for ax in lab.draw_tau_bound(tables["delta_r"]).axes:
        (line,) = (line for line in ax.get_lines() if line.get_linestyle() == "--")
        x, y = line.get_data()
        assert y == pytest.approx([math.sinh(value) ** 2 for value in x])
