"""Inputs to try a method on: synthetic ones whose hardness is a dial, and one captured from a trained encoder.

Two numbers decide whether HyperAttention's analysis applies [HA24, section 2]: `alpha = n max_j ||P e_j||_2^2`,
between 1 and n^2, and `kappa`, the ratio of the largest to the smallest row sum of `A = exp(s Q K^T)`. Each workload's
docstring says what both are, as formulas for large n and nothing masked.

How the dials work. The all-ones direction is kept free of noise and carries what is planted: a key of ones meets a
query `g + c 1` with logit `s c d`, whatever its noise g. The noise in the other d - 1 directions is Gaussian of entry
deviation sigma; `noise` is the standard deviation of its logits. The sum over n background keys of `exp(s <g, k>)` is
`n exp(s^2 sigma^2 |g|^2 / 2)` up to a relative error of order `noise / sqrt(n)`: known without an n x n array.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from scipy.optimize import brentq, minimize_scalar
from scipy.special import logit

from ...core import checks
from .compressible import compressible
from .instance import Instance
from .token_streams import clusterable, drifting, needles

__all__ = ["Instance", "make", "names", "real"]

Array = np.ndarray
Arrays = tuple[Array, Array, Array]
Rng = np.random.Generator


def names() -> tuple[str, ...]:
    """Names of the workloads that `make` knows."""
    return (*_SYNTHETIC, "real")


def make(
    name: str,
    n: int,
    d: int,
    *,
    rng: None | int | Rng,
    d_v: int | None = None,
    dtype: DTypeLike = np.float32,
    scale: float | None = None,
    **knobs: Any,
) -> Instance:
    """One head of a workload, as NumPy arrays: q, k of shape (n, d), v of shape (n, d_v).

    Parameters
    ----------
    name : str
        One of `names()`.
    n, d : int
        Tokens and head dimension.
    rng : None, int or numpy.random.Generator
        Same seed, same arrays ("real" draws nothing).
    d_v : int, optional
        Columns of the values; `d` by default.
    dtype : floating dtype
        Of the result; draws are made in float64.
    scale : float, optional
        `1/sqrt(d)` by default. Only in "gaussian", "clustered", "clusterable" and "drifting" do logits depend on it.
    **knobs
        The workload's own: the keyword arguments of the function of that name, here or in the files imported above.

    Raises
    ------
    ValueError
        If the workload or a knob does not exist, or a value is out of range; the message says what there is.

    Notes
    -----
    O(n (d + d_v)) time and memory.
    """
    if name not in names():
        raise ValueError(f"unknown workload {name!r}; there are {', '.join(names())}")
    sizes = {"n": n, "d": d, "d_v": d if d_v is None else d_v}
    for key, size in sizes.items():
        checks.count(key, size)
    if np.dtype(dtype).kind != "f":
        raise ValueError(f"dtype must be a floating dtype, got {np.dtype(dtype)}")
    s = 1 / np.sqrt(d) if scale is None else scale
    checks.between("scale", s, 0, open_ends=True)
    draw = _SYNTHETIC.get(name, _real_head)
    defaults = {p.name: p.default for p in inspect.signature(draw).parameters.values() if p.kind is p.KEYWORD_ONLY}
    if unknown := sorted(set(knobs) - set(defaults)):
        known = ", ".join(f"{key}={value}" for key, value in defaults.items())
        raise ValueError(f"workload {name!r} has no knob {', '.join(unknown)}; it has {known}")

    q, k, v = draw(np.random.default_rng(rng), *sizes.values(), s, **knobs)
    made_with = {**sizes, **defaults, **knobs, "seed": rng if isinstance(rng, int | np.integer) else None}
    return Instance(
        q.astype(dtype),
        k.astype(dtype),
        v.astype(dtype),
        scale=float(s),
        name=name,
        params={key: x.item() if isinstance(x, np.generic) else x for key, x in made_with.items()},
        source=real().source if name == "real" else "synthetic",
    )


def real() -> Instance:
    """The captured input that comes with the package: every layer and head of all-MiniLM-L6-v2 on one text.

    q, k, v are float16 of shape (6, 12, 512, 32): layer, head, token, head dimension. Tokens 0 and 511 are the
    encoder's [CLS] and [SEP]. The encoder is not causal. How it was made, and what its length means:
    `sublinattn/data/README.md`.
    """
    with resources.as_file(resources.files("sublinattn") / "data" / "minilm.safetensors") as path:
        return Instance.load(path)


def gaussian(rng: Rng, n: int, d: int, d_v: int, s: float, *, std: float = 1.0) -> Arrays:
    """Every entry of q and k is N(0, std^2), of v N(0, 1).

    alpha: `max_j (1 + 2u)^(-d/2) exp(2 s^2 std^2 |k_j|^2 / (1 + 2u))`, `u = s^2 std^4`, in the limit of many queries.
    At scale 1/sqrt(d) and std 1 a typical column gives about e and the maximum grows like `exp(O(sqrt(log(n) / d)))`;
    with finitely many queries it fluctuates upwards (1.0 to 2.4 times at n = 1024, d = 64).
    kappa: `exp(s^2 std^2 (max_i |q_i|^2 - min_i |q_i|^2) / 2)`.
    """
    checks.between("std", std, 0)
    return std * rng.standard_normal((n, d)), std * rng.standard_normal((n, d)), rng.standard_normal((n, d_v))


def clustered(rng: Rng, n: int, d: int, d_v: int, s: float, *, clusters: int = 32, spread: float = 0.1) -> Arrays:
    """Queries and keys around shared centres; the clusters' sizes differ by at most one, positions are random.

    Centres have norm sqrt(d); every query and key lies at distance exactly `spread sqrt(d)` from its centre, so the
    keys are (clusters, 2 spread sqrt(d))-clusterable in the sense of [SG24].

    At scale 1/sqrt(d), while a query's own cluster holds its mass (`clusters << exp(sqrt(d))`), with g_j, h_i N(0, 1):
    alpha: `clusters max_j exp(2 spread g_j - spread^2)`, which grows with n through `max_j g_j` alone.
    kappa: `max_i exp(spread h_i) / min_i exp(spread h_i)`.
    """
    checks.between("spread", spread, 0)
    checks.count("clusters", clusters, maximum=n)
    centres = _sphere(rng, clusters, d)
    q, k = (centres[rng.permutation(n) % clusters] + spread * _sphere(rng, n, d) for _ in range(2))
    return q, k, rng.standard_normal((n, d_v))


def planted(
    rng: Rng,
    n: int,
    d: int,
    d_v: int,
    s: float,
    *,
    share: float = 0.1,
    closeness: float = 0.98,
    strength: float = 0.5,
    noise: float = 0.5,
) -> Arrays:
    """Heavy entries that hashing should find: `share * n` queries, each nearly parallel to a key of its own.

    `closeness` is the cosine between the two: they agree in r sign bits with probability `(1 - acos(closeness)/pi)^r`.
    `strength` is the share of the query's softmax mass that its key takes, on average (the mean over the other keys, in
    closed form, stands for their sum). Positions are random, all else is Gaussian noise.

    alpha: `n strength^2`, linear in n; with the planted entries in the mask M^H, about that of the noise.
    kappa: `E / ((1 - strength) exp(noise^2 / 2))`, E the mean of `exp(logit)` of a planted query over the other keys.
    """
    checks.between("share", share, 0, 1)
    checks.between("closeness", closeness, 0, 1)
    checks.between("strength", strength, 0, 1, open_ends=True)
    checks.between("noise", noise, 0)
    pairs = round(share * n)
    if not 1 <= pairs < n:
        raise ValueError(f"share={share} of n={n} is {pairs} planted pairs; there must be between 1 and n - 1")
    length = np.sqrt(_pair_product(n, d, pairs / n, closeness, strength, noise) / s)
    q, k = (_entry_std(noise, d, s) * rng.standard_normal((n, d)) for _ in range(2))
    rows, columns = (rng.permutation(n)[:pairs] for _ in range(2))
    near = _sphere(rng, pairs, d) / np.sqrt(d)
    aside = rng.standard_normal((pairs, d))
    aside -= np.sum(aside * near, axis=1, keepdims=True) * near
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    k[columns] = length * near
    q[rows] = length * (closeness * near + np.sqrt(1 - closeness**2) * aside)
    return q, k, rng.standard_normal((n, d_v))


def sinks(
    rng: Rng, n: int, d: int, d_v: int, s: float, *, sinks: int = 4, mass: float = 0.5, noise: float = 0.5
) -> Arrays:
    """Attention sinks [SINK24]: the first `sinks` keys take the share `mass` of every query's softmax, in equal parts.

    alpha: `(n mass / sinks)^2`, quadratic in n; with the sinks in the exact part, that of the noise.
    kappa: that of the noise, `exp(noise^2 (max_i g_i - min_i g_i) / 2)`, g_i the squared norm of query i's noise over
    its mean.
    """
    checks.count("sinks", sinks, maximum=n - 1)
    q, k = _background(rng, n, d, s, noise)
    _attract(q, k, np.arange(sinks), mass, noise, s)
    return q, k, rng.standard_normal((n, d_v))


def alpha(rng: Rng, n: int, d: int, d_v: int, s: float, *, alpha: float = 16.0, noise: float = 0.05) -> Arrays:
    """The alpha dial: one key, at a random position, takes `sqrt(alpha) / n` of every query's softmax mass.

    alpha: the knob, within 5 percent. The noise alone makes `(1 - sqrt(alpha)/n)^2 max_j exp(2 c_j - noise^2)`, c_j the
    variance of the logits of key j; a knob below that is refused.
    kappa: as for `sinks`, close to 1.
    """
    checks.between("alpha", alpha, 1, n**2)
    if alpha == n**2:
        raise ValueError(f"alpha must be below n^2 = {n**2}: one key would take all the mass")
    q, k = _background(rng, n, d, s, noise)
    mass = np.sqrt(alpha) / n
    floor = (1 - mass) ** 2 * np.exp(4 * _log_mean(k, noise, s).max() - noise**2)
    if floor > 1.05 * alpha:
        raise ValueError(f"alpha={alpha} cannot be reached with noise={noise}, which alone makes about {floor:.3g}")
    _attract(q, k, rng.integers(n, size=1), mass, noise, s)
    return q, k, rng.standard_normal((n, d_v))


def kappa(rng: Rng, n: int, d: int, d_v: int, s: float, *, kappa: float = 16.0, noise: float = 0.05) -> Arrays:
    """The kappa dial: all keys share an offset and the queries spread along it, which shifts each row of the logits.

    The shifts space the logarithms of the row sums evenly, in random order. They cancel in the softmax matrix P, which
    stays that of the noise.

    alpha: `max_j exp(2 c_j - noise^2)`, c_j the variance of the logits of key j: close to 1, whatever kappa is.
    kappa: the knob, within 5 percent.
    """
    checks.between("kappa", kappa, 1)
    checks.count("n", n, minimum=2)
    q, k = _background(rng, n, d, s, noise)
    wanted = np.log(kappa) * (rng.permutation(n) / (n - 1) - 0.5)
    k += 1
    q += ((wanted - _log_mean(q, noise, s)) / (s * d))[:, None]
    return q, k, rng.standard_normal((n, d_v))


def heavy_values(
    rng: Rng,
    n: int,
    d: int,
    d_v: int,
    s: float,
    *,
    rows: int = 8,
    factor: float = 100.0,
    mass: float | None = None,
    noise: float = 1.0,
) -> Arrays:
    """A few value rows `factor` times as long as the others, at random positions: sampling by norm finds them.

    With `mass`, their keys also take that share of every query's softmax mass, so that missing them changes the output.

    alpha, kappa: those of the noise, which is Gaussian; with `mass`, `(n mass / rows)^2` and unchanged.
    """
    checks.count("rows", rows, maximum=n - 1)
    checks.between("factor", factor, 0)
    q, k = _background(rng, n, d, s, noise)
    heavy = rng.permutation(n)[:rows]
    if mass is not None:
        _attract(q, k, heavy, mass, noise, s)
    v = rng.standard_normal((n, d_v))
    v[heavy] *= factor
    return q, k, v


_HERE = (gaussian, clustered, planted, sinks, alpha, kappa, heavy_values)
_SYNTHETIC: dict[str, Callable[..., Arrays]] = {
    f.__name__: f for f in (*_HERE, compressible, clusterable, drifting, needles)
}


def _real_head(rng: Rng, n: int, d: int, d_v: int, s: float, *, layer: int = 0, head: int = 0) -> Arrays:
    """The first n tokens of one head of `real()`."""
    stack = real()
    here = stack.q.shape[-1]
    if (d, d_v) != (here, here) or not np.isclose(s, stack.scale):
        raise ValueError(f"the real input has d = d_v = {here} and scale 1/sqrt({here}), got {d}, {d_v} and {s:.4g}")
    one = stack.head(layer, head).first(n)
    return one.q, one.k, one.v


def _sphere(rng: Rng, n: int, d: int) -> Array:
    """n uniform points of norm sqrt(d)."""
    x = rng.standard_normal((n, d))
    return x * (np.sqrt(d) / np.linalg.norm(x, axis=1, keepdims=True))


def _entry_std(noise: float, d: int, s: float) -> float:
    """The sigma of entries in d directions at which logits `s <q, k>` have the standard deviation `noise`."""
    return float(np.sqrt(noise / (s * np.sqrt(d))))


def _background(rng: Rng, n: int, d: int, s: float, noise: float) -> tuple[Array, Array]:
    """Gaussian q and k in the d - 1 directions orthogonal to the all-ones vector."""
    checks.between("noise", noise, 0)
    checks.count("d", d, minimum=2)
    q, k = (_entry_std(noise, d - 1, s) * rng.standard_normal((n, d)) for _ in range(2))
    return q - q.mean(axis=1, keepdims=True), k - k.mean(axis=1, keepdims=True)


def _log_mean(x: Array, noise: float, s: float) -> Array:
    """Log of the mean of `exp(s <x_i, y>)` over background rows y: half the variance of those logits."""
    return (s * _entry_std(noise, x.shape[1] - 1, s)) ** 2 * np.sum(x**2, axis=1) / 2


def _attract(q: Array, k: Array, keys: Array, mass: float, noise: float, s: float) -> None:
    """Make `keys` take the share `mass` of every query's softmax mass, in equal parts (in place)."""
    checks.between("mass", mass, 0, 1, open_ends=True)
    n, d = q.shape
    wanted = logit(mass) + np.log((n - len(keys)) / len(keys)) + _log_mean(q, noise, s)
    k[keys] = 1
    q += (wanted / (s * d))[:, None]


def _pair_product(n: int, d: int, share: float, closeness: float, strength: float, noise: float) -> float:
    """The `rho = s |q| |k|` at which a planted pair's entry takes the share `strength` of its row.

    Of the other keys, the part `share` is planted for other queries (logits of variance rho^2 / d), the rest is noise
    (variance rho noise / sqrt(d)). `margin` is concave: it has its root before its maximum, or nowhere.
    """

    def margin(rho: float) -> float:
        noisy, others = rho * noise / (2 * np.sqrt(d)), rho**2 / (2 * d)
        mean = np.logaddexp(np.log1p(-share) + noisy, np.log(share) + others)
        return float(closeness * rho - mean - np.log(n - 1) - logit(strength))

    if margin(0) >= 0:
        return 0.0  # one key's even share is more already
    top = minimize_scalar(lambda rho: -margin(rho), bounds=(0, -8 * margin(0)), method="bounded").x
    if margin(top) < 0:
        raise ValueError(f"strength={strength} is out of reach with n={n}, d={d}, {share=:.3g}, {closeness=}, {noise=}")
    return float(brentq(margin, 0, top))
