"""Key-value caches that SubGen is compared with: [SINK24] arXiv 2309.17453, [H2O23] arXiv 2306.14048, [GON85].

One cache, one file. Tested is that each keeps and answers what its paper says, not how good that is: notebook 14 shows
their errors at equal bytes.

| in the paper | here | claims | notebook |
|---|---|---|---|
| [SINK24]: sinks and a window | `sink.py`: `SinkCache` | sink24.answer | 14-caches-error |
| [H2O23]: heavy hitters | `heavy_hitter.py`: `HeavyHitterCache` | h2o23.eviction | 14-caches-error |
| [GON85]: greedy k-center | `k_center.py`: `KCenterCache` | gon85.* | 14-caches-error |
| [VIT85]: uniform reservoir | `reservoir.py`: `ReservoirCache` | vit85.subsets | 14-caches-error |
| [SG24]: slots by value norm | `reservoir.py`: `ReservoirCache` | sg24.value-norm-cache | 14-caches-error |
| [DLT07]: priority sampling | `reservoir.py`: `ReservoirCache` | dlt07.* | 14-caches-error |
| [HO25]: INDEX instances | `base.py`: `KVCache`, every cache | ho25.counting | 14-caches-error |
| none: yardsticks | `exact.py`: `ExactCache`, `ZeroCache` | rs21.cache | 14-caches-error |
"""
