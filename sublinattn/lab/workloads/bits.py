"""What answers to an INDEX instance tell of its bits, and a state that holds nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.backends import asnumpy
from .instance import Instance

PACKED = "bits alone"
"""Name of the yardstick that `packed` answers for."""


def packed(x: Instance, nbytes: int) -> np.ndarray:
    """Answers (n, d_v) to all queries of an INDEX instance from a state of at most `nbytes`: the first bits, packed.

    The keys are no part of the state. They are drawn apart from the bits, so that whoever decodes may know them; no
    cache for attention does, and this yardstick is none. Bits that do not fit are answered by 1.
    """
    bits = asnumpy(x.v).ravel() > 0
    state = np.packbits(bits[: 8 * nbytes])
    known = np.unpackbits(state, count=min(len(bits), 8 * nbytes))
    return np.append(2.0 * known - 1, np.ones(len(bits) - len(known))).reshape(x.v.shape)


def decoded(x: Instance, out: Any) -> tuple[float, float]:
    """Share of the bits that the answers' signs get right, and the bits known by Fano's inequality.

    An answer of 0 counts as 1. Answers that are wrong more often than right say nothing.
    """
    right = float(((asnumpy(out) >= 0) == (asnumpy(x.v) > 0)).mean())
    wrong = min(1 - right, 0.5)
    entropy = -sum(p * np.log2(p) for p in (wrong, 1 - wrong) if p > 0)
    return right, float(x.v.size * (1 - entropy))
