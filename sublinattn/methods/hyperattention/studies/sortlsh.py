"""SortLSH by itself: how often points collide, against the law, and what the block-diagonal mask holds.

Source: [HA24] Definition 1 (hash) and Algorithm 1 (mask). Notebook 01.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ....core.backends import asnumpy, to_device
from ....lab.run import Run
from ....lab.statistics import proportion
from ....lab.workloads.inputs import CLUSTERED, GAUSSIAN, PLANTED, REAL, SINKS, Input, chosen
from ....lab.workloads.instance import Instance
from ....plots.panels import facets, finish, grid, lines, theory_line
from ....plots.style import LOOKS, paper_style, series
from ....theory import symbols
from ....theory.claim import evaluate
from ..claims.algorithm1_mask import ORDERS, held, recall_law
from ..sort_lsh import buckets, default_bits, hyperplanes, sort_blocks

BITS = (1, 2, 4, 8)
D = 16  # dimension of the points; the laws do not depend on it
HEAVY = 10.0
"""An entry of P is heavy if it is at least this many times the mean entry 1/n."""

CLUSTERS = 16
"""Planted clusters, each as large as a block, of `recall_over_bits`."""

LAWS = {"same bucket": symbols.LSH_COLLISION, "neighbouring bucket": symbols.GRAY_ADJACENCY}


def collision_rates(run: Run) -> pd.DataFrame:
    """Share of independent hashes under which two points meet in one bucket, and in neighbouring ones (cyclically).

    Returns
    -------
    DataFrame
        event, bits, angle (degrees), draws, rate with exact 99 percent limits low and high, law. Every point has draws
        of its own. With a single bit a bucket has one neighbour, not two, so the neighbours' law begins at two bits.
    """
    draws = run.given("draws", run.pick(smoke=1500, standard=20000, full=100000))
    cells = [(bits, angle, draws) for bits in run.given("lsh_bits", BITS) for angle in np.linspace(0, np.pi, 13)[1:-1]]
    return run.table(_rates, cells, ["event", "bits", "angle", "draws", "rate", "low", "high", "law"])


def _rates(run: Run, bits: int, angle: float, draws: int) -> list[tuple[Any, ...]]:
    """The rows of `collision_rates` of one pair of points."""
    rows = []
    rng = run.rng("collision", bits, round(angle, 6))
    gap = _bucket_gaps(run.xp, rng, angle, bits, draws, run.given("d", D))
    hits = {"same bucket": gap == 0, "neighbouring bucket": np.isin(gap, (1, 2**bits - 1))}
    for event, hit in hits.items():
        if event == "neighbouring bucket" and bits == 1:
            continue
        rate, low, high = proportion(int(hit.sum()), draws)
        law = evaluate(LAWS[event], {"theta": angle, "r": bits})
        rows.append((event, bits, np.degrees(angle), draws, rate, low, high, float(law)))
    return rows


def collision_laws(run: Run) -> pd.DataFrame:
    """The laws on a fine grid of angles: event, bits, angle (degrees), law."""
    rows = [
        (event, bits, np.degrees(angle), float(evaluate(law, {"theta": angle, "r": bits})))
        for event, law in LAWS.items()
        for bits in run.given("lsh_bits", BITS)
        for angle in np.linspace(0, np.pi, 121)
        if event == "same bucket" or bits > 1
    ]
    return pd.DataFrame(rows, columns=["event", "bits", "angle", "law"])


def _bucket_gaps(xp: Any, rng: np.random.Generator, angle: float, bits: int, draws: int, d: int) -> np.ndarray:
    """Difference modulo 2^bits of the buckets of two points, one independent hash per draw."""
    pair = np.zeros((draws, 2, d), np.float32)
    pair[:, :, 0] = 1, np.cos(angle)
    pair[:, 1, 1] = np.sin(angle)
    h = asnumpy(buckets(xp, to_device(pair, xp), to_device(hyperplanes(rng, draws, d, bits), xp))).astype(int)
    return (h[:, 0] - h[:, 1]) % 2**bits


def _ranks(xp: Any, x: Instance, block_size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Place of every query and key in sortLSH's order, and the queries per block."""
    n, d = x.k.shape
    planes = to_device(hyperplanes(rng, 1, d, default_bits(n, block_size)), xp)
    of = [buckets(xp, a[None].astype(np.float32), planes) for a in (x.q, x.k)]
    start = np.zeros(1, int)
    blocks = sort_blocks(xp, *of, block_size=block_size, q_start=start, k_start=start)
    q_rank, k_rank = (np.argsort(asnumpy(order)[0]) for order in (blocks.q_order, blocks.k_order))
    return q_rank, k_rank, blocks.q_block_size


