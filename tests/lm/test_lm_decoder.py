"""The decoder in one piece or in many, on the host or on a device (`test_lm_transformers` holds what it computes)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_device
import numpy as np
import pytest
import safetensors.numpy
from scipy.special import logsumexp
from toy_llama import FIELDS, checkpoint, close, decoder, recorded, some_tokens

from sublinattn.core import backends
from sublinattn.lm import decoder as module
from sublinattn.lm.attend import causal
from sublinattn.lm.checkpoint import read_weights
from sublinattn.lm.decoder import Decoder

LAYERS = FIELDS["num_hidden_layers"]


def test_one_text_is_a_batch_of_one(xp: Any, tmp_path: Path) -> None:
    model, tokens = decoder(tmp_path, xp=xp), some_tokens(2, 3, 25)
    got, losses = model.logits(tokens), model.losses(tokens)
    assert got.shape == (3, 25, 40) and losses.shape == (3, 24)
    for text, logits, loss in zip(tokens, backends.asnumpy(got), losses, strict=True):
        close(model.logits(text), logits)
        close(model.losses(text), loss)
        close(model.logits(text, last=1), logits[-1:])
    close(model.logits(tokens, last=3), got[:, -3:])
    close(model.logits(tokens[0].tolist()), got[0])


@pytest.mark.parametrize("factor", [1, 500])  # the exponentials of the larger logits overflow
def test_losses_are_cross_entropy(xp: Any, tmp_path: Path, factor: int) -> None:
    weights, tokens = checkpoint(tmp_path), some_tokens(3, 31)
    larger = weights | {"lm_head.weight": factor * weights["lm_head.weight"]}
    safetensors.numpy.save_file(larger, tmp_path / "model.safetensors")
    model = Decoder.load(tmp_path, xp=xp)
    logits = backends.asnumpy(model.logits(tokens)).astype(float)[:-1]
    assert (logits.max() > 500) == (factor > 1)
    want = logsumexp(logits, axis=1) - np.take_along_axis(logits, tokens[1:, None], axis=1)[:, 0]
    got = model.losses(tokens)
    assert isinstance(got, np.ndarray) and got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5 if factor == 1 else 1e-3)


def test_the_attention_given_is_the_one_used(tmp_path: Path) -> None:
    model, tokens = decoder(tmp_path), some_tokens(4, 9)
    seen = []

    def blind(layer: int, q: Any, k: Any, v: Any) -> Any:
        seen.append((layer, q.shape, k.shape, v.shape))
        return np.zeros_like(q)

    logits = model.logits(tokens, attend=blind)
    assert seen == [(layer, (1, 4, 9, 6), (1, 2, 9, 6), (1, 2, 9, 6)) for layer in range(LAYERS)]
    same = tokens == tokens[3]  # without attention a token's logits depend on the token alone
    close(logits[same], np.broadcast_to(logits[3], (same.sum(), 40)), 1e-6)
    assert abs(model.losses(tokens, attend=blind) - model.losses(tokens)).max() > 0.1


@pytest.mark.parametrize("rows", [1, 7, 24])
def test_rows_at_a_time_change_nothing(xp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    model, tokens, asked = decoder(tmp_path, xp=xp), some_tokens(5, 2, 25), []
    logits, losses = model.logits(tokens), model.losses(tokens)
    monkeypatch.setattr(module, "ROWS", rows)
    monkeypatch.setattr(backends, "feature_rows", lambda xp, features, dtype: asked.append(features) or rows)
    close(model.logits(tokens), logits)
    close(model.losses(tokens), losses)
    assert set(asked) == (set() if xp is np else {FIELDS["intermediate_size"]})


@pytest.mark.parametrize("size", [1.0, 8.0])  # without and with a maximum that is subtracted before exp
def test_later_tokens_change_no_earlier_logit(tmp_path: Path, size: float) -> None:
    model, tokens = decoder(tmp_path, size=size), some_tokens(6, 40)
    logits = model.logits(tokens)
    for place in (1, 20, 39):
        changed = tokens.copy()
        changed[place] = (changed[place] + 1) % 40
        other = model.logits(changed)
        np.testing.assert_array_equal(other[:place], logits[:place])
        moved = (other[place:] != logits[place:]).any(axis=1)
        assert moved[0] and (moved.all() or size > 1)  # where attention is saturated, most tokens look elsewhere


def test_large_norms(xp: Any, tmp_path: Path) -> None:
    """Attention logits of about 1e4, gates of about 1e3: saturated, and finite."""
    model, tokens = decoder(tmp_path, xp=xp, size=40.0), some_tokens(7, 30)
    q, k, _ = (backends.asnumpy(x)[0, 0] for x in recorded(model, tokens)[1])
    assert abs(q @ k.T).max() / np.sqrt(6) > 5e3
    assert np.isfinite(backends.asnumpy(model.logits(tokens))).all() and np.isfinite(model.losses(tokens)).all()


def test_passes_share_the_layers_before_those_in_which_they_differ(xp: Any, tmp_path: Path) -> None:
    """To the bit; another method, further states and the losses alone from a state that is kept."""
    model, tokens = decoder(tmp_path, xp=xp, num_hidden_layers=4), some_tokens(11, 2, 30)
    called: list[int] = []

    def exact(layer: int, q: Any, k: Any, v: Any) -> Any:
        called.append(layer)
        return causal(layer, q, k, v)

    def other(layer: int, q: Any, k: Any, v: Any) -> Any:
        return 0 * q if layer > 1 else exact(layer, q, k, v)

    states = {state.layer: state for state in model.states(tokens)}
    assert list(states) == [0, 1, 2, 3, 4] and {state.x.shape for state in states.values()} == {(2, 30, 12)}
    for attend in (exact, other):
        whole = model.losses(tokens, attend=attend)
        for layer in (2, 1, 0):
            called.clear()
            np.testing.assert_array_equal(model.losses(tokens, attend=attend, resume=states[layer]), whole)
            assert called == list(range(layer, 4 if attend is exact else 2))
    np.testing.assert_array_equal(model.losses(tokens, resume=states[4]), model.losses(tokens))
    further = list(model.states(tokens, attend=other, resume=states[2]))
    assert [state.layer for state in further] == [2, 3, 4] and further[0] is states[2]
    np.testing.assert_array_equal(model.losses(tokens, attend=other, resume=further[1]), whole)
    assert abs(whole - model.losses(tokens)).max() > 0.01


def test_a_state_of_other_tokens_is_refused(tmp_path: Path) -> None:
    model = decoder(tmp_path)
    state = next(model.states(some_tokens(12, 7)))
    message = r"^resume must be a state of these tokens, x of shape \(1, 8, 12\), got \(1, 7, 12\)$"
    for call in (model.losses, model.states):
        with pytest.raises(ValueError, match=message):
            call(some_tokens(12, 8), resume=state)


# --------------------------------------------------------------------------------------------------- place and context
def test_start_is_the_position_of_the_first_token(tmp_path: Path) -> None:
    """Exact attention sees differences of positions only, so a text that starts elsewhere has the same logits."""
    model, tokens = decoder(tmp_path), some_tokens(8, 20)
    close(model.logits(tokens, start=100), model.logits(tokens), 1e-4)
    moved, plain = (recorded(model, tokens, start=start)[0][1] for start in (100, 0))
    assert abs(moved - plain).max() > 0.1
    close(np.linalg.norm(moved, axis=-1), np.linalg.norm(plain, axis=-1))
    angles = np.subtract(*(np.angle(k[..., :3] + 1j * k[..., 3:]) for k in (moved, plain)))
    expected = 100 * model.config.rope.frequencies
    np.testing.assert_allclose(np.exp(1j * angles), np.broadcast_to(np.exp(1j * expected), angles.shape), atol=1e-4)


def test_stretching_changes_the_rotations_and_is_refused_twice(tmp_path: Path) -> None:
    model, tokens = decoder(tmp_path), some_tokens(10, 5)
    longer = model.stretched(201)
    close(longer.logits(tokens[:1]), model.logits(tokens[:1]))  # one token sees no rotation, only the weights
    assert abs(longer.logits(tokens) - model.logits(tokens)).max() > 1e-3
    assert (longer.trained, longer.config.context, longer.config.rope.magnitude > 1) == (200, 201, True)
    assert model.stretched(200) is model and longer.stretched(201) is longer
    with pytest.raises(ValueError, match=r"^context must be at most 201, what this decoder is stretched to, got 202$"):
        longer.stretched(202)
    with pytest.raises(ValueError, match="^context must be at least 1, got 0$"):
        model.stretched(0)
    with pytest.raises(TypeError, match="^context must be an integer, got float$"):
        model.stretched(400.0)  # type: ignore[arg-type]


def test_tokens_beyond_the_context_are_refused(tmp_path: Path) -> None:
    model, tokens = decoder(tmp_path), np.zeros(201, np.int64)
    for call in (model.logits, model.losses):
        with pytest.raises(ValueError, match=r"^tokens must end within the context of 200 \(see stretched\), got 201$"):
            call(tokens)
    with pytest.raises(ValueError, match="within the context of 200"):
        model.logits(tokens[:2], start=199)
    assert model.logits(tokens[:2], start=198).shape[0] == model.stretched(201).losses(tokens).shape[0] - 198


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "yarn", "factor": 2.0},
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ],
)
def test_a_checkpoint_that_is_stretched_itself_is_not_stretched_again(tmp_path: Path, scaling: dict) -> None:
    model = decoder(tmp_path, rope_parameters=scaling)
    assert model.stretched(200) is model
    with pytest.raises(ValueError, match=r"^context must be at most 200, what this decoder is stretched to, got 201$"):
        model.stretched(201)


# ------------------------------------------------------------------------------------------------- weights, transfers
@pytest.mark.parametrize("spaces", range(4))
def test_weights_in_float32_are_mapped_where_they_lie(tmp_path: Path, spaces: int) -> None:
    """Unless the file's header ends where no float32 may begin: matrix products would copy them each time."""
    model, tokens, path = decoder(tmp_path), some_tokens(13, 20), tmp_path / "model.safetensors"
    want, content = model.logits(tokens), path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = (size + spaces).to_bytes(8, "little") + content[8 : 8 + size] + b" " * spaces
    (tmp_path / "other").mkdir()
    (tmp_path / "config.json").rename(tmp_path / "other" / "config.json")
    (tmp_path / "other" / "model.safetensors").write_bytes(header + content[8 + size :])
    np.testing.assert_array_equal(Decoder.load(tmp_path / "other").logits(tokens), want)
    for tensor in read_weights(tmp_path / "other", model.config, np).values():
        assert type(tensor) is np.ndarray and tensor.flags.aligned
        assert isinstance(tensor.base, np.memmap) == (spaces == 0)


def test_the_device_is_left_once_per_layer(tmp_path: Path) -> None:
    """For the largest norms that exact attention asks for, the head's, too; the losses come in one piece.

    No weight is copied: of a layer's products only attention's own has a transposed operand of three dimensions.
    """
    model, tokens = decoder(tmp_path, xp=fake_device), some_tokens(9, 2, 30)
    fake_device.counts.reset()
    model.logits(tokens)
    assert fake_device.counts.copies == LAYERS
    before = fake_device.counts.syncs
    assert isinstance(model.logits(tokens), fake_device.Array)
    assert fake_device.counts.syncs - before == LAYERS
    model.losses(tokens)
    assert fake_device.counts.syncs - before == 2 * LAYERS + 2
