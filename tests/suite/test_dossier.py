"""The dossier of a GPU without one: a rehearsal runs to its end, and what it notes as wrong is wrong."""

from __future__ import annotations

import ast
import importlib.metadata
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import emulator
import numpy as np
import pytest

import sublinattn
from sublinattn.core import backends
from sublinattn.core.files import read_json
from sublinattn.suite.dossier import driver, kernel_cases, package_tests, page, probes, record, table
from sublinattn.suite.dossier.bench_attention import near_key
from sublinattn.suite.dossier.device import ROOT, Device
from sublinattn.suite.dossier.exact_reference import Reference
from sublinattn.suite.dossier.steps import STEPS

PACKAGE = Path(sublinattn.__file__).parent
CHEAP = "environment,probes,kernel,attention,decoding,profile,ceilings,sanitizer"


# ------------------------------------------------------------------------------------------------------- the whole run
def test_a_rehearsal_runs_to_its_end_and_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(record.FOLDER.glob("*"))
    assert driver.main(["--rehearse", "--only", CHEAP, "--out", str(tmp_path / "record.json")]) == 0
    made = read_json(tmp_path / "record.json")
    assert made["rehearsal"] and [name for name in STEPS if name in made["steps"]] == CHEAP.split(",")
    assert {step["outcome"] for step in made["steps"].values()} == {"right"}
    assert len(made["steps"]["probes"]["rows"]) == len(probes.PROBES)
    kernel = [row for row in made["steps"]["kernel"]["rows"] if row.get("ok")]
    assert len(kernel) == (0 if emulator.missing() else 3)
    timed = [row for row in made["steps"]["attention"]["rows"] if "ms" in row]
    assert {row["what"] for row in timed} >= {"hyper_attention", "attention", "uniform_attention"}
    assert all(row["error"] < 0.01 for row in timed if row["what"] == "attention")
    sections = set(re.findall(r"^## (.+)$", page.tables(made), re.MULTILINE))
    assert len(sections) == 5 + (not emulator.missing()) and {"Attention", "One token over every cache"} <= sections
    assert driver.main(["--keep", str(tmp_path / "record.json")]) == 1
    assert "is not kept" in capsys.readouterr().out and sorted(record.FOLDER.glob("*")) == before


def test_steps_that_do_not_fit_are_not_run(tmp_path: Path) -> None:
    assert driver.main(["--rehearse", "--out", str(tmp_path / "record.json"), "--seconds", "1"]) == 0
    steps = read_json(tmp_path / "record.json")["steps"]
    assert set(steps) == set(STEPS) and {s["outcome"] for s in steps.values()} == {"not run: no time left"}


def test_a_step_past_its_limit_is_stopped() -> None:
    with driver.installed() as environment:
        made = driver.perform("streams", STEPS["streams"], 0.01, True, environment)
    assert made["outcome"] == "stopped after 0 s" and made["seconds"] < 10


def test_a_step_that_fails_says_why() -> None:
    with driver.installed() as environment:
        made = driver.perform("no such step", STEPS["streams"], 60, True, environment)
    assert made["outcome"] == "wrong" and "KeyError: 'no such step'" in made["log"]


def test_without_a_gpu_nothing_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(backends, "gpu_available", lambda: False)
    assert driver.main([]) == 2
    assert "no GPU" in capsys.readouterr().out
    for arguments in (["--rehearse"], ["--only", "kernels"]):
        with pytest.raises(SystemExit):
            driver.main(arguments)


def test_a_checkout_that_is_not_installed_has_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    installed = importlib.metadata.version("sublinattn")
    monkeypatch.setattr(importlib.metadata, "version", missing)
    with driver.installed() as environment:
        (found,) = importlib.metadata.distributions(name="sublinattn", path=environment["PYTHONPATH"].split(":")[:1])
        assert found.version == installed
        assert any(line.startswith("numpy") for line in found.requires or [])


