"""What a broken or foreign checkpoint is answered: which file, field or tensor, what it is, and what it should be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from toy_llama import DATA, FIELDS, checkpoint, decoder, some_tokens

from sublinattn.lm.config import Config
from sublinattn.lm.decoder import Decoder

NORM, QUERY = "model.norm.weight", "model.layers.1.self_attn.q_proj.weight"


def refused(folder: Path, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Decoder.load(folder)


# --------------------------------------------------------------------------------------------------- folder and config
def test_no_folder_and_no_config(tmp_path: Path) -> None:
    message = "is no folder and no file: a checkpoint is config.json and safetensors in a folder, or a GGUF file$"
    refused(tmp_path / "absent", FileNotFoundError, f"^{tmp_path / 'absent'} {message}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(tmp_path / "model.safetensors", ValueError, "is no GGUF file: it does not begin with GGUF$")
    refused(tmp_path, FileNotFoundError, f"{tmp_path / 'config.json'}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((content, " is not JSON: ") for content in (b"", b"{", b"model_type: llama", b"\xff\xfe{")),
        (b"[]", ": an object of fields is needed, got list$"),
    ],
)
def test_a_config_that_is_no_object_in_json(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    refused(tmp_path, ValueError, f"^{tmp_path / 'config.json'}{message}")


YARN = {"rope_type": "yarn", "factor": 2.0}
LLAMA3 = {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "mistral"}, "model_type must be 'llama', got 'mistral'"),
    ({"model_type": None}, "model_type must be 'llama', got None"),
    ({"hidden_act": "gelu"}, "hidden_act must be 'silu', got 'gelu'"),
    (
        {"quantization_config": {"quant_method": "gptq"}},
        "quantization_config says that the weights are quantised, which only a GGUF file may be",
    ),
    *(
        ({name: value}, f"{name} must be an integer of at least 1, got {value!r}")
        for name in (
            *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
            "max_position_embeddings",
        )
        for value in (None, 0, -1, 2.0, "2", True)
    ),
    ({"num_key_value_heads": 0}, "num_key_value_heads must be an integer of at least 1, got 0"),
    ({"num_key_value_heads": 3}, "num_key_value_heads must divide num_attention_heads (4), got 3"),
    ({"head_dim": "8"}, "head_dim must be an integer of at least 1, got '8'"),
    ({"head_dim": 5}, "head_dim must be even, got 5"),
    ({"head_dim": None, "hidden_size": 3}, "head_dim must be an integer of at least 1, got 0"),
    ({"rms_norm_eps": "1e-6"}, "rms_norm_eps must be a number in [0, 1), got '1e-6'"),
    ({"rms_norm_eps": None}, "rms_norm_eps must be a number in [0, 1), got None"),
    ({"rms_norm_eps": -1e-6}, "rms_norm_eps must be a number in [0, 1), got -1e-06"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a number in [0, 1), got nan"),
    *(
        ({name: value}, f"{name} must be true or false, got {value!r}")
        for name in ("tie_word_embeddings", "attention_bias", "mlp_bias")
        for value in ("false", 1)
    ),
    ({"rope_parameters": [1]}, "rope_parameters must be an object of fields, got [1]"),
    (
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        "rope_type must be one of ('default', 'linear', 'llama3', 'yarn'), got 'dynamic'",
    ),
    ({"rope_parameters": {"rope_type": "linear"}}, "rope_type 'linear' needs the numbers ['factor']"),
    ({"rope_parameters": YARN | {"factor": None}}, "rope_type 'yarn' needs the numbers ['factor']"),
    (
        {"rope_parameters": {"rope_type": "llama3", "factor": 2.0}},
        "rope_type 'llama3' needs the numbers ['low_freq_factor', 'high_freq_factor']",
    ),
    *(
        ({"rope_parameters": YARN | {name: value}}, f"{name} must be a positive number, got {value!r}")
        for name in ("factor", "beta_fast", "attention_factor", "original_max_position_embeddings", "mscale")
        for value in (0, -2.0, "2", True, float("inf"))
    ),
    (
        {"rope_parameters": LLAMA3 | {"low_freq_factor": 4.0}},
        "high_freq_factor must be above low_freq_factor (4.0), got 4.0",
    ),
    ({"rope_theta": "big"}, "rope_theta must be a positive number, got 'big'"),
    ({"rope_parameters": {"rope_theta": 0}}, "rope_theta must be a positive number, got 0"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1, got 0.5"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor must be 1, got 0.5"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_FIELDS, ids=[message for _, message in BAD_FIELDS])
def test_fields_that_are_not_llamas(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(FIELDS | fields))
    refused(tmp_path, ValueError, f"^{tmp_path / 'config.json'}: {re.escape(message)}$")


def test_fields_that_may_be_left_out(tmp_path: Path) -> None:
    names = ("model_type", "vocab_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings")
    fields = {name: FIELDS[name] for name in names} | {"hidden_size": 24, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    config = Config.load(tmp_path)
    assert (config.kv_heads, config.head_dim, config.norm_eps) == (4, 6, 1e-6)
    assert (config.tied, config.attention_bias, config.mlp_bias) == (False, False, False)
    assert (config.rope.theta, config.rope.magnitude) == (10000.0, 1.0)


@pytest.mark.parametrize("kind", ["yarn", "llama3"])
def test_where_the_trained_context_may_stand(tmp_path: Path, kind: str) -> None:
    """Within the rotations, beside them (which wins), or nowhere: then it is the context, as transformers has it."""
    rope = {"yarn": YARN | {"truncate": False}, "llama3": LLAMA3}[kind] | {"rope_theta": 20.0}
    name, found = "original_max_position_embeddings", []
    places = ((50, None, 200), (80, 50, 200), (None, 50, 200), (None, None, 50), (80, None, 200))
    for inside, outside, context in places:
        fields = FIELDS | {"head_dim": 16, "max_position_embeddings": context, name: outside}
        (tmp_path / "config.json").write_text(json.dumps(fields | {"rope_parameters": rope | {name: inside}}))
        found.append(Config.load(tmp_path).rope.frequencies)
    for frequencies in found[1:4]:
        np.testing.assert_array_equal(frequencies, found[0])
    assert not np.allclose(found[4], found[0])


# ------------------------------------------------------------------------------------------------------------- tensors
def altered(folder: Path, change: Callable[[dict[str, np.ndarray]], Any], **fields: Any) -> Path:
    weights = checkpoint(folder, **fields)
    change(weights)
    safetensors.numpy.save_file(weights, folder / "model.safetensors")
    return folder / "model.safetensors"


def test_no_weights(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    message = "has no model.safetensors: weights come as model.safetensors, or as model.safetensors.index.json and its"
    refused(tmp_path, FileNotFoundError, f"^{tmp_path} {message}")


@pytest.mark.parametrize("names", [(QUERY,), (QUERY, NORM, "lm_head.weight"), ("model.layers.0.mlp.up_proj.bias",)])
def test_tensors_that_are_missing(tmp_path: Path, names: tuple[str, ...]) -> None:
    altered(tmp_path, lambda weights: [weights.pop(name) for name in names])
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    refused(tmp_path, ValueError, f"^{tmp_path} lacks the tensor '{names[0]}'{more}$")


FLOATS = r"in one of \('F32', 'F16', 'BF16'\)"
BAD_TENSORS: list[tuple[str, Callable[[np.ndarray | None], np.ndarray], str]] = [
    *((QUERY, lambda x, shape=shape: np.zeros(shape, np.float32),
       rf"'{QUERY}' in PATH must be \(24, 12\) {FLOATS}, got {re.escape(str(shape))} in F32")
      for shape in ((24, 13), (12, 24), (24,), (1, 24, 12))),
    *((NORM, lambda x, dtype=dtype: x.astype(dtype),
       rf"'{NORM}' in PATH must be \(12,\) {FLOATS}, got \(12,\) in {word}")
      for dtype, word in ((np.int8, "I8"), (np.int64, "I64"), (np.float64, "F64"), (bool, "BOOL"))),
    *((NORM, lambda x, value=value: np.where(np.arange(12) == 3, np.float32(value), x),
       f"'{NORM}' in PATH must be finite, got NaN or Inf")
      for value in (np.nan, np.inf)),
    *((name, lambda x: np.ones(6, np.float32),
       f"PATH holds '{name}', which a Llama of this configuration does not have")
      for name in ("model.layers.0.self_attn.q_norm.weight", "model.layers.2.mlp.up_proj.weight", "w")),
    ("model.layers.0.mlp.up_proj.qweight", lambda x: np.ones(6, np.int32),
     "PATH holds 'model.layers.0.mlp.up_proj.qweight', of quantised weights, which only a GGUF file may have"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "message"), BAD_TENSORS)
def test_a_tensor_that_does_not_fit(tmp_path: Path, name: str, change: Any, message: str) -> None:
    path = altered(tmp_path, lambda weights: weights.update({name: change(weights.get(name))}))
    refused(tmp_path, ValueError, f"^{message.replace('PATH', str(path))}$")


def test_tensors_that_are_there_twice_over(tmp_path: Path) -> None:
    """Frequencies, which the config says as well, and the output projection where it is the embedding."""
    want = decoder(tmp_path, tie_word_embeddings=True).logits(some_tokens(0, 9))
    twice = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32)}
    twice["lm_head.weight"] = np.zeros((40, 12), np.float32)
    altered(tmp_path, lambda weights: weights.update(twice), tie_word_embeddings=True)
    np.testing.assert_array_equal(Decoder.load(tmp_path).logits(some_tokens(0, 9)), want)


def test_a_file_that_is_something_else(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"version https://git-lfs.example/spec")
    refused(tmp_path, ValueError, f"^{path} is not a whole safetensors file: ")


# -------------------------------------------------------------------------------------------------------------- shards
def sharded(folder: Path) -> Path:
    for path in (DATA / "sharded").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / "model.safetensors.index.json"


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model-00002-of-00004.safetensors").unlink()
    refused(tmp_path, FileNotFoundError, f"^{tmp_path} has no model-00002-of-00004.safetensors: weights come as ")


def test_a_shard_that_the_index_leaves_out(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    places = json.loads(index.read_text())["weight_map"]
    lost = [name for name, file in places.items() if file.startswith("model-00003")]
    rest = {name: file for name, file in places.items() if name not in lost}
    index.write_text(json.dumps({"weight_map": rest}))
    refused(tmp_path, ValueError, rf"^{tmp_path} lacks the tensor '({'|'.join(lost)})' and {len(lost) - 1} more$")


def test_a_tensor_left_over_in_another_shard_is_not_read(tmp_path: Path) -> None:
    """A folder that was sharded anew: the index says which file's tensor is meant."""
    index = sharded(tmp_path)
    right = Decoder.load(tmp_path).logits(np.arange(12))
    places = json.loads(index.read_text())["weight_map"]
    last = max(places.values())
    stale = next(name for name, shard in places.items() if shard != last)
    tensors = safetensors.numpy.load_file(tmp_path / last)
    shape = safetensors.numpy.load_file(tmp_path / places[stale])[stale].shape
    safetensors.numpy.save_file(tensors | {stale: np.zeros(shape, np.float32)}, tmp_path / last)
    np.testing.assert_array_equal(Decoder.load(tmp_path).logits(np.arange(12)), right)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none(tmp_path: Path, content: str) -> None:
    index = sharded(tmp_path)
    index.write_text(content)
    refused(tmp_path, ValueError, f"^{index} is not an index of shards: ")


# -------------------------------------------------------------------------------------------------------------- calling
def test_other_arguments(tmp_path: Path) -> None:
    model = decoder(tmp_path)
    for call in (model.logits, model.losses):
        with pytest.raises(ValueError, match=r"^tokens must be in 0\.\.39, got 0 to 40$"):
            call([0, 40])
    with pytest.raises(ValueError, match="^tokens must be two or more for a loss, got 1$"):
        model.losses([[3], [4]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^start must be at least 0, got -1$"):
        model.logits(some_tokens(0, 5), start=-1)
    with pytest.raises(TypeError, match="^start must be an integer, got float$"):
        model.logits(some_tokens(0, 5), start=1.0)  # type: ignore[arg-type]
