"""Foreign exact kernels for HyperAttention's diagonal blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import references

from sublinattn import hyper_attention
from sublinattn.methods.hyperattention.kernels import torch_sdpa

pytest.importorskip("torch", reason="the extra sublinattn[torch] is not installed")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("causal", "sizes"), [(False, (16, 16)), (False, (33, 50)), (True, (16, 16)), (True, (33, 33))]
)
def test_torch_sdpa_is_exact_attention(causal: bool, dtype: Any, sizes: tuple[int, int]) -> None:
    arrays = references.qkv(0, *sizes, lead=(3,), d=8, d_v=8, dtype=dtype)
    out, lse = torch_sdpa(*arrays, scale=0.3, causal=causal)
    expected, expected_lse = references.attention(*arrays, scale=0.3, causal=causal)
    tolerance = 20 * np.finfo(dtype).eps
    assert isinstance(out, np.ndarray) and out.dtype == dtype and lse.shape == (3, sizes[0])
    np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(lse, expected_lse, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [1.0, 20.0])
@pytest.mark.parametrize("sinks", [0, 3])
def test_hyper_attention_with_the_kernel_is_the_same(causal: bool, size: float, sinks: int) -> None:
    arrays = references.qkv(1, 300, 300, lead=(2,), d=8, d_v=8, size=size)
    options: dict[str, Any] = {
        "causal": causal, "block_size": 32, "sample_size": 40, "min_exact": 64, "exact_keys": sinks, "rng": 2,
        "return_lse": True,
    }  # fmt: skip
    calls = []

    def kernel(*tensors: Any, **keywords: Any) -> Any:
        calls.append(tensors[0].shape)
        return torch_sdpa(*tensors, **keywords)

    ours = hyper_attention(*arrays, **options)
    theirs = hyper_attention(*arrays, **options, block_kernel=kernel)
    assert calls
    references.assert_close(theirs, ours, 1e-9, 1e-11)
