"""Products that BLAS calls invalid although they are right: nobody hears of it, whatever lies in memory."""

import os
import subprocess
import sys
from pathlib import Path

import emulator
import pytest
import threadpoolctl

SOURCE = Path(__file__).parents[1] / "blas" / "dirty_stack.cpp"
UNAFFECTED = 77

CODE = f"""
import sys, warnings
import numpy as np
from sublinattn import hyper_attention
from sublinattn.core.backends import Scratch
from sublinattn.core.exact import Softmax
from sublinattn.core.softmax_matrix import SoftmaxMatrix
from sublinattn.methods.hyperattention.sort_lsh import buckets
from sublinattn.primitives.clustering import nearest

rng = np.random.default_rng(0)
rows = [rng.standard_normal((1, 39, d), dtype=np.float32) for d in range(9)]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    product = rows[5] @ np.ones(5, np.float32)
assert np.allclose(product, rows[5].sum(axis=2), atol=1e-5)
if not caught:
    sys.exit({UNAFFECTED})

warnings.simplefilter("error")
buckets(np, rows[8], rng.standard_normal((1, 8, 5), dtype=np.float32))  # the five bits, as a number
buckets(np, rows[5], rng.standard_normal((1, 5, 1), dtype=np.float32))  # one hyperplane where d = 5
nearest(np, rows[4][0], rows[4][0, :1])  # points in four dimensions and a column of ones, and one center
tile = Softmax(np, Scratch(np, np.dtype(np.float32)), shift=True)
tile.absorb(tile.start("p", 1, 39, 8), rows[5].copy(), rows[8][:, :5])  # the row sums of five keys
SoftmaxMatrix(np, rows[8], rows[8][:, :5], scale=1.0, causal=False).gram_times(np.ones((1, 5)))
q, k, v = rng.standard_normal((3, 78, 8), dtype=np.float32)
hyper_attention(q, k, v, block_size=39, sample_size=5, min_exact=39, estimator="theory", rng=0)  # five sampled keys
"""


def test_no_product_of_five_columns_warns(tmp_path: Path) -> None:
    """OpenBLAS' kernel for five columns multiplies a lane that it has not filled. It did so once in 11 000 tests."""
    if reason := emulator.missing():
        pytest.skip(reason)
    blas = [path for its in threadpoolctl.threadpool_info() if "libscipy_openblas64_" in (path := its["filepath"])]
    if not blas:
        pytest.skip("this NumPy has another BLAS")
    library = tmp_path / "dirty_stack.so"
    subprocess.run(["g++", "-O1", "-shared", "-fPIC", SOURCE, "-o", library, "-ldl"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(library), "OPENBLAS": blas[0]}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    if done.returncode == UNAFFECTED:
        pytest.skip("this CPU has another kernel")
    assert done.returncode == 0, done.stderr
