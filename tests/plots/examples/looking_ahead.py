"""Recall over the angle and errors over b, as `looking_ahead` measures them."""

from examples import table
from sublinattn.methods.hyperattention.studies import looking_ahead

RECALL = table(
    "rule angle measured law heads",
    *((rule, angle, 0.6 - angle, 0.6 - angle, 100) for rule in looking_ahead.RULES for angle in (0.0, 0.1, 0.3)),
)
METHODS = {"rank": 0.5, "own-hash": 0.4, "uniform": 0.6, "zero": 1.0, "exact": 1e-7}
ERRORS = table(
    "input n method b replicate error mass",
    *(
        (name, 64, rule, b, replicate, error if rule in ("zero", "exact") else error * (8 / b) ** 0.5, 0.3)
        for name in ("a", "b")
        for rule, error in METHODS.items()
        for b in (8, 16, 32)
        for replicate in range(3)
    ),
)

FIGURES = {
    looking_ahead.draw_recall: lambda: looking_ahead.draw_recall(RECALL),
    looking_ahead.draw_errors: lambda: looking_ahead.draw_errors(ERRORS),
}
YARDSTICKS = (looking_ahead.draw_errors,)
THEORY = (looking_ahead.draw_recall,)
