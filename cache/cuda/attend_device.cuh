/* What the kernels of packed attention share: splits of a sequence, staging of pages, windows, look-ups, products. */
#ifndef RB_CACHE_CUDA_ATTEND_DEVICE_CUH
#define RB_CACHE_CUDA_ATTEND_DEVICE_CUH

#include <cuda_fp16.h>
#include <stdint.h>

#include "cache/cuda/cache_cuda.h"
#include "cache/cuda/vector_numbers.cuh"
#include "core/cuda_check.cuh"
#include "kernels/cuda/tensor_cores.cuh"

enum { ATTEND_PAGE = CACHE_PAGE_TOKENS, PAGE_TILES = ATTEND_PAGE / ATTEND_TILE };

#define ATTEND_WEIGHT 8192.0f /* what a weight of 1 is stored as */
#define LOG2_E        1.4426950408889634f

/* ---- the work ---------------------------------------------------------------------------------- */

/* What all kernels of a call take. */
struct attend_args {
    attend_call call;
    int n_splits, max_pages, has_exact;
    int place_splits; /* of the kernel that runs; n_splits are those of the values */
    int n_multiprocessors;
    int n_query_groups;           /* of ATTEND_QUERIES query heads of a KV head */
    int queries_each;             /* query heads of a KV head */
    __half *weights;              /* [sequences][KV heads * query groups][max_pages][64][8] */
    float *page_max, *page_sum;   /* [sequences][KV heads * query groups][max_pages][8] */
    float *sums;                  /* [sequences][KV heads * query groups][n_splits][numbers][8] */
    float *split_max, *split_sum; /* [sequences][KV heads * query groups][n_splits + 1][8] */
    float *exact_sums;            /* [sequences][KV heads * query groups][value_dim][8] */
    int n_numbers;                /* of a split's sum */
    int codes_at;                 /* in a warp's page, where that is not the kernel's own business */
    int staged_bytes;             /* shared memory of a warp's page */
    int shared_bytes;             /* that a block may have */
    int sum_slots;                /* warps whose sums a block holds at once */
};

/* A block's part. */
struct attend_place {
    int sequence, head, query_group, split;
    int64_t row;                /* of (sequence, KV head, query group) */
    int first_token, end_token; /* packed tokens that the query sees */
    int first_page, end_page;   /* of the split */
    int length;
};

__device__ __forceinline__ attend_place find_place(const attend_args &args)
{
    attend_place at;
    at.sequence = blockIdx.z;
    at.head = blockIdx.y / args.n_query_groups;
    at.query_group = blockIdx.y % args.n_query_groups;
    at.split = blockIdx.x;
    at.row = static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
    at.length = args.call.queries.length[at.sequence];
    const int window = args.call.queries.window;
    at.first_token = max(args.call.n_sink, window > 0 ? at.length - window : 0);
    at.end_token = max(at.length - args.call.n_recent, at.first_token);
    const int first = at.first_token / ATTEND_PAGE, end = (at.end_token + ATTEND_PAGE - 1) / ATTEND_PAGE,
              n = at.end_token > at.first_token ? end - first : 0;
    at.first_page = first + static_cast<int>(static_cast<int64_t>(n) * at.split / args.place_splits);
    at.end_page = first + static_cast<int>(static_cast<int64_t>(n) * (at.split + 1) / args.place_splits);
    return at;
}

/* Query heads of the block that are there. */
__device__ __forceinline__ int count_queries(const attend_args &args, const attend_place &at)
{
    return min(ATTEND_QUERIES, args.queries_each - at.query_group * ATTEND_QUERIES);
}

__device__ __forceinline__ const uint8_t *find_page(const attend_args &args, const attend_place &at, int page)
{
    const int32_t number = args.call.pages.block_table[at.sequence * args.call.pages.block_stride + page];
    return static_cast<const uint8_t *>(args.call.pages.pages) + number * args.call.page_bytes;
}

/* ---- staging ------------------------------------------------------------------------------------ */

/* Bytes, a multiple of 16, to shared memory by a warp; both aligned to 16. */
__device__ __forceinline__ void stage(void *to, const void *from, int size_bytes)
{
    for (int at = (threadIdx.x & 31) * 16; at < size_bytes; at += 32 * 16) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                         static_cast<uint32_t>(__cvta_generic_to_shared(static_cast<uint8_t *>(to) + at))),
                     "l"(static_cast<const uint8_t *>(from) + at)
                     : "memory");
