"""Instances survive the disk, and refuse what does not fit together."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy

from sublinattn.lab.workloads import make
from sublinattn.lab.workloads.instance import Instance


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_round_trip(tmp_path, dtype):
    x = make("alpha", np.int64(33), 8, rng=np.int64(1), d_v=3, alpha=np.float64(7), dtype=dtype, scale=0.3).first(20)
    x.save(tmp_path / "x.safetensors")
    y = Instance.load(tmp_path / "x.safetensors")
    for tensor in "qkv":
        a, b = getattr(x, tensor), getattr(y, tensor)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert (y.scale, y.name, dict(y.params), y.source) == (x.scale, x.name, dict(x.params), x.source)
    assert y.params == {"n": 20, "d": 8, "d_v": 3, "alpha": 7.0, "noise": 0.05, "seed": 1}
    y.save(tmp_path / "y.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()


def test_round_trip_of_a_transposed_view(tmp_path):
    q = np.arange(24.0).reshape(2, 4, 3).swapaxes(0, 1)  # heads taken out of (token, head, feature): not contiguous
    Instance(q, q, q, 1.0).save(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(Instance.load(tmp_path / "x.safetensors").k, q)


@pytest.mark.parametrize("where", ["write", "rename"])
def test_a_crash_leaves_the_old_file(tmp_path, monkeypatch, where):
    path = tmp_path / "x.safetensors"
    make("gaussian", 8, 4, rng=0).save(path)
    before = path.read_bytes()

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    if where == "write":

        def half(self, data):
            with open(self, "wb") as file:
                file.write(data[: len(data) // 2])
            crash()

        monkeypatch.setattr("pathlib.Path.write_bytes", half)
    else:
        monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        make("gaussian", 8, 4, rng=1).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_load_says_what_is_wrong(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match="x.safetensors"):
        Instance.load(path)
    for junk in (b"", b"not a tensor file", b"PK\x03\x04" * 100):
        path.write_bytes(junk)
        with pytest.raises(ValueError, match="is not a whole safetensors file"):
            Instance.load(path)
    x = make("gaussian", 8, 4, rng=0)
    x.save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        Instance.load(path)
    safetensors.numpy.save_file({"q": x.q}, path)
    with pytest.raises(ValueError, match="was not written by Instance.save"):
        Instance.load(path)
    about = {"sublinattn.Instance": json.dumps({"scale": 1.0})}
    safetensors.numpy.save_file({"q": x.q, "w": x.v}, path, about)
    with pytest.raises(ValueError, match=r"lacks the tensors \['k', 'v'\], it has \['q', 'w'\]"):
        Instance.load(path)
    for damaged in ("{", "{}", "[]", '{"scale": -1}', '{"scale": 1, "colour": 2}'):
        safetensors.numpy.save_file({"q": x.q, "k": x.k, "v": x.v}, path, {"sublinattn.Instance": damaged})
        with pytest.raises(ValueError, match="holds no valid instance"):
            Instance.load(path)
    safetensors.numpy.save_file({"q": x.q, "k": x.k, "v": x.v[1:]}, path, about)
    with pytest.raises(ValueError, match="holds no valid instance: q, k, v must be"):
        Instance.load(path)


@pytest.mark.parametrize("value", [np.zeros(3), {1, 2}, float("nan")])
def test_params_that_json_cannot_hold(tmp_path, value):
    x = make("gaussian", 8, 4, rng=0)
    with pytest.raises(TypeError, match="params must hold JSON values only"):
        Instance(x.q, x.k, x.v, 1.0, params={"x": value}).save(tmp_path / "x.safetensors")
    assert not os.listdir(tmp_path)


def test_instance_refuses_shapes_and_scales():
    q = np.zeros((2, 5, 4))
    for k, v in [(q[:1], q[:1]), (q[..., :3], q), (q, q[:, :4]), (q, q[0]), (q[0, 0], q)]:
        with pytest.raises(ValueError, match="q, k, v must be"):
            Instance(q, k, v, 1.0)
    for scale in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="scale must be positive and finite"):
            Instance(q, q, q, scale)
    Instance(q, q[:, :3], q[:, :3, :1], 1.0)  # n_q != n_k and d_v != d are fine


def test_first_and_head_and_to():
    q = np.arange(48.0).reshape(2, 3, 4, 2)
    x = Instance(q, q + 1, q + 2, 1.0, params={"n": 4})
    one = x.head(1, 2).first(3)
    np.testing.assert_array_equal(one.k, q[1, 2, :3] + 1)
    assert one.params == {"n": 3, "head": [1, 2]}
    np.testing.assert_array_equal(x.to(np).v, x.v)
    for index in [(), (1,), (1, 3), (-3, 0), (0, 0, 0)]:
        with pytest.raises(ValueError, match="head takes one index for each"):
            x.head(*index)
    for n in (0, 5):
        with pytest.raises(ValueError, match="n must be between 1 and the 4 tokens there are"):
            x.first(n)
