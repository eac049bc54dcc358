"""The array namespaces that the tests of the algorithms run under."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import fake_device
import pytest

from sublinattn.core import backends

# `SUBLINATTN_TEST_BACKEND=cupy` (scripts/check_gpu) runs the same tests on a GPU.
BACKENDS = os.environ.get("SUBLINATTN_TEST_BACKEND", "numpy fake_device").split()


@pytest.fixture(scope="session", params=BACKENDS)
def xp(request: pytest.FixtureRequest) -> Iterator[Any]:
    """An array namespace: `xp.asarray` moves test data in, `backends.asnumpy` moves results out."""
    if request.param == fake_device.__name__:
        backends.NAMESPACES[fake_device.__name__] = fake_device.__name__
        yield fake_device
        del backends.NAMESPACES[fake_device.__name__]
    else:
        yield import_module(request.param)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles so small that every loop over tiles turns several times, with a short one at the end."""
    monkeypatch.setattr(backends, "tile_shape", lambda xp, batch: (2, 12, 7))
