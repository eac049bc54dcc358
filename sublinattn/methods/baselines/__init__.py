"""Batch methods that HyperAttention is compared with. No paper claims anything about them here.

| in the paper | here | claims | notebook |
|---|---|---|---|
| none: keys drawn uniformly | `uniform.py`: `uniform_attention` | - | 03-spectral-error |
"""
