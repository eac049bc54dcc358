// A device on a CPU: it runs a kernel block after block, each thread a fiber. A collective of a warp waits for its 32 lanes;
// which warp goes on where several could comes from a seed; a copy that CUDA lets happen anywhere between two moments
// happens at the first or at the last of them.
//
// The kernel is compiled with -fsanitize=thread, but linked to the functions at the end of this file instead of to the
// sanitizer: they see every load and store. With the copies and matrix loads, which come here anyway, that finds
//   - accesses to shared memory by two threads, one a store, that no barrier keeps apart, whatever the order they had here:
//     between warps that takes __syncthreads, between lanes of a warp __syncwarp, and for a copy its wait as well;
//   - stores of two thread blocks to one place (but a flag, an array of one number, may be set by all);
//   - loads and stores outside of the kernel's arrays, and misaligned ones;
//   - shared memory that is read before it is written;
//   - lanes that part ways before a collective, and barriers that not all threads reach.
// Not seen: the operands' order in the inline PTX, the rounding of ex2.approx and of the tensor cores' sums, and speed.
#include "cpu.h"

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>
#include <ucontext.h>

namespace device {
constexpr int LANES = 32;
constexpr size_t STACK = 1 << 16;

struct Copy { unsigned char* to; const unsigned char* from; size_t bytes; };
struct Meeting { int arrived; const char* what; void* operands[LANES]; };
struct Fiber {
    int index;
    bool begun, done;
    Meeting* waits;
    int blocks, warps;  // how often its block has met so far, and its warp or block
    std::vector<std::vector<Copy>> groups;  // copies begun, the oldest group first; the last group is still open
    std::vector<unsigned char> stack;
    ucontext_t start;
    jmp_buf where;
};
struct Access { int thread, blocks, warps; };  // of a fiber at a moment
struct Word {  // the last accesses to four bytes of shared memory
    Access store, load;
    bool stored, loaded, copying, other_lanes, other_warps;  // loads by others, too, since the last meeting
};

Fiber* now;
std::vector<Fiber> fibers;
std::vector<Meeting> warps;
Meeting whole;
std::vector<unsigned char> memory;
std::vector<Word> words;
std::unordered_map<uintptr_t, unsigned> stores;  // to global memory: address, thread block
Launch how;
unsigned block_index;
jmp_buf home;
std::string error;
long long conflicts;  // passes that ldmatrix needs beyond one for eight rows, because rows lie in the same banks

Index thread() { return {static_cast<unsigned>(now->index), 0, 0}; }
Index block() { return {block_index, 0, 0}; }
unsigned char* shared() { return memory.data(); }

[[noreturn]] void fail(const std::string& why) {
    error = why + " (block " + std::to_string(block_index) + ", thread " + std::to_string(now->index) + ")";
    _longjmp(home, 1);
}

// ------------------------------------------------------------------------------------------------- fibers and meetings
void trampoline();

[[noreturn]] void enter(Fiber& fiber) {
    now = &fiber;
    if (fiber.begun) _longjmp(fiber.where, 1);
    fiber.begun = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.data(), fiber.start.uc_stack.ss_size = STACK;
    makecontext(&fiber.start, trampoline, 0);
    setcontext(&fiber.start);
    __builtin_unreachable();
}

bool runs(const Fiber& fiber) { return !fiber.done && !fiber.waits; }

// To the next lane of this warp that can go on; home if none can, or if another warp may have its turn.
[[noreturn]] void leave(bool turn = false) {
    Fiber* const warp = &fibers[now->index / LANES * LANES];
    for (int i = 1; i < LANES && !turn; ++i)
        if (Fiber& lane = warp[(now->index + i) % LANES]; runs(lane)) enter(lane);
    _longjmp(home, 1);
}
void pause(bool turn = false) {
    if (!_setjmp(now->where)) leave(turn);
}

template <class Run> void meet(Meeting& at, int first, int size, const char* what, void* operand, Run run) {
    if (at.arrived && strcmp(at.what, what)) fail(std::string(what) + " meets " + at.what);
    at.what = what;
    at.operands[now->index % LANES] = operand;
    if (++at.arrived < size) {
        now->waits = &at;
        return pause();
    }
    run(at.operands);
    at.arrived = 0;
    for (int i = first; i < first + size; ++i) fibers[i].waits = nullptr;
}
template <class Operand, class Run> void warp_meets(const char* what, Operand& operand, Run run) {
    const int warp = now->index / LANES;
    meet(warps[warp], warp * LANES, LANES, what, &operand, [&](void** all) { run(reinterpret_cast<Operand**>(all)); });
}

// The first lane that can go on, of one of the warps that have any; null if none can.
Fiber* next(unsigned& random) {
    static std::vector<Fiber*> first;  // static: the stack that it would be on is left by a jump
    first.clear();
    for (Fiber& f : fibers)
        if (runs(f) && (first.empty() || first.back()->index / LANES != f.index / LANES)) first.push_back(&f);
    random = random * 1664525 + 1013904223;
    return first.empty() ? nullptr : first[(random >> 16) % first.size()];
}

void (*kernel)(void**);
void** arguments;
void trampoline() {
    kernel(arguments);
    now->done = true;
    leave();
}

void run_block(unsigned& random) {
    memory.resize(how.shared_bytes);
    words.assign((how.shared_bytes + 3) / 4, {});
    warps.assign(how.threads / LANES, {}), whole = {};
    for (int i = 0; i < how.threads; ++i) {
        Fiber& f = fibers[i];
        f.index = i, f.begun = f.done = false, f.waits = nullptr, f.blocks = f.warps = 0, f.groups.assign(1, {});
    }
    _setjmp(home);  // fibers come back to here
    if (!error.empty()) return;
    if (Fiber* const fiber = next(random)) enter(*fiber);
    for (Fiber& f : fibers)
        if (!f.done && error.empty()) error = std::string("not all threads reach ") + f.waits->what;
}

const char* compare(const int* sizes, int count, const int* wanted_sizes, int wanted) {
    error.clear();
    if (count != wanted) error = "wrong number of arguments";
    for (int i = 0; i < count && error.empty(); ++i)
        if (sizes[i] != wanted_sizes[i])
            error = "argument " + std::to_string(i) + " has " + std::to_string(sizes[i]) + " bytes, the kernel's has " +
                    std::to_string(wanted_sizes[i]);
    return error.c_str();
}

const char* launch(const Launch& given, void (*body)(void**), void** values) {
    how = given, kernel = body, arguments = values, error.clear(), conflicts = 0, stores.clear();
    fibers.resize(how.threads);
    for (Fiber& f : fibers) f.stack.resize(STACK);
    static unsigned random;  // static: a jump home would leave a register's value undefined
    random = how.seed;
    for (block_index = 0; block_index < static_cast<unsigned>(how.blocks) && error.empty(); ++block_index) run_block(random);
    now = nullptr;
    return error.c_str();
}

// -------------------------------------------------------------------------------------------------------------- memory
bool apart(const Access& before, const Fiber& f) {  // by a barrier, or done by the same thread
    if (before.thread == f.index || before.blocks < f.blocks) return true;
    return before.thread / LANES == f.index / LANES && before.warps < f.warps;
}

void touch_word(Word& word, const Fiber& f, bool store) {
    const bool same_warp = word.load.thread / LANES == f.index / LANES;
    if (word.copying) fail("race: shared memory is touched before a copy to it was waited for");
    if (!store && !word.stored) fail("race: shared memory is read before it is written");
    if (word.stored && !apart(word.store, f)) fail(store ? "race: two stores to shared memory" : "race: a load after a store");
    if (store && word.loaded && word.load.blocks == f.blocks &&
        (word.other_warps || !apart(word.load, f) || (same_warp && word.other_lanes && word.load.warps == f.warps)))
        fail("race: a store after a load");
    if (store) {
        word.store = {f.index, f.blocks, f.warps}, word.stored = true, word.loaded = false;
        return;
    }
    const bool again = word.loaded && word.load.blocks == f.blocks, at_once = again && same_warp && word.load.warps == f.warps;
    word.other_warps = again && (word.other_warps || !same_warp);
    word.other_lanes = at_once && (word.other_lanes || word.load.thread != f.index);
    word.load = {f.index, f.blocks, f.warps}, word.loaded = true;
}

size_t offset(const void* p) { return static_cast<const unsigned char*>(p) - memory.data(); }  // huge below the memory

void touch_shared(const void* p, size_t bytes, const Fiber& f, bool store) {
    const size_t first = offset(p);
    if (first % bytes) fail("misaligned shared address");
    if (first + bytes > memory.size()) fail("outside of shared memory");
    for (size_t i = first / 4; i <= (first + bytes - 1) / 4; ++i) touch_word(words[i], f, store);
}

void touch_global(const void* p, size_t bytes, bool store) {
    const auto x = reinterpret_cast<uintptr_t>(p);
    if (x % bytes) fail("misaligned global address");
    const auto* const array = std::find_if(how.array, how.array + how.arrays, [=](const uintptr_t(&ends)[2]) {
        return ends[0] <= x && x + bytes <= ends[1];
    });
    if (array == how.array + how.arrays) fail("outside of the kernel's arrays");
    if (store && (*array)[1] - (*array)[0] > bytes && stores.emplace(x, block_index).first->second != block_index)
        fail("race: two thread blocks store to one place");
}

void touch(const void* p, size_t bytes, bool store) {
    if (!now || static_cast<size_t>(static_cast<const unsigned char*>(p) - now->stack.data()) < STACK) return;
    if (offset(p) < memory.size()) touch_shared(p, bytes, *now, store);
    else touch_global(p, bytes, store);
}

void copy(const Copy& x) {
    if (x.from) memcpy(x.to, x.from, x.bytes);
    else memset(x.to, 0, x.bytes);
}
void begin_copy(void* to, const void* from, size_t bytes) {  // cp.async; zeros without a `from`
    touch_shared(to, bytes, *now, true);
    if (from) touch_global(from, bytes, false);
    const Copy x = {static_cast<unsigned char*>(to), static_cast<const unsigned char*>(from), bytes};
    for (size_t i = 0; i < bytes; i += 4) words[(offset(to) + i) / 4].copying = true;
    if (how.early) copy(x);
    now->groups.back().push_back(x);
}
void wait(size_t left) {
    auto& groups = now->groups;
    for (; groups.size() > left + 1; groups.erase(groups.begin()))
        for (const Copy& x : groups.front()) {
            if (!how.early) copy(x);
            for (size_t i = 0; i < x.bytes; i += 4) {
                Word& word = words[(offset(x.to) + i) / 4];
                word.copying = false, word.store = {now->index, now->blocks, now->warps};
            }
        }
}

// ----------------------------------------------------------------------------------------- matrices over a warp's lanes
// The four 8 x 8 matrices of ldmatrix [PTX ISA, ldmatrix]: lane 8 i + j gives the address of row j of matrix i, and gets
// the two entries of it that start at row lane / 4, column lane % 4 * 2 (of the transposed matrix, if so).
template <bool TRANSPOSED> void matrices(u32 (&r)[4], const void* row) {
    touch_shared(row, 16, *now, false);
    struct Operand { u32* r; const u16* row; } mine = {r, static_cast<const u16*>(row)};
    warp_meets(TRANSPOSED ? "ldmatrix.trans" : "ldmatrix", mine, [](Operand** lanes) {
        for (int i = 0; i < 4; ++i) {
            int used[8] = {};  // groups of four banks
            for (int j = 0; j < 8; ++j) ++used[offset(lanes[8 * i + j]->row) / 16 % 8];
            conflicts += *std::max_element(used, used + 8) - 1;
            for (int lane = 0; lane < LANES; ++lane) {
                const int a = lane / 4, b = lane % 4 * 2;
                const u32 lo = TRANSPOSED ? lanes[8 * i + b]->row[a] : lanes[8 * i + a]->row[b];
                const u32 hi = TRANSPOSED ? lanes[8 * i + b + 1]->row[a] : lanes[8 * i + a]->row[b + 1];
                lanes[lane]->r[i] = lo | hi << 16;
            }
        }
    });
}

float wide_half(u32 x) {
    static const std::vector<float> table = [] {
        std::vector<float> all(1 << 16);
        for (u32 i = 0; i < all.size(); ++i) {
            const u16 bits = static_cast<u16>(i);
            _Float16 half;
            memcpy(&half, &bits, 2);
            all[i] = static_cast<float>(half);
        }
        return all;
    }();
    return table[x & 0xffff];
}
float wide_bfloat(u32 x) {
    const u32 bits = x << 16;
    float r;
    memcpy(&r, &bits, 4);
    return r;
}

// mma.m16n8k16 [PTX ISA, "Matrix Fragments for mma.m16n8k16"]: which lane holds which entries of A, B and C.
template <float (*WIDE)(u32)> void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    struct Operand { float* c; const u32* a; u32 b[2]; } mine = {c, a, {b0, b1}};
    warp_meets("mma", mine, [](Operand** lanes) {
        float left[16][16], right[16][8], sum[16][8];
        for (int lane = 0; lane < LANES; ++lane) {
            const int quad = lane / 4, pair = lane % 4 * 2;
            const Operand& x = *lanes[lane];
            for (int i = 0; i < 4; ++i) {
                left[quad + i % 2 * 8][pair + i / 2 * 8] = WIDE(x.a[i]);
                left[quad + i % 2 * 8][pair + i / 2 * 8 + 1] = WIDE(x.a[i] >> 16);
                sum[quad + i / 2 * 8][pair + i % 2] = x.c[i];
            }
            for (int i = 0; i < 2; ++i) {
                right[pair + i * 8][quad] = WIDE(x.b[i]);
                right[pair + i * 8 + 1][quad] = WIDE(x.b[i] >> 16);
            }
        }
        for (int row = 0; row < 16; ++row)
            for (int i = 0; i < 16; ++i)
                for (int column = 0; column < 8; ++column) sum[row][column] += left[row][i] * right[i][column];
        for (int lane = 0; lane < LANES; ++lane)
            for (int i = 0; i < 4; ++i) lanes[lane]->c[i] = sum[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    });
}
}  // namespace device

