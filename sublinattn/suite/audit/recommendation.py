"""`recommendation.json`: what an audit advises, as a file that other programs read.

An object with

- `format`: "sublinattn recommendation 1";
- `source`: the model and the text that were audited; `tokens`, `prompt_tokens` (those before the held-out queries,
  which the caches compress), `layers`, `heads`, `kv_heads`, `scale`, `seed`;
- `tolerance`: the largest error of a prompt method, and, if `budget` is null, of a query head; else `budget` is the
  share of the exact caches' bytes that was divided;
- `bytes` and `exact_bytes` of all caches together, `saved` (the share that the advice saves);
- `key_heads`: a list with one object per key head: `layer`, `key_head`, `method` (its name in the audit's tables),
  `cache` (a public class of `sublinattn`) and `parameters` (its arguments for `prompt_tokens` tokens), `share` (of the
  exact cache's bytes; 1 for the exact cache), `bytes`, `error` (the relative error that the audit measured, of the
  worst query head; null if the head could not be audited, "inf" if an answer overflowed);
- `prompt`: a list with one object per layer: `layer`, `method` ("exact" or "hyper_attention"), `parameters` (arguments
  of `sublinattn.hyper_attention` on queries (heads, n, d); its `exact_keys` are the positions, by query head, of the
  heaviest keys of the audited text: for another text take `sublinattn.heavy_keys`), `exact_keys` (how many), `error`.

`preset.json` has the same budgets as plain lists over layers and key heads, for presses and caches of other libraries:
`kept_tokens` (keys and values that fit into the bytes), `compression_ratio` (the share of the tokens that goes, as
kvpress names it) and `method`; and `compression_ratios`, one per layer with the bytes of its key heads together, which
is what kvpress's `PerLayerCompressionPress` takes. `docs/hf.md` says how both files are used, and what was tried.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from ...core import checks, files
from ...core.plain import plain
from .advice import KEEP, records, saved
from .answers import CACHES, prompt_parameters
from .measure import Audit

FORMAT = "sublinattn recommendation 1"
FILE, PRESET = "recommendation.json", "preset.json"
_ABOUT = (
    "Budgets of keys and values per layer and key head. compression_ratios is what kvpress's PerLayerCompressionPress "
    "takes: one per layer, the same for its key heads. Which tokens are kept is the press's choice. In transformers, "
    "SublinCache runs the caches of recommendation.json themselves."
)


def recommendation(
    audit: Audit, recommended: pd.DataFrame, prompts: pd.DataFrame, *, tolerance: float, budget: float | None
) -> dict[str, Any]:
    """The object: see the module."""
    about = audit.about
    names = ("source", "tokens", "layers", "heads", "kv_heads", "scale", "seed")
    key_heads = [
        {
            **{name: row[name] for name in ("layer", "key_head", "method", "cache")},
            "parameters": json.loads(row["parameters"]),
            "share": row["share"],
            "bytes": int(row["nbytes"]),
            "error": None if pd.isna(row["error"]) else row["error"],
        }
        for row in records(recommended)
    ]
    layers = [_prompt(audit, row) for row in records(prompts)]
    return {
        "format": FORMAT,
        **{name: about[name] for name in names},
        "prompt_tokens": about["tokens"] - about["queries"],
        "tolerance": tolerance,
        "budget": budget,
        "bytes": int(recommended["nbytes"].sum()),
        "exact_bytes": int(recommended["exact_bytes"].sum()),
        "saved": saved(recommended),
        "key_heads": key_heads,
        "prompt": layers,
    }


def _prompt(audit: Audit, row: dict[str, Any]) -> dict[str, Any]:
    """What a layer's prompt takes; exact keys by query head, as the audited text has them."""
    if row["method"] == KEEP:
        return {"layer": row["layer"], "method": KEEP, "parameters": {}, "exact_keys": 0, "error": 0.0}
    its = audit.prompts[(audit.prompts["layer"] == row["layer"]) & (audit.prompts["exact"] == row["exact"])]
    positions = [json.loads(text) for text in its.sort_values("head")["positions"]]
    parameters = {**prompt_parameters(audit.about["tokens"]), "exact_keys": positions if row["exact"] else 0}
    names = {"layer": row["layer"], "method": "hyper_attention", "parameters": parameters}
    return {**names, "exact_keys": row["exact"], "error": row["error"]}


