"""GGUF files: every way of storing numbers, the layouts that Llamas come in, tokenizers, and files that are broken.

Where transformers is installed it reads the same files; where SmolLM2 has been fetched, that too. The logits of SmolLM2
in `tests/data/smollm2.npz` are those of transformers (`scripts/make_llama_fixtures`).
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_gguf
from toy_gguf import write
from toy_llama import some_tokens

from sublinattn.core import backends
from sublinattn.lab.models import open_model
from sublinattn.lm import fetch
from sublinattn.lm.decoder import Decoder
from sublinattn.lm.gguf import GGUF
from sublinattn.lm.tokens import as_bytes, load_encoder

gguf = pytest.importorskip("gguf")
KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
smollm2 = pytest.mark.skipif(not fetch.place("smollm2").is_file(), reason="run `sublinattn fetch smollm2` for it")


def refused(path: Path, message: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error, match=message):
        Decoder.load(path)


# ----------------------------------------------------------------------------------------------------- what is computed
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_every_kind(xp: Any, tmp_path: Path, kind: str) -> None:
    """The logits of the weights as they were before the file, rounded to this kind."""
    config, weights = write(tmp_path / "toy.gguf", kind)
    tokens = some_tokens(0, 2, 30)
    want = Decoder(config, weights, np, config.context).logits(tokens)
    got = Decoder.load(tmp_path / "toy.gguf", xp=xp).logits(tokens)
    np.testing.assert_allclose(backends.asnumpy(got), want, rtol=0, atol=1e-4)


def q6_k(block: bytes) -> np.ndarray:
    """256 numbers of 6 bits, as ggml's `dequantize_row_q6_K` has them."""
    low, high, scales = block[:128], block[128:192], np.frombuffer(block[192:208], np.int8)
    out, d = np.zeros(256, np.float32), np.float32(np.frombuffer(block[208:], np.float16)[0])
    for i in range(256):
        half, quarter, column = i // 128, i % 128 // 32, i % 32
        nibble = low[64 * half + 32 * (quarter % 2) + column] >> (4 * (quarter // 2)) & 15
        upper = high[32 * half + column] >> (2 * quarter) & 3
        out[i] = d * scales[i // 16] * ((nibble | upper << 4) - 32)
    return out


def test_a_k_quant(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(256, size=(64, 210), dtype=np.uint8)
    blocks[:, 208:] = np.full((64, 1), 0.01, np.float16).view(np.uint8)
    name, kind = "blk.1.ffn_down.weight", gguf.GGMLQuantizationType.Q6_K
    stored = {name: (blocks, kind)}
    config, weights = write(tmp_path / "toy.gguf", "F32", keys={"llama.feed_forward_length": 256},
                            change=lambda tensors: tensors.update(stored), intermediate_size=256)  # fmt: skip
    weights["model.layers.1.mlp.down_proj.weight"] = np.stack([q6_k(block.tobytes()) for block in blocks])
    want = Decoder(config, weights, np, 200).logits(some_tokens(0, 9))
    np.testing.assert_allclose(
        Decoder.load(tmp_path / "toy.gguf").logits(some_tokens(0, 9)), want, rtol=1e-5, atol=1e-5
    )


LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tied": ({}, {"tie_word_embeddings": True}),
    "biases": ({}, {"attention_bias": True, "mlp_bias": True}),
    "multi-head": ({"llama.attention.head_count_kv": None}, {"num_key_value_heads": 4}),
    "linear": (
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    ),
    "yarn": (
        {
            "llama.rope.scaling.type": "yarn",
            "llama.rope.scaling.factor": 4.0,
            "llama.rope.scaling.original_context_length": 50,
            "llama.rope.scaling.yarn_beta_fast": 16.0,
            "llama.rope.scaling.yarn_beta_slow": 4.0,
        },
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 50,
                "beta_fast": 16.0,
                "beta_slow": 4.0,
            }
        },
    ),
    "aligned to 256 bytes": ({"general.alignment": 256}, {}),
    "not stretched": ({"llama.rope.scaling.type": "none", "llama.expert_count": 0}, {}),
    "size of the vocabulary by its tokens": (
        {"llama.vocab_size": None, "tokenizer.ggml.tokens": [f"t{i}" for i in range(40)]},
        {},
    ),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts(tmp_path: Path, case: str) -> None:
    keys, fields = LAYOUTS[case]
    config, weights = write(tmp_path / "toy.gguf", keys=keys, **fields)
    want = Decoder(config, weights, np, 200).logits(some_tokens(0, 60))
    np.testing.assert_allclose(Decoder.load(tmp_path / "toy.gguf").logits(some_tokens(0, 60)), want, rtol=0, atol=1e-4)


def test_llama_3_divides_its_frequencies_by_a_tensor(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 50
    plain, _ = write(tmp_path / "plain.gguf")
    want, weights = write(tmp_path / "toy.gguf", rope_scaling=scaling)  # the file says nothing of it yet
    divisors = (plain.rope.frequencies / want.rope.frequencies).astype(np.float32)
    assert divisors[0] == 1 and divisors[-1] == 8
    write(tmp_path / "toy.gguf", change=lambda tensors: tensors.update({"rope_freqs.weight": divisors}))
    got = Decoder.load(tmp_path / "toy.gguf")
    np.testing.assert_allclose(got.config.rope.frequencies, want.rope.frequencies, rtol=1e-6)
    write(tmp_path / "toy.gguf", change=lambda tensors: tensors.update({"rope_freqs.weight": 0 * divisors}))
    refused(tmp_path / "toy.gguf", "'rope_freqs.weight' in .* must be positive$")


def test_transformers_reads_the_same(tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    paths = []
    for kind in KINDS:
        write(tmp_path / f"{kind}.gguf", kind)
        paths.append(tmp_path / f"{kind}.gguf")
    if fetch.place("smollm2").is_file():
        paths.append(fetch.place("smollm2"))
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load = transformers.LlamaForCausalLM.from_pretrained
            model = load(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
        tokens = some_tokens(1, 40)
        with torch.inference_mode():
            want = model(torch.from_numpy(tokens)[None]).logits[0].numpy()
        np.testing.assert_allclose(Decoder.load(path).logits(tokens), want, rtol=0, atol=1e-3, err_msg=path.name)


@smollm2
def test_smollm2_is_that_of_transformers() -> None:
    want, model = np.load(Path(__file__).parents[1] / "data" / "smollm2.npz"), open_model("smollm2")
    assert model.encode(want["text"].tobytes()).tolist() == want["tokens"].tolist()
    logits = model.decoder.logits(want["tokens"])
    np.testing.assert_allclose(logits[:: want["step"][0], :: want["step"][1]], want["logits"], rtol=0, atol=1e-3)


# ---------------------------------------------------------------------------------------------------------- tokenizers
def bpe(split: str = "gpt-2", **changes: Any) -> dict[str, Any]:
    """Keys of a tokenizer: letters, digits up to "1234", a control token and one of the user's."""
    letters = [*"abcĠ1234Ã¤!Ċ", "12", "123", "1234", "Ġa", "cab", "!Ċ", "<s>", "</s>", "<note>"]
    keys = {
        "model": "gpt2",
        "pre": split,
        "tokens": letters,
        "token_type": [1] * (len(letters) - 3) + [3, 3, 4],
        "merges": ["1 2", "12 3", "123 4", "Ġ a"],
        "bos_token_id": len(letters) - 3,
        "eos_token_id": len(letters) - 2,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (keys | changes).items()}


def pieces(path: Path, keys: dict[str, Any], text: str) -> list[str]:
    write(path, keys=keys)
    return [keys["tokenizer.ggml.tokens"][i] for i in load_encoder(path, 40)(text.encode())]


@pytest.mark.parametrize(
    ("split", "digits"), [("gpt-2", ["1234"]), ("smollm", [*"1234"]), ("llama-bpe", ["<s>", "123", "4"])]
)
def test_how_a_text_is_cut(tmp_path: Path, split: str, digits: list[str]) -> None:
    assert pieces(tmp_path / "toy.gguf", bpe(split), "1234") == digits


def test_a_word_that_is_a_token_needs_no_merges_in_llama_3(tmp_path: Path) -> None:
    path = tmp_path / "toy.gguf"
    assert pieces(path, bpe("llama-bpe"), "cab!\n") == ["<s>", "cab", "!Ċ"]
    assert pieces(path, bpe(), "cab!\n") == ["c", "a", "b", "!", "Ċ"]


def test_tokens_at_the_ends_and_tokens_in_the_text(tmp_path: Path) -> None:
    path = tmp_path / "toy.gguf"
    assert pieces(path, bpe(), "ab aä") == ["a", "b", "Ġa", "Ã", "¤"]
    assert pieces(path, bpe(add_space_prefix=True), "ab") == ["Ġa", "b"]
    assert pieces(path, bpe(), "a</s>b<note>c") == ["a", "</s>", "b", "<note>", "c"]
    assert pieces(path, bpe(add_bos_token=True, add_eos_token=True), "a") == ["<s>", "a", "</s>"]
    assert pieces(path, bpe("llama-bpe", add_bos_token=False), "a") == ["a"]


def test_a_file_of_bytes_needs_no_tokenizer(tmp_path: Path) -> None:
    write(tmp_path / "toy.gguf", keys={"llama.vocab_size": 256}, vocab_size=256)
    assert load_encoder(tmp_path / "toy.gguf", 256) is as_bytes


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "tokenizer.ggml.model must be 'gpt2' (byte-level BPE), got None"),
        (bpe(model="llama"), "tokenizer.ggml.model must be 'gpt2' (byte-level BPE), got 'llama'"),
        (bpe("qwen2"), "tokenizer.ggml.pre must be one of ('gpt-2', 'smollm', 'llama-bpe'), got 'qwen2'"),
        (bpe(merges=None), "tokenizer.ggml.merges must be a list, got None"),
        (bpe(token_type=[1, 1]), "tokenizer.ggml.token_type must have 21 numbers, one per token, got 2"),
        (bpe(merges=["1 9"]), ""),
        (bpe(merges=["12"]), ""),
        (bpe(add_bos_token=True, bos_token_id=21), "tokenizer.ggml.bos_token_id must be in 0..20, got 21"),
    ],
)
def test_tokenizers_that_are_not_implemented(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    path = tmp_path / "toy.gguf"
    write(path, keys=keys)
    with pytest.raises(ValueError, match=f"^{path} is not a tokenizer: {re.escape(message)}"):
        load_encoder(path, 40)


# --------------------------------------------------------------------------------------------------------- broken files
def test_files_that_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "toy.gguf"
    for content in (b"", b"GGU", b"version https://git-lfs"):
        path.write_bytes(content)
        refused(path, f"^{path} is no GGUF file: it does not begin with GGUF$")
    for version in (0, 1, 4, 3 << 24):
        path.write_bytes(b"GGUF" + version.to_bytes(4, "little") + bytes(16))
        refused(path, f"^{path}: GGUF of version 2 or 3 and little-endian is needed, got version {version}$")


def test_a_file_that_ends_too_early(tmp_path: Path) -> None:
    """Cut anywhere in the header, or within any tensor: the message says where."""
    write(tmp_path / "whole.gguf", keys=bpe())
    content, path = (tmp_path / "whole.gguf").read_bytes(), tmp_path / "cut.gguf"
    shapes = GGUF(tmp_path / "whole.gguf").shapes
    for end in [*range(4, 2500, 7), *range(2500, len(content) - 40, 1999)]:
        path.write_bytes(content[:end])
        refused(path, f"^{path}(: the file)? ends within (its first numbers|(the )?(place of )?(the )?(key|tensor) .*)")
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError) as error:
        Decoder.load(path)
    assert any(f"ends within the tensor {name!r}" in str(error.value) for name in shapes)


def test_a_file_with_any_byte_of_its_header_changed(tmp_path: Path) -> None:
    """It loads, or it is refused with its path: no other exception, and nothing huge is allocated."""
    write(tmp_path / "whole.gguf", keys=bpe(), change=lambda tensors: tensors)
    content, path, rng = (
        bytearray((tmp_path / "whole.gguf").read_bytes()),
        tmp_path / "toy.gguf",
        np.random.default_rng(0),
    )
    outcomes = []
    for i in rng.choice(3000, 600, replace=False):
        changed = bytearray(content)
        changed[i] ^= rng.integers(1, 256)
        path.write_bytes(changed)
        try:
            load_encoder(path, Decoder.load(path).config.vocabulary)
            outcomes.append("loaded")
        except ValueError as error:
            assert str(path) in str(error)
            outcomes.append("refused")
    assert {"loaded", "refused"} == set(outcomes)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        *(
            ({key: None}, f"{key} must be an integer of at least 1, got None")
            for key in ("llama.embedding_length", "llama.block_count", "llama.attention.head_count")
        ),
        ({"llama.vocab_size": None}, "llama.vocab_size must be an integer of at least 1, got 0"),
        ({"llama.attention.layer_norm_rms_epsilon": None}, "llama.attention.layer_norm_rms_epsilon is missing"),
        (
            {"llama.attention.head_count_kv": [2, 1]},
            "llama.attention.head_count_kv must be an integer of at least 1, got",
        ),
        (
            {"llama.attention.head_count_kv": 3},
            "llama.attention.head_count_kv must divide llama.attention.head_count (4), got 3",
        ),
        (
            {"llama.embedding_length": 2**32 - 1},
            "llama.embedding_length is 4294967295, but no tensor of the file is so",
        ),
        ({"llama.block_count": 2**32 - 1}, "llama.block_count is 4294967295, but no tensor of the file is so large"),
        ({"llama.rope.dimension_count": 4}, "llama.rope.dimension_count must be the head dimension (8), got 4"),
        ({"llama.attention.value_length": 4}, "llama.attention.value_length must be the head dimension (8), got 4"),
        ({"llama.rope.scaling.type": "longrope"}, "llama.rope.scaling.type must be one of ('default', 'linear', "),
        (
            {"llama.rope.scaling.type": "linear"},
            "llama.rope.scaling.type 'linear' needs the numbers ['llama.rope.scali",
        ),
        ({"llama.attention.sliding_window": 64}, "the key 'llama.attention.sliding_window' (64) is not implemented"),
        ({"llama.expert_count": 8}, "the key 'llama.expert_count' (8) is not implemented"),
        ({"split.count": 2}, "split.count must be 1 (merge the parts into one file), got 2"),
    ],
)
def test_keys_that_do_not_fit(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    path = tmp_path / "toy.gguf"
    write(path, keys=keys)
    refused(path, f"^{path}: {re.escape(message)}")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (b"general.alignment", "04000000 00000000", "general.alignment must be an integer of at least 1, got 0$"),
        (b"llama.vocab_size", "04000000 28000000", "'llama.vocab_size' is there twice$"),
        (b"a", "63000000", "the key 'a' is of type 99, which GGUF does not have$"),
        (b"a", "09000000 09000000 0100000000000000", "the key 'a' holds a list of type 9, which is not implemented$"),
        (b"a", "08000000 0100000000000000 ff", "the key 'a' is no UTF-8: "),
        (b"\xff", "04000000 28000000", "key 1 of 14 is no UTF-8: "),
    ],
)
def test_keys_that_no_writer_writes(tmp_path: Path, key: bytes, value: str, message: str) -> None:
    path = tmp_path / "toy.gguf"
    write(path)
    content = path.read_bytes()
    more = (int.from_bytes(content[16:24], "little") + 1).to_bytes(8, "little")
    inserted = len(key).to_bytes(8, "little") + key + bytes.fromhex(value)
    path.write_bytes(content[:16] + more + inserted + content[24:])
    refused(path, f"^{path}: {message}")


