"""Explore a claim by hand: change n, eps or delta, and see at once what is measured and what the theorem bounds.

Every claim has a trial, one seeded measurement with keyword arguments. `question.settings` makes them into controls,
`answer.ask` runs the trial a few times, `draw.draw` draws what came out, and `panel.panel` puts the three behind
sliders in a notebook.

Or explore a method on a workload: `workbench.look` runs a `Setup` beside the yardsticks, `matrix.draw_look` draws the
softmax matrix, HyperAttention's mask and the errors, and `bench_panel.bench` has the sliders.
"""

from .answer import Answer, ask, sweep
from .bench_panel import bench
from .draw import draw, tabulated
from .matrix import draw_look
from .panel import panel
from .question import Question, Setting, settings
from .workbench import Look, Setup, look

__all__ = [
    "Answer",
    "Look",
    "Question",
    "Setting",
    "Setup",
    "ask",
    "bench",
    "draw",
    "draw_look",
    "look",
    "panel",
    "settings",
    "sweep",
    "tabulated",
]
