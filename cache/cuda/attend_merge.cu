/* Splits and exact tokens to the output: see cache_cuda.h. A block has a KV head's queries. */
#include "cache/cuda/attend_device.cuh"

extern __shared__ __align__(128) uint8_t attend_shared[];

enum { MERGE_THREADS = 256 };

__device__ __forceinline__ void store_number(void *data, int dtype, int64_t at, float x)
{
    if (dtype == ROPEBITS_KV_F32) static_cast<float *>(data)[at] = x;
    else if (dtype == ROPEBITS_KV_F16) static_cast<__half *>(data)[at] = __float2half_rn(x);
    else {
        const uint32_t bits = __float_as_uint(x);
        static_cast<uint16_t *>(data)[at] =
            static_cast<uint16_t>(x == x ? (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16 : 0x7fc0u);
    }
}

/* What each split counts, and the whole: factors [n_splits + 1][8], of [8]: sum of all, and of packed tokens. */
__device__ inline void find_factors(float *factors, float *all, float *packed, const attend_args &args,
                                    const attend_place &at, bool has_exact)
{
    const int64_t first = at.row * (args.n_splits + 1) * ATTEND_QUERIES;
    const int q = threadIdx.x, n = args.n_splits + (has_exact ? 1 : 0);
    if (q < ATTEND_QUERIES) {
        float most = -INFINITY, sum = 0.0f;
        for (int s = 0; s < n; s++) most = fmaxf(most, args.split_max[first + s * ATTEND_QUERIES + q]);
        for (int s = 0; s < n; s++) {
            const float of_split = args.split_max[first + s * ATTEND_QUERIES + q],
                        factor = of_split > -INFINITY ? exp2f((of_split - most) * LOG2_E) : 0.0f;
            factors[s * ATTEND_QUERIES + q] = factor;
            if (s == args.n_splits) packed[q] = sum;
            sum += factor > 0.0f ? factor * args.split_sum[first + s * ATTEND_QUERIES + q] : 0.0f;
        }
        if (!has_exact) packed[q] = sum;
        all[q] = sum;
        const int head = at.query_group * ATTEND_QUERIES + q;
        if (args.call.queries.log_sum_exp && head < args.queries_each)
            args.call.queries.log_sum_exp[static_cast<int64_t>(at.sequence) * args.call.n_q_heads
                                          + at.head * args.queries_each + head] =
                sum > 0.0f ? most + logf(sum) : -INFINITY;
    }
    __syncthreads();
}

/* The sum of all splits in numbers: numbers [n_numbers][8]. */
__device__ inline void add_splits(float *numbers, const float *factors, const attend_args &args, const attend_place &at)
{
    const int size = args.n_numbers * ATTEND_QUERIES;
    const float *sums = args.sums + at.row * args.n_splits * size;
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        float sum = 0.0f;
#pragma unroll 8
        for (int s = 0; s < args.n_splits; s++) {
            const float factor = factors[s * ATTEND_QUERIES + i % ATTEND_QUERIES];
            if (factor > 0.0f) sum += factor * sums[static_cast<int64_t>(s) * size + i];
        }
        numbers[i] = sum;
    }
    __syncthreads();
}

/* Dim of the packed tokens' sum, for all queries: numbers through the matrix, and the centre. */
__device__ __forceinline__ void read_dim(float (&out)[ATTEND_QUERIES], const float *numbers, const float *packed,
                                         const attend_args &args, const attend_head &head, int dim)
{
    const int n = args.call.value_dim;
    if (args.call.values.reader == ATTEND_F16) {
#pragma unroll
        for (int q = 0; q < ATTEND_QUERIES; q++) out[q] = numbers[dim * ATTEND_QUERIES + q];
        return;
    }
    const float *matrix = args.call.values.matrix + head.first_matrix + dim;
    const float center = matrix[n * n];
#pragma unroll
    for (int q = 0; q < ATTEND_QUERIES; q++) out[q] = center * packed[q];
#pragma unroll 8
    for (int i = 0; i < n; i++) {
        const float entry = matrix[i * n];
        const float4 *sums = reinterpret_cast<const float4 *>(numbers + i * ATTEND_QUERIES);
        const float4 a = sums[0], b = sums[1];
        out[0] += entry * a.x, out[1] += entry * a.y, out[2] += entry * a.z, out[3] += entry * a.w;
        out[4] += entry * b.x, out[5] += entry * b.y, out[6] += entry * b.z, out[7] += entry * b.w;
    }
}

__global__ void __launch_bounds__(MERGE_THREADS) merge_kernel(const __grid_constant__ attend_args args, int has_exact)
{
    attend_place at = find_place(args);
    const int n_queries = count_queries(args, at), n = args.call.value_dim;
    float *numbers = reinterpret_cast<float *>(attend_shared), *all = numbers + args.n_numbers * ATTEND_QUERIES,
          *packed = all + ATTEND_QUERIES, *factors = packed + ATTEND_QUERIES;
    find_factors(factors, all, packed, args, at, has_exact);
    add_splits(numbers, factors, args, at);
    const ropebits_kv_vectors &out = args.call.queries.out;
    for (int dim = threadIdx.x; dim < n; dim += blockDim.x) {
        float sums[ATTEND_QUERIES];
        read_dim(sums, numbers, packed, args, args.call.values.heads[at.head], dim);
#pragma unroll
        for (int q = 0; q < ATTEND_QUERIES; q++) {
            if (q >= n_queries) break;
            const float factor = has_exact ? factors[args.n_splits * ATTEND_QUERIES + q] : 0.0f;
            if (factor > 0.0f) sums[q] += factor * args.exact_sums[(at.row * n + dim) * ATTEND_QUERIES + q];
            const int q_head = at.head * args.queries_each + at.query_group * ATTEND_QUERIES + q;
            store_number(out.data, out.dtype, at.sequence * out.token_stride + q_head * out.head_stride + dim,
                         all[q] > 0.0f ? sums[q] / all[q] : 0.0f);
        }
    }
}

rb_status attend_merge(const attend_args &args, int n_sequences, cudaStream_t stream, rb_error *err)
{
    const int has_exact = args.has_exact;
    const size_t bytes = static_cast<size_t>(args.n_numbers + 2 + args.n_splits + 1) * ATTEND_QUERIES * sizeof(float);
    const rb_status st = rb_cuda_status(
        cudaFuncSetAttribute(merge_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "shared memory of the merge kernel", err);
    if (st != RB_OK) return st;
    merge_kernel<<<dim3(1, args.call.n_kv_heads * args.n_query_groups, n_sequences), MERGE_THREADS, bytes, stream>>>(
        args, has_exact);
    return rb_cuda_launched("merge kernel", err);
}
