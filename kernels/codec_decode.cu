/* Restoring vectors: see kernels/codec_cuda.h for the contract and kernels/codec_image.h for the layout.
 *
 * A warp takes 32 vectors of one head. First one vector a lane: codes to centroids, as fp16 operands in shared memory, and the factor
 * norm / |centroids| of each group. Then the inverse rotations on the tensor cores; results, in coding order, go over the operands they came from, and
 * from there to the dims of the vector. For f32 output centroids are split into high and low like the rotation, and results have a place of their own. */
#include "kernels/codec_unpack.cuh"

struct decode_args {
    codec_device_image image;
    const uint8_t *packed;
    const uint16_t *norms;
    void *x_hat;
    int64_t head_stride, token_stride, n;
    int fragment_bytes, warp_bytes;
};

/* Centroids are at most 1 and can be small: brought up so that fp16 keeps their bits. */
static constexpr float CENTROID_SCALE = 64.0f;

template <typename T> struct output_traits { enum { IS_EXACT = 0 }; };
template <> struct output_traits<float> { enum { IS_EXACT = 1 }; };

struct warp_memory {
    __half *tile, *tile_low;    /* [WARP_ROWS][head_dim + ROW_PAD]: centroids in coding order */
    float *result;              /* f32 output: [WARP_ROWS][head_dim + 4] */
    float *factor;              /* [n_groups][WARP_ROWS] */
    uint16_t *norms;
    uint32_t *packed;           /* WARP_ROWS * packed_bytes, and two words */
};

/* ---- codes to centroids ------------------------------------------------------------------------------------------------------- */

template <bool IS_EXACT>
__device__ __forceinline__ void unpack_rows(const warp_memory &memory, const codec_image_head &head, const uint32_t *pairs, const float *books, int head_dim)
{
    const int lane = threadIdx.x & 31, stride = head_dim + ROW_PAD;
    bit_reader reader = start_reading(memory.packed, lane * head.packed_bytes);
    float squares = 0.0f;
    for (int chunk = 0; chunk < head_dim / 8; chunk++) {
        uint32_t high[4], low[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const pair_facts pair = read_pair(pairs[4 * chunk + i]);
            const float2 y = read_centroids(reader, pair, books);
            squares = fmaf(y.x, y.x, fmaf(y.y, y.y, squares));
            const __half2 rounded = __floats2half2_rn(y.x * CENTROID_SCALE, y.y * CENTROID_SCALE);
            high[i] = as_bits(rounded);
            if (IS_EXACT) {
                const float2 back = __half22float2(rounded);
                low[i] = as_bits(__floats2half2_rn(y.x * CENTROID_SCALE - back.x, y.y * CENTROID_SCALE - back.y));
            }
            if (pair.is_last) {
                const float norm = __half2float(__ushort_as_half(memory.norms[lane * head.n_groups + pair.group]));
                memory.factor[pair.group * WARP_ROWS + lane] = squares > 0.0f ? norm / (sqrtf(squares) * CENTROID_SCALE) : 0.0f;
                squares = 0.0f;
            }
        }
        *reinterpret_cast<uint4 *>(memory.tile + lane * stride + 8 * chunk) = make_uint4(high[0], high[1], high[2], high[3]);
        if (IS_EXACT) *reinterpret_cast<uint4 *>(memory.tile_low + lane * stride + 8 * chunk) = make_uint4(low[0], low[1], low[2], low[3]);
    }
}

/* ---- inverse rotation --------------------------------------------------------------------------------------------------------- */

__device__ __forceinline__ void put_pair(const warp_memory &memory, int row, int column, int head_dim, float a, float b, __half)
{
    *reinterpret_cast<__half2 *>(memory.tile + row * (head_dim + ROW_PAD) + column) = __floats2half2_rn(a, b);
}
__device__ __forceinline__ void put_pair(const warp_memory &memory, int row, int column, int head_dim, float a, float b, __nv_bfloat16)
{
    *reinterpret_cast<__nv_bfloat162 *>(memory.tile + row * (head_dim + ROW_PAD) + column) = __floats2bfloat162_rn(a, b);
}
__device__ __forceinline__ void put_pair(const warp_memory &memory, int row, int column, int head_dim, float a, float b, float)
{
    *reinterpret_cast<float2 *>(memory.result + row * (head_dim + 4) + column) = make_float2(a, b);
}

