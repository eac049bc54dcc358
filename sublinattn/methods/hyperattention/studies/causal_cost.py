"""Time, memory and stages of HyperAttention over n, beside exact attention. Nothing else may run meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ....core.backends import to_device
from ....core.exact import attention
from ....core.timing import best_of, peak_bytes, stage_times
from ....lab.run import Run
from ....theory.growth import fit
from ..hyper import hyper_attention

D = 64
POWERS = tuple(2**i for i in range(12, 21))
STAGES = ("hash", "sort", "gather", "block", "sample", "merge", "exact")
LEVEL = 1e-4  # of `growth.fit`'s test, which is not used here


def _calls(xp: Any, rng: np.random.Generator, n: int) -> dict[tuple[str, bool], Callable[[], Any]]:
    q, k, v = (to_device(rng.standard_normal((n, D), dtype=np.float32), xp) for _ in range(3))
    return {
        (method, causal): partial(call, q, k, v, causal=causal)
        for causal in (False, True)
        for method, call in (("hyper practical", partial(hyper_attention, rng=0)), ("exact", attention))
    }


def over_n(run: Run) -> pd.DataFrame:
    """Seconds and peak bytes of one head (float32, d = 64, b = m = 256) over n.

    Returns
    -------
    DataFrame
        quantity ("time", "memory"), method, causal, n, replicate, value (seconds; bytes beyond the inputs, the output
        included).
    """
    xp = run.xp
    lengths = run.pick(smoke=(2048, 8192, 32768, 131072), standard=POWERS[:6], full=POWERS)
    exact_up_to = run.pick(smoke=8192, standard=32768, full=131072)
    replicates = run.pick(smoke=3, standard=5, full=5)
    rows = []
    for n in lengths:
        calls = _calls(xp, run.rng("cost", n), n)
        for (method, causal), call in calls.items():
            if method == "exact" and n > exact_up_to:
                continue
            rows.append(("memory", method, causal, n, 0, float(peak_bytes(xp, call))))  # also the warm-up
            rounds = max(1, 2**14 // n)  # where n is small, other programs disturb most
            rows += [("time", method, causal, n, r, best_of(xp, call, rounds)) for r in range(replicates)]
    return pd.DataFrame(rows, columns=["quantity", "method", "causal", "n", "replicate", "value"])


def exponents(rows: pd.DataFrame) -> pd.DataFrame:
    """Fitted exponent in n of the time, with 99 percent limits on each side.

    Returns
    -------
    DataFrame
        method, causal, exponent, lower, upper, theory (that of n log n over the same n, or 2).
    """
    found = []
    for (method, causal), group in rows[rows["quantity"] == "time"].groupby(["method", "causal"], sort=False):
        table = group.pivot(index="n", columns="replicate", values="value")
        x = np.broadcast_to(table.index.to_numpy(float)[:, None], table.shape)
        theory = x**2 if method == "exact" else x * np.log(x)
        f = fit(x, table.to_numpy(), theory, level=LEVEL)
        found.append((method, causal, f.measured_exponent, f.lower, f.upper, f.theory_exponent))
    return pd.DataFrame(found, columns=["method", "causal", "exponent", "lower", "upper", "theory"])


def stages(run: Run) -> pd.DataFrame:
    """Thread-seconds of each stage of HyperAttention: causal, n, stage, seconds ("exact": the leaves of the causal
    recursion)."""
    xp = run.xp
    lengths = run.pick(smoke=(8192, 32768, 131072), standard=(8192, 32768, 131072), full=(8192, 32768, 131072, 524288))
    rows = []
    for n in lengths:
        for (method, causal), call in _calls(xp, run.rng("stages", n), n).items():
            if method == "exact":
                continue
            with stage_times() as seconds:
                call()
            if strangers := set(seconds) - set(STAGES):
                raise ValueError(f"hyper_attention reports stages {sorted(strangers)} that the figure does not know")
            rows += [(causal, n, stage, float(seconds.get(stage, 0.0))) for stage in STAGES]
    return pd.DataFrame(rows, columns=["causal", "n", "stage", "seconds"])
