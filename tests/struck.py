"""Code that signals strike: a child process whose handler raises after any step, thousands of times."""

import subprocess
import sys

BEGIN = """
import faulthandler, random, signal, time

class Struck(BaseException):
    pass

def strike(*_):
    raise Struck

def strike_soon():
    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 2e-3))

rng = random.Random(0)
signal.signal(signal.SIGALRM, strike)
faulthandler.dump_traceback_later(120, exit=True)  # a process that stands still says where
"""


def run(code: str) -> None:
    """Run `code` behind BEGIN; AssertionError with its traceback if it fails or stands still."""
    done = subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
