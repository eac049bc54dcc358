"""Explore a claim by hand: change n, eps or delta, and see at once what is measured and what the theorem bounds.

Every claim has a trial, one seeded measurement with keyword arguments. `question.settings` makes them into controls,
`answer.ask` runs the trial a few times, `draw.draw` draws what came out, and `panel.panel` puts the three behind
sliders in a notebook.
"""

from .answer import Answer, ask, sweep
from .draw import draw, tabulated
from .panel import panel
from .question import Question, Setting, settings

__all__ = ["Answer", "Question", "Setting", "ask", "draw", "panel", "settings", "sweep", "tabulated"]
