"""Speed of HyperAttention and of exact attention, side by side in one run: machines are shared and noisy, so only
ratios count.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ..core import backends
from ..core.exact import attention
from ..core.timing import peak_bytes, timed
from ..methods.hyperattention.hyper import hyper_attention


def products_alone(n: int, d: int, block_size: int, sample_size: int) -> None:
    """The matrix products and exponentials that non-causal HyperAttention cannot do without, on arrays that stay in
    cache.
    """

    def make_worker() -> Callable[[int], None]:
        q = np.full((block_size, d), 0.01, np.float32)
        out = np.empty((block_size, d), np.float32)
        parts = [
            (np.full((keys, d), 0.01, np.float32), np.empty((block_size, keys), np.float32))
            for keys in (block_size, sample_size)
        ]

        def worker(block: int) -> None:
            for k, logits in parts:
                np.matmul(q, k.T, out=logits)
                np.exp(logits, out=logits)
                np.matmul(logits, k, out=out)

        return worker

    backends.for_tiles(np, range(n // block_size), make_worker)


def _sdpa(*arrays: np.ndarray, causal: bool) -> Callable[[], Any] | None:
    try:
        import torch
    except ImportError:
        return None
    tensors = [torch.from_numpy(x)[None, None] for x in arrays]
    return partial(torch.nn.functional.scaled_dot_product_attention, *tensors, is_causal=causal)


def hyper(
    n: int = 131072,
    *,
    n_exact: int = 16384,
    d: int = 64,
    block_size: int = 256,
    sample_size: int = 256,
    rounds: int = 3,
) -> pd.DataFrame:
    """Time everything `rounds` times in turn (the fast ones five times a round), one head, float32, on the CPU.

    Returns
    -------
    DataFrame
        A row per contender: `what`, `n`, `causal`, `seconds` (median), `fastest`, `ratio` (median over rounds of its
        yardstick's seconds over its
        own), `yardstick`. PyTorch's rows are there only with the extra `sublinattn[torch]`.
    """
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((n, d), dtype=np.float32) for _ in range(3))
    short = [x[:n_exact] for x in (q, k, v)]
    knobs: dict[str, Any] = {"block_size": block_size, "sample_size": sample_size, "rng": 0}
    floor = ("products and exponentials alone", n, False)
    contenders: dict[tuple[str, int, bool], tuple[Callable[[], Any] | None, int, tuple[str, int, bool] | None]] = {
        floor: (partial(products_alone, n, d, block_size, sample_size), 5, None)
    }
    for causal in (False, True):
        sdpa, sdpa_short = ("PyTorch SDPA", n, causal), ("PyTorch SDPA", n_exact, causal)
        contenders[sdpa] = (_sdpa(q, k, v, causal=causal), 1, None)
        contenders[sdpa_short] = (_sdpa(*short, causal=causal), 3, None)
        contenders["attention", n_exact, causal] = (partial(attention, *short, causal=causal), 3, sdpa_short)
        contenders["hyper_attention", n, causal] = (partial(hyper_attention, q, k, v, causal=causal, **knobs), 5, sdpa)
    contenders["hyper_attention / floor", n, False] = (contenders["hyper_attention", n, False][0], 5, floor)
    seconds: dict[tuple[str, int, bool], list[float]] = {key: [] for key, (call, _, _) in contenders.items() if call}
    for _ in range(rounds):
        for key in seconds:
            call, repeats, _ = contenders[key]
            seconds[key].append(float(np.median([timed(np, call)[1] for _ in range(repeats)])))  # type: ignore[arg-type]
    rows = []
    for key, times in seconds.items():
        yardstick = contenders[key][2]
        ratio = float(np.median(np.divide(seconds[yardstick], times))) if yardstick in seconds else np.nan
        rows.append((*key, np.median(times), min(times), ratio, "" if yardstick is None else yardstick[0]))
    return pd.DataFrame(rows, columns=["what", "n", "causal", "seconds", "fastest", "ratio", "yardstick"])


def memory(n: int = 131072, *, d: int = 64) -> pd.DataFrame:
    """Peak bytes of `hyper_attention` beyond its inputs, the output included, with and without a causal mask."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((n, d), dtype=np.float32) for _ in range(3))
    rows = [(c, peak_bytes(np, partial(hyper_attention, q, k, v, causal=c, rng=0)), q.nbytes) for c in (False, True)]
    return pd.DataFrame(rows, columns=["causal", "peak_bytes", "output_bytes"])