template <typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void decode_group(const codec_image_group &group, int g, int block, int head_dim, const warp_memory &memory,
                                             const codec_image_lane *fragments)
{
    enum { IS_EXACT = output_traits<T>::IS_EXACT };
    const int lane = threadIdx.x & 31, row_lane = lane >> 2, t = lane & 3, stride = head_dim + ROW_PAD, n_steps = group.n_steps;
    uint32_t a[BLOCKS][STEPS][4], a_low[BLOCKS][IS_EXACT ? STEPS : 1][4];
    float factor[BLOCKS][2];
#pragma unroll
    for (int m = 0; m < BLOCKS; m++) {
        const int rows = (block + m) * 16;
#pragma unroll
        for (int s = 0; s < STEPS; s++)
            if (s < n_steps) {
                load_a(a[m][s], memory.tile + rows * stride + group.k_begin + 16 * s, stride);
                if (IS_EXACT) load_a(a_low[m][IS_EXACT ? s : 0], memory.tile_low + rows * stride + group.k_begin + 16 * s, stride);
            }
#pragma unroll
        for (int r = 0; r < 2; r++) factor[m][r] = memory.factor[g * WARP_ROWS + rows + r * 8 + row_lane] * group.inverse_scale;
    }
    __syncwarp();       /* all operands are in registers: their place may be written */
    const codec_image_lane *fragment = fragments + group.decode * CODEC_IMAGE_LANES + lane;
    for (int tile = 0; tile < group.n_tiles; tile++) {
        float c[BLOCKS][4] = {};
#pragma unroll
        for (int s = 0; s < STEPS; s++)
            if (s < n_steps) {
                const uint4 rotation = *reinterpret_cast<const uint4 *>(fragment);
                fragment += CODEC_IMAGE_LANES;
#pragma unroll
                for (int m = 0; m < BLOCKS; m++) {
                    multiply(c[m], a[m][s], rotation.x, rotation.y);
                    if (IS_EXACT) {
                        multiply(c[m], a[m][s], rotation.z, rotation.w);
                        multiply(c[m], a_low[m][IS_EXACT ? s : 0], rotation.x, rotation.y);
                    }
                }
            }
        const int column = 8 * tile + 2 * t;
        if (column < group.dims) {
#pragma unroll
            for (int m = 0; m < BLOCKS; m++)
#pragma unroll
                for (int r = 0; r < 2; r++)
                    put_pair(memory, (block + m) * 16 + r * 8 + row_lane, group.first + column, head_dim, c[m][2 * r] * factor[m][r],
                             c[m][2 * r + 1] * factor[m][r], T());
        }
    }
}

/* ---- coding order to dims ------------------------------------------------------------------------------------------------------ */

/* Rows from shared memory to the vectors' places: 16-byte stores of neighbouring dims, as many of them a lane as it reads columns. */
__device__ __forceinline__ void store_rows(uint16_t *x, int64_t token_stride, const warp_memory &memory, int n_rows, const uint16_t *position, int head_dim,
                                           int order)
{
    const int lane = threadIdx.x & 31, stride = head_dim + ROW_PAD, half_dim = head_dim / 2;
    int lanes = 1;
    while (lanes < head_dim / 16) lanes *= 2;
    const int c = lane & (lanes - 1);
    if (8 * c >= half_dim) return;
    for (int row = lane / lanes; row < n_rows; row += 32 / lanes) {
        const uint16_t *from = reinterpret_cast<const uint16_t *>(memory.tile) + row * stride;
        uint32_t low[4], high[4];
        if (order == CODEC_ORDER_SPLIT_PAIRS) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t a = *reinterpret_cast<const uint32_t *>(from + position[8 * c + 2 * i]);
                const uint32_t b = *reinterpret_cast<const uint32_t *>(from + position[8 * c + 2 * i + 1]);
                low[i] = __byte_perm(a, b, 0x5410);
                high[i] = __byte_perm(a, b, 0x7632);
            }
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                low[i] = from[position[8 * c + 2 * i]] | static_cast<uint32_t>(from[position[8 * c + 2 * i + 1]]) << 16;
                high[i] = from[position[half_dim + 8 * c + 2 * i]] | static_cast<uint32_t>(from[position[half_dim + 8 * c + 2 * i + 1]]) << 16;
            }
        }
        uint16_t *to = x + row * token_stride + 8 * c;
        __stcs(reinterpret_cast<uint4 *>(to), make_uint4(low[0], low[1], low[2], low[3]));
        __stcs(reinterpret_cast<uint4 *>(to + half_dim), make_uint4(high[0], high[1], high[2], high[3]));
    }
}

__device__ __forceinline__ void store_rows(float *x, int64_t token_stride, const warp_memory &memory, int n_rows, const uint16_t *position, int head_dim, int)
{
    const int lane = threadIdx.x & 31;
    for (int row = 0; row < n_rows; row++)
        for (int dim = lane; dim < head_dim; dim += 32) x[row * token_stride + dim] = memory.result[row * (head_dim + 4) + position[dim]];
}

