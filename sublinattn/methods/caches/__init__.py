"""Key-value caches that SubGen is compared with: [SINK24] arXiv 2309.17453, [H2O23] arXiv 2306.14048, [GON85].

One cache, one file. No paper's claim about them is tested; notebook 14 shows their errors at equal bytes.

| in the paper | here | claims | notebook |
|---|---|---|---|
| [SINK24]: sinks and a window | `sink.py`: `SinkCache` | - | 14-caches-error |
| [H2O23]: heavy hitters | `heavy_hitter.py`: `HeavyHitterCache` | - | 14-caches-error |
| [GON85]: greedy k-center | `k_center.py`: `KCenterCache` | - | 14-caches-error |
| none: keys sampled by weight | `reservoir.py`: `ReservoirCache` | - | 14-caches-error |
| none: yardsticks | `exact.py`: `ExactCache`, `ZeroCache` | - | 14-caches-error |
"""
