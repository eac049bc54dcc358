"""Limits and exponents that several figures state."""

import numpy as np
import pandas as pd

from sublinattn.lab import statistics


def test_proportion_limits_hold_the_rate():
    rate, low, high = statistics.proportion(3, 10)
    assert (rate, low < 0.3 < high) == (0.3, True)
    assert statistics.proportion(0, 10)[1] == 0 and statistics.proportion(10, 10)[2] == 1


def test_largest_excess_is_read_in_the_direction_of_growth():
    columns = ["claim", "variable", "measured", "theory_exponent"]
    table = pd.DataFrame(
        [("a", "n", 0.4, 0.2), ("a", "varepsilon", -2.5, -2.0), ("b", "n", np.nan, 1.0)], columns=columns
    )
    assert statistics.largest_excess(table) == ["a +0.50 in varepsilon"]
