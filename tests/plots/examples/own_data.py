"""alpha without the heaviest keys, of a user's heads."""

from examples import table
from sublinattn.suite.audit import own_data

ROWS = table(
    "layer head without alpha key mass",
    *((i, j, c, (2.0 + i + j) * 64 / (1 + c), 0, 0.5) for i in (0, 1) for j in (0, 1) for c in (0, 1, 4)),
)

FIGURES = {own_data.draw: lambda: own_data.draw(ROWS)}
