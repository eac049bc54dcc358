"""One notebook, one kernel: papermill on the interpreter that runs this package."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError
from traitlets import Unicode
from traitlets.config import Config

from ..core import files, quiet
from ..lab import cluster
from .turns import Turns

ONE_THREAD = {f"{library}_THREADS": "1" for library in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "VECLIB_MAXIMUM")}

MARKS = ("long", "last")
LONGEST_PARENT = 80
"""Of a path of UNIX sockets: the system takes 104 characters or so, less the folder's own name and the socket's."""

CellDone = Callable[[], None]

_RUNNING: weakref.WeakSet[OwnKernel] = weakref.WeakSet()


class OwnKernel(AsyncKernelManager):
    """A kernel of the interpreter that runs this package, independent of the kernels that the machine has installed."""

    turn = Unicode("", config=True, help="Socket at which the run listens to the notebook, for its quiet parts.")
    scheduler = Unicode("", config=True, help="Address of a Dask scheduler, whose workers make the trials.")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _RUNNING.add(self)

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        env = {**ONE_THREAD, cluster.VARIABLE: self.scheduler, quiet.VARIABLE: self.turn}
        return KernelSpec(argv=argv, env=env, language="python", display_name="sublinattn")

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:  # type: ignore[override]
        """Ask the kernel to end, and kill it only if it does not.

        jupyter_client interrupts every kernel first. One that has answered its last request may still be busy with
        what follows the answer, and then reports the interrupt as an error of its own.
        """
        if self.has_kernel and not now:
            await self.request_shutdown(restart=restart)
            await self.finish_shutdown(restart=restart)
        await super().shutdown_kernel(now=True, restart=restart)


@dataclass(frozen=True)
class Job:
    """One notebook to run."""

    path: Path
    parameters: dict[str, Any]
    folder: Path
    """Folder of the executed notebook."""
    long: bool = False
    """It takes longer than the others, so it starts first."""
    last: bool = False
    """It reads the verdicts of all other notebooks, so it runs when they are done."""
    scheduler: str = ""
    """Address of the Dask scheduler whose workers make its trials, if there is one."""

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def output(self) -> Path:
        return self.folder / f"{self.name}.ipynb"

    @property
    def failed_output(self) -> Path:
        return self.folder / f"{self.name}.failed.ipynb"


@dataclass(frozen=True)
class Outcome:
    """The result of a job. `error` is one line; `traceback` is the text that the kernel printed.

    `seconds` are without those in which it waited for its turn; `quiet` is how many of them it had to itself.
    """

    name: str
    status: str  # "completed", "failed" or "resumed"
    seconds: float = 0.0
    quiet: float = 0.0
    error: str = ""
    traceback: tuple[str, ...] = field(default=(), repr=False)


def kill_kernels() -> None:
    """Kill the kernels of this process, so that an interrupted run ends at once; that they died is no news then."""
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    for manager in list(_RUNNING):
        pid = getattr(manager.provisioner, "pid", None)
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def parameters_of(path: Path) -> set[str]:
    """Names of the parameters in the cell of a notebook that is tagged `parameters`.

    Raises
    ------
    ValueError
        The notebook names no kernel, so papermill cannot tell its language.
    """
    files.read_notebook(path)
    with files.reading(path, "a notebook with parameters"):
        return set(papermill.inspect_notebook(_literal(path)))


def marks_of(path: Path) -> dict[str, bool]:
    """The `MARKS` (see `Job`) in the metadata of a notebook, under "sublinattn"; ValueError for any other."""
    marks = files.read_notebook(path).metadata.get("sublinattn", {})
    with files.reading(path, "a notebook with marks"):
        if unknown := sorted(set(marks) - set(MARKS)):
            raise ValueError(f"a notebook may be marked {' or '.join(MARKS)}, got {', '.join(unknown)}")
        return {mark: bool(marks.get(mark, False)) for mark in MARKS}


def code_cells(path: Path) -> int:
    """Number of cells that papermill will execute, including the one with parameters that it adds."""
    cells = files.read_notebook(path).cells
    return 1 + sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in cells)


def content_hash(path: Path) -> str:
    """Hash of what a notebook says and does: not of outputs, which JupyterLab saves into its file."""
    notebook = files.read_notebook(path)
    said = [notebook.metadata.get("sublinattn"), *((cell.cell_type, cell.source) for cell in notebook.cells)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def execute(job: Job, turns: Turns, cell_done: CellDone) -> Outcome:
    """Run one notebook, which takes part in `turns`; never raises for what happens inside it.

    The executed notebook takes its name only when every cell has run. A kernel that dies leaves a notebook whose cells
    all say "completed", so it is the exception that counts, not the notebook's metadata.
    """
    started = time.perf_counter()
    # Kernels that race for TCP ports get lost when notebooks run in parallel: UNIX sockets under a path of their own
    # cannot collide. Short, because such a path has about 100 characters at most.
    sockets = _short_folder()
    draft = sockets / "draft.ipynb"
    error, traceback = "did not finish", ()
    try:
        with warnings.catch_warnings(), turns.listening(job.name, sockets) as turn:
            warnings.simplefilter("ignore", category=nbformat.warnings.MissingIDFieldWarning)
            papermill.execute_notebook(
                _literal(job.path),
                _literal(draft),
                job.parameters,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                kernel_manager_class=OwnKernel,
                config=Config(
                    KernelManager={"transport": "ipc", "ip": str(sockets / "k")},
                    OwnKernel={"turn": str(turn), "scheduler": job.scheduler},
                ),
                on_cell_executed=lambda **_: cell_done(),
            )
        error = ""
    except PapermillExecutionError as failure:
        error, traceback = f"{failure.ename}: {failure.evalue}".splitlines()[0], tuple(failure.traceback)
    except Exception as failure:  # a dead kernel, an unreadable notebook: it ends this notebook alone
        error = f"{type(failure).__name__}: {failure}".splitlines()[0]
    finally:
        try:
            _keep(draft, job, failed=bool(error))
        finally:
            shutil.rmtree(sockets, ignore_errors=True)
    seconds, status = time.perf_counter() - started - turns.waited[job.name], "failed" if error else "completed"
    return Outcome(job.name, status, seconds, turns.alone[job.name], error, traceback)


def _short_folder() -> Path:
    """A folder for sockets: in TMPDIR, or in /tmp where that is too long (a path that no kernel could listen at)."""
    parents = [tempfile.gettempdir(), "/tmp"]
    for parent in parents:
        if len(os.fsencode(parent)) <= LONGEST_PARENT and os.access(parent, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix="sa-", dir=parent))
    raise OSError(f"TMPDIR must be at most {LONGEST_PARENT} characters long, for sockets in it, got {parents[0]}")


def _literal(path: Path) -> str:
    """A path as papermill takes it, which fills in what stands in braces."""
    return str(path.resolve()).replace("{", "{{").replace("}", "}}")


def _keep(draft: Path, job: Job, failed: bool) -> None:
    """Move the executed notebook to its folder, without the paths of this machine that papermill stores in it."""
    job.failed_output.unlink(missing_ok=True)
    if failed:
        job.output.unlink(missing_ok=True)
    if not draft.exists():
        return
    notebook = nbformat.read(draft, as_version=4)
    for key in ("input_path", "output_path"):
        notebook.metadata.get("papermill", {}).pop(key, None)
    with files.atomic(job.failed_output if failed else job.output) as temporary:
        nbformat.write(notebook, temporary)
