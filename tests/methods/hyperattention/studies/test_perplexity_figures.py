"""Tables, sentences and figures of replaced layers, from made-up measurements."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sublinattn.methods.hyperattention.claims.replaced_layers import HYPER, HYPER_SINKS, UNIFORM, WINDOW, ZERO
from sublinattn.methods.hyperattention.studies import perplexity_figures
from sublinattn.methods.hyperattention.studies.perplexity import FIRST, GREEDY, LAST, NONE_EXACT, SOME_EXACT

ROWS = ["n", "stretched", "method", "order", "replaced", "passage", "text", "nats", "relative", "attention", "forward"]


def test_summary_is_over_exact_attention_on_the_same_passage() -> None:
    rows = [
        (8, False, "m", "o", r, p, "prose", nats, nats / base, seconds, 2 * seconds + 1)
        for p, base in ((0, 1.0), (1, 3.0), (2, 2.0))
        for r, nats, seconds in ((0, base, 4.0 + p), (2, base + 0.5, 1.0 + p))
    ]
    none, both = perplexity_figures.summary(pd.DataFrame(rows, columns=ROWS)).to_dict("records")
    assert (none["perplexity"], none["relative"], none["attention"], none["forward"]) == (np.exp(2.0), 1, 1, 1)
    assert both["perplexity"] == pytest.approx(np.exp(2.5)) and both["bits"] == pytest.approx(2.5 / np.log(2))
    assert both["base2"] == pytest.approx(2**2.5) and both["passages"] == 3
    ratios = np.array([1.5, 3.5 / 3, 1.25])
    assert both["relative"] == pytest.approx(ratios.mean())
    reach = 9.9248 * ratios.std(ddof=1) / np.sqrt(3)  # Student's t, 2 degrees of freedom
    assert (both["lower"], both["upper"]) == pytest.approx((ratios.mean() - reach, ratios.mean() + reach), rel=1e-4)
    assert (both["low"], both["high"]) == (pytest.approx(3.5 / 3), pytest.approx(1.5))
    assert (both["attention"], both["forward"]) == (pytest.approx(1 / 4), pytest.approx(3 / 9))
    two = perplexity_figures.summary(pd.DataFrame(rows[:4], columns=ROWS))
    assert two["lower"].isna().all() and two["passages"].tolist() == [2, 2]


def test_by_text_is_a_line_per_kind() -> None:
    rows = [
        (8, False, "m", LAST, r, p, text, 1.0, 1.0 + r * x, 1.0, 1.0)
        for p, (text, x) in enumerate((("code", 0.1), ("prose", 0.3), ("code", 0.2)))
        for r in (0, 1, 2)
    ]
    found = perplexity_figures.by_text(pd.DataFrame(rows, columns=ROWS))[8].to_dict()
    assert found == pytest.approx(
        {("code", 1, "m"): 1.15, ("code", 2, "m"): 1.3, ("prose", 1, "m"): 1.3, ("prose", 2, "m"): 1.6}
    )


def summarised(n: int = 64, passages: int = 8, reach: float = 0.01, **relative: float) -> pd.DataFrame:
    """A summary of no, one and both layers of a model, by method or order; exact attention's loss is log 4."""
    orders = {"first": FIRST, "greedy": GREEDY}
    named = {"hyper": HYPER, "sinks": HYPER_SINKS, "uniform": UNIFORM, "window": WINDOW, "zero": ZERO}
    series = [(name, LAST, 1.3) for name in NONE_EXACT + SOME_EXACT]
    series = [
        (name, order, next((relative[key] for key in relative if named.get(key) == name), x))
        for name, order, x in series
    ]
    series += [(HYPER, orders[key], x) for key, x in relative.items() if key in orders]
    series += [(HYPER_SINKS, orders[key], 1.01) for key in relative if key in orders]
    rows = []
    for name, order, half in series:
        for r, x in ((0, 1.0), (1, half), (2, 2 * half - 1)):
            limits = (x - reach, x + reach, x - reach, x + reach) if r else (1.0,) * 4
            rows.append(
                (n, False, name, order, r, passages, 4.0**x, 2 ** (x * np.log(4)), x, *limits, 1.0 - r / 4, 1.0 - r / 5)
            )
    columns = ["n", "stretched", "method", "order", "replaced", "passages", "perplexity", "base2", "relative"]
    return pd.DataFrame(rows, columns=[*columns, "lower", "upper", "low", "high", "attention", "forward"])


