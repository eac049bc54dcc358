"""Synthetic inputs whose hardness is set by parameters: one function per workload.

Two numbers decide whether HyperAttention's analysis applies [HA24, section 2]: `alpha = n max_j ||P e_j||_2^2`,
between 1 and n^2, and `kappa`, the ratio of the largest to the smallest row sum of `A = exp(s Q K^T)`. Each docstring
states both, as formulas for large n and nothing masked.

How a wanted softmax mass is planted: noise has no component along the all-ones vector. A key of ones therefore meets a
query `g + c 1` with logit `s c d`, whatever its noise g. In the other d - 1 directions the noise is Gaussian with
entries of deviation sigma; `noise` is the standard deviation of its logits. The sum over n such keys of `exp(s <g, k>)`
is `n exp(s^2 sigma^2 |g|^2 / 2)` up to a relative error of order `noise / sqrt(n)`: known without an n x n array.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy

from ...core import checks

Array = np.ndarray
Arrays = tuple[Array, Array, Array]
Rng = np.random.Generator
_ROWS = 1024  # of keys that are compared with the others at once
_LARGEST = 1e4  # logit at which float32 still rounds differences of logits to 1e-3


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
    """Queries and keys around shared centers; the clusters' sizes differ by at most one, positions are random.

    Centres have norm sqrt(d); every query and key lies at distance exactly `spread sqrt(d)` from its center, so the
    keys are (clusters, 2 spread sqrt(d))-clusterable in the sense of [SG24].

    At scale 1/sqrt(d), while a query's own cluster holds its mass (`clusters << exp(sqrt(d))`), with g_j, h_i N(0, 1):
    alpha: `clusters max_j exp(2 spread g_j - spread^2)`, which grows with n through `max_j g_j` alone.
    kappa: `max_i exp(spread h_i) / min_i exp(spread h_i)`.
    """
    checks.between("spread", spread, 0)
    checks.count("clusters", clusters, maximum=n)
    centers = _sphere(rng, clusters, d)
    q, k = (centers[rng.permutation(n) % clusters] + spread * _sphere(rng, n, d) for _ in range(2))
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
    """Heavy entries that hashing should find: each of `share * n` queries is nearly parallel to one key.

    `closeness` is the cosine between the two: they agree in r sign bits with probability `(1 - acos(closeness)/pi)^r`.
    `strength` is the share of the query's softmax mass that its key takes, on average: the sum over the other keys is
    replaced by its mean, which has a closed form. Positions are random; all other rows are Gaussian noise.

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
    k[columns] = length * near
    q[rows] = length * (closeness * near + np.sqrt(1 - closeness**2) * unit(aside))
    return q, k, rng.standard_normal((n, d_v))


def sinks(
    rng: Rng,
    n: int,
    d: int,
    d_v: int,
    s: float,
    *,
    sinks: int = 4,
    mass: float = 0.5,
    noise: float = 0.5,
    sink_positions: Sequence[int] | None = None,
) -> Arrays:
    """Attention sinks [SINK24]: the first `sinks` keys take the share `mass` of every query's softmax, in equal parts.

    With `sink_positions` it is the keys at these `sinks` positions.

    alpha: `(n mass / sinks)^2`, quadratic in n; alpha of the noise alone when the sinks are in the exact part.
    kappa: kappa of the noise, `exp(noise^2 (max_i g_i - min_i g_i) / 2)`, g_i the squared norm of query i's noise over
    its mean.
    """
    checks.count("sinks", sinks, maximum=n - 1)
    keys = np.arange(sinks) if sink_positions is None else np.array(sink_positions)
    inside = keys.dtype.kind in "iu" and ((keys >= 0) & (keys < n)).all()
    if not inside or keys.shape != (sinks,) or len(np.unique(keys)) < sinks:
        raise ValueError(f"sink_positions must be {sinks} different positions below {n}, got {sink_positions}")
    q, k = _background(rng, n, d, s, noise)
    _attract(q, k, keys, mass, noise, s)
    return q, k, rng.standard_normal((n, d_v))


