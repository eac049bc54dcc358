"""Trials on a Dask cluster: the same rows whatever the workers, and a message for every way in which it fails."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import dask
import pandas as pd
import pytest
import toys
from distributed import LocalCluster

from sublinattn.lab import cluster, ledger
from sublinattn.lab.run import Run
from sublinattn.methods.subgen.studies import ablation
from sublinattn.suite import runner
from sublinattn.theory import verify

TESTS = Path(__file__).parents[1]
CHECK = (
    f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
    "import toys\nfrom sublinattn.lab.run import Run\nrun = Run(effort, seed, backend, out, {name!r})\n"
)
"""Source of a cell that makes the run of a notebook."""


@pytest.fixture(scope="module")
def threads():
    """Three workers in this process."""
    with LocalCluster(n_workers=3, threads_per_worker=1, processes=False, dashboard_address=None) as local:
        yield local.scheduler_address


@pytest.fixture(scope="module")
def process():
    """One worker in a process of its own, whose first death is one too many."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as local,
    ):
        yield local.scheduler_address


@pytest.fixture
def other_hash(monkeypatch):
    """A client whose package is not that of workers in other processes."""
    monkeypatch.setattr(cluster, "source_hash", lambda: "0123456789abcdef")
    cluster.identity.cache_clear()
    yield
    cluster.identity.cache_clear()


def die(rng, xp, marker):
    if not (Path(marker).exists() and Path(marker).read_text()):
        os.kill(os.getpid(), signal.SIGKILL)
    return toys.Trial(measured=0.0, bound=1.0)


def book(folder, **options):
    ledger.check(toys.ALL, out=folder, **options)
    return json.dumps(ledger.comparable(ledger.merge((folder / "verdicts").glob("*.json"))), sort_keys=True)


def test_the_ledger_is_the_same_with_no_worker_one_and_three(tmp_path, threads, process):
    alone = book(tmp_path / "0")
    for number, address in (("3", threads), ("1", process)):
        with cluster.connect(address) as workers:
            assert book(tmp_path / number, executor=workers) == alone


def test_a_trial_defined_in_a_notebook_travels_and_files_are_written_here(tmp_path, process):
    trial = (
        "def trial(rng, xp, rate, workload=None):\n"
        "    return toys.Trial(float(rng.random() < rate), 0.5, facts={'n': 64.0})\n"
    )
    own = "import dataclasses\nown = dataclasses.replace(toys.HOLDS, id='own.holds', trial=trial)"
    check = "table = run.check(toys.HOLDS, own)"
    toys.notebook(tmp_path / "nb/a.ipynb", CHECK.replace("{name!r}", "'a'"), trial + own, check)
    result = runner.run(tmp_path / "nb", out=tmp_path / "out", scheduler=process)
    assert {c: entry["outcome"] for c, entry in result.ledger["claims"].items()} == dict.fromkeys(
        ("toy.holds", "own.holds"), "supported"
    )
    book(tmp_path / "here")
    there, here = (files / "rows/toy.holds.parquet" for files in (tmp_path / "out", tmp_path / "here"))
    assert there.read_bytes() == here.read_bytes()


def draw(run, label, number):
    return label, number, float(run.rng(label, number).random()), run.backend


def test_cells_of_a_study_keep_their_order_and_draws(threads, monkeypatch):
    run, items = Run(seed=5), [(label, number) for label in "ab" for number in range(6)]
    alone = run.map(draw, items)
    monkeypatch.setenv(cluster.VARIABLE, threads)
    there = run.map(draw, items)
    assert [row[:3] for row in there] == [row[:3] for row in alone] == [draw(run, *item)[:3] for item in items]
    assert {row[3] for row in there} <= {"numpy", "cupy"}, "a worker takes the client's backend, not its own 'auto'"


def test_a_study_has_the_same_rows_where_its_cells_travel_to_another_process(process, monkeypatch):
    """What travels is a copy: a real head must still be told from the synthetic inputs."""
    run = Run(backend="numpy", knobs={"inputs": ("gaussian-mean", "real"), "n": 128, "replicates": 2})
    here = ablation.parts(run)
    monkeypatch.setenv(cluster.VARIABLE, process)
    monkeypatch.setattr(ablation, "drawn", None)  # on the client, which draws nothing
    pd.testing.assert_frame_equal(ablation.parts(run), here, check_exact=True)


def test_a_worker_with_other_sources_is_refused_by_name_before_anything_is_removed(tmp_path, process, other_hash):
    toys.notebook(tmp_path / "nb/a.ipynb", "1")
    kept = tmp_path / "out/verdicts/toy.holds.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    differs = r"worker tcp://\S+ has source hash [0-9a-f]{16}, this client source hash 0123456789abcdef"
    with pytest.raises(cluster.ClusterError, match=differs):
        runner.run(tmp_path / "nb", out=tmp_path / "out", scheduler=process)
    assert kept.exists()
    with cluster.connect(process, check=False) as workers, pytest.raises(cluster.ClusterError, match=differs):
        verify(toys.HOLDS, executor=workers)  # as one that joins later: its first task asks


