"""Sublinear attention: the algorithms of the papers, and what their theorems promise, measured.

Algorithms take and return NumPy, CuPy, PyTorch or JAX arrays of shape `(..., n, d)`. Claims, verdicts and workloads are
in `sublinattn.theory` and `sublinattn.lab`; figures in `sublinattn.plots`; the command line in `sublinattn.cli`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import *  # noqa: F403
    from .api import __all__ as __all__
    from .api import __version__ as __version__


def __getattr__(name: str) -> Any:
    """Load the public names, and NumPy with them, at the first use of one: `sublinattn --help` needs none."""
    api = import_module(".api", __name__)
    if name not in ("__all__", "__version__", *api.__all__):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
