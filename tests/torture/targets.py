"""The public surface as the torture calls it: every function and state, what its arguments are, what it should answer.

A target makes its own arguments at random, good ones; `calls` changes some of them. Where what is asked has an exact
answer (exact attention, or a method whose budget holds everything), the answer is compared with dense attention in long
double: numbers as large as any float64 logit do not overflow there.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import sublinattn
from sublinattn.lab import workloads
from sublinattn.streams import absorb
from sublinattn.theory import verify

from .arguments import NOT_FINITE

Rng = np.random.Generator
Arguments = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """One public call.

    Attributes
    ----------
    name : str
    make : Callable[[Rng], Arguments]
        Good arguments.
    roles : dict[str, str]
        What each argument is: "array", or a key of `arguments.OTHERS`. An argument that is not listed is left alone.
    call : Callable[..., Any]
        Takes the arguments.
    exact : Callable[[Arguments], bool]
        Whether the answer to these arguments is that of exact attention.
    slack : Callable[[Arguments], float]
        What the method may be off by, as a multiple of the largest value.
    state : str
        The argument that is a state, which a refused call must leave as it was.
    infinite : tuple[str, ...]
        The parts of the result that may be infinite or NaN.
    takes : frozenset[tuple[str, str]]
        Arguments, with kinds of arrays among `arguments.BAD` that are good ones here.
    refuses : tuple[type[Exception], ...]
        What it raises beside ValueError, TypeError and OSError.
    dtype : Callable[[Any], Any]
        Of the answer, from that of the queries.
    optional : frozenset[str]
        Arguments that may be None here, beside `calls.OPTIONAL`.
    """

    name: str
    make: Callable[[Rng], Arguments]
    roles: dict[str, str]
    call: Callable[..., Any]
    exact: Callable[[Arguments], bool] = lambda a: False
    slack: Callable[[Arguments], float] = lambda a: 0.0
    state: str = ""
    infinite: tuple[str, ...] = ()
    takes: frozenset[tuple[str, str]] = frozenset({("v", "a column less")})
    refuses: tuple[type[Exception], ...] = ()
    dtype: Callable[[Any], Any] = lambda given: given
    optional: frozenset[str] = frozenset()


def some_dtype(rng: Rng) -> Any:
    return rng.choice([np.float64, np.float32, np.float32, np.float16])


def qkv(rng: Rng, kind: Any = None, lead: tuple[int, ...] | None = None, n: int | None = None) -> Arguments:
    """Queries, keys and values of some size, shape and dtype; causal calls need as many queries as keys."""
    kind = some_dtype(rng) if kind is None else kind
    lead = tuple(rng.integers(1, 3, rng.integers(0, 3))) if lead is None else lead
    n, d, d_v = int(rng.integers(2, 40)) if n is None else n, int(rng.integers(1, 9)), int(rng.integers(1, 6))
    size = rng.choice([0.3, 1.0, 3.0])
    shapes = {"q": (*lead, n, d), "k": (*lead, n, d), "v": (*lead, n, d_v)}
    return {name: (size * rng.standard_normal(shape)).astype(kind) for name, shape in shapes.items()}


def reference(q: Any, k: Any, v: Any, causal: bool, scale: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Exact attention in long double, and by how much each entry may be off in the dtype of the rows.

    A logit is a sum of d products, each off by a rounding of its size: that moves each softmax weight by the
    exponential of twice as much, and an answer by that share of the values' range, at most the whole of it.
    """
    kind = q.dtype
    eps = np.finfo(np.float32 if kind == np.float16 else kind).eps
    wide = [np.asarray(x, np.longdouble) for x in (q, k, v)]
    scale = np.longdouble(1) / np.sqrt(np.longdouble(q.shape[-1])) if scale is None else np.longdouble(scale)
    logits = scale * (wide[0] @ wide[1].swapaxes(-1, -2))
    size = np.abs(scale) * (np.abs(wide[0]) @ np.abs(wide[1]).swapaxes(-1, -2))
    if causal:
        hidden = ~np.tri(*logits.shape[-2:], dtype=bool)
        logits[..., hidden], size[..., hidden] = -np.inf, 0
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    out = weights @ wide[2] / weights.sum(axis=-1, keepdims=True)
    rounding = 16 * (q.shape[-1] + 4) * eps
    shift = rounding * (1 + size.max(axis=-1, keepdims=True))
    spread = wide[2].max(axis=-2, keepdims=True) - wide[2].min(axis=-2, keepdims=True)
    largest = np.abs(wide[2]).max(axis=-2, keepdims=True)
    allowed = np.minimum(np.expm1(np.minimum(2 * shift, 1)), 1) * spread + rounding * largest + np.finfo(kind).tiny
    if kind == np.float16:
        allowed = allowed + np.finfo(kind).eps * np.abs(out) + np.finfo(kind).smallest_subnormal
    return out, allowed