def alpha(rng: Rng, n: int, d: int, d_v: int, s: float, *, alpha: float = 16.0, noise: float = 0.05) -> Arrays:
    """A chosen alpha: one key, at a random position, takes `sqrt(alpha) / n` of every query's softmax mass.

    alpha: the parameter, within 5 percent. The noise alone has `(1 - sqrt(alpha)/n)^2 max_j exp(2 c_j - noise^2)`, c_j
    the variance of the logits of key j; a parameter below that is refused.
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
    """A chosen kappa: all keys share an offset and the queries spread along it, which shifts each row of the logits.

    The shifts space the logarithms of the row sums evenly, in random order. They cancel in the softmax matrix P, which
    stays that of the noise.

    alpha: `max_j exp(2 c_j - noise^2)`, c_j the variance of the logits of key j: close to 1, whatever kappa is.
    kappa: the parameter, within 5 percent.
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
    """A few rows of V `factor` times as long as the others, at random positions, which sampling by norm finds.

    With `mass`, their keys also take that share of every query's softmax mass, so that missing them changes the output.

    alpha: alpha of Gaussian noise; with `mass`, `(n mass / rows)^2`.
    kappa: kappa of Gaussian noise.
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


def compressible(rng: Rng, n: int, d: int, d_v: int, s: float, *, decay: float = 1.0, radius: float = 1.0) -> Arrays:
    """An output with few large rows, which a k-sparse answer can approximate; with `decay = 0` all rows are alike.

    Norms of the queries fall as `rank^-decay`, in random order, and the rows of the output fall with them: keys come in
    pairs `k, -k` of one norm (a last one without a partner is 0) and values are linear in the keys, so a query 0 has
    output 0 and a short query an output proportional to it. `radius` bounds `|s <q, k>|`.

    tail_k: `||tail_k(y)||^2 / ||y||^2` is about `k^(1 - 2 decay) / ((2 decay - 1) zeta(2 decay))` for `decay > 1/2`,
    whatever n is, and `1 - k/n` for `decay = 0`.
    alpha, kappa: at most `exp(4 radius)` and `exp(2 radius)`.
    """
    checks.between("decay", decay, 0)
    checks.between("radius", radius, 0)
    length = np.sqrt(radius / s)
    q = length * unit(rng.standard_normal((n, d))) * (rng.permutation(n) + 1.0)[:, None] ** -decay
    half = unit(rng.standard_normal((n // 2, d)))
    k = np.concatenate([half, -half, np.zeros((n % 2, d))])[rng.permutation(n)]
    return q, length * k, k @ rng.standard_normal((d, d_v))


def index(rng: Rng, n: int, d: int, d_v: int, s: float, *, mass: float = 0.99) -> Arrays:
    """INDEX [HO25]: every entry of v is a random bit, -1 or 1, and query i asks for row i of v.

    Keys are n random codewords of norm sqrt(d), near-orthogonal where `d >> log n`. Query i is key i times one factor
    for all, the least at which `s (|q_i||k_i| - <q_i, k_j>) >= log((n - 1) mass / (1 - mass))` for all other j: token i
    gets the share `mass` or more of its softmax, and the signs of the exact answer are the bits as long as `mass` is
    above 1/2. Whoever answers all queries therefore holds n d_v bits, whatever the keys are.

    mass: at least the parameter, for every query; equal to it at best where all keys are equally near.
    alpha: between `n mass^2` and `n (1 + n (1 - mass)^2)`; close to n.
    kappa: at most `1/mass`.
    """
    checks.count("n", n, minimum=2)
    checks.count("d", d, minimum=2)
    checks.between("mass", mass, 1 / n, 1, open_ends=True)
    k = _sphere(rng, n, d)
    nearest = -np.inf
    for at in range(0, n, _ROWS):
        products = k[at : at + _ROWS] @ k[at:].T  # earlier rows have met these already
        np.fill_diagonal(products, -np.inf)
        nearest = max(nearest, products.max())
    largest = np.log((n - 1) * mass / (1 - mass)) * d / (d - nearest)  # logit of a query with its own key
    if not largest <= _LARGEST:
        raise ValueError(
            f"n={n} codewords in d={d} dimensions are too near each other for queries that tell them apart"
        )
    return largest / (s * d) * k, k, rng.choice([-1.0, 1.0], size=(n, d_v))


def _sphere(rng: Rng, n: int, d: int) -> Array:
    """n uniform points of norm sqrt(d)."""
    x = rng.standard_normal((n, d))
    return x * (np.sqrt(d) / np.linalg.norm(x, axis=1, keepdims=True))


def unit(x: Array) -> Array:
    """The rows at norm 1."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _entry_std(noise: float, d: int, s: float) -> float:
    """Standard deviation of the entries of q and k (n, d) for which logits `s <q, k>` have deviation `noise`."""
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
    wanted = scipy.special.logit(mass) + np.log((n - len(keys)) / len(keys)) + _log_mean(q, noise, s)
    k[keys] = 1
    q += (wanted / (s * d))[:, None]


def _pair_product(n: int, d: int, share: float, closeness: float, strength: float, noise: float) -> float:
    """The `rho = s |q| |k|` at which a planted pair's entry takes the share `strength` of its row.

    Of the other keys, the fraction `share` is planted for other queries (logits of variance rho^2 / d); the others are
    noise (logits of variance rho noise / sqrt(d)). `margin` is concave, so a root, if any, lies before its maximum.
    """

    def margin(rho: float) -> float:
        noisy, others = rho * noise / (2 * np.sqrt(d)), rho**2 / (2 * d)
        mean = np.logaddexp(np.log1p(-share) + noisy, np.log(share) + others)
        return float(closeness * rho - mean - np.log(n - 1) - scipy.special.logit(strength))

    if margin(0) >= 0:
        return 0.0  # already at rho = 0, where all keys have equal mass, a key has more than `strength`
    top = scipy.optimize.minimize_scalar(lambda rho: -margin(rho), bounds=(0, -8 * margin(0)), method="bounded").x
    if margin(top) < 0:
        raise ValueError(f"strength={strength} is out of reach with n={n}, d={d}, {share=:.3g}, {closeness=}, {noise=}")
    return float(scipy.optimize.brentq(margin, 0, top))
