"""Small claims and notebooks for the tests of the lab. Trials are module-level: worker processes import them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
import sympy

from sublinattn.theory.claim import Claim, Exact, Growth, Mean, Probability, Sabotage, Trial, Vacuity
from sublinattn.theory.cost import over

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


def claim(slug: str, kind: Any, trial: Any, cases: Iterable[Any], trials: int = 400, **more: Any) -> Claim:
    """A claim that says little, `toy.<slug>`."""
    given = {"title": f"The {slug} claim", "statement": sympy.Le(EPS, N**2 / 2), **more}
    return Claim(
        id=f"toy.{slug}",
        paper="HA24",
        source="Theorem 1",
        basis="theorem",
        kind=kind,
        trial=trial,
        cases={"smoke": tuple(cases)},
        max_trials={"smoke": trials},
        **given,
    )


def broken(**change: Any) -> tuple[Sabotage]:
    """One sabotage, which changes these arguments of the trial."""
    return (Sabotage("broken", "it is broken", change),)


P, RATES = Probability(0.05), ({"rate": 0.001}, {"rate": 0.0, "workload": "real"})
NEVER, SURE = ({"rate": 0.0},), broken(rate=1.0)
HOLDS = claim("holds", P, coin, RATES, sabotages=broken(rate=0.9), title="It holds <b>& stays</b>")
FAILS = claim("fails", P, coin, ({"rate": 0.9},), sabotages=SURE)
OPEN = claim("open", Probability(0.01), coin, NEVER, trials=20, sabotages=SURE)
LOOSE = claim("loose", P, coin, NEVER, sabotages=broken())
EMPTY = claim("empty", P, coin, NEVER, sabotages=SURE, vacuity=Vacuity(sympy.Ge(1000, N)))
ALWAYS = claim("always", Exact("<="), coin, NEVER, trials=20, sabotages=broken(rate=0.5))
MEAN = claim("mean", Mean(0.05), normal, ({},), sabotages=broken(shift=0.5))
SIZES = over("n", (64, 128, 256, 512))
CLOCK = claim("clock", Growth({"n": N}, machine=True), clock, SIZES, trials=4, sabotages=broken(power=2.0))
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
