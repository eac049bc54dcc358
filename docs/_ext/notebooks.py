"""Notebooks are stored without outputs: a page shows the executed one instead, where a run of this very code has it."""

import json
from pathlib import Path

from sphinx.application import Sphinx

from sublinattn.core.provenance import source_hash
from sublinattn.suite.notebook import content_hash

ROOT = Path(__file__).resolve().parents[2]
RUNS = [ROOT / "docs/_build/run/notebooks", ROOT / "out/notebooks"]
NOTE = "*The outputs are not shown: this notebook was not run for this page. `{command}` runs it.*"


def executed(name: str) -> Path | None:
    """The executed notebook of a run with this code, this notebook and smoke effort; None if there is none."""
    for folder in RUNS:
        stamp = folder / f"{name}.done.json"
        if stamp.exists() and (folder / f"{name}.ipynb").exists():
            about = json.loads(stamp.read_text())
            current = {"source": source_hash(), "notebook": content_hash(ROOT / "notebooks" / f"{name}.ipynb")}
            if current.items() <= about.items() and about["parameters"]["effort"] == "smoke":
                return folder / f"{name}.ipynb"
    return None


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    folder, _, name = docname.partition("/")
    if folder != "notebooks":
        return
    path = executed(name)
    notebook = json.loads(path.read_text() if path else source[0])
    tagged = [cell["metadata"].get("tags", []) for cell in notebook["cells"]]  # papermill's cell repeats the one above
    notebook["cells"] = [
        c for c, tags in zip(notebook["cells"], tagged, strict=True) if "injected-parameters" not in tags
    ]
    if path is None:
        note = NOTE.format(command=f"sublinattn run --only '{name}'")
        notebook["cells"].insert(1, {"cell_type": "markdown", "id": "note", "metadata": {}, "source": note})
    source[0] = json.dumps(notebook)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
