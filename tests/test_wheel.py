"""The wheel: it holds all that the package reads, and works far from the checkout that it was built in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNUSED = {"__pycache__", ".ipynb_checkpoints"}
WORKS = """
import json
from sublinattn.lab.models import open_model
from sublinattn.lab.workloads import real
from sublinattn.suite.catalogue import catalogue
from sublinattn.suite.report import citations, environment, stylesheet
from sublinattn.theory import CLAIMS
import sublinattn

environment().get_template("claim.html.j2")
print(json.dumps({
    "file": sublinattn.__file__,
    "claims": len(catalogue()) == len(CLAIMS) > 0,
    "papers": {claim.paper for claim in CLAIMS.values()} <= set(citations()),
    "data": real().q.shape[0] * open_model("tiny").decoder.trained > 0,
}))
"""


def files_of(folder: Path) -> set[str]:
    found = (path.relative_to(ROOT) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if UNUSED.isdisjoint(path.parts)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_its_data_the_notebooks_and_the_papers(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    notebooks = {f"sublinattn/notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    needed = files_of(ROOT / "sublinattn") | notebooks | {"sublinattn/references.bib", "sublinattn/glossary.md"}
    assert len(notebooks) > 20 and needed - held == set()
    assert {name for name in held - needed if not name.startswith("sublinattn/notebooks/")} == set()


def test_the_installed_package_works_in_an_empty_folder(wheel, tmp_path):
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(installed)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(installed)}  # before the checkout, which this environment knows
        return subprocess.run([sys.executable, *arguments], cwd=empty, env=env, capture_output=True, text=True)

    done = call("-c", WORKS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {
        "file": str(installed / "sublinattn" / "__init__.py"),
        "claims": True,
        "papers": True,
        "data": True,
    }
    refused = call("-m", "sublinattn", "run", "--only", "no such notebook")
    assert refused.returncode == 2
    assert str(installed / "sublinattn" / "notebooks") in refused.stderr.replace("\n", "")
