/* Attention over a sequence's exact tokens: one block of the scores kernels' grid does it beside the others. */
#ifndef RB_CACHE_CUDA_ATTEND_EXACT_CUH
#define RB_CACHE_CUDA_ATTEND_EXACT_CUH

#include "cache/cuda/attend_device.cuh"

enum { EXACT_LANE_DIMS = 8 }; /* dims of a lane: 256 over 32 lanes */

/* Shared memory that it takes: queries, and the sum of all warps. */
static inline size_t exact_bytes(const attend_call &call)
{
    return static_cast<size_t>(call.head_dim + call.value_dim + 2) * ATTEND_QUERIES * sizeof(float);
}

/* Dims of a lane: 2 lane + 64 i and the next. */
struct exact_rows {
    const uint8_t *area;
    int64_t row_bytes, key_at, value_at;
};

/* Token of the exact area that is nth in order, and its row; -1: there are no more. */
__device__ __forceinline__ int exact_row(const attend_args &args, const attend_place &at, int nth)
{
    const int window = args.call.queries.window, n_sink = args.call.n_sink,
              from = window > 0 ? max(at.length - window, 0) : 0, n_sinks = max(min(n_sink, at.length) - from, 0);
    if (nth < n_sinks) return from + nth;
    const int token = max(max(n_sink, at.length - args.call.n_recent), from) + nth - n_sinks;
    return token < at.length ? n_sink + (token - n_sink) % max(args.call.n_recent, 1) : -1;
}

__device__ __forceinline__ void load_pairs(float (&out)[EXACT_LANE_DIMS], const uint8_t *row, int n_dims)
{
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < EXACT_LANE_DIMS / 2; i++) {
        float2 pair = make_float2(0.0f, 0.0f);
        if (2 * lane + 64 * i < n_dims)
            pair = __half22float2(*reinterpret_cast<const __half2 *>(row + (2 * lane + 64 * i) * 2));
        out[2 * i] = pair.x;
        out[2 * i + 1] = pair.y;
    }
}

/* A warp's part of the tokens: largest logit, sum and weighed values of each query, over the largest so far. */
struct exact_sum {
    float most[ATTEND_QUERIES], sum[ATTEND_QUERIES], values[ATTEND_QUERIES][EXACT_LANE_DIMS];
};

__device__ __forceinline__ void add_token(exact_sum &to, const attend_args &args, const exact_rows &rows, int row,
                                          const float *queries)
{
    const int lane = threadIdx.x & 31, n_dims = args.call.head_dim;
    const float scale = static_cast<float>(args.call.scale), cap = static_cast<float>(args.call.queries.softcap);
    float key[EXACT_LANE_DIMS], value[EXACT_LANE_DIMS];
    load_pairs(key, rows.area + row * rows.row_bytes + rows.key_at, n_dims);
    load_pairs(value, rows.area + row * rows.row_bytes + rows.value_at, args.call.value_dim);
#pragma unroll
    for (int q = 0; q < ATTEND_QUERIES; q++) {
        float logit = 0.0f;
#pragma unroll
        for (int i = 0; i < EXACT_LANE_DIMS; i++) {
            const int dim = 2 * lane + 64 * (i / 2) + i % 2;
            if (dim < n_dims) logit += key[i] * queries[q * n_dims + dim];
        }
        for (int mask = 16; mask > 0; mask /= 2) logit += __shfl_xor_sync(0xffffffffu, logit, mask);
        logit *= scale;
        if (cap > 0.0f) logit = cap * tanhf(logit / cap);
        const float most = fmaxf(to.most[q], logit), keep = exp2f((to.most[q] - most) * LOG2_E),
                    weight = exp2f((logit - most) * LOG2_E);
        to.most[q] = most;
        to.sum[q] = to.sum[q] * keep + weight;
#pragma unroll
        for (int i = 0; i < EXACT_LANE_DIMS; i++) to.values[q][i] = to.values[q][i] * keep + weight * value[i];
    }
}

