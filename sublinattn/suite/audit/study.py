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
from ...plots.style import METHODS
from .advice import advice, exact_keys, headline, prompt_advice, prompt_errors, share_text, theorems
from .figures import BEST, saved_by_tolerance
from .measure import Audit, audit


def measure(run: Run) -> Audit:
    """Audit the model that the run names, on one passage of n tokens (a parameter of the run)."""
    n = run.given("n", run.pick(smoke=512, standard=2048, full=8192))
    model = run.open_model()
    q, k, v = model.qkv(model.passage(run.rng("audit"), n))
    tensors = {name: np.ascontiguousarray(asnumpy(x)) for name, x in (("q", q), ("k", k), ("v", v))}
    about = {ENTRY: json.dumps({"source": f"{model.name}, {model.source}"})}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "qkv.safetensors"
        save_file(tensors, path, metadata=about)
        return audit(Captured.open(path), seed=run.seed, backend_name=run.backend)


def findings(found: Audit, *, tolerance: float = 0.1) -> str:
    """What was measured, in sentences: Markdown."""
    about, n = found.about, found.about["tokens"]
    heads, small = about["layers"] * about["heads"], theorems(found)
    sizes = "; ".join(
        f"[{row.paper}] {row.smallest_over_n:.2g} (below 1 on {row.heads} of {heads} query heads)"
        for row in small.itertuples()
    )
    recommended, prompts = advice(found, tolerance=tolerance), prompt_advice(found, tolerance=tolerance)
    saving = saved_by_tolerance(found, (tolerance,)).set_index("method")["share"].drop(BEST)
    alone = METHODS[str(saving.idxmin())]["label"]
    middle = about["shares"][len(about["shares"]) // 2]
    its = found.errors[found.errors["share"] == middle]
    worst = its.groupby(["method", "layer", "key_head"])["relative"].max().unstack(0)
    useless = (worst["subgen"] > 1).sum() if "subgen" in worst else len(worst)
    medians = worst.median().sort_values()
    first = found.heads.groupby("layer")["sink_mass"].median()
    sinks = first[first > 0.5].index.tolist()
    other = found.heads[(found.heads["heaviest"] >= 4) & (found.heads["heaviest_mass"] > 0.1)]
    where = ", ".join(map(str, sorted(other["heaviest"].astype(int).unique())[:5])) or "none"
    errors = prompt_errors(found).median()
    taken = (prompts["method"] != "exact").sum()
    lines = [
        f"{about['source']}; {found.where}.",
        f"Smallest size that a theorem needs, over n = {n}: {sizes}.",
        f"{headline(recommended, tolerance=tolerance, budget=None)}; the best method alone, {alone}, saves "
        f"{1 - saving.min():.0%}. {(recommended['method'] == 'exact').sum()} of {len(recommended)} key heads keep "
        "exact attention.",
        f"In {share_text(middle)} of the bytes, from the prompt alone, the median key head has error "
        + ", ".join(f"{error:.2g} ({METHODS[name]['label']})" for name, error in medians.items())
        + f". SubGen is worse than answering zero on {useless} of {len(worst)} key heads.",
        f"In {len(sinks)} of {about['layers']} layers the first 4 keys get more than half of the median query head's "
        f"attention. Later keys that get most of a head's attention, and more than a tenth: {where}, on {len(other)} "
        "query heads.",
        "On the prompt, HyperAttention's median error over layers is "
        + ", ".join(
            f"{error:.2g} with {exact_keys(count)}" for count, error in zip(map(int, errors.index), errors, strict=True)
        )
        + f"; {taken} of {about['layers']} layers are within {tolerance:.0%}.",
    ]
    return "\n".join(f"- {line}" for line in lines)
