"""The lab: inputs, trials, experiments, the ledger, and the runner of the notebooks. It calls algorithms and claims; they
do not know of it."""

from . import workloads

__all__ = ["workloads"]
