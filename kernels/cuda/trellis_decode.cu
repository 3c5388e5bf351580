/* Restoring vectors of family trellis: see kernels/reference/trellis_codec.h for what they are,
 * kernels/cuda/trellis_image.h for the tables.
 *
 * Where bases are matrices a warp takes 32 vectors, or 16 of many dims. A lane looks up pairs of numbers and so has the
 * operands of the product in registers at once; nothing of them goes through shared memory. The basis, whose values are
 * fp16, is the other operand: products are exact, sums are f32. A lane gets eight neighbouring dims of a vector, adds
 * the centre and stores them.
 *
 * Where bases only scale there is no product: a lane has the same eight dims of every vector, with their facts in its
 * registers. */
#include "kernels/cuda/groups_matrix.cuh"
#include "kernels/cuda/trellis_device.cuh"

struct trellis_decode_args {
    codec_image image;     /* on the device */
    const uint8_t *packed; /* [n_heads] streams of [n][packed_bytes] u8 */
    void *x_hat;           /* [n_heads][n][head_dim] of the kernel's T; elements from head to head, vector to vector: */
    int64_t head_stride, token_stride, n;
    int warp_bytes; /* of shared memory */
};

enum { RUN = 8 }; /* dims that a lane stores at once */

/* ---- out ------------------------------------------------------------------------------------- */

__device__ __forceinline__ uint32_t round_two(float a, float b, __half) { return as_bits(__floats2half2_rn(a, b)); }
__device__ __forceinline__ uint32_t round_two(float a, float b, __nv_bfloat16)
{
    return as_bits(__floats2bfloat162_rn(a, b));
}

template <typename T> __device__ __forceinline__ void store_run(T *to, const float (&x)[RUN])
{
    __stcs(reinterpret_cast<uint4 *>(to), make_uint4(round_two(x[0], x[1], T()), round_two(x[2], x[3], T()),
                                                     round_two(x[4], x[5], T()), round_two(x[6], x[7], T())));
}
__device__ __forceinline__ void store_run(float *to, const float (&x)[RUN])
{
    __stcs(reinterpret_cast<float4 *>(to), make_float4(x[0], x[1], x[2], x[3]));
    __stcs(reinterpret_cast<float4 *>(to) + 1, make_float4(x[4], x[5], x[6], x[7]));
}

/* ---- bases that are matrices ----------------------------------------------------------------- */

/* In a kernel for up to STEPS steps of 16 coordinates: rows that a warp takes at a time, in blocks of 16, and warps of
 * a block. */
template <int STEPS> struct product_plan {
    enum { BLOCKS = STEPS > 8 ? 1 : 2, ROWS = 16 * BLOCKS, WARPS = 16 };
};

/* What a block has in shared memory. */
struct product_memory {
    const trellis_image_quad *quads;
    const float *centers;   /* [n_groups][TRELLIS_GROUP] */
    const uint4 *fragments; /* there, or in global memory */
    trellis_tables_memory tables;
};

/* The operands of the warp's rows. Of a step's quads lane l has number l % 4, of the rows l / 4 + 8 i. */
template <int STEPS, int BLOCKS>
__device__ __forceinline__ void look_up_rows(uint32_t (&a)[BLOCKS][STEPS][4], const product_memory &memory,
                                             const uint32_t *packed, int row_bits, int n_steps)
{
    const int lane = threadIdx.x & 31;
    const int first_row = (lane >> 2) * row_bits;
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        if (s >= n_steps) break;
        const quad_facts facts = read_quad(memory.quads, 4 * s + (lane & 3));
#pragma unroll
        for (int i = 0; i < 2 * BLOCKS; i++) {
            const uint32_t windows = read_windows(packed, first_row + 8 * i * row_bits + facts.bit);
            const uint2 numbers = facts.is_step_paired ? look_up_pairs(windows, facts, memory.tables.pairs)
                                                       : look_up_numbers(windows, facts, memory.tables.numbers);
            a[i / 2][s][i & 1] = numbers.x;
            a[i / 2][s][2 + (i & 1)] = numbers.y;
        }
    }
    __syncwarp(); /* for the products all lanes are at one place */
}

/* Sums of a group of 32 dims: of row block m lane l has, of row l / 4 in c[m][j][0 and 1], and of the row 8 below in
 * the other two, the dims 8 (l % 4) + 2 j and the next. */