# ------------------------------------------------------------------------------------------------------ batch methods
OPTIONS: dict[str, tuple[str, Callable[[Rng, int], Any]]] = {
    "causal": ("flag", lambda rng, n: bool(rng.integers(2))),
    "scale": ("number", lambda rng, n: rng.choice([0.5, 1.0])),
    "return_lse": ("flag", lambda rng, n: bool(rng.integers(2))),
    "grouped": ("flag", lambda rng, n: bool(rng.integers(2))),
    "check_finite": ("flag", lambda rng, n: True),
    "rng": ("rng", lambda rng, n: int(rng.integers(2**31))),
    "block_size": ("count", lambda rng, n: int(rng.integers(1, 2 * n))),
    "sample_size": ("count", lambda rng, n: int(rng.integers(1, n + 1))),
    "lsh_bits": ("count", lambda rng, n: int(rng.integers(1, 9))),
    "estimator": ("choice", lambda rng, n: str(rng.choice(["practical", "theory"]))),
    "min_exact": ("count", lambda rng, n: int(rng.integers(0, 2 * n))),
    "exact_keys": ("positions", lambda rng, n: int(rng.integers(0, n))),
    "block_by": ("choice", lambda rng, n: None),
    "kde_queries": ("count", lambda rng, n: int(rng.integers(0, 5))),
    "landmarks": ("count", lambda rng, n: int(rng.integers(1, n + 1))),
    "iterations": ("count", lambda rng, n: 6),
    "features": ("count", lambda rng, n: int(rng.integers(1, 64))),
    "eps": ("number", lambda rng, n: float(rng.choice([0.3, 0.05]))),
    "basis": ("choice", lambda rng, n: str(rng.choice(["taylor", "chebyshev", "minimax"]))),
    "degree": ("count", lambda rng, n: int(rng.integers(1, 5))),
    "chunk_size": ("count", lambda rng, n: int(rng.integers(2, n + 1))),
    "rounds": ("count", lambda rng, n: int(rng.integers(1, 4))),
    "oversampling": ("count", lambda rng, n: int(rng.integers(0, 3))),
    "delta": ("number", lambda rng, n: 0.5),
    "replace": ("flag", lambda rng, n: bool(rng.integers(2))),
    "count": ("count", lambda rng, n: int(rng.integers(1, n + 1))),
    "queries": ("count", lambda rng, n: int(rng.integers(1, 2 * n))),
}
BATCH: dict[str, dict[str, Any]] = {
    "attention": {"exact": lambda a: True},
    "partial_attention": {"exact": lambda a: True, "dtype": lambda given: max(given, np.dtype(np.float32))},
    "hyper_attention": {"exact": lambda a: a.get("min_exact", 1024) is not None and a["k"].shape[-2] <= a["min_exact"]},
    "uniform_attention": {"exact": lambda a: not a["replace"] and a["sample_size"] == a["k"].shape[-2]},
    "polynomial_attention": {"exact": lambda a: a.get("eps") is not None, "slack": lambda a: 2.0 * a["eps"]},
    "kdeformer_attention": {},
    "nystrom_attention": {},
    "performer_attention": {},
    "reformer_attention": {},
    "thinformer_attention": {},
    "hardness": {"infinite": ("kappa",)},
    "heavy_keys": {},
}
NOT_CAUSAL = ("kdeformer_attention", "nystrom_attention", "thinformer_attention")


