"""The main job: run the notebooks, merge their verdicts into the ledger, write the report, compare with a record."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from ..core import files
from ..core.crew import Crew
from ..core.names import suggestion
from ..core.provenance import provenance, source_hash
from ..core.threads import cpu_count
from ..lab import ledger
from ..lab import parameters as registry
from ..lab.cluster import LOOK_SECONDS, Cluster, connect
from ..lab.record import Change, changes, why
from ..lab.record import check as check_record
from . import catalogue, report
from .notebook import Job, Outcome, content_hash, kill_kernels, marks_of, parameters_of
from .progress import Progress
from .turns import Turns

EFFORTS = ("smoke", "standard", "full")
KERNELS_PER_CPU = 4
"""On a cluster: most kernels wait for its workers then."""


@dataclass(frozen=True)
class Result:
    """The outcome of a run."""

    outcomes: tuple[Outcome, ...]
    ledger: dict[str, Any]
    changes: tuple[Change, ...]
    report: Path

    @property
    def failed(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")

    @property
    def exit_code(self) -> int:
        """1 if a notebook failed, or a verdict differs from the record in a way that fails (`lab.record`); else 0."""
        return int(bool(self.failed or any(change.fails for change in self.changes)))


def run(notebooks: Path | str | None = None, *, out: Path | str = "out", **options: Any) -> Result:
    """`run_held` in a folder that no other run may use meanwhile: BlockingIOError, which names the run that does."""
    with files.locked(out):
        return run_held(notebooks, out=out, **options)


def run_held(
    notebooks: Path | str | None = None,
    *,
    effort: str = "smoke",
    seed: int = 0,
    backend: str = "auto",
    out: Path | str = "out",
    only: str | None = None,
    having: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    scheduler: str | None = None,
    resume: bool = False,
    record: Path | str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run notebooks, then write `out/ledger.json` and the report; the caller holds `out`.

    Notebooks run in parallel, each in a kernel with one BLAS thread; those marked long start first. What measures times
    runs alone and with all threads (`turns`). Notebooks marked last run when all others are done. A notebook that fails
    does not stop the others.

    Parameters
    ----------
    notebooks : path, optional
        Folder of the notebooks; by default `notebooks`, or if that does not exist the one in the package.
    effort, seed, backend, out
        Parameters of every notebook.
    only : str, optional
        Run only the notebooks whose name matches this pattern; earlier verdicts of the others stay in the ledger.
    having : str, optional
        Run only the notebooks that have this parameter, likewise.
    parameters : mapping, optional
        Further parameters; each is passed to the notebooks that have it.
    jobs : int, optional
        Number of notebooks that run at the same time; by default the number of CPUs, with a scheduler KERNELS_PER_CPU
        times as many.
    scheduler : str, optional
        Address of a Dask scheduler, whose workers make the trials (`lab.cluster`). Notebooks run here in any case, so
        that workers need none of their files.
    resume : bool
        Skip notebooks that were completed earlier with the same parameters and the same code.
    record : path, optional
        Ledger to compare with; by default `ledger.json` of the working directory, if it exists.

    Raises
    ------
    ValueError
        An unknown effort, a parameter that no notebook has or a value that it does not take (see
        `lab.parameters`), no notebook at all, `jobs` below 1.
    FileNotFoundError
        There is no file `record`.
    OSError
        A folder of results cannot be written, or the cluster cannot be used (`lab.cluster.ClusterError`): nothing was
        removed then. A cluster that is lost later ends the run; what is complete stays, and `resume` goes on from it.
    """
    if effort not in EFFORTS:
        raise ValueError(f"effort must be one of {EFFORTS}, got {effort!r}")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if record is None and Path("ledger.json").exists():
        record = "ledger.json"
    old = None
    if record is not None:
        old = ledger.load(record)
        with files.reading(record, "a ledger to compare with"):
            check_record(old)
    out = Path(out)
    for name in ("notebooks", "verdicts", "rows", "figures", "report"):
        files.check_writable(out / name)
    common = {"effort": effort, "seed": seed, "backend": backend, "out": str(out)}
    selected = plan(notebooks, common, parameters or {}, only=only, having=having, scheduler=scheduler or "")
    finished = [job for job in selected if resume and _is_finished(job, out)]
    if any(job not in finished for job in selected):  # what a last notebook has read is about to change
        finished = [job for job in finished if not job.last]
    pending = [job for job in selected if job not in finished]
    progress = progress or Progress()
    outcomes = [Outcome(job.name, "resumed") for job in finished]
    workers = jobs or cpu_count() * (KERNELS_PER_CPU if scheduler else 1)
    connected = connect(scheduler, backend=backend, note=progress.note) if scheduler and pending else nullcontext()
    with connected as cluster, progress.track(pending):
        _clear(out, pending, None if only or having else finished)  # not before the workers are there
        for batch in batches(pending):
            outcomes += _run_batch(batch, workers, out, progress, cluster)
    outcomes.sort(key=lambda outcome: outcome.name)

    new = ledger.merge((out / "verdicts").glob("*.json"))
    new["run"] = {"effort": effort, "seed": seed, "backend": backend, "parameters": dict(parameters or {})}
    new["notebooks"] = {o.name: {"ok": o.status != "failed", "error": o.error} for o in outcomes}
    new["machine"] = {
        "provenance": provenance(),
        "jobs": workers,
        "seconds": {o.name: round(o.seconds, 3) for o in outcomes if o.status != "resumed"},
        "quiet": {o.name: round(o.quiet, 3) for o in outcomes if o.quiet},
    }
    found = changes(old, new, complete=not (only or having)) if old else ()
    new["machine"]["differs"] = [{**asdict(change), "why": why(change, old or {}, new)} for change in found]
    ledger.write(out / "ledger.json", new)
    return Result(tuple(outcomes), new, found, report.build(out))


