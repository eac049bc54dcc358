// The hash of [KDE23]: the sides of r <= 16 hyperplanes that a row lies on, as bits, and their place in the reflected Gray
// code. `gray_buckets` takes projections that were computed already, `hash_rows` the rows themselves, in half precision.
// Compiled with -DT=Float16 or BFloat16, -DBITS=r and -DTHREADS; core/gpu.cuh comes before it.
constexpr int FOURS = (BITS + 3) / 4, ROWS_EACH = 2;  // normals are kept four by four

__device__ __forceinline__ u16 gray_rank(u32 code) {
    for (int step = 1; step < 16; step *= 2) code ^= code >> step;  // prefix XOR: inverse of p -> p ^ (p >> 1)
    return static_cast<u16>(code);
}

// float32 projections (rows, BITS).
extern "C" __global__ void gray_buckets(const float* projections, u16* out, long long rows) {
    const long long row = blockIdx.x * static_cast<long long>(THREADS) + threadIdx.x;
    if (row >= rows) return;
    u32 code = 0;
    for (int j = 0; j < BITS; ++j) code |= static_cast<u32>(projections[row * BITS + j] > 0) << j;
    out[row] = gray_rank(code);
}

// Rows x (B, n, d), d a multiple of 8, of B problems with normals (B, d, BITS) of their own; `blocks` thread blocks for each.
// A thread takes ROWS_EACH rows, so that a normal is read from shared memory once for all of them.
extern "C" __global__ void hash_rows(const uint4* x, const float* normals, u16* out, int n, int d, int blocks) {
    DYNAMIC_SHARED(shared);  // the problem's normals, (d, 4 FOURS), zeros at the end of each row
    float4* const padded = reinterpret_cast<float4*>(shared);
    const long long problem = blockIdx.x / blocks;
    for (int i = threadIdx.x; i < d * 4 * FOURS; i += THREADS) {
        const int j = i / (4 * FOURS), bit = i % (4 * FOURS);
        reinterpret_cast<float*>(padded)[i] = bit < BITS ? normals[(problem * d + j) * BITS + bit] : 0;
    }
    __syncthreads();
    const int first = (blockIdx.x % blocks) * THREADS * ROWS_EACH + threadIdx.x;
    float sums[ROWS_EACH][4 * FOURS] = {};
    for (int j = 0; j < d / 8; ++j) {
        uint4 eight[ROWS_EACH];
#pragma unroll
        for (int r = 0; r < ROWS_EACH; ++r) {
            const int row = min(first + r * THREADS, n - 1);
            eight[r] = x[(problem * n + row) * (d / 8) + j];
        }
#pragma unroll
        for (int e = 0; e < 8; ++e)
#pragma unroll
            for (int f = 0; f < FOURS; ++f) {
                const float4 w = padded[(8 * j + e) * FOURS + f];
#pragma unroll
                for (int r = 0; r < ROWS_EACH; ++r) {
                    const u32 pair = e < 2 ? eight[r].x : e < 4 ? eight[r].y : e < 6 ? eight[r].z : eight[r].w;
                    const float y = T::wide(static_cast<u16>(pair >> 16 * (e % 2)));
                    float* const sum = sums[r] + 4 * f;
                    sum[0] += y * w.x, sum[1] += y * w.y, sum[2] += y * w.z, sum[3] += y * w.w;
                }
            }
    }
#pragma unroll
    for (int r = 0; r < ROWS_EACH; ++r) {
        u32 code = 0;
#pragma unroll
        for (int j = 0; j < BITS; ++j) code |= static_cast<u32>(sums[r][j] > 0) << j;
        if (first + r * THREADS < n) out[problem * n + first + r * THREADS] = gray_rank(code);
    }
}
