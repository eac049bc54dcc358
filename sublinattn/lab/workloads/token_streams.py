"""Streams of tokens whose keys fall into known clusters [SG24]: a chosen number of them, drifting, or with needles.

[SG24] calls keys (m, delta)-clusterable if they can be divided into m parts in which any two keys are within delta. In
these streams keys of different parts are, besides, farther apart than delta. No division with fewer parts exists then,
and a rule that opens a cluster for every key farther than delta from all clusters opens m of them, in any order. Both
hold after rounding to float32; float16 is too coarse for either.

How the centers are chosen: a million points in d dimensions cannot be compared pair by pair, so the centers are an
orbit of a cyclic group of rotations (a group code, Slepian 1968), rotated at random. Coordinates are paired into d/2
planes; center j has the angle `2 pi j g_t / m` in plane t, for random integers g_t; all centers have one norm. The
distance of two centers depends only on the difference of their numbers, so there are m/2 distances to check.
"""

from __future__ import annotations

import numpy as np

from ...core import checks
from .synthetic import Array, Arrays, Rng, unit

ORDERS = ("random", "norm", "cluster")
SEPARATION = 3.0
"""Distance between centers, in units of delta, where a workload has no parameter for it."""
_TRIES = 16


def clusterable(
    rng: Rng,
    n: int,
    d: int,
    d_v: int,
    s: float,
    *,
    clusters: float = 32,
    exponent: float = 0.0,
    delta: float = 1.0,
    separation: float = SEPARATION,
    norm: float = 8.0,
    query_norm: float = 5.0,
    mean: float = 0.0,
    order: str = "random",
) -> Arrays:
    """Keys in `m = round(clusters * n^exponent)` clusters of diameter `delta`; values that do not cluster.

    Exponent 0 gives m = clusters; with `clusters=1`, exponent 0.5 gives sqrt(n) parts and exponent 1 parts of one key.
    Keys lie at distance delta/2 from centers of length `norm`, which are pairwise farther apart than
    `separation * delta`, more than twice delta. Sizes of parts differ by at most one.

    Queries have norm `query_norm`, the r of [SG24]'s theorem. Those in even positions point at a random center, at a
    cosine of about `2/sqrt(5)`; the others have uniform directions. Values are N(mean, 1), whatever the key.

    `order` permutes the tokens and changes nothing else for a given seed: "random"; "norm", by ascending norm of the
    value, the order in which a reservoir weighted by that norm replaces its content most often; "cluster", one part
    after another.

    m, delta, r: the parameters, exactly. Inside a part `exp(s <q, k>)` varies by a factor of at most `exp(s delta r)`.
    srank(V): about `d_v (1 + mean^2) / (1 + d_v mean^2)` for n >> d_v.
    alpha, kappa: at most `exp(4 R)` and `exp(2 R)`, where `R = s r (norm + delta/2)` bounds the logits.
    """
    checks.between("clusters", clusters, 0, open_ends=True)
    checks.between("exponent", exponent, 0, 1)
    _check_lengths(delta=delta, norm=norm, query_norm=query_norm)
    checks.between("separation", separation, 2, open_ends=True)
    checks.between("mean", mean, -np.inf)
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    m = round(clusters * n**exponent)
    if not 1 <= m <= n:
        raise ValueError(f"clusters={clusters}, exponent={exponent} are {m} parts of n={n} keys; there must be 1 to n")

    centers = _centers(rng, m, d, norm, separation * delta)
    part = rng.permutation(n) % m
    k = _around(rng, centers[part], delta, norm)
    q = _queries(rng, n, centers, query_norm)
    v = rng.standard_normal((n, d_v))
    v += mean
    if order != "random":
        at = np.argsort(part if order == "cluster" else np.linalg.norm(v, axis=1), kind="stable")
        k, v = k[at], v[at]
    return q, k, v


