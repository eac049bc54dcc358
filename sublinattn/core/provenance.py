"""Where a result came from: code, versions and machine, without host names or paths."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import re
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import threadpoolctl

_PACKAGE = Path(__file__).resolve().parents[1]


def provenance() -> dict[str, Any]:
    """Commit, source hash, versions, platform, CPU, BLAS, GPU and time (UTC), as JSON values."""
    from .threads import cpu_count  # brings NumPy, which the hash of the sources does without

    return {
        "commit": commit(),
        "source": source_hash(),
        "packages": dict(_versions()),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": {"name": _cpu_name(), "cores": cpu_count()},
        "blas": _blas(),
        "gpu": list(_gpus()),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def source_hash() -> str:
    """Hash of the package's Python and CUDA sources, equal on every machine and for every way of installing them."""
    digest = hashlib.sha256()
    for path in sorted(p for p in _PACKAGE.rglob("*") if p.suffix in (".py", ".cu")):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.relative_to(_PACKAGE).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


@cache
def commit() -> dict[str, Any] | None:
    """Commit of the git checkout that contains the package, and whether tracked files differ; None outside of one."""
    # An installed copy may lie inside somebody else's checkout: only a tracked file says that it is ours.
    if output_of("git", "-C", str(_PACKAGE), "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    sha = output_of("git", "-C", str(_PACKAGE), "rev-parse", "HEAD")
    status = output_of("git", "-C", str(_PACKAGE), "status", "--porcelain", "--untracked-files=no")
    return None if sha is None else {"sha": sha, "dirty": bool(status)}


@cache
def _versions() -> dict[str, str]:
    """Installed versions of this package and of all its dependencies, extras included."""
    names = {"sublinattn"}
    try:
        requirements = importlib.metadata.requires("sublinattn") or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    names.update(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in requirements)
    versions = {}
    for name in sorted(names):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _blas() -> list[dict[str, Any]]:
    importlib.import_module("numpy.linalg")  # a pool is listed only once its library is loaded
    keys = ("user_api", "internal_api", "version", "num_threads", "architecture")
    return [{key: pool.get(key) for key in keys} for pool in threadpoolctl.threadpool_info()]


def _cpu_name() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


@cache
def _gpus() -> list[str]:
    listed = output_of("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return listed.splitlines() if listed else []


def output_of(*command: str) -> str | None:
    """Standard output of a command, or None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
