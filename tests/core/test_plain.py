"""What results become before they are written as JSON."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from sublinattn.core.plain import plain


@dataclass
class Found:
    size: np.float32
    limits: tuple[float, float]


def test_numbers_are_pythons_and_what_json_has_no_word_for_is_text() -> None:
    made = plain(
        OrderedDict({1: [np.int64(3), np.True_, None, "a"], "found": Found(np.float32(0.5), (-np.inf, np.nan))})
    )
    assert made == {"1": [3, True, None, "a"], "found": {"size": 0.5, "limits": ["-inf", "nan"]}}
    assert type(made["1"][0]) is int and type(made["found"]["size"]) is float


def test_floats_are_rounded_to_significant_digits_where_these_are_given() -> None:
    assert plain([np.float32(0.1), 1.23456789], digits=5) == [0.1, 1.2346]
    assert plain([1.23456789]) == [1.23456789]