using namespace device;

// ------------------------------------------------------------------------------------------------- the names of cpu.h
void __syncthreads() {
    meet(whole, 0, how.threads, "__syncthreads", nullptr, [](void**) {
        for (Fiber& f : fibers) ++f.blocks, ++f.warps;
    });
    if (!whole.arrived) pause(true);  // whoever came last does not go on first
}
int __syncthreads_count(int predicate) {
    static int counted;
    if (!whole.arrived) counted = 0;
    counted += predicate != 0;
    __syncthreads();
    const int all = counted;
    __syncthreads();  // before the next count begins
    return all;
}
void __syncwarp() {
    int none = 0;
    warp_meets("__syncwarp", none, [](int**) {
        for (int i = 0; i < LANES; ++i) ++fibers[now->index / LANES * LANES + i].warps;
    });
}
float __shfl_xor_sync(u32, float x, int distance) {
    struct Operand { float x, y; int distance; } mine = {x, 0, distance};
    warp_meets("shfl", mine, [](Operand** lanes) {
        for (int i = 0; i < LANES; ++i) lanes[i]->y = lanes[i ^ lanes[i]->distance]->x;
    });
    return mine.y;
}
bool __any_sync(u32, bool x) {
    struct Operand { bool x, any; } mine = {x, false};
    warp_meets("any", mine, [](Operand** lanes) {
        bool any = false;
        for (int i = 0; i < LANES; ++i) any |= lanes[i]->x;
        for (int i = 0; i < LANES; ++i) lanes[i]->any = any;
    });
    return mine.any;
}
float Float16::wide(u16 x) { return wide_half(x); }
float BFloat16::wide(u16 x) { return wide_bfloat(x); }
u32 Float16::pack(float lo, float hi) {
    const _Float16 pair[2] = {static_cast<_Float16>(lo), static_cast<_Float16>(hi)};
    u32 r;
    memcpy(&r, pair, 4);
    return r;
}
u32 BFloat16::pack(float lo, float hi) {
    const auto narrow = [](float x) {  // to the nearest, ties to even
        u32 bits;
        memcpy(&bits, &x, 4);
        return x != x ? 0x7fffu : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    };
    return narrow(lo) | narrow(hi) << 16;
}
void Float16::mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) { multiply<wide_half>(c, a, b0, b1); }
void BFloat16::mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) { multiply<wide_bfloat>(c, a, b0, b1); }
void load_matrices(u32 (&r)[4], const void* row) { matrices<false>(r, row); }
void load_transposed(u32 (&r)[4], const void* row) { matrices<true>(r, row); }
void copy_async(void* to, const void* from, bool there) { begin_copy(to, there ? from : nullptr, 16); }
void copy_async_float(float* to, const float* from, bool there) { begin_copy(to, there ? from : nullptr, 4); }
void copies_begun() { now->groups.emplace_back(); }
float exp2_fast(float x) { return exp2f(x); }

// --------------------------------------------------------------------------------- what -fsanitize=thread makes calls to
extern "C" {
long long bank_conflicts() { return conflicts; }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
#define ACCESSES(bytes) \
    void __tsan_read##bytes(void* p) { touch(p, bytes, false); } \
    void __tsan_write##bytes(void* p) { touch(p, bytes, true); } \
    void __tsan_unaligned_read##bytes(void* p) { touch(p, bytes, false); } \
    void __tsan_unaligned_write##bytes(void* p) { touch(p, bytes, true); }
void __tsan_read_range(const char* p, size_t bytes) { for (size_t i = 0; i < bytes; i += 4) touch(p + i, 4, false); }
void __tsan_write_range(const char* p, size_t bytes) { for (size_t i = 0; i < bytes; i += 4) touch(p + i, 4, true); }
ACCESSES(1) ACCESSES(2) ACCESSES(4) ACCESSES(8) ACCESSES(16)
}