def plan(
    notebooks: Path | str | None,
    common: Mapping[str, Any],
    extra: Mapping[str, Any],
    *,
    only: str | None = None,
    having: str | None = None,
    scheduler: str = "",
) -> list[Job]:
    """The jobs of a run; the arguments are those of `run_held`, `common` is what all notebooks get.

    All parameters are checked here, before any job starts.
    """
    folder = Path(notebooks or catalogue.notebooks())
    paths = [path for path in sorted(folder.glob("*.ipynb")) if fnmatch(path.stem, only or "*")]
    if not paths:
        nearest = suggestion(only, (path.stem for path in folder.glob("*.ipynb")))
        raise ValueError(f"no notebook in {folder} matches {only or '*'!r}{nearest}")
    names_of = {path: parameters_of(path) for path in paths}
    for path, names in names_of.items():
        if missing := sorted(set(common) - names):
            raise ValueError(f"{path.name} has no parameter {', '.join(missing)} in its cell tagged 'parameters'")
    for name in (*extra, *([having] if having else ())):
        if name in common:
            raise ValueError(f"parameter {name!r} has an option of its own: --{name}")
        if not any(name in names for names in names_of.values()):
            known = sorted(set().union(*names_of.values()) - set(common))
            raise ValueError(
                f"no selected notebook has a parameter {name!r}{suggestion(name, known)}; they have {known}"
            )
    return [
        Job(
            path=path.resolve(),
            parameters={**common, **_checked(path, {name: x for name, x in extra.items() if name in names})},
            folder=(Path(common["out"]) / "notebooks").resolve(),
            scheduler=scheduler,
            **marks_of(path),
        )
        for path, names in names_of.items()
        if having is None or having in names
    ]


