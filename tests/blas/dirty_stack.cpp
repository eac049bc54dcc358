// Stands before OpenBLAS' product of a matrix and a vector (LD_PRELOAD) and leaves signalling NaNs on the stack, which is
// what its kernels find there when they read what nobody has written.
#include <cstdint>
#include <cstdlib>
#include <dlfcn.h>

using Product = void(int, int, int64_t, int64_t, float, const float *, int64_t, const float *, int64_t, float, float *, int64_t);

__attribute__((noinline)) static void dirty() {
    volatile uint32_t words[2048];
    for (auto &word : words) word = 0x7fa00000;
}

extern "C" void scipy_cblas_sgemv64_(int order, int trans, int64_t m, int64_t n, float alpha, const float *a, int64_t lda,
                                     const float *x, int64_t incx, float beta, float *y, int64_t incy) {
    static auto product = reinterpret_cast<Product *>(dlsym(dlopen(getenv("OPENBLAS"), RTLD_NOW), "scipy_cblas_sgemv64_"));
    dirty();
    product(order, trans, m, n, alpha, a, lda, x, incx, beta, y, incy);
}