def _softmax_matrix(x: Instance) -> np.ndarray:
    q, k = (asnumpy(a).astype(np.float64) for a in (x.q, x.k))
    p = np.exp(x.scale * (q @ k.T))
    return p / p.sum(axis=1, keepdims=True)


def picture_sizes(run: Run) -> dict[str, int]:
    """n and block_size of the picture of the matrix."""
    n, block_size = run.given("n", 256), run.given("block_size", 32)
    if block_size > n:
        raise ValueError(f"block_size must be at most n = {n}, got {block_size}")
    return {"n": n, "block_size": block_size}


def sorted_matrix(run: Run, *, n: int, block_size: int) -> pd.DataFrame:
    """The softmax matrix of clustered queries and keys before and after sorting.

    Returns
    -------
    DataFrame
        The entries above 0.002 times the largest one: query, key, their places after sorting, the entry p, and
        whether the mask has it.
    """
    xp = run.xp
    rng = run.rng("matrix")
    x = CLUSTERED.draw(n, run.given("d", 64), rng, xp)
    p = _softmax_matrix(x)
    q_rank, k_rank, q_block = _ranks(xp, x, block_size, rng)
    query, key = np.nonzero(p > 0.002 * p.max())
    places = {"query_place": q_rank[query], "key_place": k_rank[key]}
    masked = places["query_place"] // q_block == places["key_place"] // block_size
    return pd.DataFrame({"query": query, "key": key, **places, "p": p[query, key].round(9), "masked": masked})


def heavy_caught(run: Run) -> pd.DataFrame:
    """What the sortLSH mask holds of the heavy entries and of the softmax mass, beside a random mask of the same size.

    Returns
    -------
    DataFrame
        input, source, n, replicate (fresh input, fresh hash), mask ("sortLSH", "random"), heavy (their number),
        heavy_share, mass_share.
    """
    n = run.given("n", run.pick(smoke=1024, standard=4096, full=8192))
    replicates = range(run.given("replicates", run.pick(smoke=8, standard=20, full=20)))
    inputs = chosen(run, (GAUSSIAN, CLUSTERED, PLANTED, SINKS, REAL))
    cells = [(n, what, replicate) for what in inputs for replicate in replicates]
    columns = ["input", "source", "n", "replicate", "mask", "heavy", "heavy_share", "mass_share"]
    return run.table(_caught, cells, columns)


