"""Small one-pass sketches and what they hold, for the tests of `onepass`."""

from __future__ import annotations

from typing import Any

import numpy as np
import references

from sublinattn import OnePassSketch
from sublinattn.core import backends

N, D, D_V = 60, 3, 2


def make(variant: str, n: int = N, **options: Any) -> OnePassSketch:
    plain = {"degree": 4, "sparsity": 3, "eps1": 0.8, "eps2": 0.5, "rng": 0}
    return OnePassSketch(n, D, D_V, variant=variant, **(plain | options))


def rows(xp: Any, seed: int, n: int = N, dtype: Any = np.float64) -> list[Any]:
    return [xp.asarray(x) for x in references.qkv(seed, n, n, d=D, d_v=D_V, size=0.7, dtype=dtype)]


def absorbed(variant: str, q: Any, k: Any, v: Any, **options: Any) -> OnePassSketch:
    return make(variant, len(q), **options).absorb_keys(k, v).absorb_queries(q)


def arrays(sketch: OnePassSketch) -> dict[str, np.ndarray]:
    """All that it has summed."""
    return {key: backends.asnumpy(x) for key, x in sketch.contents().items() if x.size and not key.endswith("hash")}


def assert_close(one: OnePassSketch, other: OnePassSketch, tolerance: float = 1e-12) -> None:
    mine, its = arrays(one), arrays(other)
    assert mine.keys() == its.keys()
    for name, x in mine.items():
        np.testing.assert_allclose(x, its[name], rtol=0, atol=tolerance * max(1.0, abs(x).max()), err_msg=name)
