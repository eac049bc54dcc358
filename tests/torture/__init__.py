"""Faults put to the package, and what becomes of each; `scripts/torture` runs all, `tests/test_torture.py` a few."""
