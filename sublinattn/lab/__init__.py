"""The kit that claims and studies share: inputs, runs, models, statistics, the ledger."""

from . import workloads

__all__ = ["workloads"]
