"""One pass in sublinear space: [ALSY23] Addanki, Li, Song, Yang, arXiv 2311.14652.

Its two sketches, and what the paper says of them alone, are in `countsketch`.

| in the paper | here | claims | notebook |
|---|---|---|---|
| Algorithm 1: sketches | `variants.py`: `ThreeSketches` | alsy23.three-sketches | 08-sparse-recovery |
| Title: one pass | `onepass.py`: `OnePassSketch.absorb_keys` | alsy23.one-pass | 08-sparse-recovery |
| Algorithm 1: linearity | `onepass.py`: `OnePassSketch.merge` | alsy23.merge | 08-sparse-recovery |
| main theorem: error | `onepass.py`: `OnePassSketch.decode` | alsy23.theorem-* | 08-sparse-recovery |
| main theorem: sparse columns | `onepass.py`: `OnePassSketch.decode` | alsy23.flat-floor | 09-flat-outputs |
| main theorem: space | `onepass.py`: `OnePassSketch` | alsy23.space-* | 10-streaming-scaling |
| main theorem: tables of Phi | `onepass.py`: `OnePassSketch` | alsy23.sizes | 08-sparse-recovery |
| main theorem: product by Psi | `variants.py`: `product_width` | alsy23.psi-variance | 08-sparse-recovery |
| main theorem: rows of Psi | `variants.py`: `product_width` | alsy23.psi-rows | 09-flat-outputs |
| main theorem: one pass, time | `variants.py`: `ThreeSketches` | alsy23.stream-time | 10-streaming-scaling |
| main theorem: decoding time | `onepass.py`: `OnePassSketch.decode` | alsy23.decode-* | 10-streaming-scaling |
| abstract: error falls with n | `onepass.py`: `OnePassSketch` | alsy23.error-falls-* | 09-flat-outputs |
"""
