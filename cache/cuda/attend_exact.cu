/* Attention over a sequence's exact tokens. A block has a KV head, a warp one of its queries. */
#include "cache/cuda/attend_device.cuh"

enum { EXACT_PAIRS = 4 /* of dims that a lane has: 256 over 32 lanes */ };

/* Where a KV head's keys and values are in the exact area. */
struct exact_rows {
    const uint8_t *keys, *values;
    int64_t row_bytes;
};

/* The row of the exact token that is nth in order; -1: there are no more. */
__device__ __forceinline__ int exact_row(const attend_args &args, int length, int nth)
{
    const int window = args.call.queries.window, n_sink = args.call.n_sink,
              from = window > 0 ? max(length - window, 0) : 0, n_sinks = max(min(n_sink, length) - from, 0);
    if (nth < n_sinks) return from + nth;
    const int token = max(max(n_sink, length - args.call.n_recent), from) + nth - n_sinks;
    return token < length ? n_sink + (token - n_sink) % max(args.call.n_recent, 1) : -1;
}

__device__ __forceinline__ void load_pairs(float2 (&out)[EXACT_PAIRS], const uint8_t *row, int n_dims)
{
#pragma unroll
    for (int i = 0; i < EXACT_PAIRS; i++) {
        const int dim = 2 * (threadIdx.x & 31) + 64 * i;
        out[i] = dim < n_dims ? __half22float2(*reinterpret_cast<const __half2 *>(row + dim * 2)) : make_float2(0, 0);
    }
}

__global__ void __launch_bounds__(ATTEND_QUERIES * 32) exact_kernel(const __grid_constant__ attend_args args)
{
    const attend_place at = find_place(args);
    const int query = threadIdx.x / 32, lane = threadIdx.x & 31, n_dims = args.call.head_dim,
              n_values = args.call.value_dim;
    const int64_t to = (at.row * (args.n_splits + 1) + args.n_splits) * ATTEND_QUERIES + query,
                  heads = args.call.n_kv_heads;
    const ropebits_kv_vectors &from = args.call.queries.queries;
    float most = -INFINITY, sum = 0.0f;
    float2 q[EXACT_PAIRS], out[EXACT_PAIRS] = {};
    if (query >= count_queries(args, at)) return;
    const int64_t q_at = at.sequence * from.token_stride
                         + (at.head * args.queries_each + at.query_group * ATTEND_QUERIES + query) * from.head_stride;
#pragma unroll
    for (int i = 0; i < EXACT_PAIRS; i++) {
        const int dim = 2 * lane + 64 * i;
        q[i] = dim < n_dims ? make_float2(load_number(from.data, from.dtype, q_at + dim),
                                          load_number(from.data, from.dtype, q_at + dim + 1))
                            : make_float2(0, 0);
    }
    const uint8_t *area =
        static_cast<const uint8_t *>(args.call.pages.exact) + at.sequence * args.call.pages.exact_stride_bytes;
    const exact_rows rows = {area + at.head * n_dims * 2, area + (heads * n_dims + at.head * n_values) * 2,
                             heads * (n_dims + n_values) * 2};
    const float scale = static_cast<float>(args.call.scale), cap = static_cast<float>(args.call.queries.softcap);
#pragma unroll 2
    for (int nth = 0;; nth++) {
        const int row = exact_row(args, at.length, nth);
        if (row < 0) break;
        float2 key[EXACT_PAIRS], value[EXACT_PAIRS];
        float logit = 0.0f;
        load_pairs(key, rows.keys + row * rows.row_bytes, n_dims);
        load_pairs(value, rows.values + row * rows.row_bytes, n_values);
#pragma unroll
        for (int i = 0; i < EXACT_PAIRS; i++) logit += key[i].x * q[i].x + key[i].y * q[i].y;
        for (int mask = 16; mask > 0; mask /= 2) logit += __shfl_xor_sync(0xffffffffu, logit, mask);
        logit *= scale;
        if (cap > 0.0f) logit = cap * tanhf(logit / cap);
        const float now = fmaxf(most, logit), keep = exp2f((most - now) * LOG2_E),
                    weight = exp2f((logit - now) * LOG2_E);
        most = now;
        sum = sum * keep + weight;
#pragma unroll
        for (int i = 0; i < EXACT_PAIRS; i++)
            out[i] = make_float2(out[i].x * keep + weight * value[i].x, out[i].y * keep + weight * value[i].y);
    }
#pragma unroll
    for (int i = 0; i < EXACT_PAIRS; i++) {
        const int dim = 2 * lane + 64 * i;
        if (dim >= n_values) continue;
        float *sums = args.exact_sums + (at.row * n_values + dim) * ATTEND_QUERIES + query;
        sums[0] = out[i].x;
        sums[ATTEND_QUERIES] = out[i].y;
    }
    if (lane == 0) {
        args.split_max[to] = most;
        args.split_sum[to] = sum;
    }
}

rb_status attend_exact(const attend_args &args, int n_sequences, cudaStream_t stream, rb_error *err)
{
    attend_args call = args;
    call.place_splits = 1;
    exact_kernel<<<dim3(1, args.call.n_kv_heads * args.n_query_groups, n_sequences), ATTEND_QUERIES * 32, 0, stream>>>(
        call);
    return rb_cuda_launched("exact tokens kernel", err);
}
