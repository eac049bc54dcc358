"""Notebook 19: an audit of a trained decoder on a passage that it has not seen."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import save_file

from ...core.backends import asnumpy
from ...core.files import ENTRY
from ...lab.run import Run
from ...lab.workloads.instance import Captured
from .measure import Audit, audit


def measure(run: Run) -> Audit:
    """Audit the model that the run names, on one passage."""
    n, share = run.pick(smoke=(512, 1 / 8), standard=(2048, 1 / 8), full=(8192, 1 / 16))
    model = run.open_model()
    q, k, v = model.qkv(model.passage(run.rng("audit"), n))
    tensors = {name: np.ascontiguousarray(asnumpy(x)) for name, x in (("q", q), ("k", k), ("v", v))}
    about = {ENTRY: json.dumps({"source": f"{model.name}, {model.source}"})}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "qkv.safetensors"
        save_file(tensors, path, metadata=about)
        return audit(Captured.open(path), share=share, seed=run.seed)
