"""Small tables for every function that draws, one file per study: what `test_figures` tries.

Each file has `FIGURES`, a mapping of the function to a call of it on a small table, and names among these those whose
figures must show all `YARDSTICKS` and those that must show a `THEORY`.
"""

import pandas as pd


def table(columns: str, *rows) -> pd.DataFrame:
    """A table from its columns' names and its lines."""
    return pd.DataFrame(rows, columns=columns.split())
