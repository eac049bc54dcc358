"""Experiments on the polynomial method, one per notebook."""
