"""Which notebooks of a run may compute: several side by side, or one alone that measures time.

A notebook asks from within its kernel to be alone (`core.quiet`), and waits. When every notebook has ended or waits,
those that have asked are alone one after another; when the last of them has been, all go on side by side.
"""

from __future__ import annotations

import socketserver
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LOOK = 0.1
"""Seconds between two looks at whether the run was stopped, which takes no lock: see `core.threads`."""


class Turns:
    """The turns of these notebooks, of which at most `slots` work side by side, the first ones first.

    Attributes
    ----------
    stopped : bool
        Set it to True, and whoever waits or asks gets a CancelledError.
    waited, alone : mapping of str to float
        Seconds that each notebook waited, from its beginning on, and that it had the machine to itself.
    """

    def __init__(self, names: Sequence[str], slots: int) -> None:
        self.stopped = False
        self.waited: dict[str, float] = defaultdict(float)
        self.alone: dict[str, float] = defaultdict(float)
        self._changed = threading.Condition()
        self._slots = slots
        self._resting, self._working = list(names), set[str]()
        self._asking: list[str] = []
        self._quiet = False  # whether those that ask are alone in turn, and the others wait
        self._holder: str | None = None
        self._since = 0.0  # when the holder, the notebook that is alone, began to be

    @contextmanager
    def working(self, name: str) -> Iterator[None]:
        """Wait for a slot; whatever the notebook waits for or holds at the end of the context is given up."""
        self._wait(name, lambda: name in self._working)
        try:
            yield
        finally:
            with self._changed:
                self._leave(name)
                self._step()

    @contextmanager
    def listening(self, name: str, folder: Path) -> Iterator[Path]:
        """Listen to a notebook that works, at a socket in `folder`, whose path is yielded."""
        turns, path = self, folder / "turn"

        class Kernel(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while self.rfile.read(1):
                    turns.ask(name)
                    self.wfile.write(b"!")

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):  # which not every system has
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Of a kernel that was killed while it waited, and of a run that was stopped, the notebook tells."""
                if not isinstance(sys.exception(), CancelledError | OSError):
                    super().handle_error(request, client_address)

        with Server(str(path), Kernel) as server:
            thread = threading.Thread(target=server.serve_forever, args=(_LOOK,), daemon=True)
            thread.start()
            try:
                yield path
            finally:
                server.shutdown()
                thread.join()

    def ask(self, name: str) -> None:
        """Wait until the notebook is alone; or, if it is alone, until it may go on beside others."""
        with self._changed:
            holds = self._holder == name
            if not holds and name not in self._working:
                raise CancelledError  # it has ended
            self._leave(name)
            (self._resting if holds else self._asking).append(name)
        began = time.perf_counter()
        self._wait(name, lambda: name in self._working if holds else self._holder == name)
        self.waited[name] += time.perf_counter() - began

    def _leave(self, name: str) -> None:
        """Take the notebook out of every list, and from the machine if it has that to itself."""
        self._working.discard(name)
        for queue in (self._resting, self._asking):
            if name in queue:
                queue.remove(name)
        if self._holder == name:
            self._holder = None
            self.alone[name] += time.perf_counter() - self._since

    def _step(self) -> None:
        """Let notebooks go on that may do so now."""
        if self._holder is None:
            if not (self._quiet and self._asking):
                while self._resting and len(self._working) < self._slots:
                    self._working.add(self._resting.pop(0))
                self._quiet = bool(self._asking) and not self._working
            if self._quiet:
                self._holder, self._since = self._asking.pop(0), time.perf_counter()
        self._changed.notify_all()

    def _wait(self, name: str, granted: Callable[[], bool]) -> None:
        with self._changed:
            self._step()
            while not granted():
                if self.stopped or name not in (*self._resting, *self._asking):
                    raise CancelledError
                self._changed.wait(_LOOK)
