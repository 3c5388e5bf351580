/* Products of a matrix with at most 8 vectors, as decoding has them: y [m][n] = x [m][k] w[n][k]^T in bf16, sums in
 * f32.
 *
 * Such a product takes as long as reading w, so w is read once, in pieces of 16 bytes. The tensor cores do the sums,
 * whatever m is: 16 rows of w are the left operand of m16n8k16, and the vectors, the first one in place of those that
 * are not there, the right one. Which of the k numbers meets which place of the operands does not matter as long as
 * both sides agree. So a lane takes 8 neighbours of its row for two products, and nothing is moved between lanes:
 *
 *   lane      row of w, and row + 8      vector        numbers of 32
 *   4 g + t   g                          g             8 t .. 8 t + 7
 *
 * A block has 16 rows. Its warps share out k in turn, and their sums are added in order, so results are the same every
 * time. The kernel may begin while the one that makes x is at work, and reads its first weights meanwhile. Four steps
 * of a warp are on their way at once: 24 warps a multiprocessor with 4 KiB each keep HBM busy. */
#include "model/cuda/layer_cuda.cuh"

enum {
    ROWS = 16, /* of w, a block's */
    VECTORS = LAYER_CUDA_FEW_ROWS,
    WARPS = 8,
    BLOCKS = 3, /* of a multiprocessor: leaves registers for the steps on their way */
    STEP = 32,  /* numbers of k that a warp takes at a time */
    AHEAD = 4   /* steps on their way */
};

/* 8 numbers of both rows of w. */
struct weight_words {
    uint4 low, high;
};

/* w is read once and not kept. */
__device__ __forceinline__ weight_words load_weights(const __nv_bfloat16 *low, const __nv_bfloat16 *high, int64_t at)
{
    return {__ldcs(reinterpret_cast<const uint4 *>(low + at)), __ldcs(reinterpret_cast<const uint4 *>(high + at))};
}
__device__ __forceinline__ uint4 load_vector(const __nv_bfloat16 *vector, int64_t at)
{
    return __ldcg(reinterpret_cast<const uint4 *>(vector + at));
}

__device__ __forceinline__ void multiply_add(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                             uint32_t b0, uint32_t b1)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#endif
}

__device__ __forceinline__ void add_step(float (&sums)[4], const weight_words &w, const uint4 &x)
{
    multiply_add(sums, w.low.x, w.high.x, w.low.y, w.high.y, x.x, x.y);
    multiply_add(sums, w.low.z, w.high.z, w.low.w, w.high.w, x.z, x.w);
}

/* The kernel may have begun while the one before it, which makes x, is at work: until here it has read weights only. */
__device__ __forceinline__ void wait_for_vectors()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

template <typename T>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS) few_rows_kernel(T *__restrict__ y,                   // [m][n]
                                                                      const __nv_bfloat16 *__restrict__ x, // [m][k]
                                                                      const __nv_bfloat16 *__restrict__ w, // [n][k]
                                                                      bool adds, int m, int64_t n, int64_t k)
{
    __shared__ float partial[WARPS][VECTORS][ROWS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * ROWS + g;
    /* Where there is no such row or vector, the first one stands in: what comes of it is not written. */
    const __nv_bfloat16 *low = w + (row < n ? row : 0) * k + 8 * t, *high = w + (row + 8 < n ? row + 8 : 0) * k + 8 * t,
                        *vector = x + (g < m ? g : 0) * k + 8 * t;
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};

    constexpr int64_t ROUND = AHEAD * WARPS * STEP;
    const int64_t last_round = k - (ROUND - (WARPS - 1) * STEP); /* where the last whole round of a warp can begin */
    weight_words words[AHEAD];
    int64_t at = warp * STEP;
    if (at <= last_round) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) words[i] = load_weights(low, high, at + i * WARPS * STEP);
    }
    wait_for_vectors();
    while (at <= last_round) {
        uint4 numbers[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) numbers[i] = load_vector(vector, at + i * WARPS * STEP);
#pragma unroll
        for (int i = 0; i < AHEAD; i++) add_step(sums, words[i], numbers[i]);
        at += ROUND;
        if (at > last_round) break;
#pragma unroll
        for (int i = 0; i < AHEAD; i++) words[i] = load_weights(low, high, at + i * WARPS * STEP);
    }
    for (; at < k; at += WARPS * STEP) {
        const bool is_there = at + 8 * t < k;
        weight_words rest = {};
        uint4 numbers = {};
        if (is_there) rest = load_weights(low, high, at), numbers = load_vector(vector, at);
        add_step(sums, rest, numbers);
    }

    partial[warp][2 * t][g] = sums[0];
    partial[warp][2 * t + 1][g] = sums[1];
    partial[warp][2 * t][g + 8] = sums[2];
    partial[warp][2 * t + 1][g + 8] = sums[3];
    __syncthreads();
    const int out_row = threadIdx.x % ROWS, out_vector = threadIdx.x / ROWS;
    const int64_t column = static_cast<int64_t>(blockIdx.x) * ROWS + out_row;
    if (out_vector >= m || column >= n) return;
    float sum = 0.0f;
    for (int i = 0; i < WARPS; i++) sum += partial[i][out_vector][out_row];
    T *to = y + out_vector * n + column;
    put(to, adds ? get(to) + sum : sum);
}

static bool is_aligned(const void *at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; }

/* A product that is launched so may begin while the kernel before it still runs, once all blocks of that one have said
 * that it may (may_begin_next in layer_cuda.cuh) or are done. GPUs before 9.0 take no notice. */
template <typename T>
static rb_status launch(T *y, const void *x, const void *w, bool adds, int m, int64_t n, int64_t k, cudaStream_t stream,
                        rb_error *err)
{
    cudaLaunchAttribute early = {};
    cudaLaunchConfig_t config = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3(static_cast<unsigned>((n + ROWS - 1) / ROWS));
    config.blockDim = dim3(WARPS * 32);
    config.stream = stream;
    config.attrs = &early;
    config.numAttrs = 1;
    return rb_cuda_status(cudaLaunchKernelEx(&config, few_rows_kernel<T>, y, static_cast<const __nv_bfloat16 *>(x),
                                             static_cast<const __nv_bfloat16 *>(w), adds, m, n, k),
                          "kernel for products of few rows", err);
}

rb_status few_rows_run(void *y, bool is_f32, bool adds, const void *x, const void *w, int64_t m, int64_t n, int64_t k,
                       void *stream, rb_error *err)
{
    const int n_vectors = static_cast<int>(m);
    if (m < 0 || m > VECTORS || k <= 0 || k % 8 != 0 || !is_aligned(x) || !is_aligned(w))
        return rb_fail(err, RB_EINVAL,
                       "product of few rows: %lld rows of %lld, expected at most %d rows of a multiple of 8, aligned "
                       "to 16 bytes",
                       static_cast<long long>(m), static_cast<long long>(k), static_cast<int>(VECTORS));
    if (m == 0 || n == 0) return RB_OK;
    if (is_f32) return launch(static_cast<float *>(y), x, w, adds, n_vectors, n, k, as_stream(stream), err);
    return launch(static_cast<__nv_bfloat16 *>(y), x, w, adds, n_vectors, n, k, as_stream(stream), err);
}