template <typename T> struct stored_as { typedef uint16_t type; };
template <> struct stored_as<float> { typedef float type; };

/* ---- the kernel ---------------------------------------------------------------------------------------------------------------- */

template <typename T, int STEPS>
__global__ void __launch_bounds__(WARPS * 32) decode_kernel(const decode_args args)
{
    enum { IS_EXACT = output_traits<T>::IS_EXACT, BLOCKS = STEPS > 8 ? 1 : 2 };
    typedef typename stored_as<T>::type stored;
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ head_streams streams;
    __shared__ codec_image_group groups[CODEC_IMAGE_MAX_GROUPS];
    const codec_device_image &image = args.image;
    const int head_index = blockIdx.y, head_dim = image.head_dim, stride = head_dim + ROW_PAD;
    const codec_image_head head = image.heads[head_index];
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;

    uint8_t *next = shared;
    codec_image_lane *fragments = reinterpret_cast<codec_image_lane *>(next);
    next += args.fragment_bytes;
    float *books = reinterpret_cast<float *>(next);
    next += (image.n_books * 4 + 15) / 16 * 16;
    uint32_t *pairs = reinterpret_cast<uint32_t *>(next);
    next += head_dim * 2;
    uint16_t *position = reinterpret_cast<uint16_t *>(next);
    next += head_dim * 2;
    const codec_image_lane *head_fragments = image.fragments + static_cast<int64_t>(head.first_fragment) * CODEC_IMAGE_LANES;
    const codec_image_lane *decode_fragments = head_fragments + static_cast<int64_t>(head.n_fragments_encode) * CODEC_IMAGE_LANES;
    if (args.fragment_bytes > 0)
        for (int i = threadIdx.x; i < head.n_fragments_decode * CODEC_IMAGE_LANES; i += blockDim.x)
            reinterpret_cast<uint4 *>(fragments)[i] = reinterpret_cast<const uint4 *>(decode_fragments)[i];
    for (int i = threadIdx.x; i < image.n_books; i += blockDim.x) books[i] = image.books[i];
    for (int i = threadIdx.x; i < head_dim; i += blockDim.x) position[i] = image.position[head_index * head_dim + i];
    for (int i = threadIdx.x; i < head_dim / 2; i += blockDim.x) pairs[i] = image.pairs[head_index * (head_dim / 2) + i];
    for (int i = threadIdx.x; i < head.n_groups; i += blockDim.x) {
        groups[i] = image.groups[head.first_group + i];
        groups[i].decode -= head.first_fragment + head.n_fragments_encode;
    }
    if (threadIdx.x == 0) streams = find_streams(image.heads, head_index, args.n);

    next += static_cast<int64_t>(warp) * args.warp_bytes;
    warp_memory memory;
    memory.tile = reinterpret_cast<__half *>(next);
    next += WARP_ROWS * stride * 2;
    memory.tile_low = nullptr;
    memory.result = nullptr;
    if (IS_EXACT) {
        memory.tile_low = reinterpret_cast<__half *>(next);
        next += WARP_ROWS * stride * 2;
        memory.result = reinterpret_cast<float *>(next);
        next += WARP_ROWS * (head_dim + 4) * 4;
    }
    memory.factor = reinterpret_cast<float *>(next);
    next += WARP_ROWS * 4 * image.max_groups;
    memory.norms = reinterpret_cast<uint16_t *>(next);
    next += WARP_ROWS * 2 * image.max_groups;
    memory.packed = reinterpret_cast<uint32_t *>(next);
    const uint4 zero = make_uint4(0, 0, 0, 0);
    *reinterpret_cast<uint4 *>(memory.tile + lane * stride + head_dim) = zero;
    if (IS_EXACT) *reinterpret_cast<uint4 *>(memory.tile_low + lane * stride + head_dim) = zero;
    __syncthreads();

    const codec_image_lane *operand = args.fragment_bytes > 0 ? fragments : decode_fragments;
    stored *x_hat = static_cast<stored *>(args.x_hat) + head_index * args.head_stride;
    for (int64_t first = (static_cast<int64_t>(blockIdx.x) * n_warps + warp) * WARP_ROWS; first < args.n;
         first += static_cast<int64_t>(gridDim.x) * n_warps * WARP_ROWS) {
        const int n_rows = static_cast<int>(min(static_cast<int64_t>(WARP_ROWS), args.n - first));
        warp_copy(reinterpret_cast<uint8_t *>(memory.packed), args.packed + streams.packed + first * head.packed_bytes, n_rows * head.packed_bytes);
        warp_copy(reinterpret_cast<uint8_t *>(memory.norms), reinterpret_cast<const uint8_t *>(args.norms + streams.norms + first * head.n_groups),
                  n_rows * head.n_groups * 2);
        __syncwarp();
        unpack_rows<IS_EXACT>(memory, head, pairs, books, head_dim);
        __syncwarp();
        for (int g = 0; g < head.n_groups; g++)
            for (int block = 0; block < 2; block += BLOCKS) decode_group<T, STEPS, BLOCKS>(groups[g], g, block, head_dim, memory, operand);
        __syncwarp();
        store_rows(x_hat + first * args.token_stride, args.token_stride, memory, n_rows, position, head_dim, head.order);
        __syncwarp();
    }
}