template <int STEPS, int BLOCKS>
__device__ __forceinline__ void multiply_group(float (&c)[BLOCKS][4][4], const uint32_t (&a)[BLOCKS][STEPS][4],
                                               const uint4 *fragments, int n_steps)
{
    const uint4 *fragment = fragments + (threadIdx.x & 31);
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        if (s >= n_steps) break;
        const uint4 low = fragment[64 * s], high = fragment[64 * s + 32];
        const uint32_t b[4][2] = {{low.x, low.y}, {low.z, low.w}, {high.x, high.y}, {high.z, high.w}};
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int m = 0; m < BLOCKS; m++)
                if (s == 0) multiply_from(c[m][j], a[m][s], b[j][0], b[j][1], 0.0f);
                else multiply(c[m][j], a[m][s], b[j][0], b[j][1]);
    }
}

/* Row i of the lane: 0 or 1 of each row block. */
template <typename T, int BLOCKS>
__device__ __forceinline__ void store_row(T *to, const float (&c)[BLOCKS][4][4], int i, float gain, const float *center)
{
    const float4 first = reinterpret_cast<const float4 *>(center)[0],
                 second = reinterpret_cast<const float4 *>(center)[1];
    const float at_center[RUN] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
    float x[RUN];
#pragma unroll
    for (int k = 0; k < RUN; k++) x[k] = fmaf(gain, c[i / 2][k / 2][2 * (i & 1) + (k & 1)], at_center[k]);
    store_run(to, x);
}

/* IS_FAST: the fragments have room in shared memory. */
template <typename T, int STEPS, bool IS_FAST>
__global__ void __launch_bounds__(product_plan<STEPS>::WARPS * 32, 1)
    trellis_product_kernel(const trellis_decode_args args)
{
    enum { BLOCKS = product_plan<STEPS>::BLOCKS, ROWS = product_plan<STEPS>::ROWS };
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ float gains[TRELLIS_LEVELS];
    __shared__ head_streams streams;
    const trellis_image &own = args.image.trellis;
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, head_index = blockIdx.y, n_dims = own.n_dims,
              n_groups = own.n_groups, group_fragments = n_dims / TRELLIS_STEP * 64,
              n_fragments = n_groups * group_fragments;
    const trellis_image_head &head = own.heads[head_index];

    uint8_t *next = shared;
    trellis_image_quad *quads = reinterpret_cast<trellis_image_quad *>(next);
    next += n_dims / TRELLIS_QUAD * sizeof *quads;
    float *centers = reinterpret_cast<float *>(next);
    next += n_groups * TRELLIS_GROUP * sizeof *centers;
    const trellis_tables_memory tables = fill_tables(next, own);
    next += TRELLIS_TABLE_BYTES + trellis_pair_words(own.max_pair) * sizeof(uint32_t);
    uint4 *fragments = reinterpret_cast<uint4 *>(next);
    const uint4 *head_fragments =
        reinterpret_cast<const uint4 *>(own.fragments) + static_cast<int64_t>(head_index) * n_fragments;
    if (IS_FAST) {
        next += n_fragments * sizeof *fragments;
        block_copy(fragments, head_fragments, n_fragments);
    }
    uint32_t *packed = reinterpret_cast<uint32_t *>(next) + warp * (args.warp_bytes / 4);
    block_copy(reinterpret_cast<uint4 *>(quads),
               reinterpret_cast<const uint4 *>(own.quads) + head_index * (n_dims / TRELLIS_QUAD),
               n_dims / TRELLIS_QUAD);
    for (int i = threadIdx.x; i < n_groups * TRELLIS_GROUP; i += blockDim.x)
        centers[i] = i < n_dims ? own.centers[head_index * n_dims + i] : 0.0f;
    if (threadIdx.x < TRELLIS_LEVELS) gains[threadIdx.x] = head.gains[threadIdx.x];
    if (warp == 0) {
        const head_streams found = find_streams(args.image.heads, head_index, args.n);
        if (lane == 0) streams = found;
    }
    __syncthreads();

    const product_memory memory = {quads, centers, IS_FAST ? fragments : head_fragments, tables};
    const int packed_bytes = uniform(args.image.heads[head_index].packed_bytes), row_bits = 8 * packed_bytes,
              n_steps = uniform((head.n_coded + TRELLIS_STEP - 1) / TRELLIS_STEP), dim = RUN * (lane & 3);
    const gain_place at_gain = find_gain(head);
    const vector_run run = find_run(args.n);
    T *x_hat = static_cast<T *>(args.x_hat) + head_index * args.head_stride + (lane >> 2) * args.token_stride + dim;
    for (int64_t first = run.from; first < run.to; first += ROWS) {
        const int n_rows = static_cast<int>(min(static_cast<int64_t>(ROWS), run.to - first));
        warp_copy(reinterpret_cast<uint8_t *>(packed), args.packed + streams.packed + first * packed_bytes,
                  n_rows * packed_bytes);
        __syncwarp();
        uint32_t a[BLOCKS][STEPS][4];
        float gain[2 * BLOCKS];
#pragma unroll
        for (int i = 0; i < 2 * BLOCKS; i++)
            gain[i] = gains[read_level(packed, ((lane >> 2) + 8 * i) * row_bits, at_gain)];
        look_up_rows<STEPS, BLOCKS>(a, memory, packed, row_bits, n_steps);
        T *to = x_hat + first * args.token_stride;
#pragma unroll 1
        for (int group = 0; group < n_groups; group++) {
            float c[BLOCKS][4][4];
            multiply_group<STEPS, BLOCKS>(c, a, memory.fragments + group * group_fragments, n_steps);
            const int at = TRELLIS_GROUP * group;
#pragma unroll
            for (int i = 0; i < 2 * BLOCKS; i++)
                if ((lane >> 2) + 8 * i < n_rows && at + dim < n_dims)
                    store_row<T, BLOCKS>(to + 8 * i * args.token_stride + at, c, i, gain[i], centers + at + dim);
            __syncwarp();
        }
    }
}

