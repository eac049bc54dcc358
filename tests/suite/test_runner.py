"""The runner: real kernels once, for what only a kernel can show; a stand-in for the rest."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
import toys
from rich.console import Console

from sublinattn.core import files
from sublinattn.lab import ledger
from sublinattn.suite import notebook, runner
from sublinattn.suite import seeds as several
from sublinattn.suite.notebook import Outcome
from sublinattn.suite.progress import Progress
from sublinattn.suite.turns import Turns

LINGER = """
import time
kernel = get_ipython().kernel
answer = kernel.shell_handlers["kernel_info_request"]

async def answer_and_linger(*request):
    await answer(*request)
    time.sleep(0.3)

kernel.shell_handlers["kernel_info_request"] = answer_and_linger
"""
ALONE = "al{on}e #1 50% ü"  # a name is no format string, and no link
QUIET = """
import threadpoolctl
from datetime import UTC, datetime
from sublinattn.core.quiet import cpu_count, quiet
with quiet():
    most = max(its["num_threads"] for its in threadpoolctl.threadpool_info())
    print("quiet", datetime.now(UTC).isoformat(), most == cpu_count())
"""
SHOW = "import os, sys; print(sys.executable, os.environ.get('OMP_NUM_THREADS'), n)"


def read_all(descriptor, into):
    with contextlib.suppress(OSError):  # nobody writes any more
        while text := os.read(descriptor, 4096):
            into.append(text)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A notebook that passes, one that raises, one whose kernel is killed, one with a quiet part, a last one."""
    folder = tmp_path_factory.mktemp("mixed") / "{braces} and # spaces"
    (folder / ("tmp{}" + 100 * "x")).mkdir(parents=True)  # too long for a socket
    toys.notebook(folder / "nb/good.ipynb", SHOW, toys.checking("good", "HOLDS", "FAILS", "CLOCK"))
    toys.notebook(folder / "nb/bad.ipynb", "1 / 0", "print('never')")
    toys.notebook(folder / "nb/dead.ipynb", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "1")
    toys.notebook(folder / f"nb/{ALONE}.ipynb", SHOW, QUIET)
    toys.notebook(folder / "nb/afterwards.ipynb", SHOW, last=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        patch.setattr("tempfile.tempdir", str(next(folder.iterdir())))
        result = runner.run(folder / "nb", out=folder / "out", parameters={"n": 7}, jobs=2)
    return folder / "out", result


def printed(path):
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.get("text", "") for cell in cells for o in cell.get("outputs", ()))


def started(path):
    times = nbformat.read(path, as_version=4).metadata.papermill
    return times.start_time, times.end_time


def test_a_page_of_the_report_links_to_the_notebook_whatever_its_name(mixed):
    page = mixed[1].report.read_text()
    links = [unquote(link) for link in re.findall(r'href="(notebooks/[^"]*)"', page)]
    assert f"notebooks/{ALONE}.html" in links
    assert all((mixed[1].report.parent / link).is_file() for link in links)


def test_a_failure_stops_no_other_notebook_and_fails_the_run(mixed):
    out, result = mixed
    statuses = {ALONE: "completed", "bad": "failed", "dead": "failed", "good": "completed", "afterwards": "completed"}
    assert {o.name: o.status for o in result.outcomes} == statuses and result.exit_code == 1
    errors = {o.name: o.error for o in result.failed}
    assert errors["bad"].startswith("ZeroDivisionError") and errors["dead"].startswith("DeadKernelError")
    assert any("1 / 0" in line or "ZeroDivisionError" in line for line in result.failed[0].traceback)
    assert set(ledger.load(out / "ledger.json")["claims"]) == {"toy.holds", "toy.fails", "toy.clock"}
    assert result.ledger["notebooks"]["bad"] == {"ok": False, "error": "ZeroDivisionError: division by zero"}
    assert result.report.is_file() and result.report.parent.parent == out


def test_only_complete_notebooks_bear_their_name_and_none_a_path_of_the_machine(mixed):
    out, _ = mixed
    assert {p.name for p in (out / "notebooks").iterdir()} == {
        "good.ipynb", "good.done.json", f"{ALONE}.ipynb", f"{ALONE}.done.json", "bad.failed.ipynb", "dead.failed.ipynb",
        "afterwards.ipynb", "afterwards.done.json",
    }  # fmt: skip
    assert not [p for p in out.rglob("*") if p.name.startswith(".")], "temporary files are left"
    assert "never" not in printed(out / "notebooks" / "bad.failed.ipynb")
    papermill = nbformat.read(out / "notebooks" / "good.ipynb", as_version=4).metadata.papermill
    assert not {"input_path", "output_path"} & set(papermill)


