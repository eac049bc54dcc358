"""CountSketch: [CCF02] Charikar, Chen, Farach-Colton, ICALP 2002, as [ALSY23], arXiv 2311.14652, uses it.

Sparse recovery follows [NS19] Nakos, Song, STOC 2019; what k entries can reach, [PW11] Price, Woodruff, FOCS 2011.

| in the paper | here | claims | notebook |
|---|---|---|---|
| [CCF02] Section 3: hash | `hashing.py`: `IndexHash` | ccf02.independence | 08-sparse-recovery |
| [CCF02] Section 3: one table | `countsketch.py`: `CountSketch.add` | ccf02.unbiased | 08-sparse-recovery |
| [CCF02] Section 3: its variance | `countsketch.py`: `CountSketch.add` | ccf02.variance | 08-sparse-recovery |
| [CCF02] Section 3: median | `countsketch.py`: `median` | ccf02.median | 08-sparse-recovery |
| [CCF02] Section 3: estimates | `countsketch.py`: `CountSketch.estimates` | ccf02.point-error | 08-sparse-recovery |
| [ALSY23] Psi: matrix product | `countsketch.py`: `CountSketch.add` | alsy23.amm* | 08-sparse-recovery |
| [ALSY23] Phi: recovery | `recovery.py`: `identify`, `scan` | alsy23.recovery* | 08-sparse-recovery |
| [ALSY23] Phi: its width | `recovery.py`: `width_for` | alsy23.width-* | 08-sparse-recovery |
"""
