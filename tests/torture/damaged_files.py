"""Damaged files of every kind that the package reads: refused by name, or taken where nothing that counts was hit.

The argument of the child's command line is the folder that `make` has filled.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import toy_gguf
import toy_states

from sublinattn import ExactCache
from sublinattn.lab import ledger
from sublinattn.lab.record import changes, why
from sublinattn.lab.run import Run
from sublinattn.lab.workloads.instance import Captured, Instance
from sublinattn.lm.chat import load_chat
from sublinattn.lm.decoder import Decoder
from sublinattn.lm.tokens import load_encoder
from sublinattn.plots.save import save
from sublinattn.streams import absorb
from sublinattn.suite import catalogue, report, runner
from sublinattn.suite.audit import page, recommendation
from sublinattn.suite.audit.measure import Audit

from .children import TooLong, serve
from .table import HANG, WRONG

LLAMA = Path(__file__).parents[1] / "data" / "llama" / "sharded"
Read = Callable[[Path], Any]
"""Reads a file; it may return what is wrong although nothing was raised."""


def logits(path: Path) -> str | None:
    """The decoder of a folder or file, asked for logits: finite ones."""
    decoder = Decoder.load(path)
    with np.errstate(all="ignore"):  # a flipped bit of a weight may make it 1e38
        decoder.logits(np.arange(5) % decoder.config.vocabulary)
    return None


def of_record(path: Path) -> None:
    """As `--record`: compared with what a run has found."""
    old, new = ledger.load(path), ledger.load(path.parents[1] / "out" / "ledger.json")
    for change in changes(old, new):
        why(change, old, new)


def resumed(path: Path) -> str | None:
    """A run that goes on: the ledger of what is there, with what is damaged made anew."""
    folder = path.parents[2]
    want = ledger.comparable(ledger.load(folder / "out" / "ledger.json")["claims"])
    result = runner.run(folder / "nb", out=folder / "out", jobs=1, resume=True)
    if result.failed:
        return f"a notebook failed: {result.failed[0].error}"
    return None if ledger.comparable(result.ledger["claims"]) == want else "another ledger"


def planned(path: Path) -> None:
    common = {"effort": "smoke", "seed": 0, "backend": "auto", "out": "out"}
    runner.plan(path.parent, common, {})


def heads(path: Path) -> None:
    captured = Captured.open(path)
    captured.head(0, 0)
    captured.key_heads([(0, 0)])


def readvised(path: Path) -> None:
    page.write(Audit.load(path.parent), path.parent, tolerance=0.1)


def shown_again(path: Path) -> None:
    recommendation.preset(recommendation.read(path))
    page.write(Audit.load(path.parent), path.parent, tolerance=0.1)


def chatting(path: Path) -> None:
    load_chat(path.parent, load_encoder(path.parent, 256))


FILES: dict[str, tuple[str, Read]] = {
    "ledger": ("out/ledger.json", lambda path: report.build(path.parent)),
    "record": ("record/ledger.json", of_record),
    "ledger of the claims": ("record/ledger.json", lambda path: catalogue.listing(ledger=path)),
    "sidecar of a figure": ("out/figures/x.json", lambda path: report.build(path.parents[1])),
    "executed notebook": ("out/notebooks/a.ipynb", lambda path: report.build(path.parents[1])),
    "notebook": ("nb/a.ipynb", planned),
    "verdict": ("out/verdicts/ha24.gray-adjacency.json", resumed),
    "stamp": ("out/notebooks/a.done.json", resumed),
    "rows": (
        "out/rows/ha24.gray-adjacency.parquet",
        lambda path: Run("smoke", 0, "numpy", path.parents[1]).rows("ha24.gray-adjacency"),
    ),
    "verdict in a study": (
        "out/verdicts/ha24.gray-adjacency.json",
        lambda path: Run("smoke", 0, "numpy", path.parents[1]).record("ha24.gray-adjacency"),
    ),
    "captured file": ("qkv.safetensors", heads),
    "instance": ("instance.safetensors", Instance.load),
    "config of a model": ("llama/config.json", lambda path: logits(path.parent)),
    "index of shards": ("llama/model.safetensors.index.json", lambda path: logits(path.parent)),
    "shard": ("llama/model-00002-of-00004.safetensors", lambda path: logits(path.parent)),
    "GGUF file": ("model.gguf", logits),
    "chat template": ("llama/tokenizer_config.json", chatting),
    "measurements of an audit": ("audit/audit.json", readvised),
    "table of an audit": ("audit/heads.parquet", readvised),
    "recommendation": ("audit/recommendation.json", shown_again),
    "stream": ("k.npy", lambda path: absorb(ExactCache(), keys=path, values=path, progress=False)),
}
STATES = [*toy_states.STATES]
SLOW = ("verdict", "stamp")
"""Kinds whose reader starts a kernel: one in twenty files."""


def make(folder: Path, notebooks: Callable[[Path], None]) -> None:
    """A whole file of every kind; `notebooks` makes some in `folder/nb`, of which "a" checks a claim."""
    notebooks(folder)
    runner.run(folder / "nb", out=folder / "out", jobs=1)
    (folder / "record").mkdir()
    shutil.copy(folder / "out" / "ledger.json", folder / "record")
    figure, axes = plt.subplots()
    axes.plot([1, 2], [0.5, 0.25])
    about = {"claim": "ha24.gray-adjacency", "params": {"notebook": "b", "effort": "smoke"}, "seed": 0}
    rows = pd.DataFrame({"n": [1, 2], "error": [0.5, 0.25]})
    save(figure, "x", out=folder / "out", data=rows, caption="A figure.", backend="numpy", **about)
    plt.close(figure)
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 1, 1, 128, 8)).astype(np.float32)
    Instance(q, k, v, scale=0.5).save(folder / "qkv.safetensors")
    Instance(q, k, v, scale=0.5).save(folder / "instance.safetensors")
    np.save(folder / "k.npy", k[0, 0])
    shutil.copytree(LLAMA, folder / "llama")
    (folder / "llama" / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    toy_gguf.write(folder / "model.gguf")
    audited = page.open_or_measure(folder / "qkv.safetensors", shares=[0.5], seed=0, backend="numpy")
    page.write(audited, folder / "audit", tolerance=0.1)
    for name, state in toy_states.STATES.items():
        toy_states.feed(state(), toy_states.stream()).save(folder / "states" / name)


# ---------------------------------------------------------------------------------------------------------- the damage
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    10**30,
    1e300,
    0.5,
    "",
    "x",
    "../../x",
    "<script>",
    [],
    {},
    [1],
    {"a": 1},
    "2" * 99,
]


def damage(content: bytes, rng: np.random.Generator, *, text: bool) -> tuple[str, bytes]:
    """How a file's bytes were damaged, and what they are then."""
    kind = str(rng.choice(["flipped bits", "cut", "zeros", "more bytes", "empty", *(["edited"] * 5 if text else [])]))
    if kind == "edited":
        return kind, json.dumps(_edited(json.loads(content), rng)).encode()
    changed = bytearray(content)
    at = int(rng.integers(len(changed)))
    if kind == "flipped bits":
        for place in rng.integers(len(changed), size=rng.integers(1, 4)):
            changed[place] ^= 1 << rng.integers(8)
    elif kind == "zeros":
        changed[at : at + 64] = bytes(len(changed[at : at + 64]))
    elif kind == "more bytes":
        changed += rng.bytes(100)
    else:
        del changed[0 if kind == "empty" else at :]
    return kind, bytes(changed)