def drifting(
    rng: Rng,
    n: int,
    d: int,
    d_v: int,
    s: float,
    *,
    clusters: int = 32,
    delta: float = 1.0,
    speed: float = 4.0,
    norm: float = 8.0,
    query_norm: float = 5.0,
) -> Arrays:
    """Keys around centers that all move by `speed * delta` from the first token to the last, at constant speed.

    Keys of one center that come at the same time are within `delta/2`; keys of different centers are always farther
    apart than delta. The drift is orthogonal to everything else, queries included, so that logits and outputs do not
    depend on the speed and only the number of clusters grows. Queries and values are drawn as in `clusterable`, mean 0.

    m: `clusters * max(1, ceil(2 speed / sqrt(3)))` parts of diameter at most delta are enough: a part covers a drift of
    `sqrt(3)/2 delta`, which with `delta/2` across makes a hypotenuse of delta. About `clusters * max(1, speed)` parts
    are needed where a center has many keys per part. Clusters of radius delta around their first key lie between.
    alpha, kappa: at most `exp(4 R)` and `exp(2 R)`, `R = s query_norm (norm + delta/4)`.
    """
    checks.count("d", d, minimum=3)
    checks.count("clusters", clusters, maximum=n)
    _check_lengths(delta=delta, norm=norm, query_norm=query_norm)
    checks.between("speed", speed, 0)
    centers = _centers(rng, clusters, d - 1, norm, SEPARATION * delta)
    k = _around(rng, centers[rng.permutation(n) % clusters], delta / 2, float(np.hypot(norm, speed * delta / 2)))
    q = _queries(rng, n, centers, query_norm)
    rotation = _rotation(rng, d)
    q, k = q @ rotation[1:], k @ rotation[1:]
    k += np.linspace(-0.5, 0.5, n)[:, None] * (speed * delta * rotation[0])
    return q, k, rng.standard_normal((n, d_v))


def needles(
    rng: Rng,
    n: int,
    d: int,
    d_v: int,
    s: float,
    *,
    needles: int = 4,
    mass: float = 0.9,
    clusters: int = 32,
    delta: float = 1.0,
    norm: float = 8.0,
) -> Arrays:
    """Retrieval: `needles` keys at random positions, far from all others, and queries that each look for one of them.

    A query is parallel to its needle's key, which takes the share `mass` of its softmax. Every needle has equally many
    queries, all equal, in random order. The other keys are drawn as in `clusterable`.

    The value of needle number t is `sqrt(d_v)` times the unit vector e_t. The other values are N(0, 1): they have about
    the same norm, so the norm does not identify a needle. From the arrays alone:

    - `at = np.flatnonzero(np.count_nonzero(v, axis=1) == 1)` are the needles' positions, `v[at].argmax(axis=1)` their
      numbers;
    - `at[(q @ k[at].T).argmax(axis=1)]` is the position that each query looks for: all needles' keys have one norm;
    - `argmax` of an output row is its needle's number if the row was answered exactly, as long as `mass * sqrt(d_v)`
      exceeds `1 - mass` times the spread of the rest's mean entries: far from it at 0.5 and more.

    m: `clusters + needles` parts of diameter delta, exactly; a needle is a part of its own.
    mass: the parameter, to 1e-9 (in float64).
    alpha: `n^2 mass^2 / needles`, quadratic in n; alpha of the other keys when the needles are in the exact part.
    kappa: `exp(s norm (max_i |q_i| - min_i |q_i|))`, 1 for one needle and close to it for several.
    """
    checks.count("d_v", d_v, minimum=2)
    checks.count("needles", needles, maximum=min(d_v, n - 1))
    checks.count("clusters", clusters, maximum=n - needles)
    checks.between("mass", mass, 1 / n, 1, open_ends=True)
    _check_lengths(delta=delta, norm=norm)
    centers = _centers(rng, clusters + needles, d, norm, SEPARATION * delta)
    position = rng.permutation(n)
    at, rest = position[:needles], position[needles:]
    k, v = np.empty((n, d)), rng.standard_normal((n, d_v))
    k[at] = centers[:needles]
    k[rest] = _around(rng, centers[needles + np.arange(n - needles) % clusters], delta, norm)
    v[at] = np.sqrt(d_v) * np.eye(needles, d_v)
    queries = np.stack([k[i] * _length(s * (k @ k[i]), i, mass) for i in at])
    return queries[rng.permutation(n) % needles], k, v


