"""Controls in a notebook: choose a method and a workload, see the matrix, the mask and the errors change."""

from __future__ import annotations

import io
import time
from html import escape
from typing import Any

import ipywidgets as widgets

from .matrix import draw_look
from .workbench import CHOICES, REPETITIONS, Look, Setup, look

DPI = 130
SECONDS = 0.08
"""No further repetition begins after so long, so that the figure follows the hand."""


class Bench:
    """The controls of a `Setup` and what they show; `box` is what a notebook displays."""

    def __init__(self, setup: Setup, repetitions: int) -> None:
        self._repetitions = repetitions
        self.controls: dict[str, Any] = {}
        for name, values in CHOICES.items():
            given: dict[str, Any] = {"value": getattr(setup, name), "description": name}
            if isinstance(values[0], str):
                control: Any = widgets.Dropdown(options=values, **given)
            else:
                named = [("default" if name == "lsh_bits" and not value else str(value), value) for value in values]
                control = widgets.SelectionSlider(options=named, continuous_update=False, **given)
            control.observe(self._ask, "value")
            self.controls[name] = control
        self.said, self.busy = widgets.HTML(), widgets.HTML()
        self.image = widgets.Image(format="png", layout=widgets.Layout(width="100%", max_width="900px"))
        self.code = widgets.Textarea(layout=widgets.Layout(width="98%", height="7em"))
        folded = widgets.Accordion(children=[self.code], titles=("Copy as code",), selected_index=None)
        columns = [
            widgets.VBox(list(self.controls.values()), layout=widgets.Layout(flex="0 1 24em")),
            widgets.VBox([self.image, self.busy, self.said, folded], layout=widgets.Layout(flex="1 1 30em")),
        ]
        self.box = widgets.HBox(columns, layout=widgets.Layout(flex_flow="row wrap")).add_class("explore-bench")
        self._ask()

    def setup(self) -> Setup:
        """What the controls say now."""
        return Setup(**{name: control.value for name, control in self.controls.items()})

    def _ask(self, change: Any = None) -> None:
        began, setup = time.perf_counter(), self.setup()
        self.busy.value = "<i>measuring ...</i>"
        self.seen: Look = look(setup, repetitions=self._repetitions, seconds=SECONDS)
        buffer = io.BytesIO()
        draw_look(self.seen).savefig(buffer, format="png", dpi=DPI)
        self.image.value = buffer.getvalue()
        self.said.value = "".join(f"<p>{escape(sentence)}</p>" for sentence in self.seen.words())
        self.code.value = setup.code()
        count, passed = self.seen.rows["repetition"].max() + 1, 1000 * (time.perf_counter() - began)
        self.busy.value = f"<small>{count} repetition{'s' if count > 1 else ''}, {passed:.0f} ms</small>"


def bench(setup: Setup | None = None, *, repetitions: int = REPETITIONS) -> widgets.HBox:
    """Controls for a method on a workload, beginning with `setup`: display the result in a notebook.

    Parameters
    ----------
    setup : Setup, optional
        Where the controls stand at first; each value must be one that they offer (`CHOICES`).
    repetitions : int
        Runs with draws of their own at every position of the controls, fewer where they take long.

    Raises
    ------
    ValueError
        A value that the controls do not offer.
    """
    given = setup or Setup()
    for name, values in CHOICES.items():
        if getattr(given, name) not in values:
            raise ValueError(f"{name} must be one of {', '.join(map(str, values))}, got {getattr(given, name)!r}")
    return Bench(given, repetitions).box
