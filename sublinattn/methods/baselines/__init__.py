"""Batch methods that HyperAttention is compared with. No paper
claims anything about them here: tested is that they are the plain sampling that they are said to be.

| in the paper | here | claims | notebook |
|---|---|---|---|
| none: keys drawn uniformly | `uniform.py`: `uniform_attention` | ha24.yardstick | 03-spectral-error |
"""
