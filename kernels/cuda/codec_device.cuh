/* What the codec kernels share: matrix products of a warp, bits, addresses. */
#ifndef RB_KERNELS_CUDA_CODEC_DEVICE_CUH
#define RB_KERNELS_CUDA_CODEC_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "core/cuda_check.cuh"
#include "kernels/cuda/codec_cuda.h"

/* Halves from row to row of a tile: 8 times an odd number, so that ldmatrix and 16-byte accesses of 8 rows meet all
 * banks, with at least 8 columns to spare for the half step that is read and left out. */
__host__ __device__ inline int tile_stride(int n_columns) { return n_columns + 8 + (n_columns / 8 % 2 ? 8 : 0); }

/* ---- matrix products ------------------------------------------------------------------------- */

/* A value that all lanes of the warp have, told to the compiler: loops and branches on it then need no care for lanes
 * that go another way. */
__device__ __forceinline__ int uniform(int value)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return static_cast<int>(__reduce_or_sync(0xffffffffu, static_cast<unsigned>(value)));
#else
    return __shfl_sync(0xffffffffu, value, 0);
#endif
}

/* What lane `from` has, to all lanes; `from` the same in all. */
__device__ __forceinline__ uint32_t broadcast(uint32_t value, int from)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return __reduce_or_sync(0xffffffffu, (threadIdx.x & 31) == static_cast<unsigned>(from) ? value : 0);
#else
    return __shfl_sync(0xffffffffu, value, from);
#endif
}

/* 16 bytes at once: left to itself the compiler takes some of these apart. */
__device__ __forceinline__ void store_shared(void *to, const uint32_t (&words)[4])
{
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
                 "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                 : "memory");
}
__device__ __forceinline__ uint4 load_shared(const void *from)
{
    uint4 words;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(from)))
                 : "memory");
    return words;
}

/* Four 8 x 8 matrices; `row` is where this lane's row of 8 lies: rows 0 to 7 of the first matrix are lanes 0 to 7, and
 * so on. */
__device__ __forceinline__ void load_matrices(uint32_t (&a)[4], const __half *row)
{
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(address)
                 : "memory");
}

/* c += a b, 16 x 8 x 16, fp16 operands, f32 sums. Turing has the half-deep one only. */
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

/* c = start + a b. */
__device__ __forceinline__ void multiply_from(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                              float start)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, "
        "%10, %10};"
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(start));
#else
    for (int i = 0; i < 4; i++) c[i] = start;
    multiply(c, a, b0, b1);
#endif
}

/* 1 / sqrt(x) of a number that is not tiny. */
__device__ __forceinline__ float fast_rsqrt(float x)
{
    float root;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
    return root;
}

/* c += a b of one half of a step, 16 x 8 x 8. */
__device__ __forceinline__ void multiply_half(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b)
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(b));
}

