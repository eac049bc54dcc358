// Floyd's algorithm in parallel, a thread block for each problem: see sampling.py. drawn and places are (problems, m); drawn has
// the numbers t_i, or 32 random bits each if `bits`, of which t_i is the high half of their product with the count of choices.
extern "C" __global__ void floyd(const u32* drawn, int* places, int n, int m, int bits) {
    DYNAMIC_SHARED(shared);
    int* const t = reinterpret_cast<int*>(shared);
    int* const again = t + m;  // whether t_i was drawn before
    const long long first = blockIdx.x * static_cast<long long>(m);
    for (int i = threadIdx.x; i < m; i += THREADS) 
        t[i] = bits ? static_cast<u64>(drawn[first + i]) * (n - m + 1 + i) >> 32 : drawn[first + i];
    __syncthreads();
    for (int i = threadIdx.x; i < m; i += THREADS) {
        int before = 0;
        for (int j = 0; j < i; ++j) before |= t[j] == t[i];
        again[i] = before;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < m; i += THREADS) {
        int j = i;  // t_i = n - m + j is taken if j had to take it: because t_j was drawn before, or was taken likewise
        while (!again[j] && t[j] >= n - m && t[j] - (n - m) < j) j = t[j] - (n - m);
        places[first + i] = again[j] ? n - m + i : t[i];
    }
}