def test_the_kernel_is_this_interpreter_with_the_threads_it_should_have(mixed):
    out, _ = mixed
    assert f"{sys.executable} 1 7" in printed(out / "notebooks" / "good.ipynb")
    assert f"{sys.executable} 1 7" in printed(out / "notebooks" / f"{ALONE}.ipynb")


def test_a_kernel_still_busy_after_its_last_answer_ends_without_a_word(tmp_path, capfd):
    toys.notebook(tmp_path / "nb/busy.ipynb", LINGER)
    job = notebook.Job(tmp_path / "nb/busy.ipynb", {}, tmp_path)
    outcome = notebook.execute(job, Turns(["busy"], 1), lambda: None)
    assert outcome.status == "completed"
    assert capfd.readouterr().err == ""


def test_a_quiet_part_comes_after_the_other_notebooks_and_before_the_last(mixed):
    out, result = mixed
    (line,) = (x for x in printed(out / "notebooks" / f"{ALONE}.ipynb").splitlines() if x.startswith("quiet"))
    _, at, all_cpus = line.split()
    assert max(started(out / "notebooks" / f"{name}.ipynb")[1] for name in ("bad.failed", "dead.failed")) < at
    assert at < started(out / "notebooks" / "afterwards.ipynb")[0] and all_cpus == "True"
    assert set(result.ledger["machine"]["quiet"]) == {ALONE, "good"}  # good checks a claim about this machine's clock


def test_a_long_notebook_starts_first(tmp_path):
    for name in ("a", "b"):
        toys.notebook(tmp_path / f"nb/{name}.ipynb", "1", long=name == "b")
    runner.run(tmp_path / "nb", out=tmp_path / "out", jobs=1)
    first, second = (started(tmp_path / "out" / "notebooks" / f"{name}.ipynb")[0] for name in ("b", "a"))
    assert first < second


def test_a_mark_that_nobody_knows_is_refused_before_anything_runs(tmp_path):
    path = toys.notebook(tmp_path / "nb/a.ipynb", "1", exclusive=True)
    with pytest.raises(
        ValueError, match=re.escape(f"{path} is not a notebook with marks") + ".* long or last, got excl"
    ):
        runner.run(tmp_path / "nb", out=tmp_path / "out")


@pytest.mark.parametrize(("end", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("the terminal", 129)])
def test_an_interrupted_run_ends_at_once_and_leaves_no_kernel(tmp_path, end, code):
    """One kernel is at work in a quiet part, another waits for its own."""
    cell = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    for name, work in (("slow", cell), ("waiting", "pass")):
        part = f"from sublinattn.core.quiet import quiet\nwith quiet():\n    {work}"
        toys.notebook(tmp_path / f"nb/{name}.ipynb", part)
    command = [sys.executable, "-m", "sublinattn", "run", "--notebooks", "nb", "--jobs", "1"]
    (ours, its), shown = os.openpty(), []

    def begin():
        os.setsid()
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)
        # A shell's background jobs ignore SIGINT, those under nohup SIGHUP, and so would what they start.
        for ignored in (signal.SIGINT, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_DFL)

    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
        preexec_fn=begin,
        **dict.fromkeys(("stdin", "stdout", "stderr"), its),
    )
    os.close(its)
    if end != "the terminal":  # a terminal reads; one that is about to go may be full
        threading.Thread(target=read_all, args=[ours, shown], daemon=True).start()
    deadline = time.monotonic() + 60
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    if end == "the terminal":
        os.close(ours)
    else:
        process.send_signal(getattr(signal, end))
    assert process.wait(timeout=30) == code
    if end != "the terminal":
        text = b"".join(shown).decode()
        assert "--resume" in text and "Kernel died" not in text and "Traceback" not in text
    kernel = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(kernel, 0)
    assert not any((tmp_path / "tmp").iterdir()) and not (tmp_path / "out/.lock").exists()
    assert not (tmp_path / "out/notebooks/slow.ipynb").exists()


# ----------------------------------------------------------------------------------- without kernels: what is run, when


