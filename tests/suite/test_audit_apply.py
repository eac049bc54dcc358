"""A recommendation that is applied: the losses under it, its rivals in the same bytes, and what is said of them."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import fake_device
import numpy as np
import pandas as pd
import pytest

from sublinattn.lab.comparison.answers import exact_answers
from sublinattn.lab.comparison.documents import of_tokens, pieces
from sublinattn.lab.models import TINY, open_model
from sublinattn.lab.run import generator
from sublinattn.lm.decoder import Decoder
from sublinattn.suite.audit import apply
from sublinattn.suite.audit.applied import Applied
from sublinattn.suite.audit.page import applied
from sublinattn.suite.audit.ranking import ADVICE, WITH_PROMPT, answered, answers_verdict, ranking, verdict

N = 159


def recommended(method: str, share: float, prompt: int | None = None) -> dict:
    """The same for each of the 16 key heads of the model that ships; HyperAttention in the first layer's prompt."""
    places = [(layer, key_head) for layer in range(4) for key_head in range(4)]
    key_heads = [{"layer": i, "key_head": j, "method": method, "share": share} for i, j in places]
    layers = [{"layer": i, "method": "exact", "exact_keys": 0} for i in range(4)]
    if prompt is not None:
        layers[0] = {"layer": 0, "method": "hyper_attention", "exact_keys": prompt}
    sizes = {"layers": 4, "kv_heads": 4, "tokens": N, "bytes": share, "exact_bytes": 1}
    return {**sizes, "key_heads": key_heads, "prompt": layers}


def test_passages_are_apart_and_none_is_of_the_audited_text():
    model = open_model()
    found = apply.passages(model, 1000, 6)
    assert len(found) == 6 and all(len(text) == 1000 for text in found)
    assert not any(np.array_equal(one, other) for one, other in pairwise(found))
    first = model.texts[0]
    inside = [first[i : i + 1000] for i in range(0, len(first) - 999, 1000)]
    assert not any(np.array_equal(text, its) for text in found for its in inside)
    alone = dataclasses.replace(model, texts=(first[:3500],), kinds=("code",))
    assert [text[0] for text in apply.passages(alone, 1000, 6)] == [first[1000], first[2000]]
    with pytest.raises(ValueError, match="must hold 2 passages of 2000 tokens beside the audited one, got 0"):
        apply.passages(alone, 2000, 6)