def said(table: pd.DataFrame) -> str:
    return "\n".join(perplexity_figures.findings(table, unit="token"))


def test_findings_say_which_side_of_the_reported_trade() -> None:
    text = said(summarised(hyper=1.3, sinks=1.05))
    assert "1.300 [1.290, 1.310] with no key exempt, above the reported 1.068" in text
    assert "1.050 [1.040, 1.060] with the first 4 keys exact, within the reported 1.068" in text
    assert "perplexity 4 of a token, or 2.61 as 2 to the power" in text
    text = said(summarised(hyper=1.03, sinks=1.07))
    assert "1.030 [1.020, 1.040] with no key exempt, within the reported" in text
    assert "1.070 [1.060, 1.080] with the first 4 keys exact, not clearly above or below" in text
    text = said(summarised(hyper=1.3, reach=np.nan))
    assert "is 1.300 with no key exempt; 1.300 with the first 4 keys exact. Exact" in text and "nan" not in text
    assert not any(word in text for word in ("above", "within", "loses", "difference"))


def test_findings_compare_with_the_rivals_where_passages_are_most() -> None:
    few, many = (
        summarised(n=n, passages=count, hyper=1.1, uniform=u) for n, count, u in ((128, 3, 1.2), (64, 8, 1.05))
    )
    text = said(pd.concat([few, many]))
    assert (
        "n = 64, 8 passages, the same layers: by HyperAttention 1.100 [1.090, 1.110], by uniform sampling 1.050" in text
    )
    assert "1.050 [1.040, 1.060] (loses less)" in text
    text = said(summarised(sinks=1.05, window=1.2, hyper=1.1, uniform=1.11))
    assert "window, first 4 1.200 [1.190, 1.210] (loses more)" in text
    assert "uniform sampling 1.110 [1.100, 1.120] (no clear difference)" in text


def test_findings_name_the_best_and_worst_order() -> None:
    assert "Which half" not in said(summarised())
    text = said(summarised(hyper=1.2, first=1.1, greedy=1.05, sinks=1.02))
    assert "HyperAttention: between 1.050 [1.040, 1.060] (greedily) and 1.200 [1.190, 1.210] (from the last)" in text
    assert "HyperAttention, first 4: between 1.010" in text


def test_findings_say_the_time() -> None:
    assert "a pass takes 0.80 of exact attention's time, with all of them 0.60; reported is 0.5" in said(summarised())


# -------------------------------------------------------------------------------------------------------------- figures
def test_orders_that_replace_the_same_layers_share_a_line() -> None:
    fig = perplexity_figures.draw_orders(summarised(hyper=1.2, first=1.2, sinks=1.01, greedy=1.05))
    assert {text.get_text() for text in fig.legends[0].get_texts()} == {"from the last = from the first", "greedily"}


def test_lines_of_methods_are_named_at_their_ends_once() -> None:
    table = pd.concat([summarised(n=64), summarised(n=128)])
    fig = perplexity_figures.draw_layers(table)
    names = [text.get_text() for ax in fig.axes for text in ax.texts]
    for group in (NONE_EXACT, SOME_EXACT):
        assert all(names.count(perplexity_figures.NAMES[name]) == (name != ZERO) for name in group)


@pytest.mark.parametrize(("zero", "notes"), [(1.2, []), (4.0, ["answering zero: up to 7"])])
def test_answering_zero_leaves_the_panel_where_it_is_far_above_and_its_value_is_written(
    zero: float, notes: list[str]
) -> None:
    ax = perplexity_figures.draw_layers(summarised(zero=zero)).axes[0]
    assert [text.get_text() for text in ax.texts if "zero" in text.get_text()] == notes
    assert (ax.get_ylim()[1] < 2 * zero - 1) == bool(notes)
