// The list of keys of each block of the sortLSH mask, with log-weights: the block's own keys, the sinks, and the problem's
// sample, whose keys outside the block weigh (n - c) / u, u their number (`SharedSample` in estimators.py). A thread block
// makes the list of one block; each problem has `blocks` of them here, with c keys each.
//
// k_order (P, n): row numbers of each problem's keys in sorted order; places (P, m): the sample, as places in that order;
// sinks (P, s): row numbers; first (P blocks): the place of a block's first key. k_rows, log_weights: (P blocks, c + s + m).
extern "C" __global__ void block_lists(
    const int* k_order, const int* places, const int* sinks, const int* first, int* k_rows, float* log_weights,
    int n, int m, int s, int blocks, int c) {
    const long long problem = blockIdx.x / blocks, list = blockIdx.x * static_cast<long long>(c + s + m);
    const int start = first[blockIdx.x];
    const int* const order = k_order + problem * n;
    const int* const sample = places + problem * m;
    const auto inside = [&](int place) { return place >= start && place < start + c; };
    int outside = 0;  // u
    for (int i = 0; i < m; i += THREADS) {
        const int j = i + threadIdx.x;
        outside += __syncthreads_count(j < m && !inside(sample[j < m ? j : 0]));
    }
    const float weight = logf(static_cast<float>(n - c) / outside);
    for (int i = threadIdx.x; i < c + s + m; i += THREADS) {
        const int place = i < c ? start + i : i < c + s ? -1 : sample[i - c - s];
        k_rows[list + i] = place < 0 ? sinks[problem * s + i - c] : order[place];
        log_weights[list + i] = i < c + s ? 0 : inside(place) ? -infinity() : weight;
    }
}