class Fake(Progress):
    """Runs no kernel: leaves the output and the verdicts that a notebook would, or fails."""

    def __init__(self, outcome="supported", failing=()):
        super().__init__()
        self.ran, self.outcome, self.failing = [], outcome, failing

    def execute(self, job, turns):
        self.ran.append(job.name)
        if job.name in self.failing:
            return Outcome(job.name, "failed", error="Broken: on purpose")
        files.write_text(job.output, job.path.read_text())
        out = Path(job.parameters["out"])
        ledger.check([toys.OPEN if job.name == "a" else toys.EMPTY], out=out, notebook=job.name)
        path = out / "verdicts" / ("toy.open.json" if job.name == "a" else "toy.empty.json")
        files.write_json(path, {**files.read_json(path), "outcome": self.outcome, "seed": job.parameters["seed"]})
        return Outcome(job.name, "completed", 1.0)


@pytest.fixture
def go(tmp_path, monkeypatch):
    """Run two notebooks, a and b, in an empty working directory; returns (names of those that ran, result)."""
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        toys.notebook(Path(f"notebooks/{name}.ipynb"), f"'{name}'", parameters=f"only_{name} = 1\nn = 2")

    def go(**options):
        fake = Fake(options.pop("outcome", "supported"), options.pop("failing", ()))
        result = runner.run(progress=fake, **options)
        return sorted(fake.ran), result

    return go


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"parameters": {"nn": 1}}, "'nn'"),
        ({"parameters": {"only_a": 1}, "only": "b"}, "'only_a'"),
        ({"parameters": {"seed": 1}}, "--seed"),
        ({"effort": "large"}, "effort"),
        ({"jobs": 0}, "jobs"),
        ({"only": "z*"}, "z\\*"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(go, options, match):
    with pytest.raises(ValueError, match=match):
        go(**options)
    assert not Path("out").exists()


def test_a_notebook_without_the_common_parameters_is_refused(go):
    path = toys.notebook(Path("notebooks/c.ipynb"))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = "effort = 'smoke'"
    nbformat.write(notebook, path)
    with pytest.raises(ValueError, match="c.ipynb has no parameter backend, out, seed"):
        go()


def test_a_parameter_goes_to_the_notebooks_that_have_it(go):
    go(parameters={"only_a": 5, "n": 6})
    stamps = {name: files.read_json(f"out/notebooks/{name}.done.json")["parameters"] for name in "ab"}
    assert stamps["a"]["only_a"] == 5 and stamps["a"]["n"] == stamps["b"]["n"] == 6 and "only_a" not in stamps["b"]


def test_resume_runs_only_what_is_not_complete(go):
    assert go()[0] == ["a", "b"]
    ran, result = go(resume=True)
    assert ran == [] and set(result.ledger["claims"]) == {"toy.open", "toy.empty"}
    assert go()[0] == ["a", "b"], "without --resume everything runs again"
    go(failing=("b",))
    assert go(resume=True)[0] == ["b"]


def test_resume_goes_by_parameters_notebook_code_and_files(go, monkeypatch):
    go()
    assert go(resume=True, parameters={"only_a": 2})[0] == ["a"]
    go()
    toys.notebook(Path("notebooks/b.ipynb"), "'changed'")
    assert go(resume=True)[0] == ["b"]
    Path("out/rows/toy.open.parquet").unlink()
    assert go(resume=True)[0] == ["a"]
    Path("out/notebooks/a.ipynb").unlink()
    assert go(resume=True)[0] == ["a"]
    monkeypatch.setattr(runner, "source_hash", lambda: "other code")
    assert go(resume=True)[0] == ["a", "b"]


def test_resume_runs_the_last_notebook_again_when_another_runs(go):
    toys.notebook(Path("notebooks/a.ipynb"), "'reads what b has left'", last=True)
    assert go()[0] == ["a", "b"]
    assert go(resume=True)[0] == []
    Path("out/notebooks/b.ipynb").unlink()
    assert go(resume=True)[0] == ["a", "b"]


def test_a_failed_notebook_leaves_no_verdict_of_an_earlier_run(go):
    go()
    _, result = go(failing=("a",))
    assert set(result.ledger["claims"]) == {"toy.empty"}
    assert not Path("out/rows/toy.open.parquet").exists()


def test_only_keeps_what_the_others_found_and_a_full_run_forgets_removed_notebooks(go):
    go()
    ran, result = go(only="a")
    assert ran == ["a"] and set(result.ledger["claims"]) == {"toy.open", "toy.empty"}
    Path("notebooks/b.ipynb").unlink()
    assert set(go()[1].ledger["claims"]) == {"toy.open"}


def test_a_verdict_that_is_worse_than_on_record_fails_the_run(go):
    _, first = go()
    assert first.exit_code == 0 and first.changes == ()
    ledger.write("ledger.json", first.ledger)  # on record from now on
    assert go()[1].exit_code == 0
    _, turned = go(outcome="refuted")
    assert [change.claim for change in turned.changes] == ["toy.empty", "toy.open"] and turned.exit_code == 1
    assert go(outcome="undecided")[1].exit_code == 1, "the same draws"
    assert go(outcome="undecided", seed=1)[1].exit_code == 0, "other draws"
    Path("notebooks/b.ipynb").rename("b.ipynb")
    assert go()[1].exit_code == 1, "a claim is gone"
    assert go(only="a", out="elsewhere")[1].exit_code == 0
    Path("b.ipynb").rename("notebooks/b.ipynb")
    ledger.write("elsewhere.json", turned.ledger)
    assert go(outcome="refuted", record="elsewhere.json")[1].exit_code == 0
    with pytest.raises(FileNotFoundError):
        go(record="missing.json")


def test_a_scheduler_that_is_not_there_costs_no_result(go):
    go()
    before = sorted(Path("out").rglob("*"))
    with pytest.raises(OSError, match="no Dask scheduler answers at 'tcp://127.0.0.1:9'"):
        go(scheduler="tcp://127.0.0.1:9")
    assert sorted(Path("out").rglob("*")) == before


def test_outputs_that_jupyterlab_saves_change_no_notebook(tmp_path):
    path = toys.notebook(tmp_path / "a.ipynb", "1 + 1")
    before = notebook.content_hash(path)
    opened = nbformat.read(path, as_version=4)
    opened.cells[-1].outputs = [nbformat.v4.new_output("stream", text="2")]
    nbformat.write(opened, path)
    assert notebook.content_hash(path) == before
    opened.cells[-1].source = "1 + 2"
    nbformat.write(opened, path)
    assert notebook.content_hash(path) != before


@pytest.mark.parametrize("file", ["notebooks/a.done.json", "verdicts/toy.open.json"])
@pytest.mark.parametrize("content", ["", '{"cut', "[]", "3"])
def test_a_damaged_stamp_or_verdict_is_none_and_its_notebook_runs_again(go, file, content):
    go()
    (Path("out") / file).write_text(content)
    ran, result = go(resume=True)
    assert ran == ["a"] and set(result.ledger["claims"]) == {"toy.open", "toy.empty"}


def test_progress_on_a_terminal_counts_the_cells_of_all_notebooks(tmp_path, monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    shown = Progress(console)
    jobs = [notebook.Job(toys.notebook(tmp_path / f"{name}.ipynb", "1", "2"), {}, tmp_path) for name in "ab"]
    monkeypatch.setattr("sublinattn.suite.progress.execute", lambda job, turns, cell_done: cell_done())
    with shown.track(jobs):
        shown.execute(jobs[0], None)
        shown.finish(Outcome("a", "failed", error="after one cell"))
        shown.finish(Outcome("b", "completed"))  # without its cells
    last = [line for line in console.file.getvalue().splitlines() if "all notebooks" in line][-1]
    cells = sum(notebook.code_cells(job.path) for job in jobs)
    assert f"{cells}/{cells}" in last and "left" in last


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_second_run_in_the_same_folder_is_refused_and_the_first_loses_nothing(go, monkeypatch, seeds):
    go()
    before = {path: path.read_bytes() for path in Path("out").rglob("*.json")}
    with files.locked("out"), pytest.raises(BlockingIOError, match=f"out is in use by process {os.getpid()} on "):
        several.run(out="out", seeds=seeds)
    assert {path: path.read_bytes() for path in Path("out").rglob("*.json")} == before
    assert go(resume=True)[0] == []


@pytest.mark.parametrize("name", ["", "verdicts", "report"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_runs(go, name):
    path = Path("out") / name
    path.parent.mkdir(exist_ok=True)
    path.rmdir() if path.exists() else None
    path.write_text("a file in its place")
    with pytest.raises(OSError, match=str(path)):
        go()
    assert not Path("out/notebooks").exists()
