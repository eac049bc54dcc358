"""SubGen one token after another in plain lists, and small streams whose keys cluster, for the tests of `subgen`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sublinattn.core import backends
from sublinattn.methods.subgen.subgen import SubGenCache
from sublinattn.primitives.reservoir import seed_from, uniforms

D, D_V = 4, 3


def blobs(seed: int, n: int, groups: int = 6, spread: float = 0.1, *, dtype: Any = np.float64) -> list[np.ndarray]:
    """Keys around centres that are farther than 1 apart (so at most `groups` clusters at delta = 1), and values."""
    rng = np.random.default_rng(seed)
    centre = 2.0 * np.stack(np.unravel_index(np.arange(groups), (2, 3, 3, 3)), axis=-1) - 2
    noise = rng.uniform(-1, 1, size=(n, D)) * spread
    k = centre[rng.integers(groups, size=n)] + noise
    v = np.round(4 * rng.normal(size=(n, D_V)) * np.exp(rng.normal(size=(n, 1)))) / 4  # squares add up without rounding
    return [k.astype(dtype), v.astype(dtype)]


def fed(cache: SubGenCache, k: Any, v: Any, chunk: int) -> SubGenCache:
    for start in range(0, k.shape[-2], chunk):
        assert cache.update(k[..., start : start + chunk, :], v[..., start : start + chunk, :]) is cache
    return cache


def members(cache: SubGenCache, head: int = 0) -> list[list[tuple[float, ...]]]:
    """Distinct samples of each cluster: with many samples, all its members."""
    samples = backends.asnumpy(cache.contents()[f"{head}.samples"])
    return [sorted({tuple(x) for x in its}) for its in samples.tolist()]


def distance(x: Any, y: Any) -> float:
    return math.dist([float(a) for a in x], [float(b) for b in y])


class Plain:
    """[SG24]'s Algorithm 1 for one problem, with the cache's draws, window and doubling."""

    def __init__(
        self,
        delta: float,
        t: int,
        s: int,
        *,
        rng: int,
        number: int = 0,
        recent: int = 0,
        most: float = math.inf,
        law: str = "norm",
        clustered: bool = True,
    ) -> None:
        self.law, self.clustered = law, clustered
        self.total: list[float] = []
        self.unit, self.squares, self.weights = 0.0, 0.0, [1.0] * s
        self.delta, self.radius, self.t, self.s, self.recent, self.most = delta, delta, t, s, recent, most
        self.seed, self.number = seed_from(rng), number
        self.window: list[tuple[Any, Any]] = []
        self.centres: list[Any] = []
        self.counts: list[int] = []
        self.samples: list[list[Any]] = []
        self.due: list[list[int]] = []
        self.mu, self.threshold, self.slots = 0.0, [0.0] * s, [None] * s
        self.tokens = self.turns = 0

    def add(self, k: Any, v: Any) -> None:
        self.window.append((k, v))
        if len(self.window) > self.recent:
            self.absorb(*self.window.pop(0))

    def absorb(self, k: Any, v: Any) -> None:
        weight = self.weigh([float(x) for x in v])
        self.mu += weight
        for slot in range(self.s):
            if weight > 0 and self.mu >= self.threshold[slot]:
                self.slots[slot], self.weights[slot] = (k, v), weight
                u = float(uniforms(self.seed, 2 * self.number + 1, slot, self.tokens))
                self.threshold[slot] = max(self.mu / u, math.nextafter(self.mu, math.inf))
        self.tokens += 1
        if self.clustered:
            self.cluster(k, self.tokens - 1)

    def weigh(self, v: list[float]) -> float:
        """The token's weight under the law."""
        norm = sum(x * x for x in v)
        self.squares += norm
        if self.law in ("norm", "uniform"):
            return norm if self.law == "norm" else 1.0
        self.total = self.total or [0.0] * len(v)
        square = 0.0
        for x, mean in zip(v, self.total, strict=True):  # Python's own sum would round once, from version 3.12 on
            square += (x - mean / max(self.tokens, 1)) ** 2
        self.total = [a + x for a, x in zip(self.total, v, strict=True)]
        far = square if self.law == "centred" else math.sqrt(square)
        if not self.unit and self.tokens and square > 1e-12 * norm:
            self.unit = far
        return far / self.unit if self.unit else 1.0

    def cluster(self, k: Any, token: int) -> None:
        while (cluster := self.join(k)) is None:
            self.double()
        if cluster == len(self.counts):
            self.counts.append(0)
            self.samples.append([None] * self.t)
            self.due.append([1] * self.t)
        self.counts[cluster] += 1
        for i in range(self.t):
            if self.due[cluster][i] == self.counts[cluster]:
                self.samples[cluster][i] = k
                u = float(uniforms(self.seed, 2 * self.number, cluster, i, token))
                self.due[cluster][i] = max(math.ceil(self.counts[cluster] / u), self.counts[cluster] + 1)

    def join(self, k: Any) -> int | None:
        """Cluster of the key; None if it needs one and there is no room."""
        distances = [distance(k, centre) for centre in self.centres]
        if distances and min(distances) <= self.delta:
            return distances.index(min(distances))
        if len(self.centres) >= self.most:
            return None
        self.centres.append(k)
        return len(self.centres) - 1

    def double(self) -> None:
        """The centres are clustered anew; each sample is that of a cluster drawn in proportion to its count."""
        old, counts, samples = self.centres, self.counts, self.samples
        self.delta *= 2
        self.turns += 1
        most, self.most, self.centres = self.most, math.inf, []
        into = [self.join(centre) for centre in old]
        self.most = most
        self.radius = self.radius + self.delta if len(self.centres) < len(old) else max(self.radius, self.delta)
        self.counts, self.samples, self.due = [], [], []
        for group in range(len(self.centres)):
            pieces = [i for i, its in enumerate(into) if its == group]
            total = sum(counts[i] for i in pieces)
            self.counts.append(total)
            drawn, due = [], []
            for i in range(self.t):
                which, again = (
                    float(uniforms(self.seed, 2 * self.number, group, i, self.turns, draw)) for draw in (0, 1)
                )
                item = int(which * total)
                for piece in pieces:
                    if item < counts[piece]:
                        drawn.append(samples[piece][i])
                        break
                    item -= counts[piece]
                due.append(max(math.ceil(total / again), total + 1))
            self.samples.append(drawn)
            self.due.append(due)

    def attend(self, q: Any, scale: float) -> list[float]:
        def weight(k: Any) -> float:
            return math.exp(scale * sum(float(a) * float(b) for a, b in zip(q, k, strict=True)))

        z, tau = [0.0] * len(self.window[0][1] if self.window else self.slots[0][1]), 0.0
        for k, v in self.window:
            tau += weight(k)
            z = [a + weight(k) * float(b) for a, b in zip(z, v, strict=True)]
        for (k, v), held in zip(filter(None, self.slots), self.weights, strict=False):
            factor = weight(k) * self.mu / (self.s * held)
            z = [a + factor * float(b) for a, b in zip(z, v, strict=True)]
            tau += 0 if self.clustered else factor
        for count, its in zip(self.counts, self.samples, strict=True):
            tau += count / self.t * sum(weight(k) for k in its)
        bound = math.sqrt(self.squares + sum(float(x) ** 2 for _, v in self.window for x in v))
        return [min(max(a / tau, -bound), bound) for a in z]


def assert_same(cache: SubGenCache, plain: Plain, head: int = 0) -> None:
    """The same state to the bit."""
    clusters = {"centres": plain.centres, "samples": plain.samples, "counts": plain.counts, "due": plain.due}
    expected = {
        **(clusters if plain.clustered else {}),
        "slot_keys": [k for k, _ in plain.slots],
        "slot_values": [v for _, v in plain.slots],
        "thresholds": plain.threshold,
        **({"value_sum": plain.total, "weights": plain.weights} if plain.law in ("centred", "distance") else {}),
    }
    for name, x in expected.items():
        mine = cache.contents()[f"{head}.{name}"]
        np.testing.assert_array_equal(backends.asnumpy(mine), np.array(x), err_msg=name)
    state = cache.heads[head]
    assert (state.slots.mu, state.radius, state.clusters.delta) == (plain.mu, plain.radius, plain.delta)