def test_exact_advice_loses_nothing_and_a_single_method_is_itself():
    model = open_model()
    whole = apply.losses(recommended("exact", 1.0), model, count=2).pivot(
        index="passage", columns="method", values="loss"
    )
    text = apply.passages(model, N + 1, 2)[1]
    losses = model.decoder.losses(text)[-(len(text) // 4) :]
    assert whole.loc[1, "exact"] == pytest.approx(losses.mean(), rel=1e-4)
    np.testing.assert_allclose(whole[ADVICE], whole["exact"], rtol=1e-5)
    found = apply.losses(recommended("sinks", 1 / 4, prompt=1), model, count=2)
    table = found.pivot(index="passage", columns="method", values="loss")
    np.testing.assert_allclose(table[ADVICE], table["sinks"], rtol=1e-6)
    assert (abs(table[WITH_PROMPT] - table[ADVICE]) > 1e-6).all() and (table["exact"] < table["uniform"]).all()
    shares = found.groupby("method")["share"].mean()
    assert (shares.drop("exact") <= 1 / 4).all() and shares["exact"] == 1 and shares["sinks"] > 0.2


def test_on_a_device_the_losses_are_the_same():
    model, advice = open_model(), recommended("heavy hitters", 1 / 4, prompt=1)
    there = dataclasses.replace(model, decoder=Decoder.load(TINY, xp=fake_device))
    before = fake_device.counts.launches
    found, its = (apply.losses(advice, each, count=2) for each in (model, there))
    assert fake_device.counts.launches > before
    pd.testing.assert_frame_equal(its, found, rtol=1e-3)


def test_answers_are_those_of_the_decoder_and_of_the_method_that_is_advised():
    """Exact attention answers as the decoder does in one pass; advice of one method alone answers as that method."""
    model, advice = open_model(), recommended("sinks", 1 / 4)
    found = apply.answers(advice, model, tokens=256, count=3)
    assert (found["task"] == "plain lines").all() and found["tokens"].between(128, 256).all()
    right, bits = (found.pivot(index="document", columns="method", values=x) for x in ("right", "bits"))
    texts = of_tokens(model, "plain lines", 256, 3, generator(0, "apply", "documents"))
    exact = exact_answers(model, texts)
    np.testing.assert_allclose(bits["exact"], exact["bits"], rtol=1e-3)
    assert right["exact"].tolist() == exact["right"].tolist()
    np.testing.assert_allclose(bits[ADVICE], bits["sinks"], rtol=1e-6)
    assert (bits["sinks"] - bits["exact"]).abs().max() > 0.1  # the question cannot reach what was dropped
    shares = found.groupby("method")["share"].mean()
    assert (shares.drop("exact") <= 1 / 4).all() and shares["exact"] == 1


def test_a_document_is_not_shorter_than_its_task_needs():
    lines = [len(pieces(open_model(), x)[0]) for x in of_tokens(open_model(), "plain lines", 50, 2, generator(0, "x"))]
    assert lines[0] == lines[1] > 50


def test_a_model_of_another_shape_is_refused():
    other = {**recommended("exact", 1.0), "layers": 30}
    with pytest.raises(ValueError, match=r"audited layers and key heads, \(30, 4\), got \(4, 4\): tiny"):
        apply.losses(other, open_model(), count=2)
    with pytest.raises(ValueError, match=r"audited layers and key heads, \(30, 4\), got \(4, 4\): tiny"):
        apply.answers(other, open_model(), count=2)


def losses(**of: tuple[float, float, float]) -> pd.DataFrame:
    rows = [(i, method, 0.25, loss) for method, its in of.items() for i, loss in enumerate(its)]
    return pd.DataFrame(rows, columns=["passage", "method", "share", "loss"])


@pytest.mark.parametrize(
    ("mine", "words"),
    [
        ((1.5, 2.5, 2.0), "The advice beats the best single method, sinks and window, which has 1.11 ["),
        ((1.5, 2.5, 2.3), "The advice is ahead of the best single method, sinks and window, but not clearly"),
        ((1.7, 2.7, 2.2), "The advice does not beat the best single method, sinks and window, which has 0.905 ["),
    ],
)
def test_the_verdict_says_whether_the_advice_beats_the_best_single_method(mine, words):
    table = ranking(losses(exact=(1, 2, 1.5), sinks=(1.6, 2.6, 2.1), uniform=(3, 3, 3.5), advice=mine))
    assert verdict(table).startswith(words) and verdict(table).endswith("both in 25.0% of the bytes.")
    row = table.set_index("method").loc["sinks"]
    assert row["perplexity"] == pytest.approx(np.exp(2.1)) and row["exact"] == pytest.approx(np.exp(0.6))


def asked(**of: str) -> pd.DataFrame:
    """Answers to as many documents as each word has letters: r for right, w for wrong."""
    rows = [
        ("passkey", 500, i, method.replace("_", " "), 0.25, letter == "r", 1.0)
        for method, letters in of.items()
        for i, letter in enumerate(letters)
    ]
    return pd.DataFrame(rows, columns=["task", "tokens", "document", "method", "share", "right", "bits"])


@pytest.mark.parametrize(
    ("exact", "mine", "sinks", "words"),
    [
        ("r" * 12, "r" * 12, "w" * 9 + "r" * 3, "(p = 0.0039). The advice beats it."),
        ("r" * 12, "r" * 12, "w" * 2 + "r" * 10, "(p = 0.5). The advice is ahead of it, but not clearly."),
        ("r" * 12, "rw" * 6, "wr" * 6, "6 are the advice's and 6 its rival's (p = 1). The advice does not beat it."),
        ("r" * 10 + "ww", "r" * 12, "r" * 12, "it. Exact attention answers fewer than 90%: the documents say little"),
    ],
)
def test_the_words_on_answers_are_those_of_the_sign_test(exact, mine, sinks, words):
    answers = asked(exact=exact, advice=mine, sinks=sinks, uniform="w" * 12)
    found = answers_verdict(answers)
    assert f"Of 12 documents of 500 tokens (passkey), exact attention answers {exact.count('r')}, the advice" in found
    assert f"the best single method, sinks and window, {sinks.count('r')};" in found and words in found
    row = answered(answers).set_index("method").loc["sinks"]
    pairs = list(zip(mine, sinks, strict=True))
    assert (row["gained"], row["lost"]) == (pairs.count(("r", "w")), pairs.count(("w", "r")))
    assert row["low"] <= row["right"] / 12 <= row["high"]


def test_an_outcome_is_kept_and_shown_in_80_columns(tmp_path):
    losses_ = losses(**{"exact": (1, 2, 1.5), "self-normalised": (1.6, 2.6, 2.1), ADVICE: (1.5, 2.5, 2.0)})
    answers = asked(exact="rrr", advice="rrw", uniform="rww", **{"self-normalised": "www"})
    measured = Applied(losses_, answers)
    measured.save(tmp_path)
    again = Applied.load(tmp_path)
    pd.testing.assert_frame_equal(again.answers, answers)
    written = json.loads((tmp_path / "applied.json").read_text())
    assert written["retrieval"]["verdict"] == answers_verdict(answers) and written["retrieval"]["tokens"] == 500
    assert [row["right"] for row in written["retrieval"]["methods"]] == [3, 2, 1, 0]
    for _, table in applied(measured):
        widths = [max(map(len, [name, *table[name].astype(str)])) for name in table]
        assert sum(widths) + 2 * len(widths) <= 80, dict(zip(table, widths, strict=True))
    Applied(losses_, None).save(tmp_path)
    assert Applied.load(tmp_path).answers is None and not (tmp_path / "applied_answers.csv").exists()


def test_an_infinite_loss_is_kept_and_written_as_text(tmp_path):
    measured = Applied(losses(exact=(1, 2, 1.5), sinks=(np.inf, 2.6, 2.1), advice=(1.5, 2.5, 2.0)), None)
    measured.save(tmp_path)
    assert Applied.load(tmp_path).losses["loss"].max() == np.inf

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    written = json.loads((tmp_path / "applied.json").read_text(), parse_constant=refuse)
    row = written["perplexity"]["methods"][-1]
    assert (row["method"], row["perplexity"], row["exact"], row["exact_high"]) == ("sinks", "inf", "inf", "nan")
