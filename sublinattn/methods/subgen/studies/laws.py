"""Laws of SubGen's samples and estimates: what slots and samples hold, errors over s and t, the bound on tau, the
ratio's bias [SG24].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ....core.backends import asnumpy, to_device
from ....lab.run import Run
from ....lab.statistics import CONFIDENCE, Z
from ....lab.workloads import real
from ....primitives.clustering import OnlineClusters
from ....primitives.kcenter import greedy_radii
from ..claims.algorithm1_laws import SLOTS, TOKENS
from ..claims.setting import Cache, Tokens, fed, members, numbered, numbers, random_chunks, sums
from ..claims.theorem1_estimators import ordered_tokens, relative_variance
from ..head import Head, normalisers, numerators
from .clusterability import PART, longest_query, stacks

HELD = {
    "slots": ("sg24.slot-law", "uniform slots", "uniform"),
    "slots of merged caches": ("sg24.merge-law", "coin slots", "slots in turn"),
    "pairs of slots": ("sg24.slot-independence", "twin slots", "twins"),
    "samples of a cluster": ("sg24.sample-law", "eager samples", "off by one"),
}
"""What is counted: the claim, its sabotage as `Cache` and as the claim name it."""
PAIR_TOKENS, SHARE = 12, 0.25
FAILURE = 0.1
"""Failure probability at which Chebyshev's bound is drawn."""
N = 60
BIASED: dict[str, Any] = {"clusters": 3, "query_norm": 4.0}
"""Knobs of the stream on which the ratio is biased: few clusters, and logits that differ within them."""
SLOTS_OVER, SAMPLES_OVER = (8, 32, 128, 512), (1, 4, 16, 64)
BIAS_SLOTS, BIAS_SAMPLES = (4, 16, 64, 256), (1, 2, 4, 8, 16)


