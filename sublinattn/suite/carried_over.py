"""Which findings of notebooks 17 and 18 about one model hold for another: a table from the rows of two runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ..core import files
from ..methods.caches.sink import SINKS
from ..methods.hyperattention.studies import model_hardness
from ..methods.subgen.studies import model_keys_values

QUERY_NORMS = (5.0, 20.0)
"""What [SG24] reports of a large model's queries."""
COSTS = {"less than": "costs more", "more than": "costs less", "neither less nor more than": "undecided"}
"""What the words on clusters say of costs."""


def carried_over(*outs: str | os.PathLike[str]) -> pd.DataFrame:
    """What runs of notebooks 17 and 18 measured on two models, and whether both say the same.

    Parameters
    ----------
    *outs : two paths
        Output folders of `sublinattn run --only '1[78]*' --param model=...`.

    Returns
    -------
    DataFrame
        Index: the finding. For each model what was measured and, after a semicolon, what it says; carries over ("yes",
        "no", or "undecided" where the limits of either decide nothing).

    Raises
    ------
    FileNotFoundError
        A folder has no rows of these notebooks.
    """
    told = {_model(out): dict(_findings(Path(out))) for out in outs}
    lines = {}
    for name in next(iter(told.values())):
        each = [own[name] for own in told.values()]
        says = {says for _, says in each}
        agreed = "undecided" if "undecided" in says else "yes" if len(says) == 1 else "no"
        lines[name] = {model: "; ".join(one) for model, one in zip(told, each, strict=True)} | {"carries over": agreed}
    return pd.DataFrame.from_dict(lines, orient="index")


def _model(out: str | os.PathLike[str]) -> str:
    """The run's model, and where it was read from."""
    return str(files.read_json(_file(Path(out), "figures", "model-hardness-over-n.json"))["params"]["model"])


def _findings(out: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """(finding, (what was measured, what it says))."""
    rows = _rows(out, "model-hardness-over-n")
    fits, places, table = model_hardness.exponents(rows), model_hardness.sinks(rows), model_hardness.by_head(rows)
    names = ("all keys", f"the first {SINKS} exact", f"the {SINKS} heaviest exact")
    for name, words in zip(model_hardness.SHARED, names, strict=True):
        fit = fits.loc[name].to_dict()
        number = f"n^{fit['exponent']:.2f} [{fit['lower']:.2f}, {fit['upper']:.2f}]"
        yield f"alpha of the largest block, {words}", (number, model_hardness.kind(fit))
    yield "heads with a sink", _counted(places["sink"])
    yield "heads whose heaviest key is mostly the first", _counted(places["first"] > 0.5)
    norms = table["query_norm"]
    within = norms.between(*QUERY_NORMS).all()
    yield "longest query of a head", (f"{norms.min():.1f} to {norms.max():.1f}", f"{'' if within else 'not '}5 to 20")
    costs = model_keys_values.compared(_rows(out, "model-kcenter-cost")).xs("radius", level=1)
    for pair, cost in pd.DataFrame(costs).to_dict("index").items():
        number = f"{cost['ratio']:.2f} [{cost['lower']:.2f}, {cost['upper']:.2f}]"
        yield f"k-center cost, {pair}", (number, COSTS[model_keys_values.kind(cost)])
    grown = model_keys_values.growth_of(_rows(out, "model-clusters-over-n"), "clusters")["exponent"]
    says = "below 1" if grown.max() < 1 else "not below 1"
    yield "exponent of the clusters at a fixed delta", (f"{grown.min():.2f} to {grown.max():.2f}", says)
    heads = _rows(out, "model-delta-by-head")
    yield "key heads where e^(2 delta r) exceeds n", _counted(heads["factor"] > heads["n"])


def _counted(heads: pd.Series) -> tuple[str, str]:
    count = int(heads.sum())
    says = "none" if not count else "all" if count == len(heads) else "most" if 2 * count > len(heads) else "few"
    return f"{count} of {len(heads)}", says


def _rows(out: Path, name: str) -> pd.DataFrame:
    return files.read_rows(_file(out, "rows", f"{name}.parquet"))


def _file(out: Path, folder: str, name: str) -> Any:
    if not (path := out / folder / name).exists():
        raise FileNotFoundError(f"no {folder}/{name} in {out}: run notebooks 17 and 18 there first")
    return path
