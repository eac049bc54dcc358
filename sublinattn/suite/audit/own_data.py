"""Notebook 23: queries, keys and values from a file of the user's, and which keys make alpha large."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...core.backends import asnumpy, to_device
from ...lab.run import Run
from ...lab.workloads.instance import TENSORS, Captured
from ...lm.capture import capture
from ...methods.hyperattention.hardness import hardness
from ...plots.panels import finish, grid, theory_line
from ...plots.style import LOOKS, paper_style

COUNTS = (0, 1, 2, 4, 8, 16, 32)
"""So many of the heaviest keys are left out."""


def opened(run: Run) -> Captured:
    """The file that the run's knob `data` names; by default the shipped decoder's, in the run's `out`."""
    path = run.knobs["data"]
    if not path:
        path, model = Path(run.out) / "own-data" / "qkv.safetensors", run.open_model()
        tokens = model.beginning(run.pick(smoke=256, standard=1024, full=2048))
        capture(model.decoder, tokens, path, source=f"{model.name}, {model.source}")
    captured = Captured.open(path)
    return replace(captured, source=captured.source or captured.path.name)


def heaviest_keys(run: Run, captured: Captured) -> pd.DataFrame:
    """alpha of every head with and without its heaviest keys, of the later half's queries and the earlier half's keys.

    Returns
    -------
    DataFrame
        layer, head, without (number of keys left out), alpha; and of the head: key (position of the heaviest), mass
        (its share of the attention).
    """
    half, tables = captured.tokens // 2, []
    for layer in range(captured.layers):
        heads = [captured.head(layer, head) for head in range(captured.heads)]
        q, k, v = (to_device(np.stack([getattr(x, name) for x in heads]), run.xp) for name in TENSORS)
        h = hardness(q[:, half:], k[:, :half], v[:, :half], scale=captured.scale, rng=run.rng("own data", layer))
        first = h.heaviest(1)
        key, mass = asnumpy(first.positions)[:, 0], asnumpy(first.masses)[:, 0]
        tables += [
            pd.DataFrame({"layer": layer, "head": range(len(heads)), "without": count, "alpha": alpha}).assign(
                key=key, mass=mass
            )
            for count in COUNTS
            if count < half
            for alpha in [asnumpy(h.alpha_without(count))]
        ]
    return pd.concat(tables, ignore_index=True)


@paper_style()
def draw(rows: pd.DataFrame) -> Figure:
    """alpha over the number of keys left out: each head, and the median head."""
    fig, (ax,) = grid(1, 1, width=5, height=2.6)
    table = rows.pivot(index="without", columns=["layer", "head"], values="alpha")
    steps = range(len(table))
    each = ax.plot(steps, table, color="0.75", linewidth=0.7)
    each[0].set_label("each head")
    ax.plot(steps, table.median(axis=1), **LOOKS["blue"], label="median head")
    theory_line(ax, steps, 1.0, "all keys alike")
    ax.set(yscale="log", xticks=steps, xticklabels=table.index)
    finish(fig, xlabel="heaviest keys left out", ylabel=r"$\alpha$")
    return fig


def told(rows: pd.DataFrame, *, left_out: int = 4) -> str:
    """What the rows say of the heaviest keys, in one sentence."""
    heads = rows.pivot(index=["layer", "head"], columns="without", values="alpha")
    fallen = heads[0] / heads[left_out]
    keys = rows.drop_duplicates(["layer", "head"])
    return (
        f"Without its {left_out} heaviest keys the median head's alpha is {heads[left_out].median():.3g} instead of "
        f"{heads[0].median():.3g}; it falls to less than half on {(fallen > 2).sum()} of {len(heads)} heads. The "
        f"heaviest key is the text's first on {(keys['key'] == 0).sum()} heads, and gets {keys['mass'].median():.0%} "
        "of the median head's attention."
    )
