"""Controls in a notebook: choose a claim, move an argument, see measurement and bound change."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from html import escape
from typing import Any

import ipywidgets as widgets

from ...lab.ledger import latex
from ...theory import CLAIMS
from ..report.mathml import mathml
from .answer import TRIALS, Answer, ask
from .draw import draw
from .question import Question, changed, flat, settings

DPI = 130
SECONDS = 0.2
"""No further trial begins after so long, so that the figure follows the hand."""


class Panel:
    """The controls and what they show; `box` is what a notebook displays."""

    def __init__(self, claims: Sequence[str], trials: int, seed: int) -> None:
        for pattern in claims:
            if not any(fnmatch(name, pattern) for name in CLAIMS):
                raise ValueError(f"claims must match ids of claims (`sublinattn claims` lists them), got {pattern!r}")
        shown = [name for name in CLAIMS if any(fnmatch(name, pattern) for pattern in claims)]
        named = [(f"{name}: {CLAIMS[name].title}", name) for name in shown]
        self._trials, self._seed, self._opening = trials, seed, False
        self.answers: list[Answer] = []
        wide = widgets.Layout(width="98%")
        self.claim = widgets.Dropdown(options=named, description="claim", layout=wide)
        self.setting = widgets.Dropdown(description="setting", layout=wide)
        self.sabotage = widgets.Dropdown(description="break it", layout=wide)
        self.controls = widgets.VBox()
        self.statement, self.said, self.busy = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.image = widgets.Image(format="png", layout=widgets.Layout(width="100%", max_width="680px"))
        self.code = widgets.Textarea(layout=widgets.Layout(width="98%", height="9em"))
        folded = widgets.Accordion(children=[self.code], titles=("Copy as code",), selected_index=None)
        left = [self.setting, self.controls, self.sabotage]
        right = [self.image, self.busy, self.said, folded]
        columns = [
            widgets.VBox(left, layout=widgets.Layout(flex="0 1 24em")),
            widgets.VBox(right, layout=widgets.Layout(flex="1 1 24em")),
        ]
        body = widgets.HBox(columns, layout=widgets.Layout(flex_flow="row wrap"))
        self.box = widgets.VBox([self.claim, self.statement, body]).add_class("explore-claims")
        self.claim.observe(self._when(self._open_claim), "value")
        self.setting.observe(self._when(self._open_setting), "value")
        self.sabotage.observe(self._when(self._ask), "value")
        self._when(self._open_claim)({})

    def _when(self, do: Callable[..., None], *given: Any) -> Callable[[Any], None]:
        """`do`, unless a control changes because another one was opened."""

        def handler(change: Any) -> None:
            if not self._opening:
                self._opening = True
                try:
                    do(*given)
                finally:
                    self._opening = False

        return handler

    def _open_claim(self) -> None:
        claim = CLAIMS[self.claim.value]
        self._settings = settings(claim)
        self.statement.value = f"<b>{escape(claim.source)}.</b> {escape(claim.title)}. {mathml(latex(claim.statement))}"
        self.sabotage.options = [("the claim as it stands", ""), *((each.what, each.name) for each in claim.sabotages)]
        self.sabotage.value = ""
        self.setting.options = [(setting.name, i) for i, setting in enumerate(self._settings)]
        self.setting.value = 0
        self._open_setting()

    def _open_setting(self) -> None:
        setting = self._settings[self.setting.value]
        own, made = flat(setting.case), []
        for name, values in setting.choices.items():
            options = [(f"{value:g}" if isinstance(value, float) else str(value), value) for value in values]
            given: dict[str, Any] = {"options": options, "value": own[name], "description": name}
            if isinstance(own[name], str | bool):
                control = widgets.Dropdown(**given)
            else:
                control = widgets.SelectionSlider(**given, continuous_update=False)
            control.observe(self._when(self._ask, name), "value")
            made.append(control)
        self.controls.children = tuple(made)
        self._ask()

    def question(self) -> Question:
        """What the controls ask now."""
        case = self._settings[self.setting.value].case
        for control in self.controls.children:
            case = changed(case, control.description, control.value)
        return Question(self.claim.value, case, self.sabotage.value)

    def _ask(self, moved: str = "") -> None:
        """Ask, and show the answer; of earlier ones stay those that differ in the argument `moved` alone."""
        question = self.question()
        self.busy.value = "<i>measuring ...</i>"
        self.answers = [answer for answer in self.answers if _alike(answer.question, question, moved)]
        self.answers.append(ask(question, trials=self._trials, seed=self._seed, seconds=SECONDS))
        buffer = io.BytesIO()
        draw(self.answers, moved, mark=True).savefig(buffer, format="png", dpi=DPI)
        self.image.value = buffer.getvalue()
        last = self.answers[-1]
        self.busy.value = f"<small>{len(last.rows)} trials, {1000 * last.seconds:.0f} ms</small>"
        self.said.value = "".join(f"<p>{escape(sentence)}</p>" for sentence in last.words())
        self.code.value = question.code(self._seed)


def panel(*claims: str, trials: int = TRIALS, seed: int = 0) -> widgets.VBox:
    """Controls for some claims: display the result in a notebook.

    Parameters
    ----------
    claims : str
        Ids, or patterns of them as of file names: "ha24.*" are all of [HA24]. By default every claim.
    trials : int
        Trials for every position of the controls, fewer where they take long.
    seed : int
        The same seed gives the same numbers.

    Raises
    ------
    ValueError
        No claim matches.
    """
    return Panel(claims or ("*",), trials, seed).box


def _alike(one: Question, other: Question, moved: str) -> bool:
    """Whether two questions differ in the argument `moved` at most, and in that they do."""
    a, b = flat(one.case), flat(other.case)
    differing = {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)}
    return one.claim == other.claim and one.sabotage == other.sabotage and differing == {moved}
