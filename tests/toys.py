"""Small claims and notebooks for the tests of the lab. Trials are module-level: worker processes import them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import sympy

from sublinattn.theory.claim import Claim, Exact, Growth, Mean, Probability, Sabotage, Trial, Vacuity

N, EPS = sympy.symbols("n varepsilon", positive=True)


def coin(rng: Any, xp: Any, rate: float, workload: str = "gaussian") -> Trial:
    return Trial(measured=2.0 if rng.random() < rate else 0.25, bound=1.0, facts={"n": 64.0})


def normal(rng: Any, xp: Any, shift: float = 0.0) -> Trial:
    return Trial(float(rng.normal(1 + shift, 0.1)), 1.0, 0.1, {"n": 64.0})


def clock(rng: Any, xp: Any, variable: str, n: int, power: float = 0.9) -> Trial:
    """A size of this machine: noise that no seed controls."""
    import os

    noise = 1 + 0.001 * os.urandom(1)[0] / 256
    return Trial(measured=n**power * noise, facts={"n": float(n)})


def _claim(slug: str, kind: Any, trial: Any, cases: tuple[Any, ...], change: dict[str, Any], **more: Any) -> Claim:
    return Claim(
        id=f"toy.{slug}",
        paper="HA24",
        source="Theorem 1",
        title=more.pop("title", f"The {slug} claim"),
        statement=sympy.Le(EPS, N**2 / 2),
        kind=kind,
        trial=trial,
        cases={"smoke": cases},
        max_trials={"smoke": more.pop("trials", 400)},
        sabotages=(Sabotage("broken", "it is broken", change),),
        **more,
    )


RATES = ({"rate": 0.001}, {"rate": 0.0, "workload": "real"})
SIZES = tuple({"variable": "n", "n": n} for n in (64, 128, 256, 512))
HOLDS = _claim("holds", Probability(0.05), coin, RATES, {"rate": 0.9}, title="It holds <b>& stays</b>")
FAILS = _claim("fails", Probability(0.05), coin, ({"rate": 0.9},), {"rate": 1.0})
OPEN = _claim("open", Probability(0.01), coin, ({"rate": 0.0},), {"rate": 1.0}, trials=20)
LOOSE = _claim("loose", Probability(0.05), coin, ({"rate": 0.0},), {})
EMPTY = _claim("empty", Probability(0.05), coin, ({"rate": 0.0},), {"rate": 1.0}, vacuity=Vacuity(sympy.Ge(1000, N)))
ALWAYS = _claim("always", Exact("<="), coin, ({"rate": 0.0},), {"rate": 0.5}, trials=20)
MEAN = _claim("mean", Mean(0.05), normal, ({},), {"shift": 0.5})
CLOCK = _claim("clock", Growth({"n": N}, machine=True), clock, SIZES, {"power": 2.0}, trials=4)
ALL = (HOLDS, FAILS, OPEN, LOOSE, EMPTY, ALWAYS, MEAN, CLOCK)


def notebook(path: Path, *code: str, parameters: str = "n = 3", **marks: bool) -> Path:
    """Write a notebook: a title with a formula, the parameters cell, and `code`, one cell each."""
    common = 'effort = "smoke"\nseed = 0\nbackend = "auto"\nout = "out"\n'
    cell = nbformat.v4.new_code_cell(common + parameters, metadata={"tags": ["parameters"]})
    metadata: dict[str, Any] = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    if marks:
        metadata["sublinattn"] = marks
    cells = [nbformat.v4.new_markdown_cell("# Title with $x^2$"), cell, *map(nbformat.v4.new_code_cell, code)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


def checking(name: str, *claims: str) -> str:
    """Source of a cell that checks toy claims."""
    listed = ", ".join(f"toys.{claim}" for claim in claims)
    return (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import toys\nfrom sublinattn.lab.ledger import check\n"
        f"check([{listed}], effort=effort, seed=seed, backend=backend, out=out, notebook={name!r})"
    )
