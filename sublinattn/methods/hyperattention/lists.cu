// The list of keys of each block of the sortLSH mask, with log-weights: the block's own keys, the sinks, and the problem's
// sample, whose keys outside the block weigh (n - |B|) / u, u their number (`SharedSample` in estimators.py). A thread block
// makes the list of one block; each problem has `blocks` of them here, with c keys each, from block number `first` on.
//
// k_order (P, n): row numbers of each problem's keys in sorted order; places (P, m): the sample, as places in that order;
// sinks (P, s): row numbers. k_rows and log_weights: (P blocks, c + s + m).
extern "C" __global__ void block_lists(
    const int* k_order, const int* places, const int* sinks, int* k_rows, float* log_weights,
    int n, int m, int s, int blocks, int first, int c, int block_size) {
    const long long problem = blockIdx.x / blocks, list = blockIdx.x * static_cast<long long>(c + s + m);
    const int block = first + blockIdx.x % blocks;
    const int* const order = k_order + problem * n;
    const int* const sample = places + problem * m;
    int outside = 0;  // u
    for (int i = 0; i < m; i += THREADS) {
        const int j = i + threadIdx.x;
        outside += __syncthreads_count(j < m && sample[j < m ? j : 0] / block_size != block);
    }
    const float weight = logf(static_cast<float>(n - min(block_size, n - block * block_size)) / outside);
    for (int i = threadIdx.x; i < c + s + m; i += THREADS) {
        const int place = i < c ? block * block_size + i : i < c + s ? -1 : sample[i - c - s];
        k_rows[list + i] = place < 0 ? sinks[problem * s + i - c] : order[place];
        log_weights[list + i] = i < c + s ? 0 : place / block_size == block ? -infinity() : weight;
    }
}
