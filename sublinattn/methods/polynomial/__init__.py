"""The polynomial method: [AS23] Alman, Song, NeurIPS 2023, arXiv 2302.13214; [AA22] Aggarwal, Alman, CCC 2022.

| in the paper | here | claims | notebook |
|---|---|---|---|
| Corollary 2.2: degree | `approximants.py`: `approximant`, `minimal_degree` | as23.degree-* | 06-degree-and-rank |
| Corollary 2.2: best polynomial | `approximants.py`: `approximant` | as23.minimax | 06-degree-and-rank |
| Corollary 2.2: Taylor | `approximants.py`: `taylor_bound` | as23.taylor | 06-degree-and-rank |
| Lemma 3.2: features | `monomials.py`: `Monomials.fill` | as23.factorisation | 06-degree-and-rank |
| Lemma 3.2: rank | `monomials.py`: `Monomials` | as23.rank* | 06-degree-and-rank |
| Lemmas 3.5, 3.6: error | `polynomial.py`: `polynomial_attention` | as23.output-error* | 06-degree-and-rank |
| Theorem 3.8: algorithm | `polynomial.py`: `polynomial_attention` | as23.algorithm* | 06-degree-and-rank |
| Theorem 3.8: accuracy | `polynomial.py`: `polynomial_attention` | as23.accuracy, as23.entries | 06-degree-and-rank |
| Theorem 3.8 as a stream | `polynomial.py`: `PolynomialState` | as23.streaming* | 06-degree-and-rank |
| its space | `polynomial.py`: `PolynomialState.nbytes` | as23.state-space | 06-degree-and-rank |
| Theorem 3.8: time | `polynomial.py`: `PolynomialState.update` | as23.time | 10-streaming-scaling |
| Theorem 1.4: threshold | `approximants.py`: `taylor_degree` | as23.phase | 07-phase-picture |
| Theorem 1.4: at 1/n | `polynomial.py`: `polynomial_attention` | as23.inverse-n | 07-phase-picture |
| Theorem 1.4: B = o(sqrt(log n)) | `lab/models.py`: `open_model` | as23.entries-* | 07-phase-picture |
| Theorem 1.5: reduction | `core/exact.py`: `attention` | as23.reduction* | 07-phase-picture |
"""
