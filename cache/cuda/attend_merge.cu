/* Splits and exact tokens to the output: see cache_cuda.h. A block has some dims of a KV head's queries. */
#include "cache/cuda/attend_device.cuh"

extern __shared__ __align__(128) uint8_t attend_shared[];

enum { MERGE_THREADS = 1024, MERGE_DIMS = 32 /* of a block */ };

/* Of 8 queries, in shared memory. */
struct merge_tables {
    float *numbers;             /* [n_numbers][8]: the sum of all splits */
    float *factors;             /* [n_splits + 1][8]: what a split counts */
    float *most, *all, *packed; /* [8]: the largest logit; sums of weights of all tokens, and of packed ones */
    float *parts;               /* [MERGE_THREADS][8] */
};

static __host__ __device__ size_t merge_floats(const attend_args &args)
{
    return static_cast<size_t>(args.n_numbers + args.n_splits + 1 + 3 + MERGE_THREADS) * ATTEND_QUERIES;
}

__device__ __forceinline__ merge_tables find_tables(const attend_args &args)
{
    merge_tables at;
    at.numbers = reinterpret_cast<float *>(attend_shared);
    at.factors = at.numbers + args.n_numbers * ATTEND_QUERIES;
    at.most = at.factors + (args.n_splits + 1) * ATTEND_QUERIES;
    at.all = at.most + ATTEND_QUERIES;
    at.packed = at.all + ATTEND_QUERIES;
    at.parts = at.packed + ATTEND_QUERIES;
    return at;
}

/* A thread has some splits of one query. */
__device__ inline void find_factors(const merge_tables &tables, const attend_args &args, const attend_place &at)
{
    enum { HELD = 3 };
    const int64_t first = at.row * (args.n_splits + 1) * ATTEND_QUERIES;
    const int n_packed = args.n_splits * ATTEND_QUERIES, n = n_packed + args.has_exact * ATTEND_QUERIES;
    const auto larger = [](float a, float b) { return fmaxf(a, b); };
    const auto add = [](float a, float b) { return a + b; };
    float split_max[HELD], split_sum[HELD], most = -INFINITY, packed = 0.0f, exact = 0.0f;
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        const int i = threadIdx.x + k * blockDim.x;
        split_max[k] = i < n ? args.split_max[first + i] : -INFINITY;
        split_sum[k] = i < n ? args.split_sum[first + i] : 0.0f;
        most = fmaxf(most, split_max[k]);
    }
    most = across_warps(across_lanes(most, larger), tables.parts, -INFINITY, larger);
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        const int i = threadIdx.x + k * blockDim.x;
        const float factor = split_max[k] > -INFINITY ? exp2f((split_max[k] - most) * LOG2_E) : 0.0f;
        if (i < n) tables.factors[i] = factor;
        if (i < n_packed) packed += factor > 0.0f ? factor * split_sum[k] : 0.0f;
        else if (i < n) exact += factor > 0.0f ? factor * split_sum[k] : 0.0f;
    }
    packed = across_warps(across_lanes(packed, add), tables.parts, 0.0f, add);
    exact = across_warps(across_lanes(exact, add), tables.parts, 0.0f, add);
    if (threadIdx.x < ATTEND_QUERIES) {
        tables.most[threadIdx.x] = most;
        tables.packed[threadIdx.x] = packed;
        tables.all[threadIdx.x] = packed + exact;
    }
    __syncthreads();
}

/* What a thread adds up: its number's sums of the first splits, asked for before it is known what they count. */
struct split_sums {
    enum { HELD = 16 };
    float held[HELD];

    __device__ __forceinline__ split_sums(const attend_args &args, const attend_place &at)
    {
        const int size = args.n_numbers * ATTEND_QUERIES;
        const float *sums = args.sums + at.row * args.n_splits * size + threadIdx.x;
#pragma unroll
        for (int s = 0; s < HELD; s++)
            held[s] =
                s < args.n_splits && static_cast<int>(threadIdx.x) < size ? sums[static_cast<int64_t>(s) * size] : 0.0f;
    }
};

/* A split without pages has written no sums. */
__device__ __forceinline__ float weigh_split(const merge_tables &tables, int split, int i, float sum)
{
    const float factor = tables.factors[split * ATTEND_QUERIES + i % ATTEND_QUERIES];
    return factor > 0.0f ? factor * sum : 0.0f;
}

__device__ inline void add_splits(const merge_tables &tables, const split_sums &first, const attend_args &args,
                                  const attend_place &at)
{
    const int size = args.n_numbers * ATTEND_QUERIES;
    const float *sums = args.sums + at.row * args.n_splits * size;
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        float sum = 0.0f;
        int s = 0;
        if (i == static_cast<int>(threadIdx.x)) {
#pragma unroll
            for (int k = 0; k < split_sums::HELD; k++)
                if (k < args.n_splits) sum += weigh_split(tables, k, i, first.held[k]);
            s = split_sums::HELD;
        }
#pragma unroll 8
        for (; s < args.n_splits; s++) sum += weigh_split(tables, s, i, sums[static_cast<int64_t>(s) * size + i]);
        tables.numbers[i] = sum;
    }
    __syncthreads();
}

