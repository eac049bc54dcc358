"""Figures: the same bytes every time, what they are inside every format, the plotted numbers beside them."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sublinattn import plots
from sublinattn.core import files, provenance

N = np.array([1024, 4096, 16384])
DATA = pd.DataFrame(
    {"n": N, "method": "uniform", "error": [0.1, float("nan"), 1 / 3], "bound": [1.0, 2.0, float("inf")]}
)
CALL = {
    "claim": ["ha24.one", "ha24.two"],
    "params": {"n": 4096, "eps": 0.1},
    "seed": 7,
    "caption": "Error over κ",
    "backend": "numpy",
}


def draw() -> Figure:
    with plots.paper_style():
        fig = Figure(figsize=(plots.COLUMN, 2))
        ax = fig.subplots()
        ax.loglog(N, 1 / N, **plots.method("uniform"))
        ax.loglog(N, 2 / N, **plots.THEORY)
        ax.fill_between(N, 1 / N, 2 / N, alpha=0.2, hatch="//")  # hatches and clip paths have ids in an SVG
        ax.set_xlabel(r"sequence length $n$ (keys), $\kappa^7$")
        ax.legend()
    return fig


def write(out: Path, **changes) -> dict[str, Path]:
    return plots.save(draw(), "error-over-n", out=out, **{**CALL, "data": DATA, **changes})


def images(paths: dict[str, Path]) -> dict[str, bytes]:
    return {suffix: path.read_bytes() for suffix, path in paths.items() if suffix != "json"}


def embedded(path: Path) -> dict:
    """The JSON inside an image, read back from its own format."""
    if path.suffix == ".png":
        return json.loads(Image.open(path).text["Description"])
    if path.suffix == ".svg":
        return json.loads(next(ElementTree.parse(path).iter("{http://purl.org/dc/elements/1.1/}description")).text)
    return json.loads(re.search(rb"/Keywords \((\{.*?\})\)", path.read_bytes())[1])


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    return write(tmp_path_factory.mktemp("saved"))


def test_the_bytes_depend_neither_on_the_time_nor_on_the_settings_of_the_user(tmp_path, saved):
    time.sleep(1.1)  # a date in any of them would differ by a second
    with mpl.rc_context({"savefig.bbox": "tight", "font.family": "monospace", "svg.hashsalt": None, "savefig.dpi": 50}):
        second = write(tmp_path)
    assert images(saved) == images(second)
    kept, again = (json.loads(paths["json"].read_text()) for paths in (saved, second))
    assert kept.pop("machine") and again.pop("machine")
    assert kept == again


def test_another_process_gives_the_same_bytes(tmp_path, saved):
    code = "import pathlib, sys, test_plots; test_plots.write(pathlib.Path(sys.argv[1]))"
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment)
    assert images(saved) == images({suffix: tmp_path / "figures" / path.name for suffix, path in saved.items()})


def test_every_image_says_what_it_is(tmp_path, saved):
    changed = write(tmp_path, seed=8)
    for suffix in ("svg", "pdf", "png"):
        assert embedded(saved[suffix]) == {
            "backend": "numpy",
            "claims": ["ha24.one", "ha24.two"],
            "code": provenance.source_hash(),
            "params": {"n": 4096, "eps": 0.1},
            "seed": 7,
        }
        assert embedded(changed[suffix])["seed"] == 8
        assert mpl.__version__.encode() not in saved[suffix].read_bytes()


def test_text_looks_the_same_everywhere_and_the_width_is_exact(saved):
    assert b"<text" not in saved["svg"].read_bytes()
    pdf = saved["pdf"].read_bytes()
    assert b"/Subtype /Type3" not in pdf and b"/FontFile2" in pdf
    assert Image.open(saved["png"]).size == (round(plots.COLUMN * 200), 400)


def test_the_sidecar_holds_the_plotted_numbers_in_full(tmp_path, saved):
    sidecar = json.loads(saved["json"].read_text())
    assert sidecar["data"] == {
        "error-over-n": {
            "n": [1024, 4096, 16384],
            "method": ["uniform"] * 3,
            "error": [0.1, "nan", 1 / 3],
            "bound": [1.0, 2.0, "inf"],
        }
    }
    assert (sidecar["figure"], sidecar["caption"], sidecar["seed"]) == ("error-over-n", "Error over κ", 7)
    assert {"commit", "packages", "time"} <= sidecar["machine"].keys()
    grouped = DATA.groupby(["method", "n"])[["bound"]].max()
    named = json.loads(write(tmp_path, claim="ha24.one", data={"points": DATA, "grouped": grouped})["json"].read_text())
    assert named["claims"] == ["ha24.one"] and list(named["data"]) == ["grouped", "points"]
    assert named["data"]["grouped"]["n"] == [1024, 4096, 16384]  # an index is data too


def test_a_save_that_fails_at_the_last_file_leaves_the_old_four_alone(saved, monkeypatch):
    def full(path, value):
        raise OSError("no space left")

    before = {suffix: path.read_bytes() for suffix, path in saved.items()}
    monkeypatch.setattr(files, "write_json", full)
    with pytest.raises(OSError, match="no space left"):
        write(saved["svg"].parents[1], seed=8)
    assert {suffix: path.read_bytes() for suffix, path in saved.items()} == before
    assert set(saved["svg"].parent.iterdir()) == set(saved.values())


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"name": "../escape"}, ValueError, "name must be lower case"),
        ({"fig": "not a figure"}, TypeError, "fig must be a matplotlib Figure, got str"),
        ({"seed": 1.5}, TypeError, "seed must be an int, got 1.5"),
        ({"caption": " "}, ValueError, "caption must say"),
        ({"params": {"x": np.ones(2)}}, TypeError, "params must be JSON values"),
        ({"params": {"x": float("nan")}}, ValueError, "params must be JSON values"),
        ({"data": {"points": [1, 2]}}, TypeError, "data must be a DataFrame .* got list for 'points'"),
        ({"data": pd.DataFrame({"when": [object()]})}, TypeError, "numbers and strings, got object .* column 'when'"),
        ({"backend": "tpu"}, ValueError, "backend must be"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(tmp_path, changes, error, words):
    arguments = {"fig": draw(), "name": "error-over-n", "data": DATA, "out": tmp_path, **CALL, **changes}
    with pytest.raises(error, match=words):
        plots.save(arguments.pop("fig"), arguments.pop("name"), **arguments)
    assert not list(tmp_path.iterdir())


def test_style_comes_and_goes():
    with mpl.rc_context({"font.size": 31}):
        with plots.paper_style():
            assert mpl.rcParams["font.size"] == 8
        assert mpl.rcParams["font.size"] == 31


def test_methods_can_be_told_apart():
    looks = [plots.method(name) for name in ("exact", "hyper practical", "hyper theory", "uniform", "zero")]
    for key in ("color", "marker", "label"):
        assert len({look[key] for look in looks}) == len(looks)
    assert plots.THEORY["color"] not in {look["color"] for look in looks}
    assert plots.method("zero", label="0")["label"] == "0"
    with pytest.raises(ValueError, match="name must be one of .* got 'flash'"):
        plots.method("flash")
