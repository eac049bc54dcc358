// Attention over lists of rows, on tensor cores: for each of G groups of t queries and c keys,
//     l_i = sum_j w_j exp(scale <q_i, k_j>),   o_i = sum_j w_j exp(scale <q_i, k_j>) v_j,
// relative to exp(m_i), m_i near the largest exponent, as [RS21] Section 2 does it; added to a partial (m, l, o) that is there
// already, or to nothing. Products of half-precision numbers, sums in float32.
//
// A thread block takes ROWS queries of one group through that group's keys, KEYS at a time; the copies of the next keys are
// under way while these are computed. Compiled with -DT=Float16 or BFloat16, -DD=32, 64, 96, 128 or 256 (d and d_v);
// gpu.cuh (on a CPU, tests/gpu/cpu.h) comes before it. attend.py is its caller.
constexpr int WARPS = 4, SLABS = D <= 128 ? 2 : 1;  // a warp has SLABS times 16 queries, the rows of one mma
constexpr int KEYS = 32;  // more would take the registers of another thread block
constexpr int BLOCKS = D == 32 ? 4 : D == 64 ? 3 : 2;  // of them a multiprocessor holds at once, as far as registers go
constexpr float GROWTH = 8;  // 2^8 in place of 1 as the largest exponential costs no precision, and float16 holds it
constexpr int ROWS = 16 * SLABS * WARPS;
constexpr int THREADS = 32 * WARPS;
constexpr int STRIDE = D + 8;  // 16 bytes more per row, so that the 8 rows of an ldmatrix lie in different banks
constexpr int TILE = KEYS * STRIDE;
constexpr int COPIES = KEYS * (D / 8) / THREADS;  // of 16 bytes, that a thread begins for a tile
// Two stages of keys and values; queries, and later the output; two stages of log-weights.
constexpr int SHARED_BYTES = 2 * (4 * TILE + ROWS * STRIDE) + 2 * 4 * KEYS;
static_assert(D % 32 == 0 && KEYS * (D / 8) % THREADS == 0 && KEYS <= THREADS, "each thread begins COPIES copies");
extern "C" __constant__ const int SHAPE[3] = {ROWS, THREADS, SHARED_BYTES};  // for the caller, who launches it so

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// q_rows (G, t) and k_rows (G / share, c): row numbers in q, k, v; null for rows in order. log_weights (G, c), null for 0.
// A negative number in q_rows, which only such follow in its group, is no query.
// `share` groups in a row have the same keys. m, l (rows), o (rows, D): read if `resume`, written if `out` is null.
// out (rows, D): o / l, or 0 where no key counts. lse (rows), may be null: m + log l. causal: query i sees keys 0 to i.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attend(
    const u16* q, const u16* k, const u16* v, const int* q_rows, const int* k_rows, const float* log_weights,
    float* m_all, float* l_all, float* o_all, u16* out, float* lse,
    int t, int c, int share, float scale, int causal, int resume) {
    DYNAMIC_SHARED(shared);
    u16* const tiles = reinterpret_cast<u16*>(shared);  // of stage s: keys at 2 s, values at 2 s + 1
    u16* const queries = tiles + 4 * TILE;
    float* const weights = reinterpret_cast<float*>(queries + ROWS * STRIDE);
    constexpr float LOG2E = 1.4426950408889634f;
    const float unit = log_weights || scale <= 0 ? 1 : scale * LOG2E;
    const float INF = infinity();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, quad = lane / 4, pair = lane % 4 * 2;
    const int tiles_of_queries = (t + ROWS - 1) / ROWS;
    const long long group = blockIdx.x / tiles_of_queries, of_keys = group / share;
    const int first = (tiles_of_queries - 1 - blockIdx.x % tiles_of_queries) * ROWS;  // under a mask the longest first
    const int last_key = causal ? min(c, first + ROWS) : c;

    if (q_rows && q_rows[group * t + first] < 0) return;
    for (int i = threadIdx.x; i < ROWS * (D / 8); i += THREADS) {
        const int row = first + i / (D / 8), chunk = i % (D / 8) * 8;
        const long long from = row >= t ? -1 : q_rows ? q_rows[group * t + row] : group * t + row;
        copy_async(queries + i / (D / 8) * STRIDE + chunk, q + max(from, 0LL) * D + chunk, from >= 0);
    }

    // Copies of a tile of keys and one of values. This thread's row numbers are read one tile ahead of their use, so that
    // nothing waits for them.
    int numbers[COPIES];
    auto read_numbers = [&](int key) {
#pragma unroll
        for (int i = 0; i < COPIES; ++i) {
            const int j = key + (threadIdx.x + i * THREADS) / (D / 8);
            numbers[i] = j >= c ? 0 : k_rows ? k_rows[of_keys * c + j] : j;
        }
    };
    const long long base = k_rows ? 0 : of_keys * c;
    auto load = [&](int stage, int key) {
        if (key < last_key) {
            u16* const keys = tiles + 2 * stage * TILE;
#pragma unroll
            for (int i = 0; i < COPIES; ++i) {
                const int row = (threadIdx.x + i * THREADS) / (D / 8), chunk = (threadIdx.x + i * THREADS) % (D / 8) * 8;
                const long long from = (base + numbers[i]) * D + chunk;
                copy_async(keys + row * STRIDE + chunk, k + from, key + row < c);
                copy_async(keys + TILE + row * STRIDE + chunk, v + from, key + row < c);
            }
            if (const int i = threadIdx.x; log_weights && i < KEYS) {
                const bool there = key + i < c;
                copy_async_float(weights + stage * KEYS + i, log_weights + (there ? group * c + key + i : 0), there);
            }
        }
        copies_begun();
    };
    read_numbers(0);
    load(0, 0);
    read_numbers(KEYS);

    // This thread's rows, `quad` and `quad + 8` of each slab of its warp, and their state.
    int at[SLABS][2];
    long long row[SLABS][2];
    float m[SLABS][2], l[SLABS][2], o[SLABS][D / 8][4] = {};
#pragma unroll
    for (int a = 0; a < SLABS; ++a)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int i = at[a][h] = first + 16 * (SLABS * warp + a) + quad + 8 * h;
            row[a][h] = i >= t ? -1 : q_rows ? q_rows[group * t + i] : group * t + i;
            m[a][h] = -INF, l[a][h] = 0;
            if (resume && row[a][h] >= 0) {
                m[a][h] = m_all[row[a][h]] * LOG2E;
                l[a][h] = pair == 0 ? l_all[row[a][h]] : 0;  // summed over the four lanes of a row at the end
#pragma unroll
                for (int j = 0; j < D / 8; ++j)
                    for (int e = 0; e < 2; ++e) o[a][j][2 * h + e] = o_all[row[a][h] * D + 8 * j + pair + e];
            }
        }

    for (int key = 0, stage = 0; key < last_key; key += KEYS, stage ^= 1) {
        load(stage ^ 1, key + KEYS);
        read_numbers(key + 2 * KEYS);
        copies_done<1>();
        __syncthreads();
        const u16 *keys = tiles + 2 * stage * TILE, *values = keys + TILE;

        float s[SLABS][KEYS / 8][4] = {};
#pragma unroll
        for (int i = 0; i < D / 16; i += 2) {
            u32 query[SLABS][2][4];
#pragma unroll
            for (int a = 0; a < SLABS; ++a)
#pragma unroll
                for (int h = 0; h < 2; ++h)
                    load_matrices(query[a][h], queries + (16 * (SLABS * warp + a) + lane % 16) * STRIDE + 16 * (i + h) + lane / 16 * 8);
#pragma unroll
            for (int j = 0; j < KEYS / 8; ++j) {  // 8 keys, 32 of their coordinates
                u32 b[4];
                load_matrices(b, keys + (8 * j + lane % 8) * STRIDE + 16 * i + lane / 8 * 8);
#pragma unroll
                for (int a = 0; a < SLABS; ++a) {
                    T::mma(s[a][j], query[a][0], b[0], b[1]);
                    T::mma(s[a][j], query[a][1], b[2], b[3]);
                }
            }
        }

        // Exponents to base 2 are `unit` times s; log-weights, and a negative scale, are brought in first.
        if (unit == 1)
#pragma unroll
            for (int j = 0; j < KEYS / 8; ++j) {
                float w[2] = {0, 0};
                if (log_weights)
                    for (int e = 0; e < 2; ++e) w[e] = weights[stage * KEYS + 8 * j + pair + e] * LOG2E;
#pragma unroll
                for (int a = 0; a < SLABS; ++a)
#pragma unroll
                    for (int e = 0; e < 4; ++e) s[a][j][e] = s[a][j][e] * (scale * LOG2E) + w[e % 2];
            }
        if (key + KEYS > c || (causal && key + KEYS > first + 1))  // most tiles need no mask
#pragma unroll
            for (int a = 0; a < SLABS; ++a)
#pragma unroll
                for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        const int i = key + 8 * j + pair + e % 2;
                        if (i >= c || (causal && i > at[a][e / 2])) s[a][j][e] = -INF;
                    }

        // A row's reference m moves only where an exponent exceeds it by GROWTH: then all that was summed is rescaled.
        float most[SLABS][2];
        bool grows = false;