template <typename PAIR> __device__ __forceinline__ uint32_t as_bits(PAIR pair)
{
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

/* ---- streams --------------------------------------------------------------------------------- */

/* codec_image_packed_offset and codec_image_norms_offset of kernels/cuda/codec_image.c. */
__device__ __forceinline__ int64_t aligned_stream(int64_t size_bytes) { return (size_bytes + 127) / 128 * 128; }

struct head_streams {
    int64_t packed, norms; /* bytes */
};

/* By a whole warp; the result is in all its lanes. HEAD, here and below: codec_image_head or block_codebook_image_head.
 */
template <typename HEAD> __device__ inline head_streams find_streams(const HEAD *heads, int head, int64_t n)
{
    head_streams at = {0, 0};
    for (int h = threadIdx.x & 31; h < head; h += 32) {
        at.packed += aligned_stream(n * heads[h].packed_bytes);
        at.norms += aligned_stream(n * heads[h].n_groups * heads[h].norm_bytes);
    }
    for (int mask = 16; mask > 0; mask /= 2) {
        at.packed += __shfl_xor_sync(0xffffffffu, at.packed, mask);
        at.norms += __shfl_xor_sync(0xffffffffu, at.norms, mask);
    }
    return at;
}

/* The norm that 8 bits stand for (kernels/reference/norm_code.h), to two units in the last place. */
__device__ __forceinline__ float norm_of_byte(int code, int exponent)
{
    return code == 0 ? 0.0f : exp2f(static_cast<float>(exponent) - static_cast<float>(255 - code) * (1.0f / 16.0f));
}

/* ---- sharing the work ------------------------------------------------------------------------ */

/* The tiles of all heads, `rows` vectors each, one after the other, are cut into as many runs of equal cost as there
 * are blocks. A block takes its run head by head, since the tables in shared memory are a head's; its warps take the
 * tiles one by one. Going over to another head costs as much as SWITCH_TILES tiles: so much before each head's tiles
 * stands for no work, or the few blocks that have two heads would be the last to finish. */
enum { SWITCH_TILES = 10 };

struct tile_run {
    unsigned first, n; /* tiles of the head */
};

/* A block's part of the cost of all, and where in it the block is. In shared memory. */
struct block_share {
    int64_t from, to;
    int first_head;
    unsigned taken; /* tiles of the run */
    tile_run run;
    head_streams streams;
};

__host__ __device__ inline int64_t count_tiles(int64_t n_vectors, int rows) { return (n_vectors + rows - 1) / rows; }

/* By the whole block, which is at one place after it. A head of another family costs 0: it may be the first, and has no
 * run. */
template <typename HEAD>
__device__ inline void find_share(block_share *share, const HEAD *heads, int n_heads, int64_t n_vectors, int rows)
{
    const int64_t n = count_tiles(n_vectors, rows) + SWITCH_TILES;
    if (threadIdx.x == 0) {
        const int64_t total = (heads[n_heads - 1].cost_before + heads[n_heads - 1].cost) * n;
        share->from = total / gridDim.x * blockIdx.x + total % gridDim.x * blockIdx.x / gridDim.x;
        share->to = total / gridDim.x * (blockIdx.x + 1) + total % gridDim.x * (blockIdx.x + 1) / gridDim.x;
        share->first_head = n_heads;
    }
    __syncthreads();
    for (int h = threadIdx.x; h < n_heads; h += blockDim.x) {
        const int64_t before = heads[h].cost_before * n, cost = heads[h].cost;
        if (before + cost * SWITCH_TILES < share->to && before + cost * n > share->from)
            atomicMin(&share->first_head, h);
    }
    __syncthreads();
}

/* Whether the share reaches the head; heads from first_head on, until it does not. */
template <typename HEAD>
__device__ __forceinline__ bool reaches_head(const block_share &share, const HEAD &head, int64_t n_vectors, int rows)
{
    return head.cost_before * (count_tiles(n_vectors, rows) + SWITCH_TILES)
               + static_cast<int64_t>(head.cost) * SWITCH_TILES
           < share.to;
}

/* By warp 0: the block's run of the head, and the head's streams. */
template <typename HEAD>
__device__ inline void start_run(block_share *share, const HEAD *heads, int head, int64_t n_vectors, int rows)
{
    const int64_t n_tiles = count_tiles(n_vectors, rows), cost = heads[head].cost,
                  before = heads[head].cost_before * (n_tiles + SWITCH_TILES);
    const head_streams streams = find_streams(heads, head, n_vectors);
    if (threadIdx.x != 0) return;
    int64_t ends[2] = {share->from, share->to};
    for (int i = 0; i < 2; i++)
        ends[i] = ends[i] <= before
                      ? 0
                      : max(min((ends[i] - before + cost - 1) / cost - SWITCH_TILES, n_tiles), static_cast<int64_t>(0));
    share->run = {static_cast<unsigned>(ends[0]), static_cast<unsigned>(ends[1] - ends[0])};
    share->taken = 0;
    share->streams = streams;
}

/* A warp's next tile of the run, or NO_TILE. */
static constexpr unsigned NO_TILE = ~0u;

__device__ __forceinline__ unsigned next_tile(const tile_run &run, block_share *share)
{
    unsigned mine = 0;
    if ((threadIdx.x & 31) == 0) mine = atomicAdd(&share->taken, 1u);
    mine = __shfl_sync(0xffffffffu, mine, 0);
    return mine < run.n ? run.first + mine : NO_TILE;
}

/* Brings a line to the L2 cache, sometime. */
__device__ __forceinline__ void prefetch(const void *from) { asm volatile("prefetch.global.L2 [%0];" ::"l"(from)); }
enum { LINE_BYTES = 128 };

/* A block's copy of n elements. */
template <typename T> __device__ __forceinline__ void block_copy(T *to, const T *from, int n)
{
    for (int i = threadIdx.x; i < n; i += blockDim.x) to[i] = from[i];
}

/* A warp's copy of n_bytes between 16-byte aligned places; the end may be odd. */
__device__ __forceinline__ void warp_copy(uint8_t *to, const uint8_t *from, int n_bytes)
{
    const int lane = threadIdx.x & 31, n_whole = n_bytes / 16;
    for (int i = lane; i < n_whole; i += 32)
        reinterpret_cast<uint4 *>(to)[i] = reinterpret_cast<const uint4 *>(from)[i];
    for (int i = n_whole * 16 + lane; i < n_bytes; i += 32) to[i] = from[i];
}

/* ---- launches -------------------------------------------------------------------------------- */

/* Warps a block can have when each takes warp_bytes of shared memory beside block_bytes; 0: none fits. */
static inline int warps_that_fit(size_t block_bytes, size_t warp_bytes, size_t shared_bytes, int most)
{
    int warps = most;
    while (warps > 0 && block_bytes + static_cast<size_t>(warps) * warp_bytes > shared_bytes) warps--;
    return warps;
}

static inline size_t round_up(size_t size, size_t to) { return (size + to - 1) / to * to; }

struct codec_device_limits {
    int n_multiprocessors, shared_bytes;
};

static inline rb_status find_limits(codec_device_limits *limits, rb_error *err)
{
    int device = 0;
    rb_status st;
    RB_TRY(st, rb_cuda_status(cudaGetDevice(&device), "asking for the GPU", err), done);
    RB_TRY(st,
           rb_cuda_status(cudaDeviceGetAttribute(&limits->n_multiprocessors, cudaDevAttrMultiProcessorCount, device),
                          "asking the GPU", err),
           done);
    RB_TRY(
        st,
        rb_cuda_status(cudaDeviceGetAttribute(&limits->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
                       "asking the GPU", err),
        done);
done:
    return st;
}

/* What the kernels declare themselves: share, groups, shapes, pads, and some room. */
static const size_t STATIC_SHARED_BYTES =
    sizeof(block_share) + CODEC_IMAGE_MAX_GROUPS * (sizeof(codec_image_group) + sizeof(uint32_t) + sizeof(uint16_t))
    + 256;

/* Shared memory of a block: the head's fragments, its other tables, and each warp's own. */
struct kernel_sizes {
    size_t fragments, tables, warp;
};

/* Launches with as many warps a block as fit, most_warps at most, and as many blocks as are resident at once, or as
 * there are tiles of `rows` vectors for. too_small: whether so few warps fit beside the fragments (is_fast) that it is
 * better done without them; nothing runs then. */
template <typename ARGS>
static rb_status launch_tiles(void (*kernel)(ARGS), ARGS &args, const kernel_sizes &sizes, bool is_fast, int most_warps,
                              int rows, const char *name, bool *too_small, cudaStream_t stream, rb_error *err)
{
    const size_t shared = (is_fast ? sizes.fragments : 0) + sizes.tables;
    const int64_t n_tiles = count_tiles(args.n, rows) * args.image.n_heads;
    codec_device_limits limits;
    int resident = 0, warps = 0, bytes = 0;
    rb_status st;
    RB_TRY(st, find_limits(&limits, err), done);
    warps = warps_that_fit(shared, sizes.warp, limits.shared_bytes - STATIC_SHARED_BYTES, most_warps);
    *too_small = is_fast && warps < most_warps / 4;
    if (*too_small) goto done;
    if (warps == 0)
        return rb_fail(err, RB_EUNSUPPORTED, "the %s needs %zu bytes of shared memory, the GPU has %d", name,
                       shared + sizes.warp, limits.shared_bytes);
    bytes = static_cast<int>(shared + warps * sizes.warp);
    args.fragment_bytes = static_cast<int>(sizes.fragments);
    args.warp_bytes = static_cast<int>(sizes.warp);
    RB_TRY(st,
           rb_cuda_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), name, err),
           done);
    RB_TRY(
        st,
        rb_cuda_status(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, warps * 32, bytes), name, err),
        done);
    kernel<<<static_cast<unsigned>(
                 min(static_cast<int64_t>(resident) * limits.n_multiprocessors, (n_tiles + warps - 1) / warps)),
             warps * 32, bytes, stream>>>(args);
    st = rb_cuda_launched(name, err);
done:
    return st;
}

#endif
