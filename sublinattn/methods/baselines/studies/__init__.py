"""Experiments on the baselines."""