def test_a_module_that_only_the_client_has_is_named(tmp_path, process, monkeypatch):
    (tmp_path / "only_here.py").write_text("def trial(rng, xp, rate):\n    raise AssertionError")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    with cluster.connect(process) as workers, pytest.raises(cluster.ClusterError, match=r"tcp://.*'only_here'"):
        workers.submit(only_here.trial, None, None, 0.0).result(timeout=60)


def test_a_task_that_kills_its_workers_is_given_up(tmp_path, process):
    with cluster.connect(process) as workers, pytest.raises(cluster.ClusterError, match="1 workers in a row died"):
        workers.submit(die, None, None, tmp_path / "missing").result(timeout=60)


def test_a_scheduler_without_workers_is_waited_for_and_said(monkeypatch):
    monkeypatch.setattr(cluster, "WORKER_SECONDS", 0.3)
    said = []
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=None) as local,
        pytest.raises(cluster.ClusterError, match=r"no worker for 0.3 s.*--nthreads 1"),
        cluster.connect(local.scheduler_address, note=said.append),
    ):
        pass
    assert said == [f"waiting for a worker at {local.scheduler_address}, at most 0.3 s"]


def test_a_worker_of_several_threads_is_refused():
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as local,
        pytest.raises(cluster.ClusterError, match="2 tasks at a time in one process"),
        cluster.connect(local.scheduler_address),
    ):
        pass


NO_SCHEDULERS = [
    "tcp://127.0.0.1:9",
    "nowhere:x",
    "carrier-pigeon://loft",
    "tcp://",
    "tcp://[::1",
    "inproc://x",
    "tls://x",
]


@pytest.mark.parametrize("address", NO_SCHEDULERS)
def test_an_address_without_a_scheduler_is_named(monkeypatch, address):
    """Before Dask makes a client, which would not close for 20 s, and then end in a traceback."""
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr("distributed.Client", lambda *args, **options: pytest.fail("a client was made"))
    with (
        pytest.raises(cluster.ClusterError, match=re.escape(f"no Dask scheduler answers at '{address}'")),
        cluster.connect(address),
    ):
        pass


def test_what_listens_but_is_no_scheduler_is_refused_within_seconds(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(cluster.ClusterError, match="does not speak as Dask does"), cluster.connect(address):
            pass
    assert time.monotonic() - begun < 10


def test_a_scheduler_that_dies_ends_the_run_and_resume_goes_on(tmp_path):
    """The notebook b kills the scheduler before its claims are verified; a is complete by then."""
    where, log = tmp_path / "scheduler.json", (tmp_path / "log").open("w")
    dask_ = [sys.executable, "-m", "dask"]
    common = {"stdout": log, "stderr": log, "cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(TESTS)}}
    begun = [
        subprocess.Popen([*dask_, "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", where], **common)
    ]
    try:
        worker = ["worker", "--scheduler-file", where, "--nthreads", "1", "--no-dashboard", "--no-nanny"]
        while not where.exists():
            time.sleep(0.05)
        begun.append(subprocess.Popen([*dask_, *worker], **common))
        done = tmp_path / "out/notebooks/a.done.json"
        kill = (
            f"import os, time\nlatest = time.monotonic() + 60\n"
            f"while not os.path.exists({str(done)!r}):\n    assert time.monotonic() < latest\n    time.sleep(0.05)\n"
            f"if not os.path.exists({str(tmp_path / 'again')!r}):\n    os.kill({begun[0].pid}, 9)"
        )
        for name, first in (("a", "1"), ("b", kill)):
            check = CHECK.replace("{name!r}", repr(name)) + f"run.check(toys.{'HOLDS' if name == 'a' else 'MEAN'})"
            toys.notebook(tmp_path / f"nb/{name}.ipynb", first, check)
        address = json.loads(where.read_text())["address"]
        with pytest.raises(cluster.ClusterError, match=f"scheduler at {address} is gone"):
            runner.run(tmp_path / "nb", out=tmp_path / "out", scheduler=address)
    finally:
        for each in begun:
            each.kill()
            each.wait()
        log.close()
    (tmp_path / "again").touch()
    result = runner.run(tmp_path / "nb", out=tmp_path / "out", resume=True)
    assert {o.name: o.status for o in result.outcomes} == {"a": "resumed", "b": "completed"}
    assert set(result.ledger["claims"]) == {"toy.holds", "toy.mean"}
