"""A method on a workload: its errors over repetitions, beside yardsticks and a bound, and HyperAttention's mask."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from ...core.exact import attention
from ...lab.comparison.batch import BATCH
from ...lab.workloads import names
from ...lab.workloads.inputs import Input
from ...lab.workloads.instance import Instance
from ...lab.workloads.reference import Reference
from ...methods.baselines.uniform import uniform_attention
from ...methods.hyperattention.estimators import Estimator, practical_estimator
from ...methods.hyperattention.hyper import Problem, hyper_attention
from ...methods.hyperattention.sort_lsh import SortedBlocks
from ...theory import symbols
from ...theory.claim import evaluate

DELTA = 0.1
"""Probability with which Lemma 2's bound may fail."""
REPETITIONS = 12
METHODS = ("HyperAttention", "HyperAttention, theory", *(name for name in BATCH if name != "HyperAttention"))
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "method": METHODS,
    "workload": names(),
    "n": (128, 256, 512, 1024, 2048),
    "d": (8, 16, 32, 64, 128),
    "block_size": (8, 16, 32, 64, 128, 256),
    "sample_size": (8, 16, 32, 64, 128, 256),
    "lsh_bits": (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16),
    "exact_keys": (0, 1, 2, 4, 8, 16),
    "value_mean": (0.0, 0.5, 1.0, 2.0),
    "seed": tuple(range(10)),
}
"""The values that the controls offer."""


@dataclass(frozen=True)
class Setup:
    """A method and an input.

    Attributes
    ----------
    method : str
        One of `METHODS`. Those that have no block and no sample get as many key columns per query, `block_size +
        sample_size + exact_keys`.
    workload : str
        Of `sublinattn.lab.workloads.names()`; "real" has its own n, at most, and its own d.
    n, d : int
        Tokens, and width of a head.
    block_size, sample_size : int
        b and m of HyperAttention.
    lsh_bits : int
        Hyperplanes of its hash; 0 is its default.
    exact_keys : int
        First keys in every query's exact part.
    value_mean : float
        Added to all values but those of "real". Where their mean is 0, so nearly is the answer, and to answer zero is
        hard to beat.
    seed : int
        Of the input, and of the draws.

    Raises
    ------
    ValueError
        A method or a workload that there is none of; a number below the smallest that makes sense.
    """

    method: str = "HyperAttention"
    workload: str = "clustered"
    n: int = 1024
    d: int = 64
    block_size: int = 64
    sample_size: int = 64
    lsh_bits: int = 0
    exact_keys: int = 0
    value_mean: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("method", "workload"):
            if (given := getattr(self, name)) not in CHOICES[name]:
                raise ValueError(f"{name} must be one of {', '.join(CHOICES[name])}, got {given!r}")
        for name in ("n", "d", "block_size", "sample_size", "lsh_bits", "exact_keys", "seed"):
            least = int(name not in ("lsh_bits", "exact_keys", "seed"))
            if not isinstance(given := getattr(self, name), int) or given < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {given!r}")

    def code(self) -> str:
        """Lines of Python that print the error of the first repetition."""
        default = Setup()
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        told = ", ".join(f"{name}={value!r}" for name, value in given.items() if value != getattr(default, name))
        imports = "from sublinattn.suite.explore import Setup, look"
        return f"{imports}\n\nseen = look(Setup({told}), repetitions=1)\nprint(seen.error())"

    def instance(self) -> Instance:
        """The input: queries, keys and values."""
        what = Input(self.workload, self.workload, value_mean=self.value_mean)
        return what.draw(self.n, self.d, np.random.default_rng(self.seed))

    def sizes(self, n: int) -> dict[str, Any]:
        """HyperAttention's parameters for n keys."""
        bits = {"lsh_bits": self.lsh_bits} if self.lsh_bits else {}
        c = min(self.exact_keys, n)
        return {"block_size": self.block_size, "sample_size": min(self.sample_size, n), "exact_keys": c, **bits}

    def columns(self, n: int) -> int:
        """Key columns that a query meets."""
        return min(n, self.block_size + self.sample_size + self.exact_keys)


@dataclass(frozen=True)
class Look:
    """What was seen of a `Setup`.

    Attributes
    ----------
    setup : Setup
    rows : DataFrame
        method (the setup's, "uniform", "zero", "exact"), repetition, error (operator norm of the output's error over
        `|P| |V|`), seconds.
    p : array, shape (n, n)
        The softmax matrix.
    orders : pair of integer arrays (n,)
        Queries and keys in the order of HyperAttention's first repetition, the exact keys first.
    mask : array of bool, shape (n, n)
        The entries that it computes exactly, in that order.
    bound : float
        Lemma 2's error for m rows of V sampled by their norms, exceeded with probability `DELTA` at most; no bound of
        the whole method.
    facts : mapping
        n, d, columns (key columns that a query meets), alpha, alpha_rest (of all keys but the exact ones), mass (share
        of the softmax weights that the mask has), zero.
    problem : str
        Why the method gave no answer; empty if it did.
    """

    setup: Setup
    rows: pd.DataFrame
    p: np.ndarray
    orders: tuple[np.ndarray, np.ndarray]
    mask: np.ndarray
    bound: float
    facts: Mapping[str, float]
    problem: str = ""

    def error(self, method: str | None = None) -> float:
        """The median error of a method; of the setup's by default."""
        named = self.rows.loc[self.rows["method"] == (method or self.setup.method), "error"]
        return float(named.median()) if len(named) else float("nan")

    def words(self) -> list[str]:
        """Sentences: the error beside the yardsticks, the bound, the mask, the time."""
        facts, zero = self.facts, self.facts["zero"]
        if self.problem:
            return [f"{self.setup.method} gave no answer: {self.problem}"]
        error, uniform = self.error(), self.error("uniform")
        ranking = "better" if error < uniform else "no better"
        said = [
            f"{self.setup.method}: error {error:.3g} of |P| |V| (median), {ranking} than a uniform sample of as many "
            f"keys ({uniform:.3g}); answering zero has {zero:.3g}."
        ]
        if self.bound >= zero:
            said.append(f"Lemma 2's bound for m samples is {self.bound:.3g}: vacuous, for answering zero keeps it.")
        else:
            said.append(f"Lemma 2's bound for m samples is {self.bound:.3g}.")
        said.append(
            f"A query meets {facts['columns']:.0f} of {facts['n']:.0f} keys. The mask has {self.mask.mean():.1%} of "
            f"the entries and {facts['mass']:.1%} of the softmax weights."
        )
        rest = f", {facts['alpha_rest']:.3g} without the exact keys" if self.setup.exact_keys else ""
        milliseconds = 1000 * self.rows.groupby("method")["seconds"].median()
        said.append(
            f"alpha is {facts['alpha']:.3g}{rest}. A call took {milliseconds[self.setup.method]:.1f} ms, exact "
            f"attention {milliseconds['exact']:.1f} ms."
        )
        return said