def batch(name: str, **promised: Any) -> Target:
    function = getattr(sublinattn, name)
    known = [parameter for parameter in inspect.signature(function).parameters if parameter in OPTIONS]

    def make(rng: Rng) -> Arguments:
        arrays = qkv(rng)
        n = arrays["k"].shape[-2]
        chosen = {option: OPTIONS[option][1](rng, n) for option in known}
        if name == "polynomial_attention":  # entries as small as the method needs
            arrays |= {x: (arrays[x] / 8).astype(arrays[x].dtype) for x in "qk"}
            chosen |= {"degree": 4} if rng.random() < 0.3 else {"degree": None}
            chosen["eps"] = chosen["eps"] if chosen["degree"] is None else None
        if name in NOT_CAUSAL:
            chosen["causal"] = False
        if name == "heavy_keys":
            arrays.pop("v")
        if name == "uniform_attention" and rng.random() < 0.5:
            chosen |= {"sample_size": n, "replace": False}
        return arrays | chosen

    roles = {"q": "array", "k": "array", "v": "array"} | {option: OPTIONS[option][0] for option in known}
    if name == "heavy_keys":
        roles.pop("v")
    return Target(name, make, roles, function, **promised)


# ------------------------------------------------------------------------------------------------------------- states
CACHES: dict[str, tuple[dict[str, str], Callable[[Rng, int], Arguments], Callable[[Arguments, int], bool]]] = {
    "ExactCache": ({}, lambda rng, n: {}, lambda a, n: True),
    "ZeroCache": ({}, lambda rng, n: {}, lambda a, n: False),
    "SinkCache": (
        {"window": "count", "sinks": "count"},
        lambda rng, n: {"window": int(rng.integers(1, 2 * n)), "sinks": int(rng.integers(0, 4))},
        lambda a, n: a["window"] + a["sinks"] >= n,
    ),
    "HeavyHitterCache": (
        {"budget": "count", "recent": "count"},
        lambda rng, n: {"budget": int(rng.integers(3, 2 * n + 3)), "recent": int(rng.integers(0, 4))},
        lambda a, n: a["budget"] >= n,
    ),
    "KCenterCache": (
        {"budget": "count", "recent": "count"},
        lambda rng, n: {"budget": int(rng.integers(3, 2 * n + 3)), "recent": int(rng.integers(0, 4))},
        lambda a, n: a["budget"] >= n,
    ),
    "ReservoirCache": (
        {"budget": "count", "weights": "choice", "rng": "rng"},
        lambda rng, n: (
            {"budget": int(rng.integers(1, 2 * n)), "rng": 0}
            | {"weights": str(rng.choice(["uniform", "value-norm", "priority"]))}
        ),
        lambda a, n: a["budget"] >= n and a["weights"] != "value-norm",
    ),
    "SubGenCache": (
        {"delta": "number", "cluster_samples": "count", "value_samples": "count", "recent": "count", "rng": "rng"},
        lambda rng, n: {
            "delta": 1.0,
            "cluster_samples": int(rng.integers(1, 5)),
            "value_samples": int(rng.integers(1, 9)),
            "recent": int(rng.choice([0, 3, 2 * n])),
            "rng": 0,
        },
        lambda a, n: a["recent"] >= n,
    ),
    "BalanceKVCache": (
        {"batch": "count", "pairs": "flag", "centred": "flag", "c": "number", "levels": "count", "rng": "rng"},
        lambda rng, n: (
            {"batch": 2 * int(rng.integers(1, n)), "pairs": bool(rng.integers(2)), "centred": False}
            | {"c": None, "levels": None, "rng": 0}
        ),
        lambda a, n: a["batch"] > n,
    ),
    "BucketedBalanceKVCache": (
        {
            "batch": "count",
            "buckets": "count",
            "pairs": "flag",
            "centred": "flag",
            "c": "number",
            "levels": "count",
            "rng": "rng",
        },
        lambda rng, n: (
            {"batch": 2 * int(rng.integers(1, n)), "pairs": bool(rng.integers(2)), "centred": False}
            | {"c": None, "levels": None, "rng": 0}
        ),
        lambda a, n: False,  # classes of short values may be erased
    ),
}


