"""Experiments on BalanceKV, one per notebook; `lab.comparison` says how it and the other caches look in figures."""

from ....lab import comparison  # noqa: F401
