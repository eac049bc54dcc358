"""Batch methods that HyperAttention is compared with: what each costs and promises stands in docs/baselines.md.

| in the paper | here | claims | notebook |
|---|---|---|---|
| none: keys drawn uniformly | `uniform.py`: `uniform_attention` | ha24.yardstick | 03-spectral-error |
| [PERF21] FAVOR+ | `performer.py`: `performer_attention`, `directions` | perf21.unbiased | 03-spectral-error |
| [NYS21] Algorithm 1 | `nystrom.py`: `nystrom_attention`, `pseudo_inverse` | - | 03-spectral-error |
| [REF20] Section 2: LSH attention | `reformer.py`: `reformer_attention`, `lsh_attention` | - | 03-spectral-error |
| [KDE23] practical form | `kdeformer.py`: `kdeformer_attention`, `kde_law` | - | 03-spectral-error |
| [THIN25] Thinformer, KH-Compress | `thinformer.py`: `thinformer_attention`, `coreset` | - | 03-spectral-error |
"""
