"""Retrieval in the style of LongEval (Li et al., 2023): named registers, and questions about their contents.

A document is a list of lines ``line brave-otter: REGISTER_CONTENT is <48213>`` followed by questions
``line brave-otter? <48213>``. The questions come after all lines, so a cache compresses the lines without knowing
which of them will be needed.

A model that chats is told the lines in a conversation, and its answer is begun for it up to the number. For such models
there are easier tasks too (`TASKS`), down to a single pass key in prose (Mohtashami and Jaggi, arXiv 2305.16300).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from .chat import Chat
from .tokens import Encode

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


def documents(rng: np.random.Generator, nbytes: int, count: int) -> list[Document]:
    """Documents of one question each, with as many lines as fit into `nbytes`, all cut at the same places.

    Names differ in length; documents are drawn until lines and question have the usual length, so that a batch is one
    call of a byte-level model. Each document has a generator of its own.

    Raises
    ------
    ValueError
        If `nbytes` is too short for two lines and a question.
    """
    question = _open_question_bytes()
    lines = int((nbytes - question) / line_bytes())
    if lines < 2:
        raise ValueError(f"nbytes must be at least {least_bytes()}, got {nbytes}")
    usual = round(lines * line_bytes()), question - DIGITS

    def drawn(own: np.random.Generator) -> Document:
        while True:
            made = document(lines, 1, own)
            if (made.asked, made.answers[0] - made.asked) == usual:
                return made

    return [drawn(own) for own in rng.spawn(count)]


def least_bytes() -> int:
    """Of a document with two plain lines and a question."""
    return int(2 * line_bytes() + _open_question_bytes()) + 1


def _open_question_bytes() -> int:
    """Of a plain question and its answer, without what follows the answer."""
    return round(question_bytes()) - 2


# ------------------------------------------------------------------------------------------- for a model that chats
@dataclass(frozen=True)
class Task:
    """What a model that chats is told and asked.

    Attributes
    ----------
    line, question, answer : str
        Formats of a ``{name}`` and, in the line, its ``{number}``. The answer is what stands before the number.
    keys : int
        Numbers in a document, at random places in prose; 0: as many as fit, and no prose.
    intro : str
        What comes first.
    joint : str
        Between the two words of a name.
    end : str
        What follows the number in an answer.
    examples : int
        Questions about other numbers that have been asked and answered before.
    """

    line: str
    question: str
    answer: str
    keys: int
    intro: str
    joint: str = " "
    end: str = "."
    examples: int = 0

    def numbered(self, name: tuple[str, str], number: int) -> str:
        """The line."""
        return self.line.format(name=self.joint.join(name), number=number)

    @property
    def line_bytes(self) -> int:
        """Mean bytes of a line, nearly."""
        return len(self.numbered(("", ""), _LEAST)) + ("{name}" in self.line) * round(_MEAN_NAME)

    @property
    def least_bytes(self) -> int:
        """Bytes of as many lines as it has, or asks for."""
        return (self.keys or 1 + self.examples) * self.line_bytes


_NAMED = "The number of {name} is {number}. ", "What is the number of {name}?", "The number of {name} is "
_REMEMBER = "Remember the numbers in the following text. I will ask you for one of them.\n\n"
TASKS: Mapping[str, Task] = {
    "register lines": Task(
        "line {name}: REGISTER_CONTENT is <{number}>\n",
        "Now the record is over. Tell me what is the <REGISTER_CONTENT> in line {name}? I need the number.",
        "The <REGISTER_CONTENT> in line {name} is <",
        0,
        "Below is a record of lines I want you to remember. Each line begins with 'line <line index>' and contains a "
        "'<REGISTER_CONTENT>' at the end of the line as a numerical value. For each line index, memorize its "
        "corresponding <REGISTER_CONTENT>. At the end of the record, I will ask you to retrieve the corresponding "
        "<REGISTER_CONTENT> of a certain line index. Now the record start:\n\n",
        "-",
        ">",
    ),
    "sentences": Task(*_NAMED, 0, _REMEMBER),
    "sentences, two examples": Task(*_NAMED, 0, _REMEMBER, examples=2),
    "four in prose, two examples": Task(*_NAMED, 4, _REMEMBER, examples=2),
    "passkey": Task(
        "The pass key is {number}. Remember it. {number} is the pass key. ",
        "What is the pass key?",
        "The pass key is ",
        1,
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will quiz you "
        "about the important information there.\n\n",
    ),
}
"""The tasks, the hardest first: LongEval's wording; shorter sentences; few of them in prose; one alone."""
_LEAST = 10 ** (DIGITS - 1)
_PROSE = tuple(
    f"{sentence}. "
    for sentence in ("The grass is green", "The sky is blue", "The sun is yellow", "Here we go", "There and back again")
)
_MEAN_SENTENCE = sum(map(len, _PROSE)) / len(_PROSE)


