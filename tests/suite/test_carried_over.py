"""Findings of two runs side by side: small tables of which the answers are known."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from sublinattn.methods.hyperattention.studies import model_hardness
from sublinattn.methods.subgen.studies import clusterability, model_keys_values
from sublinattn.suite.carried_over import carried_over

COSTS = ["source", "n", "replicate", "passage", "layer", "head", "what", "variant", "m", "radius", "mean"]
VARIANTS = (clusterability.CAPTURED, model_keys_values.WITHOUT, clusterability.NULL)


def run(out: Path, model: str, *, power: float, mass: float, keys: float, growth: float, factor: float) -> Path:
    """What a run leaves: alpha grows like this power of n, keys cost so many times what values do, ..."""
    names = [*model_hardness.QUANTITIES, "columns"]
    hardness = [
        (0, head, r, n, 200, mass, 0.0 if mass > 0.5 else 9.0, *[(1 + r) * n**power] * len(names))
        for head in (0, 1)
        for r in (0, 1)
        for n in (100, 200)
    ]
    columns = ["layer", "head", "replicate", "n", "trained", "mass", "position", *names]
    both = ("keys", keys), (model_keys_values.BEFORE, keys), ("values", 1.0)
    costs = [
        ("real", 64, 2 * p + head, p, 0, head, what, variant, 8, cost, cost)
        for p in (0, 1)
        for head in (0, 1)
        for what, cost in both
        for variant in VARIANTS
    ]
    tables = {
        "model-hardness-over-n": pd.DataFrame(hardness, columns=columns).assign(mass_first=0.1, query_norm=7.0),
        "model-kcenter-cost": pd.DataFrame(costs, columns=COSTS),
        "model-clusters-over-n": pd.DataFrame(
            [(p, 0, h, n, n**growth) for p in (0, 1) for h in (0, 1) for n in (64, 128)],
            columns=["passage", "layer", "head", "n", "clusters"],
        ),
        "model-delta-by-head": pd.DataFrame({"n": 100.0, "factor": [factor, 1e9]}),
    }
    for folder in ("rows", "figures"):
        (out / folder).mkdir(parents=True)
    for name, table in tables.items():
        table.to_parquet(out / "rows" / f"{name}.parquet")
    (out / "figures" / "model-hardness-over-n.json").write_text(json.dumps({"params": {"model": model}}))
    return out


@pytest.fixture
def runs(tmp_path):
    small = run(tmp_path / "a", "small", power=0.5, mass=0.1, keys=2.0, growth=0.5, factor=50)
    large = run(tmp_path / "b", "large", power=2.0, mass=0.9, keys=3.0, growth=1.5, factor=500)
    return small, large


def test_what_carries_over_and_what_does_not(runs):
    table = carried_over(*runs)
    alpha = table.loc["alpha of the largest block, all keys"]
    assert alpha.to_list() == [
        "n^0.50 [0.50, 0.50]; sublinear",
        "n^2.00 [2.00, 2.00]; not sublinear",
        "no",
    ]
    assert table.loc["heads with a sink"].to_list() == ["0 of 2; none", "2 of 2; all", "no"]
    assert table.loc["k-center cost, keys / values"].to_list() == [
        "2.00 [2.00, 2.00]; costs more",
        "3.00 [3.00, 3.00]; costs more",
        "yes",
    ]
    assert table.loc["k-center cost, keys / keys before the rotation", "carries over"] == "undecided"
    assert table.loc["exponent of the clusters at a fixed delta", "large"] == "1.50 to 1.50; not below 1"
    assert table.loc["key heads where e^(2 delta r) exceeds n"].to_list() == ["1 of 2; few", "2 of 2; all", "no"]
    assert table.loc["longest query of a head"].to_list() == ["7.0 to 7.0; 5 to 20"] * 2 + ["yes"]


def test_the_script_prints_markdown(runs):
    script = Path(__file__).parents[2] / "scripts" / "carried_over"
    done = subprocess.run([sys.executable, script, *runs], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("| finding | small | large | carries over |\n|---|---|---|---|\n| alpha of")


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no figures/model-hardness-over-n.json in .*: run notebooks 17 and 18"):
        carried_over(tmp_path, tmp_path)
