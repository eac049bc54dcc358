"""Errors of the released estimators beside ours, as `released_code` measures them."""

from examples import table
from sublinattn.methods.hyperattention.studies import released_code

METHODS = ("hyper practical", "uniform", "zero", "exact", *released_code.RELEASED)
ERRORS = table(
    "input source n mask method replicate budget error normaliser",
    *(
        (i, "synthetic", 64, mask, name, r, b, 1e-7 if name == "exact" else 0.1 * (1 + r) / b + 0.01 * j, 0.9)
        for i in "abc"
        for mask in released_code.PARTS
        for j, name in enumerate(METHODS)
        for r in range(3)
        for b in (32, 64, 128)
    ),
)

FIGURES = {released_code.draw: lambda: released_code.draw(ERRORS)}
YARDSTICKS = (released_code.draw,)