def _check_lengths(**knobs: float) -> None:
    for name, value in knobs.items():
        checks.between(name, value, 0, open_ends=True)


def _centers(rng: Rng, m: int, d: int, norm: float, apart: float) -> Array:
    """m points of norm `norm`, pairwise farther apart than `apart`; ValueError if none of `_TRIES` random codes is."""
    checks.count("d", d, minimum=2)
    planes, best = d // 2, 0.0
    for _ in range(_TRIES):
        steps = rng.integers(min(1, m - 1), m, size=planes)
        squares = np.zeros(m // 2)
        number = np.arange(1, m // 2 + 1)
        for step in steps:
            squares += np.sin(np.pi / m * (number * step % m)) ** 2
        closest = 2 * norm * np.sqrt(squares.min(initial=np.inf) / planes)  # |e^ia - e^ib| = 2 |sin((a - b)/2)|
        if closest > apart:
            break
        best = max(best, closest)
    else:
        raise ValueError(
            f"{m} centers in d={d} dimensions, farther than {apart:.3g} apart, need a norm of "
            f"{'about ' + format(1.05 * norm * apart / best, '.3g') if best else 'more'}, got norm={norm}"
        )
    angles = 2 * np.pi / m * (np.arange(m)[:, None] * steps % m)
    points = np.zeros((m, d))
    points[:, :planes], points[:, planes : 2 * planes] = np.cos(angles), np.sin(angles)
    points *= norm / np.sqrt(planes)
    return points @ _rotation(rng, d)


def _rotation(rng: Rng, d: int) -> Array:
    return np.linalg.qr(rng.standard_normal((d, d)))[0]


def _around(rng: Rng, x: Array, diameter: float, norm: float) -> Array:
    """Each row moved (in place) in a uniform direction, onto a sphere of this diameter around it."""
    room = float(np.finfo(np.float32).eps) * (norm + diameter)  # what float32 can add to a distance of two points
    aside = rng.standard_normal(x.shape)
    aside *= (max(0.0, diameter - room) / 2 / np.linalg.norm(aside, axis=1))[:, None]
    x += aside
    return x


def _queries(rng: Rng, n: int, centers: Array, norm: float) -> Array:
    """n queries of norm `norm`; those in even positions point at a random center, plus half of a random unit vector."""
    q = rng.standard_normal((n, centers.shape[1]))
    near = q[::2]
    near *= (0.5 / np.linalg.norm(near, axis=1))[:, None]
    near += unit(centers)[rng.integers(len(centers), size=len(near))]
    q *= (norm / np.linalg.norm(q, axis=1))[:, None]
    return q


def _length(logits: Array, at: int, mass: float) -> float:
    """The factor of `logits` at which entry `at` takes the share `mass` of the softmax.

    Newton on the log-odds `x l_at - log sum_others exp(x l_j)`, concave in x and below the root at 0: iterates rise.
    """
    others = np.delete(logits, at) - logits[at]
    if others.max() >= 0:
        raise ValueError("a needle's key must have the largest logit of its query: use a smaller delta or norm")
    wanted, x = np.log(mass) - np.log1p(-mass), 0.0
    for _ in range(100):
        top = x * others.max()
        weights = np.exp(x * others - top)
        total = weights.sum()
        missing = wanted + top + np.log(total)
        if missing < 1e-12:
            break
        x += missing / -(weights @ others / total)
    return x
