"""What a repository promises without running: nothing of one machine in it, lists that agree, citations that exist."""

import ast
import importlib.util
import inspect
import io
import json
import re
import subprocess
import sys
import tokenize
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sublinattn
from sublinattn.theory import CLAIMS

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "sublinattn").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
LOCK, DEV_LOCK = ((ROOT / name).read_text() for name in ("requirements.lock", "requirements-dev.lock"))
BIBLIOGRAPHY = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "references.bib").read_text(), re.MULTILINE))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def repository_files() -> tuple[Path, ...]:
    """What git would commit: tracked and untracked files, without ignored ones."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: no list of the repository's files")
    return tuple(path for path in (ROOT / line for line in listed.split("\0") if line) if path.is_file())


# --------------------------------------------------------------------------------------------------------- the machine
def test_no_file_names_a_place_on_one_machine():
    place = re.compile(r"(?<![\w.~$}])/(?:work|opt|root|home|Users)/" + r"|file:" + "//")
    found = []
    for path in repository_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{name(path)}:{i}: {line.strip()}" for i, line in enumerate(lines, 1) if place.search(line)]
    assert found == []


def test_no_merge_conflict_is_left_in_a_file():
    marks = tuple(side.encode() * 7 + b" " for side in "<>")
    files = ((path, path.read_bytes().splitlines()) for path in repository_files())
    assert [name(path) for path, lines in files if any(line.startswith(marks) for line in lines)] == []


def test_no_lock_with_index_addresses_is_committed():
    assert "uv.lock" not in {path.name for path in repository_files()}
    assert "uv.lock" in (ROOT / ".gitignore").read_text().splitlines()


# ----------------------------------------------------------------------------------------------------- the dependencies
def locked(text: str) -> dict[str, list[str]]:
    versions: dict[str, list[str]] = {}
    for package, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", text, re.MULTILINE):
        versions.setdefault(canonicalize_name(package), []).append(version)
    return versions


@pytest.mark.parametrize(("text", "fewest"), [(LOCK, 100), (DEV_LOCK, 15)], ids=["main", "dev"])
def test_locks_are_hashed_and_leave_the_index_to_the_user(text, fewest):
    assert re.findall(r"https?:|file:|--(?:extra-)?index|--find-links|--trusted| @ ", text) == []
    requirements = re.findall(r"^[A-Za-z0-9].*$(?:\n    .*$)*", text, re.MULTILINE)
    assert len(requirements) > fewest
    assert [r.splitlines()[0] for r in requirements if not re.search(r"--hash=sha256:[0-9a-f]{64}", r)] == []


@pytest.mark.parametrize(
    ("wanted", "versions"),
    [
        (PROJECT["dependencies"] + PYPROJECT["dependency-groups"]["build"], locked(LOCK)),
        (PROJECT["optional-dependencies"]["dev"], locked(LOCK + DEV_LOCK)),
        (PROJECT["optional-dependencies"]["docs"], locked(LOCK + DEV_LOCK)),
    ],
    ids=["main", "dev", "docs"],
)
def test_locks_hold_what_pyproject_lists(wanted, versions):
    requirements = {canonicalize_name(r.name): r.specifier for r in map(Requirement, wanted)}
    assert requirements.keys() - versions.keys() == set()
    assert {n: s for n, s in requirements.items() if not all(map(s.contains, versions[n]))} == {}


def test_what_runs_in_ci_is_pinned():
    workflows = "".join(path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    used = re.findall(r"uses: (\S+)(.*)", workflows)
    assert used and [name for name, _ in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", name)] == []
    assert all(re.fullmatch(r" # v[\d.]+", version) for _, version in used)
    of_uv = re.findall(r'setup-uv@.*\n\s+with:\n\s+version: "([\d.]+)"', workflows)
    assert len(of_uv) == workflows.count("setup-uv@") and set(of_uv) == set(
        re.findall(r"uv==([\d.]+)", (ROOT / "scripts" / "setup").read_text())
    )


def test_the_main_job_installs_nothing_for_developers():
    main, dev = locked(LOCK).keys(), locked(DEV_LOCK).keys()
    assert main & dev == set()
    assert {"cupy-cuda12x", "nvidia-cuda-nvrtc-cu12", "mypy", "pytest", "ruff"} <= dev
    assert "torch" not in main | dev  # gigabytes


def test_the_package_imports_nothing_that_only_developers_have():
    imported: set[str] = set()
    for tree in [ast.parse(path.read_text()) for path in SOURCES]:
        imported |= {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level and n.module}
    optional = [
        line for extra in ("gpu", "gpu-cuda13", "torch", "hf", "lm") for line in PROJECT["optional-dependencies"][extra]
    ]
    allowed = {"sublinattn", *locked(LOCK), *(canonicalize_name(Requirement(line).name) for line in optional)}
    packages = packages_distributions()
    modules = {module.split(".")[0] for module in imported} - sys.stdlib_module_names
    assert {m for m in modules if allowed.isdisjoint(map(canonicalize_name, packages.get(m, [m])))} == set()


def test_conda_environment_lists_the_same_dependencies():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = {r.name: str(r.specifier) for r in map(Requirement, (entry for entry in listed if isinstance(entry, str)))}
    assert conda.pop("python") == PROJECT["requires-python"]
    assert conda.pop("pip") == ""
    # Extras have no counterpart in conda: its dask brings distributed along.
    assert conda == {r.name: str(r.specifier) for r in map(Requirement, PROJECT["dependencies"])}


def test_the_extras_for_a_gpu_differ_in_the_version_of_cuda_alone():
    extras = PROJECT["optional-dependencies"]
    assert [line.replace("cuda12x", "cuda13x") for line in extras["gpu"]] == extras["gpu-cuda13"]
    apart = [{entry["extra"] for entry in pair} for pair in PYPROJECT["tool"]["uv"]["conflicts"]]
    assert {"gpu", "gpu-cuda13"} in apart and {"dev", "gpu-cuda13"} in apart  # dev has CuPy for CUDA 12


@pytest.mark.skipif(sys.platform != "linux", reason="CuPy and NVRTC wheels exist for Linux only")
@pytest.mark.parametrize("module", ["cupy", "nvidia.cuda_nvrtc"])
def test_what_the_gpu_guards_need_is_here(module):
    assert importlib.util.find_spec(module), "the tests that need it would skip; run scripts/setup dev"


# ---------------------------------------------------------------------------------------------------------- the sources
def code_lines(path: Path) -> set[int]:
    """Lines of a file that hold code: docstrings, comments and blank lines are not counted."""
    source = path.read_text(encoding="utf-8")
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in layout]
    strings = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Expr)]
    prose = [node for node in strings if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)]
    return {line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - {
        line for node in prose for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_holds_at_most_250_lines_of_code(path):
    assert len(code_lines(path)) <= 250


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name != "backends.py"], ids=name)
def test_only_backends_imports_cupy(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            imported |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    assert {module for module in imported if module.split(".")[0] in {"cupy", "cupyx"}} == set()


@pytest.mark.parametrize("public", sublinattn.__all__)
def test_public_names_have_numpydoc_docstrings(public):
    thing = getattr(sublinattn, public)
    text = inspect.getdoc(thing) or ""
    if inspect.ismodule(thing):
        assert text
        return
    sections = set(re.findall(r"^(\w+)\n-{3,}$", text, re.MULTILINE))
    assert sections & {"Parameters", "Attributes"} or not inspect.signature(thing).parameters
    if inspect.isfunction(thing):
        assert sections & {"Returns", "Yields"}
    described = {n.strip(" *") for line in re.findall(r"^(\S.*?) :", text, re.MULTILINE) for n in line.split(",")}
    described |= {n.strip(" *") for line in re.findall(r"^([\w*, ]+)$", text, re.MULTILINE) for n in line.split(",")}
    assert set(inspect.signature(thing).parameters) - described == set()


# -------------------------------------------------------------------------------------------------------- the paper map
@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_papers_cited_in_docstrings_are_in_the_bibliography(path):
    cited = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            cited |= set(re.findall(r"\[([A-Z][A-Z0-9]+\d\d)\]", node.value))
    assert cited - BIBLIOGRAPHY == set()


def test_claims_cite_papers_in_the_bibliography():
    assert CLAIMS
    assert {claim.id: claim.paper for claim in CLAIMS.values() if claim.paper not in BIBLIOGRAPHY} == {}


# -------------------------------------------------------------------------------------------------------- the notebooks
def staged(path: Path) -> str:
    """A file as git would commit it now: JupyterLab saves outputs into the file on disk, which may stay there."""
    done = subprocess.run(["git", "-C", str(ROOT), "show", f":{name(path)}"], capture_output=True)
    return done.stdout.decode() if done.returncode == 0 else path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebooks_are_stored_without_outputs_and_have_one_parameters_cell(path):
    cells = [cell for cell in json.loads(staged(path))["cells"] if cell["cell_type"] == "code"]
    shown = [cell["id"] for cell in cells if cell["outputs"] or cell["execution_count"] is not None]
    assert shown == [], f"before a commit: nbstripout --keep-id {name(path)}"
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in cells) == 1


def test_what_a_notebook_writes_in_jupyterlab_is_ignored():
    ignored = ["git", "-C", str(ROOT), "check-ignore", "notebooks/out/ledger.json", "notebooks/.ipynb_checkpoints/a"]
    done = subprocess.run(ignored, capture_output=True, text=True)
    if done.returncode == 128:
        pytest.skip("not a git checkout")
    assert len(done.stdout.splitlines()) == 2