def preset(recommended: dict[str, Any]) -> dict[str, Any]:
    """The budgets as lists over layers and key heads, and over layers."""
    table = pd.DataFrame(recommended["key_heads"])
    table["kept_tokens"] = (table["share"] * recommended["prompt_tokens"]).astype(int)
    table["compression_ratio"] = 1 - table["share"]
    columns = ("kept_tokens", "compression_ratio", "method")
    lists = {name: table.pivot(index="layer", columns="key_head", values=name).to_numpy().tolist() for name in columns}
    about = {name: recommended[name] for name in ("source", "prompt_tokens", "layers", "kv_heads")}
    layers = table.groupby("layer")["compression_ratio"].mean().tolist()
    return {"about": _ABOUT, **about, **lists, "compression_ratios": layers}


def write(recommended: dict[str, Any], folder: str | os.PathLike[str]) -> None:
    """Write `recommendation.json` and `preset.json`."""
    for name, content in ((FILE, recommended), (PRESET, preset(recommended))):
        files.write_json(Path(folder) / name, plain(content))


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a recommendation.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such file, or it holds something else.
    """
    found = files.read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f'{path} is no recommendation of an audit: it must have "format": {FORMAT!r}')
    with files.reading(path, "a whole recommendation"):
        _check(found)
    return found


_KEY_HEAD = {"layer": int, "key_head": int, "method": str, "cache": str, "parameters": dict, "share": float}
_PROMPT = {"layer": int, "method": str, "parameters": dict, "exact_keys": int}
_WHOLE = {
    **dict.fromkeys(("tokens", "prompt_tokens", "layers", "heads", "kv_heads", "seed", "bytes", "exact_bytes"), int),
    **{"tolerance": float, "budget": float | None, "key_heads": list, "prompt": list},
}


def _check(found: dict[str, Any]) -> None:
    parts: list[Any] = [
        (found, _WHOLE),
        *((x, _KEY_HEAD) for x in found["key_heads"]),
        *((x, _PROMPT) for x in found["prompt"]),
    ]
    for part, kinds in parts:
        for name, kind in kinds.items():
            if not isinstance(part[name], kind | int if kind is float else kind) or isinstance(part[name], bool):
                raise ValueError(f"{name} must be of type {getattr(kind, '__name__', kind)}, got {part[name]!r}")
    for name in ("tokens", "prompt_tokens", "layers", "heads", "kv_heads", "exact_bytes"):
        checks.integer(name, found[name], minimum=1)
    checks.integer("bytes", found["bytes"], minimum=1, maximum=found["exact_bytes"])
    heads = found["layers"] * found["kv_heads"]
    _check_places(
        "key_heads", found["key_heads"], heads, lambda its: its["layer"] * found["kv_heads"] + its["key_head"]
    )
    _check_places("prompt", found["prompt"], found["layers"], lambda its: its["layer"])
    for its in found["key_heads"]:
        checks.integer("key_head", its["key_head"], minimum=0, maximum=found["kv_heads"] - 1)
        checks.choice("method", its["method"], [KEEP, *CACHES])
        checks.between("share", its["share"], 0, 1)
    for its in found["prompt"]:
        checks.choice("method of a prompt", its["method"], [KEEP, "hyper_attention"])
        checks.integer("exact_keys", its["exact_keys"], minimum=0)


def _check_places(name: str, parts: list[Any], count: int, place: Callable[[Any], int]) -> None:
    """ValueError unless the parts are at the places 0, 1, ..., each once, in this order."""
    if len(parts) != count or any(place(its) != i for i, its in enumerate(parts)):
        raise ValueError(f"{name} must be {count}, one for each place, in order of layers and heads")


SNIPPET = """\
import json
import sublinattn

with open("recommendation.json") as file:
    advice = json.load(file)
caches = {
    (its["layer"], its["key_head"]): getattr(sublinattn, its["cache"])(**its["parameters"])
    for its in advice["key_heads"]
}
# caches[layer, key_head].update(keys, values), then .attend(queries): of all query heads that read this key head.
"""
"""Builds exactly the caches of the file in the working folder."""
