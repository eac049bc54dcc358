"""The file that an audit reads: what `capture` wrote, what a user dumped, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from sublinattn.lab.workloads.instance import Captured, Instance

RNG = np.random.default_rng(0)


def arrays(layers=2, heads=4, kv_heads=2, n=6, d=8, d_v=8, dtype=np.float32):
    shapes = {"q": (layers, heads, n, d), "k": (layers, kv_heads, n, d), "v": (layers, kv_heads, n, d_v)}
    return {name: RNG.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_query_head_reads_the_keys_and_values_of_its_group(tmp_path, dtype):
    made = arrays(dtype=dtype)
    save_file(made, tmp_path / "qkv.safetensors")
    found = Captured.open(tmp_path / "qkv.safetensors")
    assert (found.layers, found.heads, found.kv_heads, found.tokens) == (2, 4, 2, 6)
    for layer in range(2):
        for head, own in enumerate((0, 0, 1, 1)):
            x = found.head(layer, head)
            for tensor, number in (("q", head), ("k", own), ("v", own)):
                np.testing.assert_array_equal(getattr(x, tensor), made[tensor][layer, number])
                assert getattr(x, tensor).dtype == np.float32


def test_bfloat16_is_read(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    made = arrays(dtype=ml_dtypes.bfloat16)
    save_file(made, tmp_path / "qkv.safetensors")
    program = (  # of its own: this one has ml_dtypes loaded, which is what makes NumPy read bfloat16
        "import sys; from sublinattn.lab.workloads.instance import Captured; "
        "print(float(Captured.open(sys.argv[1]).head(1, 3).v.astype('f8').sum()))"
    )
    run = subprocess.run([sys.executable, "-c", program, tmp_path / "qkv.safetensors"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) == made["v"][1, 1].astype(np.float64).sum()


def test_integers_and_metadata_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "qkv.safetensors"
    save_file(arrays(dtype=np.int32), path)
    with pytest.raises(ValueError, match=r"must hold tensors in one of .*F16.* got \['I32', 'I32', 'I32'\]"):
        Captured.open(path)
    for text in ("no json", "[1]", '{"scale": "wide"}', '{"scale": null}', '{"scale": NaN}'):
        save_file(arrays(), path, metadata={"sublinattn.Instance": text})
        with pytest.raises(ValueError, match="qkv.safetensors has metadata .* that is no JSON object with a scale"):
            Captured.open(path)


def test_a_dump_without_metadata_has_the_usual_scale_and_may_be_of_one_layer(tmp_path):
    made = {name: x[0] for name, x in arrays(d=16, d_v=5).items()}
    save_file(made, tmp_path / "one.safetensors")
    found = Captured.open(tmp_path / "one.safetensors")
    assert (found.layers, found.scale, found.source) == (1, 0.25, "")
    np.testing.assert_array_equal(found.head(0, 3).v, made["v"][1])


def test_what_an_instance_says_of_itself_is_read(tmp_path):
    made = arrays(kv_heads=4)
    Instance(**made, scale=0.3, source="some model", params={"a": 1}).save(tmp_path / "i.safetensors")
    found = Captured.open(tmp_path / "i.safetensors")
    assert (found.scale, found.source, found.params) == (0.3, "some model", {"a": 1})
    assert found.head(1, 2).scale == 0.3


@pytest.mark.parametrize(
    "change",
    [
        {"k": (2, 3, 6, 8), "v": (2, 3, 6, 8)},
        {"k": (2, 2, 5, 8), "v": (2, 2, 5, 8)},
        {"k": (2, 2, 6, 7)},
        {"v": (2, 1, 6, 8)},
        {"k": (1, 2, 6, 8), "v": (1, 2, 6, 8)},
        {"q": (4, 6, 8)},
        {"q": (6, 8), "k": (6, 8), "v": (6, 8)},
        {"q": (2, 4, 0, 8), "k": (2, 2, 0, 8), "v": (2, 2, 0, 8)},
    ],
    ids=str,
)
def test_tensors_that_do_not_fit_are_named_with_their_shapes(tmp_path, change):
    made = arrays() | {name: np.zeros(shape, np.float32) for name, shape in change.items()}
    save_file(made, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="must hold q .* got") as error:
        Captured.open(tmp_path / "bad.safetensors")
    assert all(str(shape) in str(error.value) for shape in change.values())


def test_a_missing_tensor_or_a_broken_file_is_named(tmp_path):
    made = arrays()
    save_file({"q": made["q"], "keys": made["k"]}, tmp_path / "lacks.safetensors")
    with pytest.raises(ValueError, match=r"lacks the tensors \['k', 'v'\], it has \['keys', 'q'\]"):
        Captured.open(tmp_path / "lacks.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "lacks.safetensors").read_bytes()[:-4])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Captured.open(tmp_path / "cut.safetensors")
    with pytest.raises(FileNotFoundError):
        Captured.open(tmp_path / "none.safetensors")


def test_a_head_that_is_not_there_is_refused(tmp_path):
    save_file(arrays(), tmp_path / "qkv.safetensors")
    found = Captured.open(tmp_path / "qkv.safetensors")
    for place in ((2, 0), (0, 4), (-1, 0)):
        with pytest.raises(ValueError, match="layer and head must be below 2 and 4"):
            found.head(*place)
