"""Every parameter of every notebook changed once, at the level of its study: the rows move with it, and say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd
import pytest
from matplotlib.figure import Figure

from sublinattn.lab.parameter_table import NOTEBOOKS
from sublinattn.lab.run import Run
from sublinattn.methods.baselines.studies import equal_budget
from sublinattn.methods.hyperattention.studies import input_hardness, sortlsh, spectral_error


class Study(NamedTuple):
    """A study of a notebook, with parameters that make it small."""

    notebook: str
    measure: Callable[[Run], pd.DataFrame]
    small: dict[str, Any]


SIZES = {"n": 64, "d": 4, "block_size": 16, "replicates": 1}
COLLISIONS = Study("01-sortlsh", sortlsh.collision_rates, {"draws": 20, "d": 4, "lsh_bits": [1]})
RECALL = Study("01-sortlsh", sortlsh.recall_over_bits, {"draws": 20, "lsh_bits": [1]})
MATRIX = Study("01-sortlsh", lambda run: sortlsh.sorted_matrix(run, **sortlsh.picture_sizes(run)), SIZES)
CAUGHT = Study("01-sortlsh", sortlsh.heavy_caught, {**SIZES, "inputs": ["clustered"]})
HARDNESS = Study("02-hardness", input_hardness.over_n, {**SIZES, "exact_keys": 1, "inputs": ["sinks"]})
PROFILE = Study("02-hardness", input_hardness.column_profile, {"n": 64, "d": 4, "inputs": ["sinks"], "replicates": 1})
MAPS = Study("02-hardness", input_hardness.head_maps, {"block_size": 16})
ERROR = Study(
    "03-spectral-error",
    spectral_error.measure,
    {"n": 64, "d": 4, "inputs": ["clustered"], "budgets": [16], "replicates": 1},
)
PEERS = Study("03-spectral-error", equal_budget.measure, {**ERROR.small, "n": 128, "budgets": [32]})

TRIED = [
    (COLLISIONS, {"draws": 30, "d": 5, "lsh_bits": "2,3"}),
    (RECALL, {"draws": 30, "lsh_bits": 3}),
    (MATRIX, {"n": 128, "d": 8, "block_size": 32}),
    (CAUGHT, {"n": 128, "d": 8, "block_size": 32, "inputs": "gaussian,real", "replicates": 2}),
    (HARDNESS, {"n": "128,256", "d": 8, "block_size": 32, "exact_keys": 2, "inputs": "alpha", "replicates": 2}),
    (PROFILE, {"n": [128], "d": 8, "inputs": "gaussian", "replicates": 2}),
    (MAPS, {"block_size": 64}),
    (ERROR, {"n": 128, "d": 8, "d_v": 2, "inputs": "gaussian", "budgets": "32", "lsh_bits": 5, "replicates": 2}),
    (PEERS, {"methods": "Performer", "d": 8, "d_v": 2, "n": 256, "budgets": 64, "inputs": "sinks", "replicates": 2}),
]
"""Studies, and the parameters that each reads, with values other than those of `small`."""

ELSEWHERE = {
    *(("00-explore", "claims"), ("17-model-hardness", "block_size")),
    *(("04-causal-scaling", name) for name in ("n", "block_size")),
    *((f"{stem}", name) for stem in NOTEBOOKS if "17" <= stem[:2] <= "21" for name in ("model", "text")),
    *(("22-your-own-claim", name) for name in ("n", "d")),
    *(("23-your-own-data", name) for name in ("data", "tolerance")),
}
"""Parameters that the tests of their notebooks' studies try."""


def test_every_parameter_of_every_notebook_is_tried():
    tried = {(study.notebook, name) for study, values in TRIED for name in values}
    assert tried | ELSEWHERE == {(stem, each.name) for stem, own in NOTEBOOKS.items() for each in own}


@pytest.mark.parametrize(
    ("study", "name", "value"),
    [
        pytest.param(study, name, value, id=f"{study.notebook}-{number}-{name}")
        for number, (study, values) in enumerate(TRIED)
        for name, value in values.items()
    ],
)
def test_a_parameter_moves_the_rows_and_stands_in_them_and_beside_the_figure(study, name, value, tmp_path):
    before = study.measure(Run(backend="numpy", notebook=study.notebook, knobs=study.small))
    run = Run(backend="numpy", out=tmp_path, notebook=study.notebook, knobs={**study.small, name: value})
    rows = study.measure(run)
    assert not rows.equals(before)
    run.publish(Figure(), "moved", rows, caption="c")
    sidecar = json.loads((tmp_path / "figures" / "moved.json").read_text())
    read = run.knobs[name]
    assert sidecar["params"][name] == (list(read) if isinstance(read, tuple) else read)
    assert name in pd.read_parquet(tmp_path / "rows" / "moved.parquet")