template <typename T, int STEPS, bool IS_FAST>
static rb_status launch_product(trellis_decode_args &args, bool *is_launched, cudaStream_t stream, rb_error *err)
{
    typedef product_plan<STEPS> plan;
    const codec_image &image = args.image;
    const trellis_image &own = image.trellis;
    const size_t tables = own.n_dims / TRELLIS_QUAD * sizeof(trellis_image_quad)
                          + own.n_groups * TRELLIS_GROUP * sizeof(float) + trellis_tables_bytes(own);
    const size_t warp_bytes = round_up(static_cast<size_t>(plan::ROWS) * image.max_packed_bytes + 16, 16);
    const launch_request want = {"trellis decode kernel",
                                 plan::WARPS,
                                 tables + (IS_FAST ? trellis_image_fragment_words(own.n_dims) * sizeof(uint32_t) : 0),
                                 warp_bytes,
                                 count_tiles(args.n, plan::ROWS),
                                 static_cast<unsigned>(image.n_heads),
                                 1};
    args.warp_bytes = static_cast<int>(warp_bytes);
    *is_launched = true;
    return launch(trellis_product_kernel<T, STEPS, IS_FAST>, args, want, IS_FAST ? plan::WARPS / 2 : 1,
                  IS_FAST ? is_launched : nullptr, stream, err);
}

template <typename T, bool IS_FAST>
static rb_status launch_steps(trellis_decode_args &args, bool *is_launched, cudaStream_t stream, rb_error *err)
{
    const int max_coded = args.image.trellis.max_coded;
    if (max_coded <= 4 * TRELLIS_STEP) return launch_product<T, 4, IS_FAST>(args, is_launched, stream, err);
    if (max_coded <= 8 * TRELLIS_STEP) return launch_product<T, 8, IS_FAST>(args, is_launched, stream, err);
    return launch_product<T, 16, IS_FAST>(args, is_launched, stream, err);
}

/* ---- bases that only scale ------------------------------------------------------------------- */

enum { SCALE_WARPS = 8, SCALE_BLOCKS = 3, SCALE_ROWS = 32 };

/* What a lane knows of its dims. */
struct lane_run {
    int bit[2];          /* of its quads' windows */
    uint32_t shift[RUN]; /* of each window in its quad's */
    uint32_t table[RUN]; /* of each number: the first of its table */
    float scale[RUN], center[RUN];
};

__device__ __forceinline__ lane_run read_run(const trellis_image &own, int head_index, int dim)
{
    lane_run run;
    const int at = head_index * own.n_dims + dim;
#pragma unroll
    for (int q = 0; q < 2; q++) {
        const quad_facts facts = read_quad(own.quads, at / TRELLIS_QUAD + q);
        run.bit[q] = facts.bit;
        uint32_t shift = 0;
#pragma unroll
        for (int i = 0; i < TRELLIS_QUAD; i++) {
            if (i > 0) shift += facts.width[i];
            run.shift[4 * q + i] = shift;
            run.table[4 * q + i] = facts.width[i] * 256;
        }
    }
#pragma unroll
    for (int i = 0; i < RUN; i++) run.scale[i] = own.scales[at + i], run.center[i] = own.centers[at + i];
    return run;
}

