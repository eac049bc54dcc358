"""Fuzzed calls of the public surface: finite and right, or refused by a message that names an argument."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np

from .arguments import ARRAYS, EITHER, NOT_FINITE, OTHERS, REFUSED, RIGHT
from .children import TooLong, serve
from .table import HANG, WRONG
from .targets import TARGETS, Target, reference

Changes = dict[str, tuple[str, str]]
"""Which arguments were changed: how, and what is to become of them."""
OPTIONAL = frozenset(
    ("scale", "lsh_bits", "sample_size", "landmarks", "degree", "eps", "radius", "d_v", "levels", "c", "rng")
)
"""Arguments that may be None."""


def judged(number: int, seed: int) -> tuple[str, str, str]:
    """One call of a target with none, one or two of its arguments changed: the target, the outcome, and what it was."""
    rng, target = np.random.default_rng([seed, number]), TARGETS[number % len(TARGETS)]
    arguments = target.make(rng)
    changes = changed(target, arguments, rng)
    words = f"{target.name} with {'; '.join(f'{name}: {kind}' for name, (kind, _) in changes.items()) or 'no change'}"
    before = _contents(arguments[target.state]) if target.state else None
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = target.call(**arguments)
    except (ValueError, TypeError, OSError, *target.refuses) as error:
        outcome = refusal(error, target, changes)
        if before is not None and _contents(arguments[target.state]) != before:
            outcome = f"{WRONG}refused, but the state is not as it was"
        return target.name, outcome, f"{words}: {type(error).__name__}: {error}"
    except TooLong:
        return target.name, f"{WRONG}not ended after {HANG:.0f} s", words
    except BaseException as error:
        return target.name, f"{WRONG}{type(error).__name__}", f"{words}: {error}"
    outcome = answer(result, target, arguments, changes)
    if caught and not outcome.startswith(WRONG):
        return target.name, f"{WRONG}answered with a warning", f"{words}: {caught[0].message}"
    return target.name, outcome, words


def changed(target: Target, arguments: dict[str, Any], rng: np.random.Generator) -> Changes:
    """Change some arguments, in place."""
    changes = {}
    for name in map(str, rng.permutation(list(target.roles))[: rng.choice(3, p=[0.15, 0.7, 0.15])]):
        if target.roles[name] == "array":
            kind = str(rng.choice(list(ARRAYS)))
            change, expected = ARRAYS[kind]
            arguments[name] = change(arguments[name], rng)
            expected = EITHER if (name, kind) in target.takes else expected
        else:
            pool = OTHERS[target.roles[name]]
            arguments[name], expected = pool[rng.integers(len(pool))]
            kind = repr(arguments[name])[:60]
            expected = EITHER if (name, kind) in target.takes else expected
            if arguments[name] is None and expected == EITHER and name not in OPTIONAL | target.optional:
                expected = REFUSED
        changes[name] = (kind, expected)
    return changes


def refusal(error: Exception, target: Target, changes: Changes) -> str:
    """A refusal must have a reason, and name what it refuses: an argument that was changed, or one beside it."""
    expected = {expected for _, expected in changes.values()}
    if expected <= {RIGHT}:
        return f"{WRONG}good arguments are refused"
    names = set(changes) | {"the answer"}
    if any(target.roles[name] == "array" for name in changes):
        names |= {name for name, role in target.roles.items() if role == "array"}
    if EITHER in expected:  # two arguments that do not go together
        names |= set(target.roles) | {"absorb_queries", "logits"}
    text = " ".join([str(error), *getattr(error, "__notes__", ())])
    if any(re.search(rf"\b{name}\b", text) for name in names) or isinstance(error, OSError):
        return "refused by name"
    return f"{WRONG}refused, but no argument is named"


def answer(result: Any, target: Target, arguments: dict[str, Any], changes: Changes) -> str:
    """An answer must not have been asked for in vain, must be finite, and right where it is known what is right."""
    unscanned = not arguments.get("check_finite", True)
    if any(expected == REFUSED and not (unscanned and kind in NOT_FINITE) for kind, expected in changes.values()):
        return f"{WRONG}taken, where it should be refused"
    if unscanned and any(kind in NOT_FINITE for kind, _ in changes.values()):
        return "not scanned, as asked"
    parts = _parts(result)
    if not all(np.isfinite(x).all() for name, x in parts.items() if name not in target.infinite):
        return f"{WRONG}NaN or Inf from finite numbers"
    if not {"q", "k", "v"} <= set(arguments) or not target.exact(arguments):
        return "finite"
    q, v = arguments["q"], arguments["v"]
    want, allowed = reference(q, arguments["k"], v, bool(arguments.get("causal", False)), arguments.get("scale"))
    allowed = allowed + target.slack(arguments) * np.abs(np.asarray(v, np.longdouble)).max()
    got = parts["out"]
    if got.shape != want.shape or got.dtype.newbyteorder("=") != target.dtype(q.dtype.newbyteorder("=")):
        return f"{WRONG}shape {got.shape} in {got.dtype} for {want.shape} in {q.dtype}"
    return "right" if (np.abs(got - want) <= allowed).all() else f"{WRONG}not what exact attention is"


def _contents(state: Any) -> list[bytes]:
    return [np.asarray(x).tobytes() for _, x in sorted(state.contents().items())] + [str(state.tokens_seen).encode()]


def _parts(result: Any) -> dict[str, np.ndarray]:
    """Arrays of numbers in a result, the answer under "out"."""
    if hasattr(result, "output"):  # a Partial
        return {"out": result.output(), "lse": result.lse()}
    if isinstance(result, tuple):
        return {"out": result[0], "lse": result[1]}
    if hasattr(result, "alpha"):  # a Hardness
        return {name: x for name, x in vars(result).items() if name != "keys"}
    return result if isinstance(result, dict) else {"out": np.asarray(result)}


if __name__ == "__main__":
    serve(judged)
