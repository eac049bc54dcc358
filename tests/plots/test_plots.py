"""Figures: the same bytes every time, what they are inside every format, the plotted numbers beside them."""

import itertools
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

from sublinattn.core import files, provenance
from sublinattn.lab import comparison  # noqa: F401  registers the caches' looks
from sublinattn.methods.hyperattention import studies as hyperattention  # noqa: F401
from sublinattn.methods.onepass import studies as onepass  # noqa: F401
from sublinattn.plots import style
from sublinattn.plots.save import save

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
    with style.paper_style():
        fig = Figure(figsize=(style.COLUMN, 2))
        ax = fig.subplots()
        ax.loglog(N, 1 / N, **style.method("uniform"))
        ax.loglog(N, 2 / N, **style.THEORY)
        ax.fill_between(N, 1 / N, 2 / N, alpha=0.2, hatch="//")  # hatches and clip paths have ids in an SVG
        ax.set_xlabel(r"sequence length $n$ (keys), $\kappa^7$")
        ax.legend()
    return fig


def write(out: Path, **changes) -> dict[str, Path]:
    return save(draw(), "error-over-n", out=out, **{**CALL, "data": DATA, **changes})


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
    assert Image.open(saved["png"]).size == (round(style.COLUMN * 200), 400)


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
        save(arguments.pop("fig"), arguments.pop("name"), **arguments)
    assert not list(tmp_path.iterdir())


def test_style_comes_and_goes():
    with mpl.rc_context({"font.size": 31}):
        with style.paper_style():
            assert mpl.rcParams["font.size"] == 8
        assert mpl.rcParams["font.size"] == 31


def seen(color: str, deficiency: str) -> np.ndarray:
    """CIELAB coordinates of a colour as an observer with full strength of the deficiency sees it."""
    encoded = np.array(mpl.colors.to_rgb(color))
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    xyz = RGB_TO_XYZ @ np.clip(DEFICIENCIES[deficiency] @ linear, 0, 1) / (0.9505, 1.0, 1.089)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


RGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
DEFICIENCIES = {  # Machado, Oliveira and Fernandes (2009), severity 1
    "none": np.eye(3),
    "protan": np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]),
    "deutan": np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9690]]),
    "tritan": np.array([[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]]),
}
YARDSTICKS = ("exact", "zero", "uniform")
TOGETHER = (
    (*YARDSTICKS, "hyper practical", "hyper theory"),
    (*YARDSTICKS, "streaming state", "one-pass paper", "one-pass fused"),
    (*YARDSTICKS, "streaming state", "subgen", "sinks", "heavy hitters", "value-norm", "k-center"),
)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("names", TOGETHER, ids=lambda names: names[-1])
def test_colours_of_one_figure_differ_for_every_eye(names, deficiency):
    colors = [seen(style.method(name)["color"], deficiency) for name in names]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colors, 2)) > 19


def test_methods_differ_in_colour_marker_and_label_and_variants_keep_those_of_their_method():
    own = {name: look for name, look in style.METHODS.items() if "markerfacecolor" not in look}
    for key in ("color", "marker", "label"):
        assert len({look[key] for look in own.values()}) == len(own) >= 13
        assert len({look[key] for look in style.LOOKS.values()} if key != "label" else style.LOOKS) == len(style.LOOKS)
    for name in style.METHODS.keys() - own.keys():
        base = own[name.split(",")[0]]
        changed = style.METHODS[name]
        assert {key: changed[key] for key in ("color", "marker")} == {key: base[key] for key in ("color", "marker")}
        assert changed["label"] != base["label"] and changed["linestyle"] != "-"
    assert style.THEORY["color"] not in {look["color"] for look in own.values()}
    assert style.method("zero", label="0")["label"] == "0"
    with pytest.raises(ValueError, match="name must be one of .* got 'flash'"):
        style.method("flash")
    with pytest.raises(ValueError, match="look 'blue' of 'flash' is that of 'hyper practical'"):
        style.register("flash", "FlashAttention", "blue")


def test_the_commands_list_claims_without_loading_what_draws():
    code = "import sys, sublinattn.plots.style, sublinattn.theory; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"matplotlib", "seaborn"} & set(modules)
