"""What the papers claim, and whether it holds: `CLAIMS` by id, and `verify`."""

from .claims import CLAIMS
from .result import Verdict
from .verify import verify

__all__ = ["CLAIMS", "Verdict", "verify"]