template <typename T, int STEPS>
static rb_status launch(decode_args &args, cudaStream_t stream, rb_error *err)
{
    enum { IS_EXACT = output_traits<T>::IS_EXACT };
    const codec_device_image &image = args.image;
    const size_t tile = WARP_ROWS * 2 * static_cast<size_t>(image.head_dim + ROW_PAD);
    const size_t tables = round_up(static_cast<size_t>(image.n_books) * 4, 16) + static_cast<size_t>(image.head_dim) * 4;
    size_t fragments = static_cast<size_t>(image.max_fragments_decode) * CODEC_IMAGE_LANES * sizeof(codec_image_lane);
    const size_t warp_bytes = round_up(tile * (IS_EXACT ? 2 : 1) + (IS_EXACT ? WARP_ROWS * 4 * static_cast<size_t>(image.head_dim + 4) : 0) +
                                           static_cast<size_t>(WARP_ROWS) * 6 * image.max_groups + static_cast<size_t>(WARP_ROWS) * image.max_packed_bytes + 16,
                                       128);
    codec_device_limits limits;
    int resident = 0;
    rb_status st = find_limits(&limits, err);
    if (st != RB_OK) return st;
    const size_t fixed = sizeof(head_streams) + CODEC_IMAGE_MAX_GROUPS * sizeof(codec_image_group) + 256, room = limits.shared_bytes - fixed;
    int warps = warps_that_fit(fragments + tables, warp_bytes, room, WARPS);
    if (warps < WARPS / 2) {
        fragments = 0;
        warps = warps_that_fit(tables, warp_bytes, room, WARPS);
    }
    if (warps == 0) return rb_fail(err, RB_EUNSUPPORTED, "the decode kernel needs %zu bytes of shared memory, the GPU has %d", tables + warp_bytes, limits.shared_bytes);
    args.fragment_bytes = static_cast<int>(fragments);
    args.warp_bytes = static_cast<int>(warp_bytes);
    const size_t bytes = fragments + tables + warps * warp_bytes;
    st = rb_cuda_status(cudaFuncSetAttribute(decode_kernel<T, STEPS>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), "decode", err);
    if (st != RB_OK) return st;
    st = rb_cuda_status(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, decode_kernel<T, STEPS>, warps * 32, bytes), "decode", err);
    if (st != RB_OK) return st;
    const int64_t needed = (args.n + warps * WARP_ROWS - 1) / (warps * WARP_ROWS);
    int64_t blocks = (static_cast<int64_t>(resident) * limits.n_multiprocessors) / image.n_heads;
    if (blocks > needed) blocks = needed;
    if (blocks < 1) blocks = 1;
    decode_kernel<T, STEPS><<<dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(image.n_heads)), warps * 32, bytes, stream>>>(args);
    return rb_cuda_launched("decode kernel", err);
}

template <typename T>
static rb_status launch_type(decode_args &args, cudaStream_t stream, rb_error *err)
{
    if (args.image.head_dim <= 64) return launch<T, 4>(args, stream, err);
    if (args.image.head_dim <= 128) return launch<T, 8>(args, stream, err);
    return launch<T, 16>(args, stream, err);
}

rb_status codec_decode(const codec_device_image *image, const uint8_t *packed, const uint16_t *norms, int64_t n, const codec_vectors *x_hat, void *stream,
                       rb_error *err)
{
    decode_args args = {*image, packed, norms, x_hat->data, x_hat->head_stride, x_hat->token_stride, n, 0, 0};
    if (n == 0) return RB_OK;
    if (x_hat->type == CODEC_F16) return launch_type<__half>(args, static_cast<cudaStream_t>(stream), err);
    if (x_hat->type == CODEC_BF16) return launch_type<__nv_bfloat16>(args, static_cast<cudaStream_t>(stream), err);
    return launch_type<float>(args, static_cast<cudaStream_t>(stream), err);
}
