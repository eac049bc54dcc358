"""The lab: inputs, trials, experiments, the ledger, the runner and the report.

It calls algorithms and claims; algorithms know nothing of it.
"""

from . import workloads

__all__ = ["workloads"]
