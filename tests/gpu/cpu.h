// What attend.cu sees in place of CUDA and gpu.cuh where a C++ compiler builds it: the same names, declared. cpu.cpp,
// which is compiled without the instrumentation of this part, defines them. Only what attend.cu uses is here.
#pragma once
#include <stddef.h>  // <cmath> and <utility> would take a third of the time that the kernel takes to compile
#include <stdint.h>

typedef uint32_t u32;
typedef uint16_t u16;
typedef uint64_t u64;
struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };

#define __global__ __attribute__((noinline))  // its callers are not instrumented, it is
#define __device__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(name) unsigned char* const name = device::shared()
#define threadIdx device::thread()
#define blockIdx device::block()

extern "C" float fmaxf(float, float) noexcept, logf(float) noexcept;

namespace device {
struct Index { unsigned x, y, z; };
Index thread(), block();
unsigned char* shared();

struct Launch {  // as emulator.py lays it out
    int blocks, threads, shared_bytes, early, arrays;
    unsigned seed;
    const uintptr_t (*array)[2];  // first byte, and the first one past the end, of what the kernel may touch
};
const char* compare(const int* sizes, int count, const int* wanted_sizes, int wanted);
const char* launch(const Launch& how, void (*body)(void**), void** values);

// The kernel's arguments from pointers to them, as cuLaunchKernel takes them; a wrong number or size of them is an error.
template <int... I> struct Numbers {};
template <auto KERNEL, class... A> struct Call {
    template <int... I> __attribute__((no_sanitize("thread"))) static void unpack(void** values, Numbers<I...>) {
        KERNEL(*static_cast<A*>(values[I])...);
    }
    __attribute__((no_sanitize("thread"))) static void body(void** values) {
        unpack(values, Numbers<__integer_pack(sizeof...(A))...>());  // 0, 1, ... in g++
    }
    static const char* run(const Launch& how, void** values, const int* sizes, int count) {
        constexpr int wanted[] = {sizeof(A)...};
        const char* const wrong = compare(sizes, count, wanted, sizeof...(A));
        return *wrong ? wrong : launch(how, body, values);
    }
};
template <auto KERNEL, class... A> Call<KERNEL, A...> call(void (*)(A...));
}  // namespace device

template <class X> inline X min(X x, X y) { return y < x ? y : x; }
template <class X> inline X max(X x, X y) { return x < y ? y : x; }

void __syncthreads();
int __syncthreads_count(int predicate);
void __syncwarp();
float __shfl_xor_sync(u32 lanes, float x, int distance);
bool __any_sync(u32 lanes, bool x);

// gpu.cuh
struct Float16 {
    static float wide(u16 x);
    static u32 pack(float lo, float hi);
    static void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1);
};
struct BFloat16 {
    static float wide(u16 x);
    static u32 pack(float lo, float hi);
    static void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1);
};
void load_matrices(u32 (&r)[4], const void* row);
void load_transposed(u32 (&r)[4], const void* row);
void copy_async(void* to, const void* from, bool there);
void copy_async_float(float* to, const float* from, bool there);
void copies_begun();
namespace device { void wait(size_t left); }
template <int LEFT> inline void copies_done() { device::wait(LEFT); }
float exp2_fast(float x);
inline float infinity() { return __builtin_inff(); }
