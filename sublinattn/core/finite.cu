// Whether 16-bit floating-point numbers are all finite: NaN and Inf have all bits of the exponent set. THREADS threads in each of
// `blocks` thread blocks; core/gpu.cuh comes before it.
extern "C" __global__ void not_finite(const uint4* x, long long eights, u32 exponent, int* found, int blocks) {
    bool bad = false;
    for (long long i = blockIdx.x * THREADS + threadIdx.x; i < eights; i += blocks * THREADS) {
        const uint4 y = x[i];
        const u32 pairs[4] = {y.x, y.y, y.z, y.w}, high = exponent << 16;
        for (int j = 0; j < 4; ++j) bad |= (pairs[j] & exponent) == exponent || (pairs[j] & high) == high;
    }
    if (__syncthreads_count(bad) && threadIdx.x == 0) *found = 1;
}