# ----------------------------------------------------------------------------------------------------------- the steps
def names_on(path: Path) -> set[str]:
    """Functions that a source calls on its array namespace, such as `matmul` of `xp.matmul(...)`."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    functions = [node.func for node in nodes if isinstance(node.func, ast.Attribute)]
    return {f.attr for f in functions if ast.unparse(f.value) in ("xp", "self.xp", "self._xp")}


def test_every_function_of_the_array_library_has_a_probe() -> None:
    folders = [path for folder in ("core", "primitives", "methods") for path in (PACKAGE / folder).rglob("*.py")]
    used = set().union(*map(names_on, [path for path in folders if not {"claims", "studies"} & set(path.parts)]))
    assert used - names_on(Path(probes.__file__)) - {"empty", "ReductionKernel"} == set()  # it is in row_squares


def test_a_probe_notices_other_values_types_and_errors() -> None:
    class Other:
        asarray, ones = staticmethod(np.asarray), staticmethod(lambda n: np.zeros(n))
        zeros = staticmethod(lambda n: np.zeros(n, np.float32))

    def fails(xp: Any) -> Any:
        if xp is Other:
            raise RuntimeError("not there")
        return xp.zeros(3)

    assert probes.compare(Other, [], lambda xp: xp.ones(3)) == {"ok": False, "output": "other values"}
    assert "float32(3,) in place of float64(3,)" in probes.compare(Other, [], lambda xp: xp.zeros(3))["output"]
    assert "RuntimeError: not there" in probes.compare(Other, [], fails)["output"]
    assert probes.compare(Other, [np.ones(3)], lambda xp, a: 2 * a) == {"ok": True}


def numpy_attend(wrong: str | None) -> Callable[..., None]:
    """What `core.attend.attend` does, on NumPy, or with a defect."""

    def attend(
        xp: Any, q: Any, k: Any, v: Any, *, scale: float, total: Any = None, out: Any = None, **options: Any
    ) -> None:
        d = q.shape[-1]
        q_rows, k_rows = (
            np.arange(x.size // d).reshape(x.shape[:-1]) if rows is None else rows
            for x, rows in ((q, options.get("q_rows")), (k, options.get("k_rows")))
        )
        q, k, v = (x.reshape(-1, d).astype(np.float32) for x in (q, k, v))
        for g, rows in enumerate(q_rows):
            keys = k_rows[g // (len(q_rows) // len(k_rows))]
            logits = scale * q[rows] @ k[keys].T
            if options.get("log_weights") is not None and wrong != "joined":
                logits += options["log_weights"][g]
            if options.get("causal") and wrong != "error":
                logits[np.arange(len(keys)) > np.arange(len(rows))[:, None]] = -np.inf
            m, l, o = np.full(len(rows), -np.inf), np.zeros(len(rows)), np.zeros((len(rows), d))  # noqa: E741
            if options.get("resume") and wrong != "resumed":
                m, l, o = total.m[rows], total.l[rows], total.o[rows]  # noqa: E741
            new = np.maximum(m, logits.max(axis=1))
            e, keep = np.exp(logits - new[:, None]), np.exp(m - new)
            m, l, o = new, keep * l + e.sum(axis=1), keep[:, None] * o + e @ v[keys]  # noqa: E741
            if out is None:
                total.m[rows], total.l[rows], total.o[rows] = m, l if wrong != "split" else 1, o
            else:
                noise = 1e-5 * np.random.default_rng().random() if wrong == "bitwise" else 0
                out[rows] = (o / l[:, None]).astype(out.dtype)
                options["lse"][rows] = m + np.log(l) + (wrong == "lse") + noise

    return attend


@pytest.mark.parametrize("wrong", [None, "error", "lse", "joined", "resumed", "split", "bitwise"])
def test_kernel_cases_notice_what_is_wrong(monkeypatch: pytest.MonkeyPatch, wrong: str | None) -> None:
    monkeypatch.setattr(kernel_cases, "serves", lambda xp, x: (x.dtype, x.shape[-1]) == (np.float16, 96))
    monkeypatch.setattr(Device, "kernel_xp", lambda self: np)
    monkeypatch.setattr(kernel_cases, "attend", numpy_attend(wrong))
    (row,) = [row for row in kernel_cases.rows(Device(rehearsal=True)) if "not_run" not in row]
    assert row["ok"] is (wrong is None)
    if wrong == "bitwise":
        assert not row["bitwise"]
    elif wrong:
        assert row[wrong] > 1e-3


def test_the_reference_of_some_rows_is_exact_attention() -> None:
    q, k, v = (np.random.default_rng(seed).standard_normal((2, 50, 8)) for seed in range(3))
    for causal in (False, True):
        out = sublinattn.attention(q, k, v, causal=causal)
        reference = Reference(np, q, k, v, causal=causal)
        assert reference.error(out) < 1e-6 and np.isclose(reference.error(0 * out), 1)


@pytest.mark.parametrize("causal", [False, True])
def test_queries_near_a_key_are_near_one_that_they_see(causal: bool) -> None:
    q, k, v = (x.astype(float) for x in near_key(Device(rehearsal=True), 2, 50, 8, causal))
    for head in range(2):
        distance = np.linalg.norm(q[head][:, None] - 2 * k[head], axis=-1)
        key = distance.argmin(axis=1)
        assert distance.min(axis=1).max() == 0 and v[head].shape == (50, 8)
        assert (key <= np.arange(50)).all() if causal else sorted(key) == list(range(50))


def test_every_test_file_that_takes_xp_is_run() -> None:
    files = package_tests.files_that_take_xp()
    assert len(files) == len(set(files)) and {"tests/core/test_exact.py", "tests/core/test_state.py"} <= set(files)
    text = {name: (ROOT / name).read_text() for name in files}
    assert all("xp: Any" in source or "(xp" in source or "xp," in source for source in text.values())
    assert "tests/suite/test_dossier.py" not in files and "tests/methods/subgen/test_subgen.py" in files


PRINTED = """\
[gw1] [ 10%] PASSED tests/a.py::test_b[cupy-a thing-float32]
[gw0] [ 20%] FAILED tests/a.py::test_c[cupy]\x20
[gw0] [ 30%] SKIPPED tests/a.py::test_d
tests/a.py::test_b[cupy] PASSED                                  [ 10%]
tests/a.py::test_e SKIPPED (why: no PASSED thing)                [ 30%]
"""


def test_outcomes_of_tests_are_counted() -> None:
    row = package_tests.outcomes(PRINTED, 1, late=False)
    assert row["counts"] == {"passed": 2, "failed": 1, "skipped": 2} and row["failed"] == ["tests/a.py::test_c[cupy]"]
    assert not row["ok"]
    calm = PRINTED.replace("FAILED", "PASSED")
    assert package_tests.outcomes(calm, 0, late=False)["ok"] and not package_tests.outcomes(calm, 4, late=False)["ok"]
    assert package_tests.outcomes(calm, -15, late=True)["ok"] and not package_tests.outcomes("", -15, late=True)["ok"]


@pytest.mark.parametrize(("module", "right"), [("rich", True), ("sublinattn.core", False)])
def test_a_test_file_that_needs_a_package_which_is_not_there_is_no_failure(module: str, right: bool) -> None:
    calm = PRINTED.replace("FAILED", "PASSED")
    lost = f"E   ModuleNotFoundError: No module named '{module}'\n{calm}ERROR tests/core/test_d.py\n"
    row = package_tests.outcomes(lost, 1, late=False)
    assert row["unread"] == ["tests/core/test_d.py"] and row["ok"] is right
    assert row["lacking"] == ([module] if right else [])


# ---------------------------------------------------------------------------------------------- the record, the table
def test_a_record_names_no_folder_of_its_machine() -> None:
    said = {"log": ['File "' + "/".join(["", "root", "x", "a.py"]) + '", line 3', "https://a.org/b/c", "1/2", 3]}
    assert record.without_folders(said) == {"log": ['File "a.py", line 3', "https://a.org/b/c", "1/2", 3]}


RECORD: dict[str, Any] = {
    "started": "2026-11-26T21:05:00+00:00",
    "rehearsal": False,
    "steps": {
        "environment": {
            "outcome": "right",
            "rows": [
                {
                    "cuda": {"name": "NVIDIA H100 80GB HBM3"},
                    "versions": {"cupy": "14.2.0", "torch": "2.11.0"},
                    "code": {"commit": None, "source": "0123"},
                }
            ]
        },
        "attention": {
            "outcome": "right",
            "rows": [
                {"what": what, "n": n, "ms": ms, "input": "gaussian", "d": 64, "heads": 32, "causal": False}
                | {"dtype": "bfloat16", "error": 1.5}
                for n in (4096, 131072)
                for what, ms in (("hyper_attention", 5.0), ("PyTorch flash", 464.0), ("PyTorch cuDNN", 314.0))
            ]
        },
        "ceilings": {
            "outcome": "right",
            "rows": [{"ceiling": "gemm", "dtype": "bfloat16", "operations_per_second": 7.8e14}],
        },
        "tests": {"outcome": "right", "rows": [{"counts": {"passed": 10, "skipped": 2}}]},
    },
}  # fmt: skip


def test_table_of_a_record() -> None:
    text = table.render(RECORD)
    assert "NVIDIA H100 80GB HBM3, 2026-11-26, CuPy 14.2.0, PyTorch 2.11.0, sources `0123`." in text
    assert "| d = 64, no mask | 5 | - | 464 | 314 | 62.8 times |" in text and "n = 131072" in text
    assert "multiplied at 780 TFLOP/s" in text  # 4 * 32 heads * n^2 * 64 operations, or n * 512 for n^2, over 780e12
    assert "`hyper_attention` 14% (d = 64), PyTorch flash 39% (d = 64), PyTorch cuDNN 57% (d = 64)." in text
    assert "- Tests on CuPy: 10 passed, 2 skipped." in text
    assert record.place(RECORD).name == "2026-11-26-nvidia-h100-80gb-hbm3.json"
    assert table.render(None) == table.NEVER


def test_the_newest_record_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "FOLDER", tmp_path)
    assert record.newest() is None
    for day in ("27", "26"):
        record.write(tmp_path / f"{day}.json", RECORD | {"started": f"2026-11-{day}T00:00:00+00:00"})
    assert record.newest()["started"].startswith("2026-11-27")  # type: ignore[index]


@pytest.mark.parametrize("name", page.PAGES)
def test_pages_say_what_the_newest_record_says(name: str) -> None:
    place = page.PLACE.search((ROOT / name).read_text())
    assert place is not None and place[1] == page.PAGES[name](record.newest())


def test_a_kept_record_is_written_into_the_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "FOLDER", tmp_path / "figures")
    for module in (page, driver):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    for name in page.PAGES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"before\n{page.BEGIN}\n{table.NEVER}\n{page.END}\nafter\n")
    record.write(tmp_path / "made.json", RECORD)
    assert driver.main(["--keep", str(tmp_path / "made.json")]) == 0
    assert read_json(tmp_path / "figures" / "2026-11-26-nvidia-h100-80gb-hbm3.json") == RECORD
    for name, text in page.PAGES.items():
        written = (tmp_path / name).read_text()
        assert written == f"before\n{page.BEGIN}\n{text(RECORD)}\n{page.END}\nafter\n" and table.NEVER not in written


def test_kept_records_are_of_gpus() -> None:
    kept = {path: read_json(path) for path in record.FOLDER.glob("*.json")}
    assert all(not made["rehearsal"] and record.place(made) == path for path, made in kept.items())
