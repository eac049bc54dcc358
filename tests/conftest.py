"""The array namespaces that the tests of the algorithms run under."""

from __future__ import annotations

import os
import zlib
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import emulator
import fake_device
import pytest
from hypothesis import HealthCheck, settings

from sublinattn.core import backends

backends.NAMESPACES[fake_device.__name__] = fake_device.__name__
settings.register_profile(
    "package", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("package")

# `SUBLINATTN_TEST_BACKEND=cupy` (scripts/check_gpu) runs the same tests on a GPU.
BACKENDS = os.environ.get("SUBLINATTN_TEST_BACKEND", "numpy fake_device").split()


@pytest.fixture(scope="session", params=BACKENDS)
def xp(request: pytest.FixtureRequest) -> Any:
    """An array namespace: `xp.asarray` moves test data in, `backends.asnumpy` moves results out."""
    return import_module(request.param)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles so small that every loop over tiles turns several times, with a short one at the end."""
    monkeypatch.setattr(backends, "tile_shape", lambda xp, batch: (2, 12, 7))
    monkeypatch.setattr(backends, "STRIP_BYTES", 1500)


@pytest.fixture
def emulated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The fake device, on which `core.attend` runs its kernel's source as g++ builds it."""
    if reason := emulator.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    seed = zlib.crc32(request.node.nodeid.encode())  # another order of warps in every test, the same in every run
    monkeypatch.setattr(emulator, "schedule", SimpleNamespace(seed=seed, early=bool(seed % 2)))
    for owner, name, value in emulator.patches():
        monkeypatch.setattr(owner, name, value)
    return fake_device


@pytest.fixture
def kernel_xp(request: pytest.FixtureRequest) -> Any:
    """The namespace of the arrays that the kernel is tested with: CuPy's on a GPU, else the fake device's."""
    return import_module("cupy") if "cupy" in BACKENDS else request.getfixturevalue("emulated")
