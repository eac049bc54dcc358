"""BalanceKV: [BKV25] Kochetkova, Sheth, Han, Zandieh, Kapralov, arXiv 2502.07861.

| in the paper | here | claims | notebook |
|---|---|---|---|
| Algorithm 2: signs | `walk.py`: `self_balancing_walk` | bkv25.signs-fair, bkv25.fail, bkv25.clipping | 24-balancekv |
| Theorem 3.3: half at most | `walk.py`: `smaller_part` | bkv25.smaller-part | 24-balancekv |
| Theorem 3.3: balance | `walk.py`: `halve` | bkv25.subgaussian, bkv25.discrepancy | 24-balancekv |
| derived: one of each pair | `walk.py`: `one_of_each_pair` | bkv25.pairs-unbiased | 24-balancekv |
| Theorem 3.4: batch | `balancekv.py`: `BalanceKVCache` | bkv25.batch, bkv25.batch-pairs | 24-balancekv |
| Theorem 3.4: memory and time | `balancekv.py`: `BalanceKVCache.update` | bkv25.memory, bkv25.time | 24-balancekv |
| Algorithm 1: buckets | `buckets.py`: `BucketedBalanceKVCache` | bkv25.buckets-* | 24-balancekv |
| derived: merging | `balancekv.py`: `BalanceKVCache.merge` | bkv25.merge | 24-balancekv |
"""