#else
        *reinterpret_cast<uint4 *>(static_cast<uint8_t *>(to) + at) =
            *reinterpret_cast<const uint4 *>(static_cast<const uint8_t *>(from) + at);
#endif
    }
}

__device__ __forceinline__ void stage_commit()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* All but the newest `left` groups are there. */
template <int LEFT> __device__ __forceinline__ void stage_wait()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
    __syncwarp();
}

/* n words to shared memory by a block; both aligned to 16 bytes, with room for whole ones. stage_commit and stage_wait
 * must follow, and __syncthreads. */
__device__ __forceinline__ void fill_shared(void *to, const void *from, int n_words)
{
    for (int i = threadIdx.x; i < (n_words + 3) / 4; i += blockDim.x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                         static_cast<uint32_t>(__cvta_generic_to_shared(static_cast<uint8_t *>(to) + i * 16))),
                     "l"(static_cast<const uint8_t *>(from) + i * 16)
                     : "memory");
#else
        static_cast<uint4 *>(to)[i] = static_cast<const uint4 *>(from)[i];
#endif
    }
}

/* ---- look-ups ----------------------------------------------------------------------------------- */

/* Shared memory by its own addresses. */
__device__ __forceinline__ uint32_t shared_address(const void *at)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}
__device__ __forceinline__ uint32_t read_word(uint32_t address)
{
    uint32_t word;
    asm("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(address));
    return word;
}
__device__ __forceinline__ uint32_t read_half(uint32_t address)
{
    uint16_t half;
    asm("ld.shared.b16 %0, [%1];" : "=h"(half) : "r"(address));
    return half;
}

/* 32 bits from bit `bit` after `address`, a multiple of 4, on. */
__device__ __forceinline__ uint32_t read_window(uint32_t address, int bit)
{
    const uint32_t word = address + static_cast<uint32_t>((bit >> 5) * 4);
    uint32_t low, high;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(low) : "r"(word) : "memory");
    asm volatile("ld.shared.b32 %0, [%1 + 4];" : "=r"(high) : "r"(word) : "memory");
    return __funnelshift_r(low, high, bit);
}

/* A unit's facts, in registers. */
struct unit_facts {
    uint32_t mask[4], table[4], at[2], shift, first_bits;

    __device__ __forceinline__ explicit unit_facts(const attend_unit *unit)
    {
        const uint4 *words = reinterpret_cast<const uint4 *>(unit);
        const uint4 a = words[0], b = words[1], c = words[2];
        mask[0] = a.x, mask[1] = a.y, mask[2] = a.z, mask[3] = a.w;
        table[0] = b.x, table[1] = b.y, table[2] = b.z, table[3] = b.w;
        at[0] = c.x, at[1] = c.y, shift = c.z, first_bits = c.w;
    }
    __device__ __forceinline__ int bit(int i) const { return static_cast<int16_t>(at[i / 2] >> 16 * (i % 2)); }
    __device__ __forceinline__ int shift_of(int i) const { return i == 0 ? 0 : shift >> 8 * i & 255u; }
    __device__ __forceinline__ bool is_split() const { return (shift & 255u) != 0; }
    __device__ __forceinline__ uint32_t place(uint32_t window, int i) const
    {
        return (i == 0 ? window : window >> shift_of(i)) & mask[i] | table[i];
    }
};

/* Both halves of wide pair i of a token whose bits start at `bit` after `codes`. */
__device__ __forceinline__ uint32_t read_wide_pair(const unit_facts &unit, int i, uint32_t codes, int bit,
                                                   uint32_t book)
{
    const uint32_t window = read_window(codes, bit + unit.bit(i)), first = window & unit.mask[i] & 0xffffu,
                   second = window >> (unit.first_bits >> 8 * i & 255u) & unit.mask[i] >> 16;
    return read_half(book + (unit.table[i] & 0xffffu) + 2 * first)
           | read_half(book + (unit.table[i] >> 16) + 2 * second) << 16;
}

/* Each entry 32 times, so that every lane has a bank of its own: the place of entry e of lane l is 128 e + 4 l, and two
 * widths share a word. A thread writes four of the 32. */
