/* What the kernels of all codec families share: a warp's values, where streams are, how the work is shared out,
 * copies. */
#ifndef RB_KERNELS_CUDA_CODEC_DEVICE_CUH
#define RB_KERNELS_CUDA_CODEC_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "core/cuda_check.cuh"
#include "kernels/cuda/codec_cuda.h"

/* ---- a warp ---------------------------------------------------------------------------------- */

/* A value that all lanes of the warp have. The compiler learns that they do: loops and branches on it then need no care
 * for lanes that go another way. */
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

template <typename PAIR> __device__ __forceinline__ uint32_t as_bits(PAIR pair)
{
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

/* A vector is loaded by 2^k lanes, each with two runs of 8 dims, half a vector apart. Unless head_dim / 16 is a power
 * of two some lanes are idle. */
struct row_split {
    int lanes, rows, lane, row; /* lanes a row, rows a warp, this lane's */
};

__device__ __forceinline__ row_split split_rows(int head_dim)
{
    int lanes = 1;
    while (lanes < head_dim / 16) lanes *= 2;
    const int lane = threadIdx.x & 31;
    return {lanes, 32 / lanes, lane & (lanes - 1), lane / lanes};
}

/* ---- streams --------------------------------------------------------------------------------- */

/* As codec_image_packed_offset and codec_image_norms_offset of kernels/cuda/codec_image.c have it. */
__device__ __forceinline__ int64_t aligned_stream(int64_t size_bytes) { return (size_bytes + 127) / 128 * 128; }

struct head_streams {
    int64_t packed, norms; /* bytes */
};

/* Where a head's streams start, for n vectors a head. By a whole warp; the result is in all its lanes. */
__device__ inline head_streams find_streams(const codec_image_head *heads /* [n_heads] */, int head, int64_t n)
{
    head_streams at = {0, 0};
    for (int h = threadIdx.x & 31; h < head; h += 32) {
        at.packed += aligned_stream(n * heads[h].packed_bytes);
        at.norms += aligned_stream(n * heads[h].n_norms * heads[h].norm_bytes);
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

/* norm_code.c's, of norm * 2^exponent * inverse_scale, a power of two: the other way. */
__device__ __forceinline__ unsigned byte_of_norm(float norm, int exponent, float inverse_scale)
{
    const int bits = __float_as_int(norm),
              octave = (bits >> 23) - 127 + (__float_as_int(inverse_scale) >> 23) - 127 + exponent;
    float octaves; /* from 0 to 1: right to 2^-22 */
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(octaves) : "f"(__int_as_float((bits & 0x7fffff) | 0x3f800000)));
    const float steps = 16.0f * octaves;
    return norm > 0.0f ? static_cast<unsigned>(max(min(255 + 16 * octave + static_cast<int>(steps + 0.5f), 255), 0))
                       : 0u;
}

/* ---- sharing the work ------------------------------------------------------------------------ */

/* A tile is `rows` vectors of a head. The tiles of all heads, one after the other, are cut into as many runs of equal
 * cost as there are blocks. A block takes its run head by head, since the tables in shared memory are a head's; its
 * warps take the tiles one by one. To change the head costs a block as much as SWITCH_TILES tiles. So each head counts
 * as many tiles more, before its own: else the few blocks that have two heads would be the last to finish. */
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

/* Finds the block's share. By the whole block, whose threads are at one place after it. */
__device__ inline void find_share(block_share *share, const codec_image_head *heads, int n_heads, int64_t n_vectors,
                                  int rows)
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
__device__ __forceinline__ bool reaches_head(const block_share &share, const codec_image_head &head, int64_t n_vectors,
                                             int rows)
{
    return head.cost_before * (count_tiles(n_vectors, rows) + SWITCH_TILES)
               + static_cast<int64_t>(head.cost) * SWITCH_TILES
           < share.to;
}

/* Finds the block's run of the head, and the head's streams. By warp 0. */
__device__ inline void start_run(block_share *share, const codec_image_head *heads, int head, int64_t n_vectors,
                                 int rows)
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

/* Kernels whose blocks have one head each share out its vectors over all warps of its blocks, blockIdx.x. Each gets one
 * run of them, in units of so many: so a packed run starts at a multiple of 16 bytes. */
enum { RUN_UNIT = 16 };

struct vector_run {
    int64_t from, to;
};

__device__ __forceinline__ vector_run find_run(int64_t n)
{
    const int64_t n_units = (n + RUN_UNIT - 1) / RUN_UNIT,
                  n_warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / 32),
                  warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    return {n_units * warp / n_warps * RUN_UNIT, min(n, n_units * (warp + 1) / n_warps * RUN_UNIT)};
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

#endif
