"""Flat outputs and the reviewers' questions: experiments against the plainest references, sentences against values."""

import numpy as np
import pandas as pd
import pytest

from sublinattn.core import files
from sublinattn.lab.run import Run, generator
from sublinattn.methods.onepass.studies import flat_outputs, questions
from sublinattn.theory import CLAIMS

RUN = Run(backend="numpy")


@pytest.fixture(scope="module")
def answers() -> pd.DataFrame:
    """`over_decay` at n = 256 and two decays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "pick", lambda self, *, smoke, **_: min(smoke, 256))
        patch.setattr(flat_outputs, "DECAYS", (0.0, 2.0))
        return flat_outputs.over_decay(RUN)


def test_best_sparse_keeps_the_k_largest_of_each_column():
    y = generator(0, "y").standard_normal((9, 3))
    kept = flat_outputs.best_sparse(y, 2)
    for column, given in zip(kept.T, y.T, strict=True):
        largest = sorted(range(9), key=lambda i: -abs(given[i]))[:2]
        assert column.tolist() == [given[i] if i in largest else 0.0 for i in range(9)]


def test_profile_is_what_the_best_sparse_answer_leaves():
    y = generator(0, "profile").standard_normal((128, 3))
    rows = flat_outputs.profile(flat_outputs.FLAT, 0, y)
    for _, _, n, _, k, share, tail in rows:
        assert (n, share) == (128, k / 128)
        assert tail == pytest.approx(flat_outputs.relative_error(flat_outputs.best_sparse(y, k), y), rel=1e-12)
    assert 128 * flat_outputs.KEPT in [row[4] for row in rows]


def test_tails_count_the_outputs_below_a_half():
    columns = ["input", "n", "k", "share", "tail"]
    rows = [("a", 128, k, k / 128, tail) for tail in (0.1, 0.2, 0.4, 0.9) for k in (2, 64)]
    table = flat_outputs.tails(pd.DataFrame(rows, columns=columns))
    assert table.loc[("a", 128, 2), ["median", "share below 0.5"]].tolist() == [pytest.approx(0.3), 0.75]


def test_every_yardstick_is_there(answers):
    table = answers.groupby("method")[["error", "rows_zero"]].agg(["min", "max"])
    assert table.loc["exact", ("error", "max")] < 1e-5
    assert table.loc["zero"].tolist() == [1, 1, 1, 1]
    state = 39600  # bytes: rank 495, 9 sums and a weight each; it has room for all 256 keys
    assert (answers.loc[answers["method"] == "streaming state", "nbytes"] == state).all()
    both = answers[answers["method"].str.startswith("uniform")]
    assert (both["keys"] == 256).all() and both["error"].max() < 1e-5


def test_no_sketch_is_closer_than_the_best_sparse_answer(answers):
    error = answers.set_index(["decay", "replicate", "method"])["error"].unstack("method")
    for variant in ("one-pass paper", "one-pass fused"):
        assert (error[variant] >= error["best k-sparse"] - 1e-6).all()
    steep, level = error.loc[2.0, "best k-sparse"].max(), error.loc[0.0, "best k-sparse"].min()
    assert steep < 0.05 < 0.5 < level  # the largest quarter of Gaussian entries leaves 0.53


def test_fewer_keys_are_drawn_where_fewer_fit(monkeypatch):
    monkeypatch.setattr(flat_outputs, "one_pass", lambda x, variant, rng, sizes: (np.zeros((1024, 8)), 64 * 100))
    x = flat_outputs.drawn(1024, 0.0, generator(0, "few"), np)
    answers = flat_outputs.answers(x, flat_outputs.exact(x), generator(0, "draw"))
    keys = {method: keys for method, _, _, keys in answers}
    assert (keys["uniform"], keys["uniform, state's bytes"]) == (100, 39600 // 64)


def test_falling_reads_what_the_claims_left(tmp_path):
    run = Run(out=tmp_path)
    with pytest.raises(FileNotFoundError, match="no rows/alsy23.error-falls-compressible.parquet in .*: check the cla"):
        flat_outputs.falling(run)
    fit = {"variable": "n", "theory": "1", "theory_exponent": 0.0, "outcome": "refuted"}
    (tmp_path / "rows").mkdir()
    for output, measured in (("compressible", 0.1), ("flat", 0.25)):
        name = f"alsy23.error-falls-{output}"
        record = {"machine": {}, "fits": [{**fit, "measured_exponent": measured, "lower": measured, "upper": 0.5}]}
        files.write_json(tmp_path / "verdicts" / f"{name}.json", record)
        trials = {"role": ["claim", "sabotage"], "n": [100, 100], "error": [0.5, 9.0], "nbytes": [7, 7]}
        pd.DataFrame(trials).to_parquet(tmp_path / "rows" / f"{name}.parquet")
    assert flat_outputs.falling(run)[["n", "error", "cache"]].to_numpy().tolist() == [[100, 0.5, 13600]] * 2
    rates = flat_outputs.falling_rates(run).set_index("output")
    assert rates["measured"].to_dict() == {"compressible": pytest.approx(0.0), "flat": pytest.approx(0.15)}
    assert rates["wanted"].tolist() == [-0.1, -0.1]


@pytest.mark.parametrize("method", ["one-pass fused", "one-pass paper", "streaming state"])
def test_from_the_crossing_on_a_method_is_smaller_than_the_cache(method):
    n, row = questions.crossing(method, 2), 4 * (2 + 2)
    assert questions.stored_bytes(method, n - 1, 2) >= (n - 1) * row
    beyond = np.unique(np.geomspace(n, 2**28, 60).astype(int)).tolist()
    assert all(questions.stored_bytes(method, m, 2) < m * row for m in [n, n + 1, *beyond])
    with pytest.raises(ValueError, match=f"longest must be past the crossing, got {n // 2}"):
        questions.crossing(method, 2, longest=n // 2)


def test_held_is_what_a_sketch_holds_after_its_stream():
    x = flat_outputs.drawn(100, 1.0, generator(0, "held"), np)
    for variant in ("paper", "fused"):
        _, nbytes = flat_outputs.one_pass(x, variant, generator(0, "hash"))
        assert nbytes == questions.stored_bytes(f"one-pass {variant}", 100, 8)


def test_causal_answers_are_those_of_causal_attention():
    asked = questions.causal(RUN, n=64)
    assert "needs all 64 keys first, got 1" in asked["refusal"]
    assert asked["apart"] < 1e-5 < asked["exact"] < 0.01  # rounding; the degree-4 polynomial at R = 1


def test_direction_needs_replicates_that_do_not_overlap():
    def change(before: list[float], after: list[float]) -> str:
        return questions.change(pd.DataFrame({"n": [1, 1, 2, 2], "error": [*before, *after]}))

    assert change([0.5, 0.7], [0.2, 0.4]) == "0.6 to 0.3 (falls)"
    assert change([0.2, 0.4], [0.5, 0.7]) == "0.3 to 0.6 (grows)"
    assert change([0.2, 0.5], [0.4, 0.7]).endswith("(within the spread of the inputs)")
    assert change([0.4, 0.7], [0.2, 0.5]).endswith("(within the spread of the inputs)")


def test_verdicts_are_those_of_the_folder(tmp_path):
    nothing = questions.verdicts(Run(out=tmp_path))
    assert set(nothing["paper"]) == {"AS23", "ALSY23"} and nothing["outcome"].isna().all()
    for name, outcome in (("alsy23.psi-rows", "refuted"), ("alsy23.merge", "supported")):
        record = {"id": name, "outcome": outcome, "basis": CLAIMS[name].basis, "sabotages": []}
        files.write_json(tmp_path / "verdicts" / f"{name}.json", record)
    outcomes = questions.verdicts(Run(out=tmp_path)).set_index("claim")["outcome"].dropna()
    assert outcomes.to_dict() == {"alsy23.psi-rows": "refuted", "alsy23.merge": "supported"}


def test_answers_follow_the_values():
    size = [(n, o, r, m, e, 0.5, 64 * n, 80 * n) for n in (8, 16) for o, e in (("flat", 0.9), ("compressible", 0.1))
            for r in (0, 1) for m in ("one-pass paper", "one-pass fused", "best k-sparse")]  # fmt: skip
    sizes = pd.DataFrame(size, columns=["n", "output", "replicate", "method", "error", "rows_zero", "nbytes", "cache"])
    crossed = pd.DataFrame({"d": [2, 4], "rank": [3, 5], "method": "a", "n": [3, 99], "two_to_d": [4, 16]})
    asked = {"n": 7, "refusal": "", "apart": 1e-7, "exact": 1e-3}
    columns = ("n", "cache", "exact peak", "one-pass paper", "one-pass fused", "streaming state")
    peaks = pd.DataFrame(
        [(8, 2**20, 2**20, 2**22, 2**21, 2**20), (16, 2**21, 2**21, 2**22, 2**21, 2**20)], columns=columns
    )
    claims = pd.DataFrame({"claim": ["a"], "paper": ["AS23"], "outcome": [None]})
    table = questions.answers(claims, sizes, crossed, asked, peaks).set_index("measured")["value"]
    assert table["claims of AS23 and ALSY23 that are not checked in this folder"] == "1"
    assert table["n from which on a is smaller than the cache, d = 4 (2^d = 16)"] == "99"
    assert table["the one-pass sketch on a query before the last key"] == "answers"
    assert table["bytes of one-pass paper over those, n = 8"] == "2"
    assert table["share of rows that are 0, flat outputs, one-pass fused"] == "0.5"
    assert table["error at n = 8 to 16, flat outputs, one-pass paper"] == "0.9 to 0.9 (within the spread of the inputs)"
    assert table["bytes at 16 over bytes at 8, flat outputs, one-pass fused"] == "2"