# --------------------------------------------------------------------------------------------- what slots, samples hold
def held(run: Run) -> pd.DataFrame:
    """How often each token is held, as claimed and sabotaged; tokens come in the order of their values' norms.

    Limits are binomial, 99 percent for all tokens of a panel together.

    Returns
    -------
    DataFrame
        law, claim, variant ("as claimed" or the sabotage), token, count, draws, expected, low, high.
    """
    from scipy.stats import binom  # a third of a second, and few figures need it

    xp, slots = run.xp, run.pick(smoke=SLOTS, standard=10 * SLOTS, full=50 * SLOTS)
    rows = []
    for law, (claim, broken, name) in HELD.items():
        for variant, how in (("as claimed", "nothing"), (name, broken)):
            count, draws, p = _count(run.rng("held", law), xp, law, how, slots)
            tail = (1 - CONFIDENCE) / len(p) / 2
            low, high = binom.ppf(tail, draws, p), binom.ppf(1 - tail, draws, p)
            for token in range(len(p)):
                here = (count[token], draws, draws * p[token], low[token], high[token])
                rows.append((law, claim, variant, token + 1, *here))
    columns = ["law", "claim", "variant", "token", "count", "draws", "expected", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def _count(rng: np.random.Generator, xp: Any, law: str, broken: str, slots: int) -> tuple[np.ndarray, int, np.ndarray]:
    """Times each token is held, by all slots, pairs or samples; how many these are; the probability of each token."""
    tokens = PAIR_TOKENS if law == "pairs of slots" else TOKENS
    k, v = numbered(rng, tokens, 3)
    v = v[np.argsort((v**2).sum(axis=1))]
    p = (v**2).sum(axis=1) / (v**2).sum()
    t, s = (slots, 1) if law == "samples of a cluster" else (1, slots)
    cuts = [slice(None)]
    if law == "slots of merged caches":
        cut = round(SHARE * tokens)
        cuts = [slice(cut), slice(cut, None)]
    caches = [
        fed(Cache(1000.0, t, s, broken=broken, rng=rng), xp, k[part], v[part], random_chunks(rng, len(k[part]), 5))
        for part in cuts
    ]
    for other in caches[1:]:
        caches[0].merge(other)
    head = caches[0].head
    if law == "samples of a cluster":
        return np.bincount(numbers(head.sampled.rows).ravel(), minlength=tokens), slots, np.full(tokens, 1 / tokens)
    found = numbers(head.slot_keys)
    if law == "pairs of slots":  # both of a pair hold the token
        return np.bincount(found[::2][found[::2] == found[1::2]], minlength=tokens), slots // 2, p**2
    return np.bincount(found, minlength=tokens), slots, p


def outside(rows: pd.DataFrame) -> pd.DataFrame:
    """Tokens outside their limits, per law and variant: law, variant, outside, tokens."""
    off = (rows["count"] < rows["low"]) | (rows["count"] > rows["high"])
    groups = rows.assign(off=off).groupby(["law", "variant"], sort=False)["off"]
    return groups.agg(outside="sum", tokens="size").reset_index()


# ------------------------------------------------------------------------------------------------- errors over s and t
def states(rng: np.random.Generator, xp: Any, x: Tokens, copies: int, *, t: int = 1, s: int = 1) -> list[Head]:
    """The states of independent caches that read the same tokens, delta 1."""
    cache = Cache(1.0, t, s, rng=rng)
    k, v = (to_device(np.broadcast_to(a, (copies, *a.shape)), xp) for a in (x.k, x.v))
    return cache.update(k, v).heads


def groups(x: Tokens, head: Head) -> list[np.ndarray]:
    """`exp(<q, k>)` of the members of each cluster."""
    _, label = members(x.k, asnumpy(head.clusters.centers.rows))
    return [x.e[label == i] for i in range(len(head.clusters.centers))]


def errors(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Squared errors of z over s and of tau over t, on one stream, in the order of its logits.

    In units of `(|exp(Kq)|_2 |V|)^2` for z, of `(1^T exp(Kq))^2` for tau. Beside them the exact mean of the same sums
    estimated from uniformly drawn tokens, as many as there are slots, or samples in all clusters.

    Returns
    -------
    rows : DataFrame
        estimate ("z", "tau"), size (s or t), copy, square.
    laws : DataFrame
        estimate, size, exact (the mean), bound (on the mean), level (Chebyshev: exceeded with probability at most 0.1),
        uniform (mean with uniform sampling), zero (answering 0).
    """
    xp, copies = run.xp, run.pick(smoke=150, standard=2000, full=10_000)
    x = ordered_tokens(run.rng("errors"), N)
    unit = float((x.e**2).sum()) * float(np.linalg.norm(x.v, 2)) ** 2
    zero = float((x.numerator**2).sum())
    uniform_z = N * float((x.e**2 * x.squares).sum()) - zero
    uniform_tau = N * float((x.e**2).sum()) / x.normaliser**2 - 1
    rows, laws = [], []
    for s in SLOTS_OVER:
        heads = states(run.rng("z", s), xp, x, copies, s=s)
        z = sums(numerators, xp, heads, x.q)[:, 0]
        rows += [("z", s, i, square / unit) for i, square in enumerate(((z - x.numerator) ** 2).sum(axis=1))]
        bound = float(x.squares.sum() * (x.e**2).sum()) / s / unit
        laws.append(("z", s, x.variance / s / unit, bound, bound / FAILURE, uniform_z / s / unit, zero / unit))
    for t in SAMPLES_OVER:
        heads = states(run.rng("tau", t), xp, x, copies, t=t)
        tau = sums(normalisers, xp, heads, x.q)[:, 0, 0] / x.normaliser
        rows += [("tau", t, i, square) for i, square in enumerate((tau - 1) ** 2)]
        parts = groups(x, heads[0])
        exact = sum(len(e) ** 2 * e.var() for e in parts) / x.normaliser**2 / t
        bound = float(np.sinh(np.linalg.norm(x.q)) ** 2) / t
        laws.append(("tau", t, exact, bound, bound / FAILURE, uniform_tau / (t * len(parts)), 1.0))
    return (
        pd.DataFrame(rows, columns=["estimate", "size", "copy", "square"]),
        pd.DataFrame(laws, columns=["estimate", "size", "exact", "bound", "level", "uniform", "zero"]),
    )


# ------------------------------------------------------------------------------------------------- the bound on Var tau
def against_delta_r(run: Run) -> pd.DataFrame:
    """`t Var(tau) / E[tau]^2` over delta r: two-sided clusters, which meet the bound, random ones, and the real heads.

    The first two are trials of `sg24.tau-bound`. Of a real head: its clusters at the greedy radius for m = n/8 centres,
    and its queries, each with its own norm; the median over them, and the largest.

    Returns
    -------
    DataFrame
        setting, replicate (or head), delta_r (for a head, of its longest query), whole, within (of the worst cluster
        alone; nan for heads), largest (whole, largest over the queries), bound.
    """
    xp, n = run.xp, run.pick(smoke=1000, standard=4000, full=4000)
    rows: list[tuple[Any, ...]] = []
    for setting, tight in (("two-sided", True), ("random", False)):
        for length in (0.125, 0.25, 0.5, 1.0, 2.0, 3.0):
            for i in range(1 if tight else run.pick(smoke=5, standard=20, full=20)):
                rng = run.rng("tau", setting, length, i)
                found = relative_variance(rng, xp, n=n, length=length, tight=tight).facts
                values = (found["whole"], found["within"], found["whole"])
                rows.append((setting, i, length, *values, float(np.sinh(length) ** 2)))
    every, found_heads = real(), stacks(xp)
    for head in range(len(found_heads["keys"])):
        q, k = found_heads["queries"][head], found_heads["keys"][head]
        delta = float(greedy_radii(xp, k, len(k) // PART)[-1])
        clusters = OnlineClusters(delta, k[:0])
        whole = spread_of_tau(asnumpy(q), asnumpy(k), clusters.absorb(xp, k), every.scale)
        length = delta * longest_query(q, every.scale)
        values = (float(np.median(whole)), np.nan, float(whole.max()))
        rows.append(("real heads", head, length, *values, float(np.sinh(length) ** 2)))
    return pd.DataFrame(rows, columns=["setting", "replicate", "delta_r", "whole", "within", "largest", "bound"])


def spread_of_tau(q: np.ndarray, k: np.ndarray, labels: np.ndarray, scale: float) -> np.ndarray:
    """`t Var(tau) / E[tau]^2` for each query (n_q, d): the sum of count^2 times the variance within each cluster."""
    logits = scale * q.astype(np.float64) @ k.astype(np.float64).T
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    member = (labels[:, None] == np.arange(labels.max() + 1)).astype(np.float64)
    sums = e @ member
    variances = (e**2) @ member * member.sum(axis=0) - sums**2
    return np.maximum(variances, 0).sum(axis=1) / sums.sum(axis=1) ** 2


# ---------------------------------------------------------------------------------------------------- the ratio's bias
def ratios(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The answer z/tau along exact attention, over t (s = 64) and over s (t = 1): by how much its mean is too long.

    z and tau are independent, so `E[z/tau] = Attn E[tau] E[1/tau]`: the bias is a factor above 1, whatever s is.

    Returns
    -------
    rows : DataFrame
        varies ("t", "s"), s, t, copy, along (`<out, Attn> / |Attn|^2 - 1`).
    laws : DataFrame
        varies, s, t, exact (its mean), first_order (`Var(tau) / E[tau]^2`).
    """
    xp, copies = run.xp, run.pick(smoke=250, standard=4000, full=20_000)
    x = ordered_tokens(run.rng("ratio"), N, **BIASED)
    exact = x.numerator / x.normaliser
    rows, laws = [], []
    cases = [("t", 64, t) for t in BIAS_SAMPLES] + [("s", s, 1) for s in BIAS_SLOTS]
    for varies, s, t in cases:
        heads = states(run.rng("ratio", varies, s, t), xp, x, copies, s=s, t=t)
        z, tau = (sums(part, xp, heads, x.q)[:, 0] for part in (numerators, normalisers))
        rows += [(varies, s, t, i, off) for i, off in enumerate(z / tau @ exact / (exact @ exact) - 1)]
        parts = groups(x, heads[0])
        first = sum(len(e) ** 2 * e.var() for e in parts) / x.normaliser**2 / t
        laws.append((varies, s, t, stretch(parts, t) - 1, first))
    return (
        pd.DataFrame(rows, columns=["varies", "s", "t", "copy", "along"]),
        pd.DataFrame(laws, columns=["varies", "s", "t", "exact", "first_order"]),
    )


def stretch(parts: list[np.ndarray], t: int) -> float:
    """`E[tau] E[1/tau]` for the members' exponentials of each cluster, t samples each.

    `1/tau` is the integral of `exp(-u tau)` over u > 0, and its mean a product over independent samples.
    """
    from scipy.integrate import quad  # as above

    mean = sum(float(e.sum()) for e in parts)
    terms = [len(e) / t * e / mean for e in parts]

    def transform(u: float) -> float:
        return float(np.prod([np.exp(-u * e).mean() ** t for e in terms]))

    return float(quad(transform, 0, np.inf, epsabs=1e-10, limit=500)[0])


def agreement(rows: pd.DataFrame, laws: pd.DataFrame) -> pd.DataFrame:
    """Measured errors beside the laws of `errors`.

    Returns
    -------
    DataFrame
        Index: estimate, size. measured (mean over exact mean), lower, upper (its 99 percent limits), bound (over the
        exact mean), uniform (its mean over the exact mean), exceeded (share of the copies above Chebyshev's level).
    """
    groups = rows.groupby(["estimate", "size"])["square"]
    table = laws.set_index(["estimate", "size"])
    mean, reach = groups.mean() / table["exact"], Z * groups.sem() / table["exact"]
    level = rows.set_index(["estimate", "size"])["square"] > table["level"].reindex(
        pd.MultiIndex.from_frame(rows[["estimate", "size"]])
    )
    return pd.DataFrame(
        {
            "measured": mean,
            "lower": mean - reach,
            "upper": mean + reach,
            "bound": table["bound"] / table["exact"],
            "uniform": table["uniform"] / table["exact"],
            "exceeded": level.groupby(level=[0, 1]).mean(),
        }
    )


def bias(rows: pd.DataFrame, laws: pd.DataFrame) -> pd.DataFrame:
    """Mean of `along` with 99 percent limits, beside its laws: varies, s, t, measured, lower, upper, exact, ..."""
    groups = rows.groupby(["varies", "s", "t"])["along"]
    mean, reach = groups.mean(), Z * groups.sem()
    table = pd.DataFrame({"measured": mean, "lower": mean - reach, "upper": mean + reach})
    return table.join(laws.set_index(["varies", "s", "t"]))


def findings(counts: pd.DataFrame, errors: pd.DataFrame, spread: pd.DataFrame, biased: pd.DataFrame) -> str:
    """What the tables of `held`, `agreement`, `against_delta_r` and `bias` say, as a Markdown list."""
    off = outside(counts)
    honest = off[off["variant"] == "as claimed"]
    broken = "; ".join(
        f"{row.law} ({row.variant}) {row.outside} of {row.tokens}" for row in off.drop(honest.index).itertuples()
    )
    z, tau = errors.loc["z"], errors.loc["tau"]
    two, random, heads = (spread[spread["setting"] == name] for name in ("two-sided", "random", "real heads"))
    t = float(heads["largest"].median()) / 0.1**2
    inside = int(((biased["lower"] <= biased["exact"]) & (biased["exact"] <= biased["upper"])).sum())
    over_t, over_s = (biased.loc[varies] for varies in "ts")
    return "\n".join(
        (
            f"- **What is held.** As claimed: {honest['outside'].sum()} of {honest['tokens'].sum()} tokens outside "
            f"their limits. Sabotaged: {broken}.",
            f"- **Errors.** Measured mean squares are {z['measured'].min():.2f} to {z['measured'].max():.2f} times the "
            f"exact ones for z, {tau['measured'].min():.2f} to {tau['measured'].max():.2f} for tau. The bound on z is "
            f"{z['bound'].max():.2f} times the exact value, the bound on tau {tau['bound'].max():.3g} times. "
            f"Chebyshev's level for {FAILURE:.0%} is exceeded by {errors['exceeded'].max():.1%} of the copies, where "
            f"most are. From as many uniformly drawn tokens, z would have {z['uniform'].iloc[0]:.2f} and tau "
            f"{tau['uniform'].iloc[0]:.2f} times the mean square.",
            f"- **The bound on tau.** Two-sided clusters reach {(two['within'] / two['bound']).min():.2f} to "
            f"{(two['within'] / two['bound']).max():.3f} of it, random ones at most "
            f"{(random['within'] / random['bound']).max():.2g}. On the {len(heads)} real heads it is "
            f"{heads['bound'].min():.0e} to {heads['bound'].max():.0e}; measured, t Var(tau) / E[tau]^2 is at most "
            f"{heads['largest'].max():.3g} (worst query of all heads; median head {heads['largest'].median():.2g}). "
            f"For a relative standard deviation of 0.1 at its worst query the median head needs {np.ceil(t):.0f} "
            f"samples per cluster, where a cluster has {PART} keys on average.",
            f"- **The ratio.** With s = 64 the answer is {over_t['measured'].iloc[0]:+.0%} too long at t = "
            f"{over_t.index[0][1]} and {over_t['measured'].iloc[-1]:+.1%} at t = {over_t.index[-1][1]} (exactly "
            f"{over_t['exact'].iloc[0]:+.0%} and {over_t['exact'].iloc[-1]:+.1%}); more slots do not help: at t = 1 "
            f"{over_s['measured'].min():+.0%} to {over_s['measured'].max():+.0%} for s = {over_s.index[0][0]} to "
            f"{over_s.index[-1][0]}. The exact value lies in {inside} of {len(biased)} intervals.",
        )
    )