#pragma unroll
        for (int a = 0; a < SLABS; ++a)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                most[a][h] = -INF;
#pragma unroll
                for (int j = 0; j < KEYS / 8; ++j) most[a][h] = fmaxf(most[a][h], fmaxf(s[a][j][2 * h], s[a][j][2 * h + 1]));
                most[a][h] *= unit;
                grows |= most[a][h] > m[a][h] + GROWTH;
            }
        if (__any_sync(0xffffffffu, grows))
#pragma unroll
            for (int a = 0; a < SLABS; ++a)
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const float top = quad_max(most[a][h]);  // a row alone decides, so that its bits depend on no other
                    const float next = top > m[a][h] + GROWTH ? top : m[a][h];
                    const float rescale = next == -INF ? 1 : exp2_fast(m[a][h] - next);  // -inf - (-inf) would be NaN
                    m[a][h] = next;
                    l[a][h] *= rescale;
#pragma unroll
                    for (int j = 0; j < D / 8; ++j) o[a][j][2 * h] *= rescale, o[a][j][2 * h + 1] *= rescale;
                }
#pragma unroll
        for (int a = 0; a < SLABS; ++a) {
            const float reference[2] = {m[a][0] == -INF ? 0 : m[a][0], m[a][1] == -INF ? 0 : m[a][1]};
#pragma unroll
            for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    s[a][j][e] = exp2_fast(s[a][j][e] * unit - reference[e / 2]);
                    l[a][e / 2] += s[a][j][e];
                }
        }