def cache_built(name: str) -> Target:
    """A cache is made, takes all tokens, goes through its file, and answers."""
    roles, options, holds_all = CACHES[name]

    def make(rng: Rng) -> Arguments:
        arrays = qkv(rng, lead=tuple(rng.integers(1, 3, rng.integers(0, 2))))
        return options(rng, arrays["k"].shape[-2]) | arrays | {"cut": int(rng.integers(1, arrays["k"].shape[-2]))}

    def call(q: Any, k: Any, v: Any, cut: int, scale: Any = None, **parameters: Any) -> Any:
        cache = getattr(sublinattn, name)(**parameters)
        cache.update(k[..., :cut, :], v[..., :cut, :])
        return saved_and_loaded(cache).update(k[..., cut:, :], v[..., cut:, :]).attend(q, scale=scale)

    return Target(f"{name}(...)", make, roles | {"scale": "number"}, call, lambda a: holds_all(a, a["k"].shape[-2]))


def saved_and_loaded(state: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        state.save(Path(folder) / "state")
        return type(state).load(Path(folder) / "state")


def cache_fed(name: str, method: str) -> Target:
    """One call of `update` or `attend` of a cache that has tokens: refused, it leaves the cache as it was."""
    _, options, holds_all = CACHES[name]

    def make(rng: Rng) -> Arguments:
        arrays = qkv(rng, lead=tuple(rng.integers(1, 3, rng.integers(0, 2))))
        cache = getattr(sublinattn, name)(**options(rng, arrays["k"].shape[-2]))
        cut = int(rng.integers(1, arrays["k"].shape[-2]))
        if method == "attend":
            return {"self": cache.update(arrays["k"], arrays["v"]), "q": arrays["q"]}
        cache.update(arrays["k"][..., :cut, :], arrays["v"][..., :cut, :])
        return {"self": cache, "k": arrays["k"][..., cut:, :], "v": arrays["v"][..., cut:, :]}

    roles = {"q": "array", "scale": "number"} if method == "attend" else {"k": "array", "v": "array"}

    def call(**arguments: Any) -> Any:
        out = getattr(getattr(sublinattn, name), method)(**arguments)
        return out if method == "attend" else {key: x for key, x in out.contents().items() if key in ("keys", "values")}

    return Target(f"{name}.{method}", make, roles | {"check_finite": "flag"}, call, state="self")


def polynomial_state(rng: Rng) -> Arguments:
    arrays = qkv(rng, lead=())
    sizes = {"d": arrays["k"].shape[-1], "d_v": arrays["v"].shape[-1], "degree": 2, "basis": "taylor", "radius": None}
    return arrays | sizes


def ask_polynomial(q: Any, k: Any, v: Any, scale: Any = None, **parameters: Any) -> Any:
    state = sublinattn.PolynomialState(scale=scale, **parameters)
    return saved_and_loaded(state.update(k, v)).attend(q)


def one_pass(rng: Rng) -> Arguments:
    arrays = qkv(rng, lead=(), kind=rng.choice([np.float64, np.float32]))
    n, d, d_v = arrays["k"].shape[-2], arrays["k"].shape[-1], arrays["v"].shape[-1]
    sizes = {"n": n, "d": d, "d_v": d_v, "degree": 2, "sparsity": int(rng.integers(1, n + 1)), "rng": 0}
    return arrays | sizes | {"eps1": 0.5, "eps2": 0.5, "variant": str(rng.choice(["paper", "fused"])), "method": "scan"}


def ask_one_pass(q: Any, k: Any, v: Any, method: str = "scan", **parameters: Any) -> Any:
    sketch = sublinattn.OnePassSketch(**parameters).absorb_keys(k, v).absorb_queries(q)
    found = saved_and_loaded(sketch).decode(method)
    return {"values": found.values, "dense": found.todense()}


def absorb_arrays(rng: Rng) -> Arguments:
    arrays = qkv(rng, lead=(), kind=rng.choice([np.float32, np.float64]))
    return {"state": sublinattn.ExactCache(), "keys": arrays["k"], "values": arrays["v"], "rows": 7, "every": 30.0}


def made(**arguments: Any) -> Any:
    instance = workloads.make(**arguments)
    return {name: getattr(instance, name) for name in "qkv"}


def workload(rng: Rng) -> Arguments:
    return {"name": "gaussian", "n": int(rng.integers(1, 40)), "d": int(rng.integers(1, 9)), "rng": 0, "std": 1.0}


def instance(**arguments: Any) -> Any:
    found = workloads.Instance(**arguments)
    with tempfile.TemporaryDirectory() as folder:
        found.save(Path(folder) / "x")
        found = workloads.Instance.load(Path(folder) / "x")
    return {name: getattr(found, name) for name in "qkv"}


def of_hardness(method: str, argument: str, role: str, good: Any) -> Target:
    def make(rng: Rng) -> Arguments:
        arrays = qkv(rng, kind=np.float64)
        return {"self": sublinattn.hardness(arrays["q"], arrays["k"], rng=0), argument: good}

    def call(**arguments: Any) -> Any:
        out = getattr(sublinattn.Hardness, method)(**arguments)
        return {f"{i}": x for i, x in enumerate(out)} if isinstance(out, tuple) else out

    return Target(f"Hardness.{method}", make, {argument: role}, call)


def verified(**arguments: Any) -> Any:
    return np.array(float(verify(**arguments).trials))


def checkpoint_of(path: Any) -> Any:
    """A state saved to a path of any kind."""
    rng = np.random.default_rng(0)
    cache = sublinattn.ExactCache().update(*(rng.standard_normal((2, 5, 3))))
    cache.save(path=path)
    return {}


NUMBER, COUNT, FLAG, CHOICE, RNG = "number", "count", "flag", "choice", "rng"
TARGETS: list[Target] = [
    *(batch(name, **promised) for name, promised in BATCH.items()),
    *(cache_built(name) for name in CACHES),
    *(cache_fed(name, method) for name in CACHES for method in ("update", "attend")),
    Target(
        "PolynomialState(...)",
        polynomial_state,
        {"d": COUNT, "d_v": COUNT, "degree": COUNT, "basis": CHOICE, "radius": NUMBER, "scale": NUMBER}
        | dict.fromkeys("qkv", "array"),
        ask_polynomial,
        takes=frozenset({("v", "a column less"), ("q", "another dtype")}),
    ),
    Target(
        "OnePassSketch(...)",
        one_pass,
        {"n": COUNT, "d": COUNT, "d_v": COUNT, "degree": COUNT, "sparsity": COUNT, "eps1": NUMBER, "eps2": NUMBER}
        | {"variant": CHOICE, "rng": RNG, "method": CHOICE, "scale": NUMBER}
        | dict.fromkeys("qkv", "array"),
        ask_one_pass,
    ),
    Target(
        "streams.absorb",
        absorb_arrays,
        {"keys": "array", "values": "array", "rows": COUNT, "every": NUMBER},
        lambda **a: absorb(progress=False, **a).contents(),
        takes=frozenset({("values", "a column less"), ("keys", "a column less")})
        | {(name, kind) for name in ("keys", "values") for kind in ("a generator", "a list")}
        | {("every", "inf")},
    ),
    Target(
        "workloads.make",
        workload,
        {"name": CHOICE, "n": COUNT, "d": COUNT, "rng": RNG, "std": NUMBER, "d_v": COUNT, "scale": NUMBER},
        made,
    ),
    Target(
        "workloads.Instance",
        lambda rng: qkv(rng) | {"scale": 1.0},
        {"q": "array", "k": "array", "v": "array", "scale": NUMBER},
        instance,
        takes=frozenset({("v", "a column less")} | {(name, kind) for name in "qkv" for kind in NOT_FINITE}),
        infinite=("q", "k", "v"),
    ),
    of_hardness("heaviest", "count", COUNT, 1),
    of_hardness("alpha_without", "count", COUNT, 1),
    of_hardness("cluster_count", "delta", NUMBER, 0.5),
    of_hardness("cluster_radius", "m", COUNT, 1),
    Target(
        "theory.verify",
        lambda rng: {"claim": "ha24.gray-adjacency", "effort": "smoke", "rng": 0, "backend": "auto"},
        {"claim": CHOICE, "effort": CHOICE, "rng": RNG, "backend": CHOICE},
        verified,
        refuses=(KeyError,),
    ),
    Target("ExactCache.save", lambda rng: {"path": "state"}, {"path": "path"}, partial(checkpoint_of)),
]