def _edited(value: Any, rng: np.random.Generator) -> Any:
    """JSON with one of its values, somewhere, replaced or left out."""
    inner = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
    if not inner or rng.random() < 0.15:
        return ODD[rng.integers(len(ODD))]
    key = list(inner)[rng.integers(len(inner))]
    if rng.random() < 0.2:
        left: Mapping[Any, Any] = {name: x for name, x in inner.items() if name != key}
    else:
        left = {**inner, key: _edited(inner[key], rng)}
    return dict(left) if isinstance(value, dict) else list(left.values())


# ----------------------------------------------------------------------------------------------------------- one file
def judged(number: int, seed: int, folder: str) -> tuple[str, str, str]:
    """One damaged file, read: its kind, the outcome, and what it was."""
    rng = np.random.default_rng([seed, number])
    kinds = [kind for kind in FILES if kind not in SLOW] + ["checkpoint"] * 4
    kind = SLOW[number // 20 % len(SLOW)] if number % 20 == 0 else kinds[number % len(kinds)]
    with tempfile.TemporaryDirectory() as name:
        here = Path(name) / "copy"
        shutil.copytree(folder, here)
        if kind == "checkpoint":
            state = STATES[rng.integers(len(STATES))]
            path, read = here / "states" / state, type(toy_states.STATES[state]()).load
        else:
            path, read = here / FILES[kind][0], FILES[kind][1]
        whole = path.read_bytes()
        how, content = damage(whole, rng, text=path.suffix in (".json", ".ipynb"))
        path.write_bytes(content)
        words = f"{kind} {path.name}, {how}"
        outside = set(Path(name).iterdir())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                wrong = read(path)
        except (ValueError, OSError, ImportError) as error:
            named = path.name in str(error) or str(path.parent) in str(error)
            outcome = "refused by name" if named else f"{WRONG}refused, but no file is named"
            return kind, outcome, f"{words}: {type(error).__name__}: {error}"
        except TooLong:
            return kind, f"{WRONG}not ended after {HANG:.0f} s", words
        except BaseException as error:
            return kind, f"{WRONG}{type(error).__name__}", f"{words}: {error}"
        if set(Path(name).iterdir()) != outside:
            return kind, f"{WRONG}something is written outside of its folder", words
        if kind == "checkpoint" and content != whole:
            return kind, f"{WRONG}a damaged checkpoint is taken", words
        if kind in SLOW:
            return kind, f"{WRONG}{wrong}" if wrong else "made again, or taken", words
        return kind, "taken", words


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[1]))
    serve(judged)
