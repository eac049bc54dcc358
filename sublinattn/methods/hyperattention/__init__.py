"""HyperAttention: [HA24] Han et al., ICLR 2024, arXiv 2310.05869; its hash: [KDE23] Zandieh et al., arXiv 2302.02451.

`sublinattn verify ID` prints the file and line of a claim's trial. Algorithms 3 and 4 on half-precision arrays on a GPU
are `fused.py`, with the kernels of `lsh.cu`, `lists.cu` and `core/attend.cu`.

| in the paper | here | claims | notebook |
|---|---|---|---|
| Definition 1: hash | `sort_lsh.py`: `buckets`, `gray_rank` | ha24.lsh-collision, ha24.gray-adjacency | 01-sortlsh |
| Algorithm 1: sortLSH | `sort_lsh.py`: `sort_blocks` | ha24.mask-* | 01-sortlsh |
| Algorithm 2: ApproxD | `estimators.py`: `TheorySample` | ha24.approxd, ha24.unbiased-theory | 01-sortlsh |
| Algorithm 2: its draws | `estimators.py`: `draw_theory` | ha24.draws-normaliser | 01-sortlsh |
| Lemma 1: its samples | `estimators.py`: `TheorySample` | ha24.lemma1, ha24.floor | 03-spectral-error |
| Lemma 2: row norms | `estimators.py`: `row_norm_law`, `draw_theory` | ha24.draws-product | 01-sortlsh |
| Lemma 2: its variance | `estimators.py`: `TheorySample` | ha24.amm-variance | 01-sortlsh |
| Lemma 2: its samples | `estimators.py`: `TheorySample` | ha24.lemma2, ha24.amm-explicit | 03-spectral-error |
| Algorithm 3, one sample | `estimators.py`: `SharedSample` | ha24.unbiased-practical, ha24.draws-shared | 01-sortlsh |
| Authors' released code | `claims/released_code.py`: `columns`, `recursion` | ha24.released-* | 01-sortlsh |
| Algorithm 3, Theorem 1 | `hyper.py`: `Problem.full` | ha24.theorem1-*, ha24.composed | 03-spectral-error |
| Algorithm 4: causal | `hyper.py`: `Problem.causal` | ha24.causality, ha24.causality-queries | 04-causal-scaling |
| Algorithm 4: its nodes | `recursion.py`: `leaves`, `inner_nodes` | ha24.recursion-exact | 04-causal-scaling |
| Algorithm 4, strictly | `own_hash.py`: `own_blocks` | ha24.causality-strict, ha24.own-* | 04-causal-scaling |
| Algorithm 4: its normaliser | `hyper.py`: `Problem.causal` | ha24.causal-* | 04-causal-scaling |
| Theorem 1: time and memory | `hyper.py`: `hyper_attention` | ha24.time*, ha24.memory | 04-causal-scaling |
| Section 2: alpha and kappa | `hardness.py`: `hardness` | ha24.hardness-*, ha24.srank-alpha | 02-hardness |
| Sections 2, 4: alpha over n | `hardness.py`: `hardness` | ha24.alpha-* | 02-hardness, 17-model-hardness |
| Section 4: perplexity | `hyper.py`: `hyper_attention` | ha24.perplexity-half* | 20-perplexity |
"""
