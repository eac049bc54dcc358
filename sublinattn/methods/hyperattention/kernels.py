"""Exact attention kernels of other libraries, for `hyper_attention(block_kernel=...)`.

They compute the diagonal blocks of the sortLSH mask of [HA24], which are exact in Algorithm 3.
"""

from __future__ import annotations

from importlib import import_module

from ...core import backends
from ...core.backends import Array


def torch_sdpa(q: Array, k: Array, v: Array, *, scale: float, causal: bool) -> tuple[Array, Array]:
    """PyTorch's fused scaled-dot-product attention, reached through DLPack without a copy.

    Parameters
    ----------
    q, k, v : array, shapes (g, t, d), (g, c, d), (g, c, d_v = d)
        NumPy (float32 or float64) or CuPy.

    Returns
    -------
    out, lse : array, shapes (g, t, d_v) and (g, t)

    Raises
    ------
    ImportError
        Without the extra `sublinattn[torch]`.
    """
    torch = import_module("torch")
    xp = backends.namespace(q)
    tensors = [torch.from_dlpack(x)[:, None] for x in (q, k, v)]
    if tensors[0].is_cuda:
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        out, lse = kernel(*tensors, None, True, 0.0, causal, scale=scale)[:2]
    else:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = kernel(*tensors, 0.0, causal, scale=scale)
    return xp.from_dlpack(out[:, 0]), xp.from_dlpack(lse[:, 0, : q.shape[1]])