def _caught(run: Run, n: int, what: Input, replicate: int) -> list[tuple[Any, ...]]:
    """The rows of `heavy_caught` of one input."""
    rows = []
    rng, block_size = run.rng("caught", what.label, replicate), run.given("block_size", 64)
    x = what.draw(n, run.given("d", 64), rng, run.xp)
    p = _softmax_matrix(x)
    heavy = p >= HEAVY / len(p)
    q_rank, k_rank, q_block = _ranks(run.xp, x, block_size, rng)
    shuffled = rng.permutation(len(q_rank)), rng.permutation(len(k_rank))
    for mask, (i, j) in {"sortLSH": (q_rank, k_rank), "random": shuffled}.items():
        masked = (i // q_block)[:, None] == (j // block_size)[None, :]
        shares = (heavy & masked).sum() / max(heavy.sum(), 1), p[masked].sum() / len(p)
        rows.append((what.label, what.source, len(p), replicate, mask, int(heavy.sum()), *shares))
    return rows


def recall_over_bits(run: Run) -> pd.DataFrame:
    """Share of planted pairs that the mask holds, over the number of hyperplanes; n/b clusters as large as a block.

    Returns
    -------
    DataFrame
        angle (degrees, of a query to its key), bits, heads (draws of the hash and of the places), rate with exact 99
        percent limits low and high, collision (the probability of a common bucket).
    """
    heads = run.given("draws", run.pick(smoke=500, standard=4000, full=20000))
    cells = [(angle, bits, heads) for angle in (0.02, 0.05, 0.1) for bits in run.given("lsh_bits", range(1, 11))]
    return pd.DataFrame(run.map(_recall, cells), columns=["angle", "bits", "heads", "rate", "low", "high", "collision"])


def _recall(run: Run, angle: float, bits: int, heads: int) -> tuple[Any, ...]:
    """A row of `recall_over_bits`."""
    how: dict[str, Any] = {"blocks": CLUSTERS, "block_size": 4, "queries": 4, "heads": heads}
    hits = held(run.rng("recall", bits, angle), run.xp, angle=angle, bits=bits, **how).sum()
    return 180 * angle, bits, heads, *proportion(int(hits), heads), (1 - angle) ** bits


def recall_of_orders() -> pd.DataFrame:
    """The exact probability that the mask holds a planted pair (6 clusters, 4 hyperplanes) in each order of buckets.

    Returns
    -------
    DataFrame
        A row per angle (degrees), a column per order of `ORDERS`.
    """
    angles = {180 * angle: angle for angle in (0.02, 0.05, 0.1, 0.2)}
    table = {order: [recall_law(angle, 4, 6, order) for angle in angles.values()] for order in ORDERS}
    return pd.DataFrame(table, index=pd.Index(angles, name="angle"))


# -------------------------------------------------------------------------------------------------------------- figures
@paper_style()
def draw_collisions(rates: pd.DataFrame, laws: pd.DataFrame) -> Figure:
    """A panel per event: the rates of `collision_rates` with their limits, and the laws of `collision_laws`."""
    events = list(LAWS)
    fig, axes = grid(2, columns=2, height=2.1, sharex=True, sharey=True)
    looks = series(*laws["bits"].unique(), linestyle="none", zorder=5)
    spread = pd.concat(rates.assign(rate=rates[end]) for end in ("rate", "low", "high"))
    for ax, event in zip(axes, events, strict=True):
        for bits in sorted(laws["bits"][laws["event"] == event].unique()):
            law, points = (part[(part["event"] == event) & (part["bits"] == bits)] for part in (laws, spread))
            theory_line(ax, law["angle"], law["law"], "law")
            label = f"r = {bits} bit" if bits == 1 else f"r = {bits} bits"
            lines(ax, points, "angle", "rate", {**looks[bits], "label": label}, interval=100, bars=True)
        ax.set(title=event, xlim=(0, 180), xticks=range(0, 181, 45), ylim=(-0.02, 1.02))
    finish(fig, xlabel="angle between the points (degrees)", ylabel="probability")
    return fig


@paper_style()
def draw_recall(rows: pd.DataFrame) -> Figure:
    """A panel per angle: the rates of `recall_over_bits`, the probability of a common bucket, and the share b/n."""

    def known(ax: Axes, panel: pd.DataFrame) -> None:
        panel = panel.drop_duplicates("bits")
        theory_line(ax, panel["bits"], panel["collision"], r"common bucket: $(1-\theta/\pi)^r$")
        theory_line(ax, panel["bits"], 1 / CLUSTERS, "random mask: $b/n$", linestyle=(0, (1, 1.5)))
        ax.set(xticks=sorted(panel["bits"]), ylim=(0, 1.02))

    look = {"looks": {None: {**LOOKS["blue"], "label": "in the mask"}}, "limits": ("low", "high"), "bars": True}
    options: dict[str, Any] = {"facet": "angle", "titles": lambda angle: f"{angle:g} degrees", "height": 1.9, **look}
    return facets(rows, x="bits", y="rate", xlabel="hyperplanes $r$", ylabel="probability", each=known, **options)


@paper_style()
def draw_matrix(entries: pd.DataFrame, *, n: int, block_size: int) -> Figure:
    """The entries of `sorted_matrix` as given and sorted by bucket, the blocks of the mask outlined in the second."""
    fig, axes = grid(2, columns=2, height=2.6, sharey=True)
    norm = LogNorm(entries["p"].min(), entries["p"].max())
    for ax, query, key, title in zip(
        axes, ("query", "query_place"), ("key", "key_place"), ("as given", "sorted by bucket"), strict=True
    ):
        p = np.full((n, n), np.nan)
        p[entries[query], entries[key]] = entries["p"]
        image = ax.imshow(p, norm=norm, cmap="cividis_r", interpolation="nearest")
        ax.set_title(title)
        ax.grid(False)
        ax.spines[:].set_visible(True)
    axes[0].set(xlabel="key (position)", ylabel="query (position, or rank)")
    axes[1].set(xlabel="key (rank in bucket order)")
    blocks = [Rectangle((start - 0.5, start - 0.5), block_size, block_size) for start in range(0, n, block_size)]
    outline = {"facecolor": "none", "edgecolor": LOOKS["rose"]["color"], "linewidth": 0.9}
    axes[1].add_collection(PatchCollection(blocks, **outline))
    fig.colorbar(image, ax=axes, label="softmax entry $P_{ij}$", shrink=0.85, pad=0.02)
    finish(fig, legend=False)
    return fig


@paper_style()
def draw_shares(rows: pd.DataFrame) -> Figure:
    """A panel for the heavy entries and one for the mass of `heavy_caught`, a line per input."""
    names = {"heavy_share": "heavy entries in the mask", "mass_share": "softmax mass in the mask"}
    long = rows.rename(columns=names).melt(["input", "mask"], list(names.values()), "quantity", "share")
    looks = series("sortLSH", "random")
    for name, look in looks.items():
        look["label"] = f"{name} mask"
    options: dict[str, Any] = {"facet": "quantity", "columns": 2, "looks": looks, "height": 1.9}
    return facets(long, x="share", y="input", hue="mask", xlabel="share", **options)
