"""Every parameter of every notebook changed once, at the level of its study: the rows move with it, and say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd
import pytest
from matplotlib.figure import Figure

from sublinattn.lab.comparison import error_over_bytes, index_bits
from sublinattn.lab.parameter_table import NOTEBOOKS
from sublinattn.lab.run import Run
from sublinattn.methods.balancekv.studies import balance
from sublinattn.methods.baselines.studies import equal_budget
from sublinattn.methods.hyperattention.studies import (
    causal_scaling,
    context_gain,
    dropped_assumptions,
    input_hardness,
    model_hardness,
    perplexity,
    released_code,
    sortlsh,
    spectral_error,
)
from sublinattn.methods.onepass.studies import flat_outputs, questions, sparse_recovery, streaming_scaling
from sublinattn.methods.polynomial.studies import degree_and_rank, phase_picture
from sublinattn.methods.subgen.studies import (
    ablation,
    clusterability,
    laws,
    line_retrieval,
    model_keys_values,
    scaling,
    self_normalised,
)
from sublinattn.suite.audit import study as audit_study


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
POSITION = Study(
    "04-causal-scaling",
    causal_scaling.error_by_position,
    {"n": 256, "d": 8, "block_size": 8, "replicates": 2},
)
RELEASED = Study("04-causal-scaling", released_code.errors, {"n": 256, "d": 8, "replicates": 2})
STAGES = Study("04-causal-scaling", causal_scaling.stages, {"lengths": [1024]})
DROPPED = Study(
    "05-dropped-assumptions",
    dropped_assumptions.measure,
    {"n": 128, "d": 16, "block_size": 16, "sample_size": 16, "replicates": 2},
)
DEGREES = Study("06-degree-and-rank", degree_and_rank.minimal_degrees, {})
POLYNOMIAL = Study(
    "06-degree-and-rank",
    degree_and_rank.errors,
    {"n": 64, "d": 2, "logits": 1.0, "degrees": [2], "replicates": 1},
)
PHASES = Study("07-phase-picture", phase_picture.maps, {"points": 3, "powers": [10]})
RECOVERY = Study(
    "08-sparse-recovery",
    sparse_recovery.over_accuracy,
    {"n": 128, "k": 2, "eps1": [1.0], "columns": 1, "signals": ["flat"], "replicates": 1},
)
DECAY = Study(
    "09-flat-outputs",
    flat_outputs.over_decay,
    {"n": 128, "d": 2, "degree": 2, "k": 4, "eps1": 1.0, "eps2": 1.0, "decays": [1], "replicates": 1},
)
SKETCHED = {"n": [128], "degree": 2, "k": 4, "eps1": 1.0, "eps2": 1.0, "replicates": 1}
STREAMED = Study(
    "10-streaming-scaling",
    lambda run: streaming_scaling.over_n(run).query("quantity in ('bytes', 'error')"),  # times differ anyway
    SKETCHED,
)
ASKED = Study("11-reviewers-questions", questions.over_n, SKETCHED)
CROSSED = Study("11-reviewers-questions", questions.crossings, {"widths": [2], "degree": 2})
PEERS = Study("03-spectral-error", equal_budget.measure, {**ERROR.small, "n": 128, "budgets": [32]})
FEW = {"n": 64, "d": 16, "replicates": 1}
COSTS = Study("12-clusterability", lambda run: synthetic(clusterability.cost_curves(run)), FEW)
RADII = Study("12-clusterability", lambda run: synthetic(clusterability.over_delta(run)), {**FEW, "radii": 2})
GROWN = Study("12-clusterability", lambda run: synthetic(clusterability.over_n(run)), {**FEW, "lengths": [64]})
ONLINE = Study("12-clusterability", lambda run: synthetic(clusterability.online(run)), {**FEW, "parts": [8]})
CACHED = {"n": 256, "d": 16, "shares": [0.25], "replicates": 1}
CACHES = Study("14-caches-error", error_over_bytes.over_bytes, {**CACHED, "inputs": ["clusters"]})
RETRIEVED = Study("14-caches-error", error_over_bytes.retrieval, CACHED)
BITS = Study("14-caches-error", index_bits.over_bytes, CACHED)
STORED = Study(
    "15-subgen-scaling",
    lambda run: scaling.over_n(run).query("quantity == 'bytes'"),  # times differ anyway
    {"n": [1024], "d": 16, "samples": 1, "slots": 1, "replicates": 1},
)
SQUARES = Study(
    "13-subgen-laws", lambda run: laws.errors(run)[0], {"n": 30, "slots": [4], "samples": [2], "copies": 10}
)
RATIOS = Study("13-subgen-laws", lambda run: laws.ratios(run)[0], {"n": 30, "copies": 10})
SMALL = {"n": 256, "d": 16, "replicates": 1}
PARTS = Study("16-subgen-ablation", ablation.parts, {**SMALL, "inputs": ["clusters-mean"]})
CURVES = Study("16-subgen-ablation", ablation.curves, SMALL)
SETTINGS = Study(
    "16-subgen-ablation",
    ablation.settings,
    {**SMALL, "inputs": ["clusters-mean"], "deltas": [1], "windows": [0], "samples": [1]},
)
OVER_MEAN = Study("16-subgen-ablation", self_normalised.over_mean, SMALL)

SHORT = {"n": [128], "passages": 1}
DECODER = Study("17-model-hardness", lambda run: model_hardness.over_n(run, block_size=16), SHORT)
READ = Study("18-model-keys-values", lambda run: model_keys_values.read(run).needs, {"n": 128, "passages": 1})
WIDTHS = Study(
    "18-model-keys-values",
    lambda run: model_keys_values.over_delta(run, model_keys_values.read(run)),
    {"n": 128, "passages": 1, "radii": 2},
)
AUDITED = Study("19-model-assumptions", lambda run: audit_study.measure(run).heads, {"n": 128})
CONTEXT = Study("20-perplexity", context_gain.over_context, {"n": [128], "passages": 2})
REPLACED = Study(
    "20-perplexity",
    lambda run: perplexity.replaced_layers(run).drop(columns=["attention", "forward"]),  # times differ anyway
    {"n": [128], "passages": 2},
)
ANSWERED = Study("21-line-retrieval", line_retrieval.over_length, {"n": [256], "documents": 2})
BUDGETED = Study(
    "21-line-retrieval",
    lambda run: line_retrieval.over_bytes(run, {line_retrieval.PLAIN: [256]}),
    {"documents": 2, "shares": [0.5]},
)
SIZED = Study("24-balancekv", balance.critical_sizes, {"n": 256, "eps": [0.4], "replicates": 1})


def synthetic(rows: pd.DataFrame) -> pd.DataFrame:
    """What no parameter changes is left out: the real heads."""
    return rows[rows["source"] == "synthetic"]


TRIED = [
    (COLLISIONS, {"draws": 30, "d": 5, "lsh_bits": "2,3"}),
    (RECALL, {"draws": 30, "lsh_bits": 3}),
    (MATRIX, {"n": 128, "d": 8, "block_size": 32}),
    (CAUGHT, {"n": 128, "d": 8, "block_size": 32, "inputs": "gaussian,real", "replicates": 2}),
    (HARDNESS, {"n": "128,256", "d": 8, "block_size": 32, "exact_keys": 2, "inputs": "alpha", "replicates": 2}),
    (PROFILE, {"n": [128], "d": 8, "inputs": "gaussian", "replicates": 2}),
    (MAPS, {"block_size": 64}),
    (ERROR, {"n": 128, "d": 8, "d_v": 2, "inputs": "gaussian", "budgets": "32", "lsh_bits": 5, "replicates": 2}),
    (POSITION, {"n": 512, "d": 16, "block_size": 16, "replicates": 3}),
    (RELEASED, {"n": 512, "d": 16, "replicates": 3}),
    (STAGES, {"lengths": "2048"}),
    (
        DROPPED,
        {"n": 256, "d": 32, "block_size": 32, "sample_size": 32, "eps": 0.7, "delta": 0.3, "replicates": 3},
    ),
    (DEGREES, {"eps": 1e-3, "radius": 1.5}),
    (POLYNOMIAL, {"n": 128, "d": 3, "logits": 2, "degrees": "1,3", "replicates": 2}),
    (PHASES, {"powers": "12,14", "points": 4, "largest_width": 3}),
    (RECOVERY, {"n": 256, "k": 3, "eps1": 0.5, "columns": 2, "signals": "power law", "replicates": 2}),
    (
        DECAY,
        {"n": 256, "d": 3, "degree": 3, "k": 8, "eps1": 0.5, "eps2": 0.5, "decays": "0,2", "replicates": 2},
    ),
    (PEERS, {"methods": "Performer", "d": 8, "d_v": 2, "n": 256, "budgets": 64, "inputs": "sinks", "replicates": 2}),
    (COSTS, {"n": 128, "d": 32, "replicates": 2}),
    (RADII, {"radii": 3}),
    (GROWN, {"lengths": "64,128", "d": 32}),
    (ONLINE, {"parts": "8,16"}),
    (CACHES, {"n": 512, "d": 32, "inputs": "drifting,real", "shares": "0.5", "replicates": 2}),
    (RETRIEVED, {"n": 512, "d": 32, "shares": 0.5, "replicates": 2}),
    (BITS, {"n": 512, "d": 32, "shares": 0.5, "replicates": 2}),
    (STORED, {"n": "2048", "d": 32, "samples": 2, "slots": 5, "replicates": 2}),
    (SQUARES, {"n": 40, "slots": "8", "samples": "4,8", "copies": 20}),
    (RATIOS, {"n": 40, "copies": 20}),
    (PARTS, {"n": 512, "d": 32, "inputs": "needles,real", "replicates": 2}),
    (CURVES, {"n": 512, "d": 32, "replicates": 2}),
    (OVER_MEAN, {"n": 512, "d": 32, "replicates": 2}),
    (
        SETTINGS,
        {"deltas": "1,2", "windows": "0,0.5", "samples": 2, "inputs": "heavy-values", "n": 512, "replicates": 2},
    ),
    (DECODER, {"n": "128,256", "passages": 2}),
    (READ, {"n": 256, "passages": 2}),
    (WIDTHS, {"radii": 3}),
    (AUDITED, {"n": 256}),
    (CONTEXT, {"n": 256, "passages": 3}),
    (REPLACED, {"n": 256, "passages": 3}),
    (ANSWERED, {"n": 512, "documents": 3}),
    (STREAMED, {"n": "128,256", "degree": 3, "k": 8, "eps1": 0.5, "eps2": 0.5, "replicates": 2}),
    (ASKED, {"n": "128,256", "degree": 3, "k": 8, "eps1": 0.5, "eps2": 0.5, "replicates": 2}),
    (CROSSED, {"widths": 4, "degree": 3}),
    (SIZED, {"n": 512, "eps": "0.3,0.4", "replicates": 2}),
    (BUDGETED, {"shares": "0.25,0.5"}),
]
"""Studies, and the parameters that each reads, with values other than those of `small`."""

ELSEWHERE = {
    *(("00-explore", "claims"), ("17-model-hardness", "block_size")),
    *((stem, each.name) for stem, own in NOTEBOOKS.items() for each in own if each.name in ("model", "text")),
    *(("22-your-own-claim", name) for name in ("n", "d")),
    ("19-model-assumptions", "tolerance"),
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