template <typename T>
__global__ void __launch_bounds__(SCALE_WARPS * 32, SCALE_BLOCKS) trellis_scale_kernel(const trellis_decode_args args)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ float gains[TRELLIS_LEVELS];
    __shared__ head_streams streams;
    const trellis_image &own = args.image.trellis;
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, head_index = blockIdx.y, n_dims = own.n_dims;
    const trellis_image_head &head = own.heads[head_index];
    float *numbers = reinterpret_cast<float *>(shared);
    uint32_t *packed = reinterpret_cast<uint32_t *>(numbers + TRELLIS_TABLE_NUMBERS) + warp * (args.warp_bytes / 4);
    for (int i = threadIdx.x; i < TRELLIS_TABLE_NUMBERS; i += blockDim.x)
        numbers[i] = __half2float(__ushort_as_half(own.tables[i]));
    if (threadIdx.x < TRELLIS_LEVELS) gains[threadIdx.x] = head.gains[threadIdx.x];
    if (warp == 0) {
        const head_streams found = find_streams(args.image.heads, head_index, args.n);
        if (lane == 0) streams = found;
    }
    __syncthreads();

    int lanes = 1;
    while (lanes < n_dims / RUN) lanes *= 2;
    const int dim = RUN * (lane & (lanes - 1)), rows = 32 / lanes;
    const bool is_idle = dim >= n_dims;
    const lane_run mine = read_run(own, head_index, is_idle ? 0 : dim);
    const int packed_bytes = args.image.heads[head_index].packed_bytes;
    const gain_place at_gain = find_gain(head);
    const vector_run run = find_run(args.n);
    T *x_hat = static_cast<T *>(args.x_hat) + head_index * args.head_stride + dim;
    for (int64_t first = run.from; first < run.to; first += SCALE_ROWS) {
        const int n_rows = static_cast<int>(min(static_cast<int64_t>(SCALE_ROWS), run.to - first));
        warp_copy(reinterpret_cast<uint8_t *>(packed), args.packed + streams.packed + first * packed_bytes,
                  n_rows * packed_bytes);
        __syncwarp();
        T *to = x_hat + (first + lane / lanes) * args.token_stride;
        const int64_t step = rows * args.token_stride;
        if (!is_idle) {
#pragma unroll 2
            for (int row = lane / lanes; row < n_rows; row += rows, to += step) {
                const int row_bit = row * packed_bytes * 8;
                const float gain = gains[read_level(packed, row_bit, at_gain)];
                const uint32_t windows[2] = {read_windows(packed, row_bit + mine.bit[0]),
                                             read_windows(packed, row_bit + mine.bit[1])};
                float x[RUN];
#pragma unroll
                for (int i = 0; i < RUN; i++) {
                    const float number = numbers[mine.table[i] + (windows[i / 4] >> mine.shift[i] & 255u)];
                    x[i] = fmaf(gain, number * mine.scale[i], mine.center[i]);
                }
                store_run(to, x);
            }
        }
        __syncwarp();
    }
}

template <typename T> static rb_status launch_scale(trellis_decode_args &args, cudaStream_t stream, rb_error *err)
{
    const size_t warp_bytes = round_up(static_cast<size_t>(SCALE_ROWS) * args.image.max_packed_bytes + 16, 16);
    const launch_request want = {"trellis decode kernel",
                                 SCALE_WARPS,
                                 TRELLIS_TABLE_NUMBERS * sizeof(float),
                                 warp_bytes,
                                 count_tiles(args.n, SCALE_ROWS),
                                 static_cast<unsigned>(args.image.n_heads),
                                 1};
    args.warp_bytes = static_cast<int>(warp_bytes);
    return launch(trellis_scale_kernel<T>, args, want, 1, nullptr, stream, err);
}

/* ---- all ------------------------------------------------------------------------------------- */

template <typename T> static rb_status launch_type(trellis_decode_args &args, cudaStream_t stream, rb_error *err)
{
    bool is_launched = false;
    if (args.image.trellis.is_diagonal) return launch_scale<T>(args, stream, err);
    const rb_status st = launch_steps<T, true>(args, &is_launched, stream, err);
    if (st != RB_OK || is_launched) return st;
    return launch_steps<T, false>(args, &is_launched, stream, err);
}

rb_status trellis_decode(const codec_decode_call &call, rb_error *err)
{
    trellis_decode_args args = {
        call.image, call.packed, call.x_hat.data, call.x_hat.head_stride, call.x_hat.token_stride, call.n, 0};
    if (call.x_hat.type == CODEC_F16) return launch_type<__half>(args, call.stream, err);
    if (call.x_hat.type == CODEC_BF16) return launch_type<__nv_bfloat16>(args, call.stream, err);
    return launch_type<float>(args, call.stream, err);
}
