"""Exact attention and its merge: [RS21] Rabe, Staats, *Self-attention does not need O(n^2) memory*, arXiv 2112.05682.

The algorithm stands in `core/exact.py`, below all methods, which use it.

| in the paper | here | claims | notebook |
|---|---|---|---|
| Section 2: partial sums, merged | `core/exact.py`: `partial_attention`, `Partial` | rs21.merge | 04-causal-scaling |
| Section 2: running maximum | `core/exact.py`: `attention`, `Softmax` | rs21.attention | 04-causal-scaling |
| Section 2: memory | `core/exact.py`: `each_query_tile` | rs21.memory* | 04-causal-scaling |
"""
