"""Experiments on HyperAttention, one per notebook, and how its estimators look in figures."""

from ....plots.style import register, variant

register("hyper practical", "HyperAttention, practical", "blue")
register("hyper theory", "HyperAttention, theory", "brown")
variant("hyper practical, own hash", "strictly causal, own hash", of="hyper practical")
variant("hyper practical, sinks exact", "practical, sinks exact", of="hyper practical")
