"""SubGen: [SG24] Zandieh, Han, Mirrokni, Karbasi, arXiv 2402.06082.

| in the paper | here | claims | notebook |
|---|---|---|---|
| (m, delta)-clusterability | `primitives/clustering.py`: `OnlineClusters` | sg24.clusters | 12-clusterability |
| derived: keys in a ball | `primitives/clustering.py`: `OnlineClusters` | sg24.covering | 12-clusterability |
| Algorithm 1: clusters | `primitives/clustering.py`: `OnlineClusters` | sg24.packing, sg24.radius | 12-clusterability |
| Algorithm 1 in chunks | `subgen.py`: `SubGenCache.update` | sg24.chunks | 12-clusterability |
| derived: delta found online | `head.py`: `Head.coarsen` | sg24.budget | 12-clusterability |
| Algorithm 1: samples | `primitives/reservoir.py`: `GroupSamples` | sg24.sample-law | 13-subgen-laws |
| Algorithm 1: slots | `primitives/reservoir.py`: `WeightedSlots` | sg24.slot-* | 13-subgen-laws |
| derived: other laws of the slots | `laws.py`: `FromMean` | sg24.law-slots | 13-subgen-laws |
| derived: normaliser from the slots | `head.py`: `both_sums` | sg24.shared-* | 13-subgen-laws, 16-subgen-ablation |
| derived: merging | `head.py`: `Head.merge` | sg24.merge, sg24.merge-law | 12-clusterability, 13-subgen-laws |
| Algorithm 1: Query | `subgen.py`: `SubGenCache.attend` | sg24.query | 13-subgen-laws |
| Theorem 1, proof: z | `head.py`: `numerators` | sg24.z-* | 13-subgen-laws |
| Theorem 1, proof: tau | `head.py`: `normalisers` | sg24.tau-* | 13-subgen-laws |
| Theorem 1: error | `subgen.py`: `SubGenCache.attend` | sg24.theorem | 16-subgen-ablation |
| Theorem 1: error of the numerator | `head.py`: `numerators` | sg24.chebyshev | 14-caches-error |
| Theorem 1: s and t | `subgen.py`: `SubGenCache` | sg24.theorem-s* | 16-subgen-ablation |
| Theorem 1: t for all queries | `head.py`: `normalisers` | sg24.theorem-queries | 16-subgen-ablation |
| Theorem 1: memory | `subgen.py`: `SubGenCache` | sg24.memory-*, sg24.numbers-held | 12-clusterability |
| Theorem 1: time | `subgen.py`: `SubGenCache.update` | sg24.time-*, sg24.operations | 15-subgen-scaling |
| Section 2.1, Figure 1 | `primitives/kcenter.py`: `greedy_radii` | sg24.keys-cluster | 18-model-keys-values |
| Section 4, Table 1 | `subgen.py`: `SubGenCache` | sg24.retrieval-* | 21-line-retrieval |
"""