/* Dims of the packed tokens' sum, for all queries: numbers through the matrix. A thread has a dim, and every
 * step-th number from `first` on; parts are added up by the caller. */
__device__ __forceinline__ void multiply_matrix(float (&out)[ATTEND_QUERIES], const merge_tables &tables,
                                                const float *matrix, int n, int dim, int first, int step)
{
#pragma unroll
    for (int q = 0; q < ATTEND_QUERIES; q++) out[q] = 0.0f;
#pragma unroll 8
    for (int i = first; i < n; i += step) {
        const float entry = matrix[i * n + dim];
        const float4 *sums = reinterpret_cast<const float4 *>(tables.numbers + i * ATTEND_QUERIES);
        const float4 a = sums[0], b = sums[1];
        out[0] += entry * a.x, out[1] += entry * a.y, out[2] += entry * a.z, out[3] += entry * a.w;
        out[4] += entry * b.x, out[5] += entry * b.y, out[6] += entry * b.z, out[7] += entry * b.w;
    }
}

/* numbers [n_dims][8] become dims, MERGE_DIMS of them, from `first` on. */
__device__ inline void turn_into_dims(const merge_tables &tables, const attend_args &args, const attend_head &head,
                                      int first)
{
    const int n = args.call.value_dim, n_parts = blockDim.x / MERGE_DIMS, dim = threadIdx.x % MERGE_DIMS,
              part = threadIdx.x / MERGE_DIMS;
    const float *matrix = args.call.values.matrix + head.first_matrix;
    float sums[ATTEND_QUERIES] = {};
    if (first + dim < n) multiply_matrix(sums, tables, matrix, n, first + dim, part, n_parts);
    for (int q = 0; q < ATTEND_QUERIES; q++) tables.parts[threadIdx.x * ATTEND_QUERIES + q] = sums[q];
    __syncthreads();
    const int at = threadIdx.x / ATTEND_QUERIES, q = threadIdx.x % ATTEND_QUERIES;
    if (at < MERGE_DIMS && first + at < n) {
        float sum = matrix[n * n + first + at] * tables.packed[q];
        for (int p = 0; p < n_parts; p++) sum += tables.parts[(p * MERGE_DIMS + at) * ATTEND_QUERIES + q];
        tables.numbers[(first + at) * ATTEND_QUERIES + q] = sum;
    }
    __syncthreads();
}

__global__ void __launch_bounds__(MERGE_THREADS) merge_kernel(const __grid_constant__ attend_args args)
{
    const attend_place at = find_place(args);
    const int n_queries = count_queries(args, at), n = args.call.value_dim, first = blockIdx.x * MERGE_DIMS;
    const merge_tables tables = find_tables(args);
    const split_sums first_sums(args, at);
    find_factors(tables, args, at);
    add_splits(tables, first_sums, args, at);
    if (args.call.values.reader != ATTEND_F16) turn_into_dims(tables, args, args.call.values.heads[at.head], first);
    const ropebits_kv_vectors &out = args.call.queries.out;
    for (int i = threadIdx.x; i < MERGE_DIMS * n_queries; i += blockDim.x) {
        const int q = i / MERGE_DIMS, dim = first + i % MERGE_DIMS,
                  q_head = at.head * args.queries_each + at.query_group * ATTEND_QUERIES + q;
        if (dim >= n) continue;
        const float factor = args.has_exact ? tables.factors[args.n_splits * ATTEND_QUERIES + q] : 0.0f;
        float sum = tables.numbers[dim * ATTEND_QUERIES + q];
        if (factor > 0.0f) sum += factor * args.exact_sums[(at.row * n + dim) * ATTEND_QUERIES + q];
        store_number(out.data, out.dtype, at.sequence * out.token_stride + q_head * out.head_stride + dim,
                     tables.all[q] > 0.0f ? sum / tables.all[q] : 0.0f);
    }
    if (args.call.queries.log_sum_exp && first == 0 && threadIdx.x < n_queries)
        args.call.queries.log_sum_exp[static_cast<int64_t>(at.sequence) * args.call.n_q_heads
                                      + at.head * args.queries_each + at.query_group * ATTEND_QUERIES + threadIdx.x] =
            tables.all[threadIdx.x] > 0.0f ? tables.most[threadIdx.x] + logf(tables.all[threadIdx.x]) : -INFINITY;
}

rb_status attend_merge(const attend_args &args, int n_sequences, cudaStream_t stream, rb_error *err)
{
    attend_args call = args;
    call.place_splits = 1;
    const int bytes = static_cast<int>(merge_floats(args) * sizeof(float));
    const rb_status st =
        rb_cuda_status(cudaFuncSetAttribute(merge_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
                       "shared memory of the merge kernel", err);
    if (st != RB_OK) return st;
    merge_kernel<<<dim3((args.call.value_dim + MERGE_DIMS - 1) / MERGE_DIMS, args.call.n_kv_heads * args.n_query_groups,
                        n_sequences),
                   MERGE_THREADS, bytes, stream>>>(call);
    return rb_cuda_launched("merge kernel", err);
}
