"""BalanceKV: [BKV25] Kochetkova, Sheth, Han, Zandieh, Kapralov, arXiv 2502.07861.

| in the paper | here | claims | notebook |
|---|---|---|---|
| Algorithm 2: SoftmaxBalance | `walk.py`: `self_balancing_walk`, `smaller_part` | - | 14-caches-error |
| Algorithm 1, merge and reduce | `balancekv.py`: `BalanceKVCache` | - | 14-caches-error |
"""
