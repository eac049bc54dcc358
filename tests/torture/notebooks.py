"""Two notebooks, of which one checks a claim: what the torture runs."""

from __future__ import annotations

from pathlib import Path

import nbformat

CLAIM = "ha24.gray-adjacency"


def make(folder: Path) -> None:
    """Write `folder/nb/a.ipynb` and `b.ipynb`."""
    new = nbformat.v4
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    (folder / "nb").mkdir(parents=True)
    for name in ("a", "b"):
        code = f"from sublinattn.lab.run import Run\nRun(effort, seed, backend, out, '{name}').check('{CLAIM}')"
        parameters = new.new_code_cell(
            'effort = "smoke"\nseed = 0\nbackend = "auto"\nout = "out"', metadata={"tags": ["parameters"]}
        )
        cells = [parameters, new.new_code_cell(code if name == "a" else "1")]
        nbformat.write(new.new_notebook(cells=cells, metadata=kernel), folder / "nb" / f"{name}.ipynb")
