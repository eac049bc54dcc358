// Sign bits of r <= 16 projections per row, packed and turned into their position in the reflected Gray code [KDE23]:
// what lsh.py's _pack_signs does in several passes over global memory, in one. float32 projections (rows, bits), row-major.
extern "C" __global__ void gray_buckets(const float* projections, unsigned short* out, long long rows, int bits) {
    const long long row = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
    if (row >= rows) return;
    unsigned int code = 0;
    for (int j = 0; j < bits; ++j) code |= static_cast<unsigned int>(projections[row * bits + j] > 0.0f) << j;
    for (int step = 1; step < 16; step *= 2) code ^= code >> step;  // prefix XOR: inverse of p -> p ^ (p >> 1)
    out[row] = static_cast<unsigned short>(code);
}