def test_another_architecture(tmp_path: Path) -> None:
    write(tmp_path / "toy.gguf", architecture="qwen2")
    refused(tmp_path / "toy.gguf", "toy.gguf: general.architecture must be 'llama', got 'qwen2'$")


QUERY = "blk.1.attn_q.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(QUERY), f"PATH lacks the tensor '{QUERY}'$"),
        (lambda t: [t.pop(QUERY), t.pop("blk.1.ffn_up.weight")], f"PATH lacks the tensor '{QUERY}' and 1 more$"),
        (lambda t: t.update({"blk.1.attn_q_norm.weight": np.ones(8, np.float32)}),
         "PATH holds 'blk.1.attn_q_norm.weight', which a Llama of this configuration does not have$"),
        (lambda t: t.update({QUERY: np.zeros((64, 32), np.float32)}),
         rf"'{QUERY}' in PATH must be \(32, 64\), got \(64, 32\)$"),
        (lambda t: t.update({QUERY: np.zeros(64, np.float32)}), rf"'{QUERY}' in PATH must be \(32, 64\), got \(64,\)$"),
        (lambda t: t.update({QUERY: np.full((32, 64), np.nan, np.float32)}), f"'{QUERY}' in PATH must be finite, got"),
        (lambda t: t.update({QUERY: np.zeros((32, 64), np.int32)}),
         f"'{QUERY}' in PATH is of type I32, which the package gguf cannot dequantise$"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "toy.gguf"
    write(path, change=change)
    refused(path, f"^{message.replace('PATH', str(path))}")


def test_a_tensor_without_axes(tmp_path: Path) -> None:
    path = tmp_path / "toy.gguf"
    write(path)
    content = path.read_bytes()
    place = content.index(QUERY.encode()) + len(QUERY)
    for axes in (0, 5):
        path.write_bytes(content[:place] + axes.to_bytes(4, "little") + content[place + 4 :])
        refused(path, f"^{path}: the tensor '{QUERY}' must have 1 to 4 axes, got {axes}$")


def test_a_tensor_of_an_unknown_type_and_of_rows_that_are_no_blocks(tmp_path: Path) -> None:
    path = tmp_path / "toy.gguf"
    write(path)
    content = path.read_bytes()
    place = content.index(QUERY.encode()) + len(QUERY) + 4 + 16
    for kind, message in (
        (12, rf"^'{QUERY}' in {path} must have rows of 256 numbers each, got 64$"),
        (999, f"^'{QUERY}' in {path} is of type 999, which the package gguf does not know$"),
    ):
        path.write_bytes(content[:place] + kind.to_bytes(4, "little") + content[place + 4 :])
        refused(path, message)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "toy.gguf")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    refused(tmp_path / "toy.gguf", r"toy.gguf needs the package gguf: pip install 'sublinattn\[lm\]'$", ImportError)


def test_the_toy_keys_are_the_toy_fields() -> None:
    assert len(toy_gguf.KEYS) == len(toy_gguf.FIELDS) + 1  # the rotated and the values' columns, but no model_type