def batches(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs in the order of a run: those of a batch run side by side, when all of the one before have ended."""
    first = sorted((job for job in jobs if not job.last), key=lambda job: not job.long)
    return [batch for batch in (first, [job for job in jobs if job.last]) if batch]


def _checked(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values as JSON has them."""
    try:
        values = registry.checked(path.stem, given)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _run_batch(
    jobs: Sequence[Job], workers: int, out: Path, progress: Progress, cluster: Cluster | None
) -> list[Outcome]:
    outcomes = []
    turns = Turns([job.name for job in jobs], workers)
    crew = Crew([partial(_execute, job, out, progress, turns) for job in jobs], len(jobs))
    try:
        for ended in crew.results(LOOK_SECONDS):
            if ended is not None:
                outcome = ended[1]
                if cluster is not None and outcome.status == "failed":
                    cluster.look()  # which may be why it failed
                progress.finish(outcome)
                outcomes.append(outcome)
            if cluster is not None:
                cluster.look()
    except BaseException:
        crew.stopped = turns.stopped = True
        while crew.running:
            kill_kernels()
            time.sleep(0.05)  # one just starting had no number yet
        raise
    return outcomes


def _execute(job: Job, out: Path, progress: Progress, turns: Turns) -> Outcome:
    """Run a notebook, and stamp it as complete before anything else can end the run."""
    with turns.working(job.name):
        outcome = progress.execute(job, turns)
    if outcome.status == "completed":
        files.write_json(_stamp_path(job), _stamp(job, out))
    return outcome


def _owner(path: Path, *keys: str) -> str | None:
    """The notebook that a file of JSON names under these keys; None where it cannot be read, which is as good as none.

    OSError where the file is there and may not be read.
    """
    with suppress(ValueError, LookupError, TypeError):
        found = files.read_json(path)
        for key in keys:
            found = found[key]
        return str(found)
    return None


def _clear(out: Path, pending: Sequence[Job], keep: Sequence[Job] | None) -> None:
    """Remove what this run replaces, and with `keep` the verdicts of every other notebook that is not listed there."""
    running = {job.name for job in pending}
    kept = None if keep is None else {job.name for job in keep}
    for job in pending:
        _stamp_path(job).unlink(missing_ok=True)
    for path in (out / "verdicts").glob("*.json"):
        owner = _owner(path, "notebook")
        if owner is None or owner in running or (kept is not None and owner not in kept):
            path.unlink()
            (out / "rows" / f"{path.stem}.parquet").unlink(missing_ok=True)


# `resume` compares a stamp beside the executed notebook, which is written after everything else.


def _stamp_path(job: Job) -> Path:
    return job.folder / f"{job.name}.done.json"


def _stamp(job: Job, out: Path) -> dict[str, Any]:
    return {
        "parameters": {name: value for name, value in job.parameters.items() if name != "out"},
        "source": source_hash(),
        "notebook": content_hash(job.path),
        "files": _products(job, out),
    }


def _products(job: Job, out: Path) -> dict[str, str | None]:
    """The files that a notebook has written, relative to `out`, each with a hash of its bytes (None: it is not there).

    Of the executed notebook it is said only that it is there: a user may open it and save its outputs.
    """
    products = []
    for path in sorted((out / "verdicts").glob("*.json")):
        if _owner(path, "notebook") == job.name:
            products += [path, out / "rows" / f"{path.stem}.parquet"]
    for path in sorted((out / "figures").glob("*.json")):
        if _owner(path, "params", "notebook") == job.name:
            products += [path, path.with_suffix(".svg")]
    hashes = {path.relative_to(out).as_posix(): _hash(path) for path in products}
    return {job.output.relative_to(out.resolve()).as_posix(): "there" if job.output.exists() else None, **hashes}


def _hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else None


def _is_finished(job: Job, out: Path) -> bool:
    path = _stamp_path(job)
    if not path.exists():
        return False
    try:
        stamp = files.read_json(path)
    except ValueError:  # half a stamp is none: the notebook runs again
        return False
    return stamp == _stamp(job, out) and None not in stamp["files"].values()