/* The warps' sums, one after another, to the call's. */
__device__ __forceinline__ void write_exact(const exact_sum &from, const attend_args &args, const attend_place &at,
                                            float *shared)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, n_dims = args.call.value_dim;
    float *most = shared, *sum = most + ATTEND_QUERIES, *values = sum + ATTEND_QUERIES;
    for (int w = 0; w < static_cast<int>(blockDim.x / 32); w++) {
        if (w == warp)
#pragma unroll
            for (int q = 0; q < ATTEND_QUERIES; q++) {
                const float before = w == 0 ? -INFINITY : most[q], now = fmaxf(before, from.most[q]);
                const float keep = before > -INFINITY ? exp2f((before - now) * LOG2_E) : 0.0f,
                            take = from.most[q] > -INFINITY ? exp2f((from.most[q] - now) * LOG2_E) : 0.0f;
#pragma unroll
                for (int i = 0; i < EXACT_LANE_DIMS; i++) {
                    const int dim = 2 * lane + 64 * (i / 2) + i % 2;
                    if (dim >= n_dims) continue;
                    float *to = values + dim * ATTEND_QUERIES + q;
                    *to = (w == 0 ? 0.0f : *to * keep) + from.values[q][i] * take;
                }
                __syncwarp();
                if (lane == 0) {
                    sum[q] = (w == 0 ? 0.0f : sum[q] * keep) + from.sum[q] * take;
                    most[q] = now;
                }
                __syncwarp();
            }
        __syncthreads();
    }
    float *out = args.exact_sums + at.row * n_dims * ATTEND_QUERIES;
    for (int i = threadIdx.x; i < n_dims * ATTEND_QUERIES; i += blockDim.x) out[i] = values[i];
    if (threadIdx.x < ATTEND_QUERIES) {
        const int64_t to = (at.row * (args.n_splits + 1) + args.n_splits) * ATTEND_QUERIES + threadIdx.x;
        args.split_max[to] = most[threadIdx.x];
        args.split_sum[to] = sum[threadIdx.x];
    }
}

static __device__ __noinline__ void attend_exact_tokens(const attend_args &args, const attend_place &at, float *shared)
{
    const int n_dims = args.call.head_dim, n_queries = count_queries(args, at);
    const ropebits_kv_vectors &from = args.call.queries.queries;
    float *queries = shared;
    for (int i = threadIdx.x; i < ATTEND_QUERIES * n_dims; i += blockDim.x) {
        const int q_head = at.head * args.queries_each + at.query_group * ATTEND_QUERIES + i / n_dims;
        queries[i] = i / n_dims < n_queries
                         ? load_number(from.data, from.dtype,
                                       at.sequence * from.token_stride + q_head * from.head_stride + i % n_dims)
                         : 0.0f;
    }
    __syncthreads();
    const int n_heads = args.call.n_kv_heads;
    const exact_rows rows = {
        static_cast<const uint8_t *>(args.call.pages.exact) + at.sequence * args.call.pages.exact_stride_bytes,
        static_cast<int64_t>(n_heads) * (n_dims + args.call.value_dim) * 2, static_cast<int64_t>(at.head) * n_dims * 2,
        (static_cast<int64_t>(n_heads) * n_dims + static_cast<int64_t>(at.head) * args.call.value_dim) * 2};
    exact_sum sum;
#pragma unroll
    for (int q = 0; q < ATTEND_QUERIES; q++) {
        sum.most[q] = -INFINITY;
        sum.sum[q] = 0.0f;
#pragma unroll
        for (int i = 0; i < EXACT_LANE_DIMS; i++) sum.values[q][i] = 0.0f;
    }
    for (int nth = threadIdx.x / 32;; nth += blockDim.x / 32) {
        const int row = exact_row(args, at, nth);
        if (row < 0) break;
        add_token(sum, args, rows, row, queries);
    }
    write_exact(sum, args, at, shared + ATTEND_QUERIES * n_dims);
}

#endif
