/* Enough of CUDA to run simple kernels on the CPU, for tests of generated sources where there is no GPU. A thread
 * block's threads are fibers of one thread; blocks run one after the other. A fiber runs until it comes to a barrier of
 * its block or of its warp, and goes on when all that have not ended are there. Wrong sums and indexes show, barriers
 * that are missing mostly, and one that some threads never reach is told as such.
 *
 * `kernel<<<grid, block, bytes, stream>>>(arguments)` must have been rewritten as CPU_LAUNCH(grid, block, bytes,
 * stream, kernel(arguments)), and `extern __shared__ TYPE NAME[]` as a pointer to cpu_shared
 * (tests/programs/export_cuda.sh). */
#ifndef CUDA_ON_CPU_H
#define CUDA_ON_CPU_H

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __shared__   static
#define __align__(n) alignas(n)
#define __launch_bounds__(n)
#define CPU_LAUNCH(grid, block, bytes, stream, call) \
    cpu_launch(dim3(grid), (int)(block), (size_t)(bytes), stream, [&] { call; })

using std::max;
using std::min;

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
inline dim3 gridDim, blockIdx, blockDim;
struct cpu_thread_index {
    unsigned x;
};
inline cpu_thread_index threadIdx;

/* ---- fibers ---------------------------------------------------------------------------------- */

enum { CPU_STACK = 256 * 1024, CPU_WARP = 32 };
enum cpu_wait { CPU_RUNS, CPU_AT_BLOCK, CPU_AT_WARP, CPU_ENDED };
struct cpu_fiber {
    ucontext_t context;
    std::vector<char> stack;
    cpu_wait wait = CPU_RUNS;
    float lent = 0.0f; /* what a shuffle shows to the warp */
};
inline std::vector<cpu_fiber> cpu_fibers;
inline ucontext_t cpu_scheduler;
inline std::vector<char> cpu_shared_memory;
inline char *cpu_shared;
inline std::function<void()> cpu_body;

inline void cpu_yield(cpu_wait wait)
{
    cpu_fiber &own = cpu_fibers[threadIdx.x];
    own.wait = wait;
    swapcontext(&own.context, &cpu_scheduler);
}
inline void cpu_fiber_main()
{
    cpu_body();
    cpu_yield(CPU_ENDED);
}
/* Lets [first, last) go on when every one of them is at this barrier or has ended. */
inline bool cpu_release(size_t first, size_t last, cpu_wait wait)
{
    bool any = false;
    for (size_t i = first; i < last; i++) {
        if (cpu_fibers[i].wait != wait && cpu_fibers[i].wait != CPU_ENDED) return false;
        any |= cpu_fibers[i].wait == wait;
    }
    for (size_t i = first; i < last && any; i++)
        if (cpu_fibers[i].wait == wait) cpu_fibers[i].wait = CPU_RUNS;
    return any;
}
/* In turn from the first thread to the last and from the last to the first: a barrier that is missing then shows,
 * whoever needs it. */
inline bool cpu_run_ready()
{
    static bool is_backwards;
    const size_t n = cpu_fibers.size();
    bool ran = false;
    is_backwards = !is_backwards;
    for (size_t k = 0; k < n; k++) {
        const size_t i = is_backwards ? n - 1 - k : k;
        if (cpu_fibers[i].wait != CPU_RUNS) continue;
        threadIdx.x = (unsigned)i;
        swapcontext(&cpu_scheduler, &cpu_fibers[i].context);
        ran = true;
    }
    return ran;
}
inline bool cpu_all_ended()
{
    for (const cpu_fiber &fiber : cpu_fibers)
        if (fiber.wait != CPU_ENDED) return false;
    return true;
}
inline void cpu_run_block()
{
    const size_t n = cpu_fibers.size();
    for (cpu_fiber &fiber : cpu_fibers) {
        getcontext(&fiber.context);
        fiber.stack.resize(CPU_STACK);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = &cpu_scheduler;
        fiber.wait = CPU_RUNS;
        makecontext(&fiber.context, cpu_fiber_main, 0);
    }
    while (!cpu_all_ended()) {
        bool goes_on = cpu_run_ready();
        for (size_t warp = 0; warp < n; warp += CPU_WARP)
            goes_on |= cpu_release(warp, min(warp + CPU_WARP, n), CPU_AT_WARP);
        goes_on |= cpu_release(0, n, CPU_AT_BLOCK);
        if (goes_on) continue;
        fprintf(stderr, "threads of a block wait at different barriers\n");
        abort();
    }
}
template <typename body_type> void cpu_launch(dim3 grid, int n_threads, size_t n_bytes, void *, body_type body)
{
    gridDim = grid;
    blockDim = dim3((unsigned)n_threads);
    cpu_fibers.resize((size_t)n_threads);
    cpu_body = body;
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) {
                cpu_shared_memory.assign(n_bytes + 64, (char)0x7e); /* no kernel may count on zeroes */
                cpu_shared = cpu_shared_memory.data() + (64 - (uintptr_t)cpu_shared_memory.data() % 64);
                cpu_run_block();
            }
}

inline void __syncthreads() { cpu_yield(CPU_AT_BLOCK); }
inline void __syncwarp() { cpu_yield(CPU_AT_WARP); }
inline float __shfl_xor_sync(unsigned, float x, int step)
{
    cpu_fibers[threadIdx.x].lent = x;
    __syncwarp();
    const float other = cpu_fibers[threadIdx.x ^ (unsigned)step].lent;
    __syncwarp();
    return other;
}
inline void atomicOr(unsigned *word, unsigned bits) { *word |= bits; }

/* ---- the runtime ----------------------------------------------------------------------------- */

typedef int cudaError_t;
typedef void *cudaStream_t;
enum { cudaSuccess, cudaErrorMemoryAllocation };
enum { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize };
inline const char *cudaGetErrorString(cudaError_t) { return "error"; }
/* Memory holds no zeroes, so what nobody wrote shows. */
template <typename T> cudaError_t cudaMalloc(T **out, size_t n)
{
    *out = static_cast<T *>(malloc(n ? n : 1));
    if (*out) memset(static_cast<void *>(*out), 0x7e, n);
    return *out ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaMemcpy(void *to, const void *from, size_t n, int)
{
    memcpy(to, from, n);
    return cudaSuccess;
}
inline cudaError_t cudaFree(void *memory)
{
    free(memory);
    return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaFuncSetAttribute(const void *, int, int) { return cudaSuccess; }

/* ---- numbers ---------------------------------------------------------------------------------- */

struct __half_raw {
    unsigned short x;
};
struct __half {
    _Float16 x;
    __half() = default;
    __half(__half_raw raw) { memcpy(&x, &raw, sizeof x); }
    operator float() const { return (float)x; }
};
inline float __half2float(__half h) { return (float)h.x; }
inline __half __float2half_rn(float f)
{
    __half h;
    h.x = (_Float16)f;
    return h;
}
inline __half __float2half(float f) { return __float2half_rn(f); }
inline __half __ushort_as_half(unsigned short word) { return __half(__half_raw{word}); }
inline unsigned short __half_as_ushort(__half h)
{
    unsigned short word;
    memcpy(&word, &h, sizeof word);
    return word;
}
struct __nv_bfloat16 {
    unsigned short x;
};
inline float __bfloat162float(__nv_bfloat16 b)
{
    const unsigned bits = (unsigned)b.x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
inline __nv_bfloat16 __float2bfloat16_rn(float f)
{
    unsigned bits;
    memcpy(&bits, &f, sizeof bits);
    return {(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

#endif
