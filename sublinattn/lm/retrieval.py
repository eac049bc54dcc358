"""Line retrieval in the style of LongEval (Li et al., 2023): named registers, and questions about their contents.

A document is a list of lines ``line brave-otter: REGISTER_CONTENT is <48213>`` followed by questions
``line brave-otter? <48213>``. The questions come after all lines, so a cache compresses the lines without knowing
which of them will be needed.
"""

from dataclasses import dataclass

import numpy as np

ADJECTIVES = """
    amber ample azure basic blank blunt brave brief brisk broad calm civil clean clear crisp curly dense dusty eager
    early empty equal exact faint fancy final fleet fresh giant grand green happy harsh hasty heavy humid ideal
    inner ivory jolly juicy large light local loyal lucky magic major mellow misty modern muddy naive narrow noble
    novel olive outer pale plain polite proud quick quiet rapid ready rigid rough royal rusty sharp shiny silent
    silver sleek
""".split()  # noqa: SIM905 - quotation marks would hide the words
NOUNS = """
    acorn anchor apple arrow badge bagel barge basil beach berry bison board brick bridge brush cabin camel candle
    canoe cedar chain chalk cliff cloud cobra comet coral crane creek daisy delta dingo eagle elbow ember engine
    fable falcon ferry field finch flame flute forest fossil frost garden geyser ghost glove grape guitar hammer
    harbor hazel heron island jacket jaguar kettle koala ladder lemon linen lizard lotus magnet maple marble meadow
    melon mirror otter panda
""".split()  # noqa: SIM905 - quotation marks would hide the words
DIGITS = 5
_MEAN_NAME = float(sum(np.mean([len(word) for word in words]) for words in (ADJECTIVES, NOUNS)))


@dataclass(frozen=True)
class Document:
    """A document and the positions of its questions and answers.

    Attributes
    ----------
    text : bytes
        The lines, then the questions with their answers.
    asked : int
        Position in `text` where the first question begins.
    answers : tuple of int
        Position in `text` of each answer's first digit. An answer has `DIGITS` digits, followed by ``>``.
    """

    text: bytes
    asked: int
    answers: tuple[int, ...]


def line_bytes() -> float:
    """Mean bytes of a line."""
    return len(_line("", "", 0)) + _MEAN_NAME


def question_bytes() -> float:
    """Mean bytes of a question with its answer."""
    return len(_question("", "")) + DIGITS + 2 + _MEAN_NAME


def document(lines: int, questions: int, rng: np.random.Generator) -> Document:
    """A random document: `lines` lines with distinct names, and `questions` questions about distinct lines.

    Raises
    ------
    ValueError
        Unless ``1 <= questions <= lines <= 5550``, the number of names.
    """
    names = len(ADJECTIVES) * len(NOUNS)
    if not 1 <= questions <= lines <= names:
        got = f"got {questions} and {lines}"
        raise ValueError(f"questions and lines must satisfy 1 <= questions <= lines <= {names}, {got}")
    chosen = [divmod(int(i), len(NOUNS)) for i in rng.choice(names, size=lines, replace=False)]
    named = [(ADJECTIVES[a], NOUNS[b]) for a, b in chosen]
    contents = rng.integers(10 ** (DIGITS - 1), 10**DIGITS, size=lines)
    text = "".join(_line(*name, content) for name, content in zip(named, contents, strict=True))
    asked, answers = len(text), []
    for i in rng.permutation(lines)[:questions]:
        text += _question(*named[i])
        answers.append(len(text))
        text += f"{contents[i]}>\n"
    return Document(text.encode(), asked, tuple(answers))


def _line(adjective: str, noun: str, content: int) -> str:
    return f"line {adjective}-{noun}: REGISTER_CONTENT is <{content:0{DIGITS}d}>\n"


def _question(adjective: str, noun: str) -> str:
    return f"line {adjective}-{noun}? <"