#pragma unroll
        for (int i = 0; i < KEYS / 16; ++i) {  // 16 keys: what mma gave as a result is what it takes as an operand
            u32 p[SLABS][4];
#pragma unroll
            for (int a = 0; a < SLABS; ++a)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    p[a][e] = T::pack(s[a][2 * i + e / 2][e % 2 * 2], s[a][2 * i + e / 2][e % 2 * 2 + 1]);
#pragma unroll
            for (int j = 0; j < D / 8; j += 2) {  // 16 columns of the values
                u32 b[4];
                load_transposed(b, values + (16 * i + lane % 16) * STRIDE + 8 * j + lane / 16 * 8);
#pragma unroll
                for (int a = 0; a < SLABS; ++a) {
                    T::mma(o[a][j], p[a], b[0], b[1]);
                    T::mma(o[a][j + 1], p[a], b[2], b[3]);
                }
            }
        }
        __syncthreads();  // the next copies overwrite this stage
    }
    copies_done<0>();
    __syncthreads();  // without a key nothing has waited for the other threads' queries, and answers go where those are

    // The answer, through shared memory where the queries were: a row then leaves in pieces of 16 bytes.
#pragma unroll
    for (int a = 0; a < SLABS; ++a)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            l[a][h] = quad_sum(l[a][h]);
            const float natural = m[a][h] / LOG2E, norm = l[a][h] > 0 ? 1 / l[a][h] : 0;
            const bool mine = row[a][h] >= 0;
            if (mine && pair == 0 && lse) lse[row[a][h]] = natural + logf(l[a][h]);
            if (mine && pair == 0 && !out) m_all[row[a][h]] = natural, l_all[row[a][h]] = l[a][h];
#pragma unroll
            for (int j = 0; j < D / 8; ++j) {
                const float x = o[a][j][2 * h], y = o[a][j][2 * h + 1];
                if (out)
                    *reinterpret_cast<u32*>(queries + (at[a][h] - first) * STRIDE + 8 * j + pair) = T::pack(x * norm, y * norm);
                else if (mine) o_all[row[a][h] * D + 8 * j + pair] = x, o_all[row[a][h] * D + 8 * j + pair + 1] = y;
            }
        }
    __syncthreads();
    if (out)
        for (int i = threadIdx.x; i < ROWS * (D / 8); i += THREADS) {
            const int r = first + i / (D / 8), column = i % (D / 8) * 8;
            if (r < t) {
                const long long to = q_rows ? q_rows[group * t + r] : group * t + r;
                if (to >= 0)
                    *reinterpret_cast<uint4*>(out + to * D + column) =
                        *reinterpret_cast<const uint4*>(queries + i / (D / 8) * STRIDE + column);
            }
        }
}