def told(task: Task, nbytes: int, count: int, chat: Chat, encode: Encode, rng: np.random.Generator) -> list[Document]:
    """Random documents of one open question each, with about `nbytes` of lines and prose, in the model's chat format.

    Words of names take as many tokens as most words of their kind do, so that a batch is one call of most models. Each
    document has a generator of its own.

    Raises
    ------
    ValueError
        If `nbytes` is below the task's `least_bytes`, or beyond what all names reach.
    """
    words, keys = _alike(task, encode), task.keys or nbytes // task.line_bytes
    most = len(words[0]) * len(words[1])
    if nbytes < task.least_bytes or keys > most:
        limits = f"{task.least_bytes}..{most * task.line_bytes}"
        raise ValueError(f"nbytes must be in {limits} for lines and prose, got {nbytes}")
    sentences = int((nbytes - keys * task.line_bytes) / _MEAN_SENTENCE) if task.keys else 0
    return [_told(task, keys, sentences, words, chat, own) for own in rng.spawn(count)]


def _told(
    task: Task, keys: int, sentences: int, words: tuple[list[str], list[str]], chat: Chat, rng: np.random.Generator
) -> Document:
    chosen = rng.choice(len(words[0]) * len(words[1]), size=keys, replace=False)
    names = [(words[0][i // len(words[1])], words[1][i % len(words[1])]) for i in chosen]
    numbers = rng.integers(_LEAST, 10**DIGITS, size=keys)
    lines = iter(task.numbered(name, number) for name, number in zip(names, numbers, strict=True))
    among = set(rng.permutation(sentences + keys)[:keys].tolist())  # the places of the lines among the sentences
    prose = cycle(_PROSE)
    body = "".join(next(lines if i in among else prose) for i in range(sentences + keys))
    said, before = [], f"{task.intro}{body.rstrip()}\n\n"
    for i in rng.permutation(keys)[: task.examples + 1]:
        name = task.joint.join(names[i])
        question, begun, number = task.question.format(name=name), task.answer.format(name=name), str(numbers[i])
        said += [before + question, f"{begun}{number}{task.end}"]
        before = ""
    text = chat(said[:-1]) + begun
    return Document(f"{text}{number}".encode(), len(text[: text.rindex(question)].encode()), (len(text.encode()),))


def _alike(task: Task, encode: Encode) -> tuple[list[str], list[str]]:
    """The adjectives, and the nouns, that take as many tokens in a line as most of them do."""

    def most(lines: dict[str, str]) -> list[str]:
        tokens = {word: len(encode(line.encode())) for word, line in lines.items()}
        usual = Counter(tokens.values()).most_common(1)[0][0]
        return [word for word in tokens if tokens[word] == usual]

    adjectives = {word: task.numbered((word, NOUNS[0]), _LEAST) for word in ADJECTIVES}
    nouns = {word: task.numbered((ADJECTIVES[0], word), _LEAST) for word in NOUNS}
    return most(adjectives), most(nouns)


# ---------------------------------------------------------------------------------------------- the lines in the plain
def _line(adjective: str, noun: str, content: int) -> str:
    return f"line {adjective}-{noun}: REGISTER_CONTENT is <{content:0{DIGITS}d}>\n"


def _question(adjective: str, noun: str) -> str:
    return f"line {adjective}-{noun}? <"