__device__ inline void fill_planes(const attend_head &head, const uint16_t *tables, uint4 *to)
{
#pragma unroll 4
    for (int i = threadIdx.x; i < head.n_planes * 256 * 8; i += blockDim.x) {
        const int plane = i / (256 * 8), e = i / 8 % 256;
        const int low = head.plane_widths >> 8 * plane & 15, high = head.plane_widths >> (8 * plane + 4) & 15;
        const uint32_t word =
            __ldg(tables + low * 256 + e) | static_cast<uint32_t>(__ldg(tables + high * 256 + e)) << 16;
        to[i] = make_uint4(word, word, word, word);
    }
}

/* ---- numbers ------------------------------------------------------------------------------------ */

__device__ __forceinline__ uint32_t pack_halves(float low, float high)
{
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&pair);
}
__device__ __forceinline__ __half2 as_half2(uint32_t word) { return *reinterpret_cast<const __half2 *>(&word); }
__device__ __forceinline__ uint32_t as_word(__half2 pair) { return *reinterpret_cast<const uint32_t *>(&pair); }

/* p_x column_0 + p_y column_1: a pair through a 2 x 2 matrix. */
__device__ __forceinline__ uint32_t turn_pair(uint32_t pair, uint32_t column_0, uint32_t column_1)
{
    const __half2 p = as_half2(pair);
    return as_word(__hfma2(__low2half2(p), as_half2(column_0), __hmul2(__high2half2(p), as_half2(column_1))));
}

/* The 8 x 8 halves of a warp, rows for columns. */
__device__ __forceinline__ uint32_t transpose(uint32_t word)
{
    uint32_t out;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(word));
    return out;
}

/* ---- a block's values together ------------------------------------------------------------------- */

/* What f makes of a value and the same of other lanes: those whose numbers differ by multiples of 8. */
template <typename F> __device__ __forceinline__ float across_lanes(float value, F f)
{
    for (int mask = ATTEND_QUERIES; mask < 32; mask *= 2) value = f(value, __shfl_xor_sync(0xffffffffu, value, mask));
    return value;
}

/* The same over the warps of a block; lanes 0 to 7 of each warp have a value a query. scratch [warps][8]. */
template <typename F> __device__ __forceinline__ float across_warps(float value, float *scratch, float none, F f)
{
    const int lane = threadIdx.x & 31, n = blockDim.x / 32;
    if (lane < ATTEND_QUERIES) scratch[threadIdx.x / 32 * ATTEND_QUERIES + lane] = value;
    __syncthreads();
    value = none;
    for (int i = lane / ATTEND_QUERIES; i < n; i += 32 / ATTEND_QUERIES)
        value = f(value, scratch[i * ATTEND_QUERIES + lane % ATTEND_QUERIES]);
    value = across_lanes(value, f);
    __syncthreads();
    return value;
}

/* ---- launches -------------------------------------------------------------------------------------- */

/* Splits for a kernel of which so many blocks run at once on a multiprocessor. */
static inline int count_splits(const attend_args &args, int n_sequences, int resident)
{
    const int rows = args.call.n_kv_heads * args.n_query_groups * n_sequences,
              n = args.n_multiprocessors * resident / rows;
    return n < 1 ? 1 : n > args.max_pages ? args.max_pages : n;
}

/* Warps of a block, `most` at most, that each take so much of the shared memory that the tables leave. */
static inline int count_warps(const attend_args &args, size_t tables, size_t each, int most)
{
    int warps = most;
    while (warps > 1 && tables + each * warps > static_cast<size_t>(args.shared_bytes)) warps--;
    return warps;
}

static inline size_t larger_size(size_t a, size_t b) { return a > b ? a : b; }

/* ---- launches, one function a file ---------------------------------------------------------------- */

rb_status attend_scores(const attend_args &args, int n_sequences, cudaStream_t stream, rb_error *err);
rb_status attend_scores_product(const attend_args &args, int n_sequences, cudaStream_t stream, rb_error *err);
int attend_values_resident(const attend_side &values); /* blocks on a multiprocessor */
rb_status attend_exact(const attend_args &args, int n_sequences, cudaStream_t stream, rb_error *err);
rb_status attend_values(const attend_args &args, int n_sequences, cudaStream_t stream, rb_error *err);
rb_status attend_merge(const attend_args &args, int n_sequences, cudaStream_t stream, rb_error *err);

#endif