def look(setup: Setup, *, repetitions: int = REPETITIONS, seconds: float = np.inf) -> Look:
    """Run the method and its yardsticks `repetitions` times: the same setup gives the same errors.

    After `seconds` no further repetition begins; one is always run.
    """
    instance = setup.instance()
    x, arrays = Reference(instance), (instance.q, instance.k, instance.v)
    n, began = len(x.k), time.perf_counter()
    columns, sizes = setup.columns(n), setup.sizes(n)
    rows: list[tuple[str, int, float, float]] = []
    problem = ""

    def note(name: str, repetition: int, call: Callable[[], Any]) -> bool:
        """Whether the method has parameters for this budget."""
        start = time.perf_counter()
        out = call()
        passed = time.perf_counter() - start
        if out is not None:
            rows.append((name, repetition, x.error(out), passed))
        return out is not None

    note("exact", 0, lambda: attention(*arrays, scale=x.scale))
    note("zero", 0, lambda: np.zeros_like(x.output))
    for repetition in range(repetitions):
        if repetition and time.perf_counter() - began > seconds:
            break
        seeds = [setup.seed, repetition]
        try:
            if not note(setup.method, repetition, lambda s=seeds: _answer(setup, arrays, x.scale, sizes, columns, s)):  # type: ignore[misc]
                problem = f"it has no parameters for {columns} key columns"
        except ValueError as error:
            problem = str(error)
        given = {"sample_size": columns, "scale": x.scale, "rng": np.random.default_rng(seeds)}
        note("uniform", repetition, lambda how=given: uniform_attention(*arrays, **how))  # type: ignore[misc]
        if problem:
            break
    orders, mask = _mask(setup, instance, sizes)
    table = pd.DataFrame(rows, columns=["method", "repetition", "error", "seconds"])
    needed = evaluate(symbols.AMM_SIZE, {**x.facts, "varepsilon": 1.0, "delta": DELTA})  # for an error of 1
    facts = {"n": float(n), "d": float(x.q.shape[1]), "columns": float(columns), "zero": x.facts["zero"]}
    squares = n * (x.p**2).sum(axis=0)
    facts |= {"alpha": float(squares.max()), "alpha_rest": float(squares[sizes["exact_keys"] :].max(initial=0))}
    facts["mass"] = float(x.p[np.ix_(*orders)][mask].sum() / n)
    return Look(setup, table, x.p, orders, mask, (needed / sizes["sample_size"]) ** 0.5, facts, problem)


def _answer(
    setup: Setup, arrays: tuple[Any, ...], scale: float, sizes: Mapping[str, Any], columns: int, seeds: list[int]
) -> Any:
    rng = np.random.default_rng(seeds)
    if setup.method.startswith("HyperAttention"):
        kind: Any = "theory" if setup.method.endswith("theory") else "practical"
        return hyper_attention(*arrays, scale=scale, min_exact=0, estimator=kind, rng=rng, **sizes)
    return BATCH[setup.method].answer(*arrays, budget=columns, scale=scale, rng=rng)


def _mask(setup: Setup, x: Instance, sizes: Mapping[str, Any]) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The order of queries and keys in HyperAttention's first repetition, and which entries it computes exactly."""
    n, c = len(x.k), sizes["exact_keys"]
    seen: list[SortedBlocks] = []

    def noted(problem: Problem, blocks: SortedBlocks) -> Estimator:
        seen.append(blocks)
        return practical_estimator(problem, blocks)

    how = {**sizes, "rng": np.random.default_rng([setup.seed, 0]), "make_estimator": noted}
    del how["exact_keys"]
    Problem(np, *(a[None] for a in (x.q, x.k, x.v)), scale=x.scale, shift=True, **how).full(c)
    if not seen:
        return (np.arange(len(x.q)), np.arange(n)), np.ones((len(x.q), n), bool)
    (blocks,) = seen
    q_order, k_order = blocks.q_order[0], np.concatenate([np.arange(c), blocks.k_order[0]])
    q_block, k_block = np.arange(len(q_order)) // blocks.q_block_size, np.arange(n - c) // blocks.block_size
    return (q_order, k_order), np.concatenate([np.ones((len(q_order), c), bool), q_block[:, None] == k_block], axis=1)
