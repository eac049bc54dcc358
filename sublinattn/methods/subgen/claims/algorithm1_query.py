"""SubGen's answer to a query, and the sums behind it, from what is stored: Algorithm 1's Query, line by line [SG24]."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import Array, asnumpy, to_device
from ....theory.claim import Claim, Exact, Sabotage, Trial
from ..head import Head
from .algorithm1_clusters import DELTA, plain_clusters
from .setting import Cache, chunks, fed, several

D, QUERIES = 6, 5


def answered(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    heads: int,
    d_v: int,
    scale: float,
    logit: float,
    recent: int,
    dtype: str,
    wrong: str = "",
) -> Trial:
    """Largest difference of a cache's answers from `plain_answers`, over all heads and queries, and all `strangers`.

    The largest logit is about `logit`. `wrong` (a sabotage): "one head" answers with the state of the first, "sizes
    forgotten" counts all clusters alike, "default scale" is that of the logits, "no window" leaves out the last tokens.
    """
    k, v = (x.astype(dtype) for x in several(rng, heads, n, D, d_v=d_v, clusters=7, delta=1.4 * DELTA, norm=8.0))
    q = rng.standard_normal((*k.shape[:-2], QUERIES, D))
    q *= logit / (scale * np.abs(q @ k.swapaxes(-1, -2)).max())
    q = q.astype(dtype)
    cache = fed(Cache(DELTA, 3, 40, recent=recent, rng=rng), xp, k, v, chunks(n, 64))
    expected, size = plain_answers(cache, k, v, q, scale)
    stored = zip(cache.heads, k.reshape(heads, n, D), v.reshape(heads, n, d_v), strict=True)
    foreign = sum(strangers(head, *tokens) for head, *tokens in stored)
    if wrong == "no window":
        cache.recent = 0
    if wrong == "one head":
        cache.heads[:] = cache.heads[:1] * heads
    if wrong == "sizes forgotten":
        for head in cache.heads:
            head.samples.counts[:] = 1
    out = cache.attend(to_device(q, xp), scale=None if wrong == "default scale" else scale)
    precision = float(np.finfo(dtype).eps / np.finfo(np.float64).eps)
    error = (np.abs(asnumpy(out).astype(np.float64) - expected) / size).max()
    return Trial(float(error + foreign), 0.0, scale=precision, facts={"n": n, "logit": logit})


def strangers(head: Head, k: np.ndarray, v: np.ndarray) -> int:
    """How many slots hold no token's key and value, and how many samples are no key, or far from their own center."""
    keys, pairs = ({row.tobytes() for row in x} for x in (k, np.concatenate([k, v], axis=1)))
    slots = np.concatenate([asnumpy(head.slot_keys), asnumpy(head.slot_values)], axis=1)
    centers, samples = (asnumpy(x.rows) for x in (head.clusters.centers, head.sampled))
    far = ((samples - centers[:, None]).astype(np.float64) ** 2).sum(axis=-1) > DELTA**2
    unknown = [row.tobytes() not in keys for row in samples.reshape(-1, k.shape[1])]
    return sum(row.tobytes() not in pairs for row in slots) + sum(unknown) + int(far.sum())


def plain_answers(cache: Cache, k: Array, v: Array, q: Array, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """`z / tau` for queries (heads, c, d) in float64, and the sum of what is added up in z, without signs, over tau.

    What is random is the cache's: its samples and slots. The rest is computed anew from keys and values
    (heads, n, ...): the clusters' sizes, `mu`, and the window of the last tokens.
    """
    k, v, q = (x.astype(np.float64).reshape(len(cache.heads), -1, x.shape[-1]) for x in (k, v, q))
    left = k.shape[1] - cache.recent
    made = [
        _plain(head, k[i, :left], v[i, :left], k[i, left:], v[i, left:], scale * q[i])
        for i, head in enumerate(cache.heads)
    ]
    out, size = (np.stack(x) for x in zip(*made, strict=True))
    return (out, size) if len(made) > 1 else (out[0], size[0])


def _plain(
    head: Head, k: np.ndarray, v: np.ndarray, recent_k: np.ndarray, recent_v: np.ndarray, q: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    # Query: z = sum over the slots of mu / (s ||v||^2) exp(<q, k>) v, tau = sum over the clusters of n_i / t times the
    # sum over their samples of exp(<q, k>); the tokens of the window add to both as they are.
    slots, values, samples = (
        asnumpy(x).astype(np.float64) for x in (head.slot_keys, head.slot_values, head.sampled.rows)
    )
    _, counts, _ = plain_clusters(k)
    weights = (v**2).sum() / len(slots) / (values**2).sum(axis=1)
    above = np.concatenate([slots, recent_k]) @ q.T, np.concatenate([weights[:, None] * values, recent_v])
    below = (
        np.concatenate([samples.reshape(-1, samples.shape[-1]), recent_k]) @ q.T,
        np.concatenate([np.repeat(counts / samples.shape[1], samples.shape[1]), np.ones(len(recent_k))]),
    )
    top = np.maximum(above[0].max(axis=0), below[0].max(axis=0))
    z, e = np.exp(above[0] - top).T @ above[1], np.exp(above[0] - top).T @ np.linalg.norm(above[1], axis=1)
    tau = np.exp(below[0] - top).T @ below[1]
    bound = np.linalg.norm(np.concatenate([v, recent_v]))  # no entry of an answer is larger
    return np.clip(z / tau[:, None], -bound, bound), (e / tau)[:, None]


CASES: tuple[dict[str, Any], ...] = tuple(
    {"n": 150, **case}
    for case in (
        {"heads": 1, "d_v": 6, "scale": 1.0, "logit": 4.0, "recent": 0, "dtype": "float64"},
        {"heads": 3, "d_v": 4, "scale": 0.3, "logit": 4.0, "recent": 21, "dtype": "float64"},
        {"heads": 3, "d_v": 9, "scale": 0.3, "logit": 4.0, "recent": 0, "dtype": "float32"},
        {"heads": 2, "d_v": 4, "scale": 2.0, "logit": 120.0, "recent": 21, "dtype": "float32"},
        {"heads": 2, "d_v": 4, "scale": 2.0, "logit": 400.0, "recent": 0, "dtype": "float64"},
    )
)

CLAIMS = (
    Claim(
        id="sg24.query",
        paper="SG24",
        source="Algorithm 1 (Query)",
        basis="theorem",
        title="The answer is z / tau from the stored slots, samples and counts, in every head and at every scale",
        statement=sp.Eq(sp.Symbol(r"\mathrm{out}"), sp.Symbol("z") / sp.Symbol("tau")),
        kind=Exact("==", rtol=1e-12),
        trial=answered,
        cases={"smoke": CASES},
        max_trials={"smoke": 5, "standard": 50},
        sabotages=(
            Sabotage("one head", "all heads are answered from the state of the first", {"wrong": "one head"}),
            Sabotage("sizes forgotten", "all clusters count alike", {"wrong": "sizes forgotten"}),
            Sabotage("default scale", "logits are scaled by 1/sqrt(d), whatever the scale", {"wrong": "default scale"}),
            Sabotage("no window", "the last tokens are left out of both sums", {"wrong": "no window"}),
        ),
        remark=(
            "Against float64 sums in which clusters' sizes, mu and the window are computed anew from all tokens; only "
            "the samples and slots, which are random, are the cache's; these must be tokens, samples within "
            "delta of their centre. In float32 the tolerance is that of its rounding. "
            "Logits up to 400; n that is no multiple of the chunk. The window is an addition of this code."
        ),
    ),
)
