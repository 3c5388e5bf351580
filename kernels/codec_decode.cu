/* Restoring vectors: see kernels/codec_cuda.h for the contract and kernels/codec_image.h for the layout.
 *
 * A warp takes 32 vectors of one head. First one vector a lane: codes to centroids, as fp16 operands in shared memory. Then, group by group, the operands'
 * norms and the inverse rotation on the tensor cores; results go over the operands they came from, and from there to the dims of the vector. For f32
 * output centroids are split into high and low like the rotation, and results have a place of their own. */
#include "kernels/codec_device.cuh"

struct decode_args {
    codec_device_image image;
    const uint8_t *packed;
    const uint16_t *norms;
    void *x_hat;
    int64_t head_stride, token_stride, n;
    int fragment_bytes, warp_bytes;
};

template <typename T> struct output_traits { enum { IS_EXACT = 0 }; };
template <> struct output_traits<float> { enum { IS_EXACT = 1 }; };

template <typename T, int STEPS>
constexpr int most_warps() { return output_traits<T>::IS_EXACT ? MAX_WARPS / 2 : STEPS > 4 ? 3 * MAX_WARPS / 4 : MAX_WARPS; }

struct warp_memory {
    __half *tile, *tile_low;    /* [WARP_ROWS][stride]: centroids, by column */
    float *result;              /* f32 output: [WARP_ROWS][stride] */
    uint16_t *norms;            /* [WARP_ROWS][n_groups] */
    uint32_t *packed;           /* WARP_ROWS * packed_bytes, and 16 bytes that are read and not used */
};

struct book_tables {
    const float *books;
    const uint32_t *halves;
};

/* ---- codes to centroids ------------------------------------------------------------------------------------------------------- */

/* One vector a lane, 8 columns at a time: all lanes are at the same column, so widths are uniform over the warp, and a table of up to 32 words is read
 * without bank conflicts. */
template <int WIDTH>
__device__ __forceinline__ void unpack_group(const codec_image_group &group, const warp_memory &memory, int packed_bytes, int stride, const uint32_t *halves)
{
    const int lane = threadIdx.x & 31, width = WIDTH ? WIDTH : uniform(group.width), n_tiles = uniform(group.n_tiles), dims = uniform(group.dims);
    const uint32_t mask = (1u << (WIDTH ? 2 * width : width)) - 1, *table = halves + group.halves;
    int bit = lane * packed_bytes * 8 + group.bit_first;
    __half *row = memory.tile + lane * stride + group.column;
    for (int tile = 0; tile < n_tiles; tile++, bit += 8 * width, row += 8) {
        const uint32_t *word = memory.packed + (bit >> 5);
        const int shift = bit & 31;
        const uint32_t second = word[1];
        const uint32_t low = __funnelshift_r(word[0], second, shift), high = WIDTH ? 0 : __funnelshift_r(second, word[2], shift);
        uint32_t out[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (WIDTH) {
                out[i] = table[low >> 2 * WIDTH * i & mask];
            } else {
                const int at = 2 * i * width, next = at + width;
                const uint32_t a = at < 32 ? __funnelshift_r(low, high, at) : high >> (at - 32);
                const uint32_t b = next < 32 ? __funnelshift_r(low, high, next) : high >> (next - 32);
                out[i] = table[a & mask] | table[b & mask] << 16;
            }
        }
        if (8 * tile + 8 > dims) {      /* the last part: what follows in the stream is another group's */
#pragma unroll
            for (int i = 1; i < 4; i++)
                if (8 * tile + 2 * i >= dims) out[i] = 0;
        }
        *reinterpret_cast<uint4 *>(row) = make_uint4(out[0], out[1], out[2], out[3]);
    }
}

/* The same with centroids in f32, split into high and low. */
__device__ __forceinline__ void unpack_group_exact(const codec_image_group &group, const warp_memory &memory, int packed_bytes, int stride, const float *books)
{
    const int lane = threadIdx.x & 31, width = uniform(group.width), dims = uniform(group.dims);
    const uint32_t mask = (1u << width) - 1;
    const float *centroids = books + group.book + (1 << width) / 2;
    int bit = lane * packed_bytes * 8 + group.bit_first;
    for (int j = 0; j < dims; j++, bit += width) {
        const uint32_t *word = memory.packed + (bit >> 5);
        const float y = centroids[__funnelshift_r(word[0], word[1], bit & 31) & mask] * CODEC_IMAGE_CENTROID_SCALE;
        const __half high = __float2half_rn(y);
        memory.tile[lane * stride + group.column + j] = high;
        memory.tile_low[lane * stride + group.column + j] = __float2half_rn(y - __half2float(high));
    }
}

template <bool IS_EXACT>
__device__ __forceinline__ void unpack_rows(const warp_memory &memory, const codec_image_group *groups, int n_groups, int packed_bytes, int stride,
                                            const book_tables &tables)
{
    for (int g = 0; g < n_groups; g++) {
        const codec_image_group &group = groups[g];
        if constexpr (IS_EXACT) {
            unpack_group_exact(group, memory, packed_bytes, stride, tables.books);
        } else {
            switch (uniform(group.width)) {
            case 1: unpack_group<1>(group, memory, packed_bytes, stride, tables.halves); break;
            case 2: unpack_group<2>(group, memory, packed_bytes, stride, tables.halves); break;
            case 3: unpack_group<3>(group, memory, packed_bytes, stride, tables.halves); break;
            case 4: unpack_group<4>(group, memory, packed_bytes, stride, tables.halves); break;
            default: unpack_group<0>(group, memory, packed_bytes, stride, tables.halves); break;
            }
        }
    }
}

/* ---- inverse rotation --------------------------------------------------------------------------------------------------------- */

__device__ __forceinline__ void put_pair(const warp_memory &memory, int at, float a, float b, __half)
{
    *reinterpret_cast<__half2 *>(memory.tile + at) = __floats2half2_rn(a, b);
}
__device__ __forceinline__ void put_pair(const warp_memory &memory, int at, float a, float b, __nv_bfloat16)
{
    *reinterpret_cast<__nv_bfloat162 *>(memory.tile + at) = __floats2bfloat162_rn(a, b);
}
__device__ __forceinline__ void put_pair(const warp_memory &memory, int at, float a, float b, float)
{
    *reinterpret_cast<float2 *>(memory.result + at) = make_float2(a, b);
}

template <typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void decode_group(const codec_image_group &group, int g, int n_groups, int block, int stride, const warp_memory &memory,
                                             const codec_image_lane *fragments)
{
    enum { IS_EXACT = output_traits<T>::IS_EXACT };
    const int lane = threadIdx.x & 31, row_lane = lane >> 2, t = lane & 3, n_steps = uniform(group.n_steps), n_tiles = uniform(group.n_tiles);
    const bool ends_half = n_tiles & 1;
    uint32_t a[BLOCKS][STEPS][4], a_low[BLOCKS][IS_EXACT ? STEPS : 1][4];
    float factor[BLOCKS][2];
#pragma unroll
    for (int m = 0; m < BLOCKS; m++) {
        const int at = (block + m) * 16 * stride + group.column;
        float squares[2] = {0.0f, 0.0f};
#pragma unroll
        for (int s = 0; s < STEPS; s++)
            if (s < n_steps) {
                load_a(a[m][s], memory.tile + at + 16 * s, stride);
                if (IS_EXACT) load_a(a_low[m][IS_EXACT ? s : 0], memory.tile_low + at + 16 * s, stride);
            }
        add_row_products(squares, a[m], a[m], n_steps, ends_half);
        if constexpr (IS_EXACT) {
            float mixed[2] = {0.0f, 0.0f};
            add_row_products(mixed, a[m], a_low[m], n_steps, ends_half);
            squares[0] += 2.0f * mixed[0];
            squares[1] += 2.0f * mixed[1];
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = (block + m) * 16 + r * 8 + row_lane;
            const float norm = __half2float(__ushort_as_half(memory.norms[row * n_groups + g]));
            factor[m][r] = squares[r] > 0.0f ? norm * group.inverse_scale * rsqrtf(squares[r]) : 0.0f;
        }
    }
    __syncwarp();       /* all operands are in registers: their place may be written */
    const uint4 *fragment = reinterpret_cast<const uint4 *>(fragments + group.decode * CODEC_IMAGE_LANES + lane);
#pragma unroll 1
    for (int tile = 0; tile < n_tiles; tile++, fragment += n_steps * CODEC_IMAGE_LANES) {
        float c[BLOCKS][4] = {};
#pragma unroll
        for (int s = 0; s < STEPS; s++)
            if (s < n_steps) {
                const uint4 rotation = fragment[s * CODEC_IMAGE_LANES];
#pragma unroll
                for (int m = 0; m < BLOCKS; m++) {
                    multiply(c[m], a[m][s], rotation.x, rotation.y);
                    if (IS_EXACT) {
                        multiply(c[m], a[m][s], rotation.z, rotation.w);
                        multiply(c[m], a_low[m][IS_EXACT ? s : 0], rotation.x, rotation.y);
                    }
                }
            }
        /* Columns past the group's dims get 0, which is what they hold. */
#pragma unroll
        for (int m = 0; m < BLOCKS; m++)
#pragma unroll
            for (int r = 0; r < 2; r++)
                put_pair(memory, ((block + m) * 16 + r * 8 + row_lane) * stride + group.column + 8 * tile + 2 * t, c[m][2 * r] * factor[m][r],
                         c[m][2 * r + 1] * factor[m][r], T());
    }
}

/* ---- columns to dims ----------------------------------------------------------------------------------------------------------- */

/* Rows from shared memory to the vectors' places: 16-byte stores of neighbouring dims, as many of them a lane as it reads columns. */
__device__ __forceinline__ void store_rows(uint16_t *x, int64_t token_stride, const warp_memory &memory, int n_rows, const uint16_t *column, int head_dim,
                                           int stride, int order)
{
    const int lane = threadIdx.x & 31, half_dim = head_dim / 2;
    int lanes = 1;
    while (lanes < head_dim / 16) lanes *= 2;
    const int c = lane & (lanes - 1);
    if (8 * c >= half_dim) return;
    for (int row = lane / lanes; row < n_rows; row += 32 / lanes) {
        const uint16_t *from = reinterpret_cast<const uint16_t *>(memory.tile) + row * stride;
        __align__(16) uint32_t low[4], high[4];
        if (order == CODEC_ORDER_NATURAL) {
            *reinterpret_cast<uint4 *>(low) = *reinterpret_cast<const uint4 *>(from + 8 * c);
            *reinterpret_cast<uint4 *>(high) = *reinterpret_cast<const uint4 *>(from + half_dim + 8 * c);
        } else if (order == CODEC_ORDER_SPLIT_PAIRS) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t a = *reinterpret_cast<const uint32_t *>(from + column[8 * c + 2 * i]);
                const uint32_t b = *reinterpret_cast<const uint32_t *>(from + column[8 * c + 2 * i + 1]);
                low[i] = __byte_perm(a, b, 0x5410);
                high[i] = __byte_perm(a, b, 0x7632);
            }
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                low[i] = from[column[8 * c + 2 * i]] | static_cast<uint32_t>(from[column[8 * c + 2 * i + 1]]) << 16;
                high[i] = from[column[half_dim + 8 * c + 2 * i]] | static_cast<uint32_t>(from[column[half_dim + 8 * c + 2 * i + 1]]) << 16;
            }
        }
        uint16_t *to = x + row * token_stride + 8 * c;
        __stcs(reinterpret_cast<uint4 *>(to), make_uint4(low[0], low[1], low[2], low[3]));
        __stcs(reinterpret_cast<uint4 *>(to + half_dim), make_uint4(high[0], high[1], high[2], high[3]));
    }
}

__device__ __forceinline__ void store_rows(float *x, int64_t token_stride, const warp_memory &memory, int n_rows, const uint16_t *column, int head_dim,
                                           int stride, int)
{
    const int lane = threadIdx.x & 31;
    for (int row = 0; row < n_rows; row++)
        for (int dim = lane; dim < head_dim; dim += 32) x[row * token_stride + dim] = memory.result[row * stride + column[dim]];
}

template <typename T> struct stored_as { typedef uint16_t type; };
template <> struct stored_as<float> { typedef float type; };

/* ---- the kernel ---------------------------------------------------------------------------------------------------------------- */

template <typename T, int STEPS>
__global__ void __launch_bounds__(most_warps<T, STEPS>() * 32, 1) decode_kernel(const decode_args args)
{
    enum { IS_EXACT = output_traits<T>::IS_EXACT, BLOCKS = STEPS > (IS_EXACT ? 4 : 8) ? 1 : 2 };
    typedef typename stored_as<T>::type stored;
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ head_streams streams;
    __shared__ codec_image_group groups[CODEC_IMAGE_MAX_GROUPS];
    __shared__ unsigned taken;
    const codec_device_image &image = args.image;
    const int head_dim = image.head_dim, lane = threadIdx.x & 31, warp = threadIdx.x / 32;

    uint8_t *next = shared;
    codec_image_lane *fragments = reinterpret_cast<codec_image_lane *>(next);
    next += args.fragment_bytes;
    float *books = reinterpret_cast<float *>(next);
    next += (image.max_books * 4 + 15) / 16 * 16;
    uint32_t *halves = reinterpret_cast<uint32_t *>(next);
    next += (image.max_halves * 4 + 15) / 16 * 16;
    uint16_t *column = reinterpret_cast<uint16_t *>(next);
    next += head_dim * 2 + static_cast<int64_t>(warp) * args.warp_bytes;
    const int max_stride = tile_stride(image.max_columns) + 8;
    warp_memory memory;
    memory.tile = reinterpret_cast<__half *>(next);
    next += WARP_ROWS * max_stride * 2;
    memory.tile_low = IS_EXACT ? reinterpret_cast<__half *>(next) : nullptr;
    next += IS_EXACT ? WARP_ROWS * max_stride * 2 : 0;
    memory.result = IS_EXACT ? reinterpret_cast<float *>(next) : nullptr;
    next += IS_EXACT ? WARP_ROWS * max_stride * 4 : 0;
    memory.norms = reinterpret_cast<uint16_t *>(next);
    next += WARP_ROWS * 2 * image.max_groups;
    memory.packed = reinterpret_cast<uint32_t *>(next);

    for (int head_index = 0; head_index < image.n_heads; head_index++) {
        const tile_run run = find_run(image.heads, image.n_heads, head_index, args.n);
        if (run.n == 0) continue;
        const codec_image_head head = image.heads[head_index];
        const int n_groups = uniform(head.n_groups), order = uniform(head.order), stride = tile_stride(head.n_columns);
        const codec_image_lane *decode_fragments =
            image.fragments + static_cast<int64_t>(head.first_fragment + head.n_fragments_encode) * CODEC_IMAGE_LANES;
        __syncthreads();
        if (args.fragment_bytes > 0)
            for (int i = threadIdx.x; i < head.n_fragments_decode * CODEC_IMAGE_LANES; i += blockDim.x)
                reinterpret_cast<uint4 *>(fragments)[i] = reinterpret_cast<const uint4 *>(decode_fragments)[i];
        for (int i = threadIdx.x; i < head.n_books; i += blockDim.x) books[i] = image.books[head.first_book + i];
        for (int i = threadIdx.x; i < head.n_halves; i += blockDim.x) halves[i] = image.halves[head.first_halves + i];
        for (int i = threadIdx.x; i < head_dim; i += blockDim.x) column[i] = image.column[head_index * head_dim + i];
        for (int i = threadIdx.x; i < n_groups; i += blockDim.x) {
            groups[i] = image.groups[head.first_group + i];
            groups[i].decode -= head.first_fragment + head.n_fragments_encode;
        }
        if (threadIdx.x == 0) {
            streams = find_streams(image.heads, head_index, args.n);
            taken = 0;
        }
        /* What is behind the last column meets zeros in B, and must be finite. */
        for (int i = lane; i < WARP_ROWS * stride / 8; i += 32) {
            reinterpret_cast<uint4 *>(memory.tile)[i] = make_uint4(0, 0, 0, 0);
            if (IS_EXACT) reinterpret_cast<uint4 *>(memory.tile_low)[i] = make_uint4(0, 0, 0, 0);
        }
        __syncthreads();

        const book_tables tables = {books, halves};
        const codec_image_lane *operand = args.fragment_bytes > 0 ? fragments : decode_fragments;
        stored *x_hat = static_cast<stored *>(args.x_hat) + head_index * args.head_stride;
        for (int64_t tile = next_tile(run, &taken); tile >= 0; tile = next_tile(run, &taken)) {
            const int64_t first = tile * WARP_ROWS;
            const int n_rows = static_cast<int>(min(static_cast<int64_t>(WARP_ROWS), args.n - first));
            warp_copy(reinterpret_cast<uint8_t *>(memory.packed), args.packed + streams.packed + first * head.packed_bytes, n_rows * head.packed_bytes);
            warp_copy(reinterpret_cast<uint8_t *>(memory.norms), reinterpret_cast<const uint8_t *>(args.norms + streams.norms + first * n_groups),
                      n_rows * n_groups * 2);
            __syncwarp();
            unpack_rows<IS_EXACT>(memory, groups, n_groups, head.packed_bytes, stride, tables);
            __syncwarp();
            for (int g = 0; g < n_groups; g++)
                for (int block = 0; block < 2; block += BLOCKS) decode_group<T, STEPS, BLOCKS>(groups[g], g, n_groups, block, stride, memory, operand);
            __syncwarp();
            store_rows(x_hat + first * args.token_stride, args.token_stride, memory, n_rows, column, head_dim, stride, order);
            __syncwarp();
        }
    }
}

template <typename T, int STEPS>
static rb_status launch(decode_args &args, cudaStream_t stream, rb_error *err)
{
    enum { IS_EXACT = output_traits<T>::IS_EXACT };
    const codec_device_image &image = args.image;
    const int max_warps = most_warps<T, STEPS>();
    const size_t tile = WARP_ROWS * 2 * static_cast<size_t>(tile_stride(image.max_columns) + 8);
    const size_t tables = round_up(static_cast<size_t>(image.max_books) * 4, 16) + round_up(static_cast<size_t>(image.max_halves) * 4, 16) +
                          static_cast<size_t>(image.head_dim) * 2;
    size_t fragments = static_cast<size_t>(image.max_fragments_decode) * CODEC_IMAGE_LANES * sizeof(codec_image_lane);
    const size_t warp_bytes = round_up(tile * (IS_EXACT ? 4 : 1) + static_cast<size_t>(WARP_ROWS) * 2 * image.max_groups +
                                           static_cast<size_t>(WARP_ROWS) * image.max_packed_bytes + 16,
                                       128);
    codec_device_limits limits;
    int resident = 0;
    rb_status st = find_limits(&limits, err);
    if (st != RB_OK) return st;
    const size_t fixed = sizeof(head_streams) + CODEC_IMAGE_MAX_GROUPS * sizeof(codec_image_group) + 256, room = limits.shared_bytes - fixed;
    int warps = warps_that_fit(fragments + tables, warp_bytes, room, max_warps);
    if (warps < max_warps / 4) {
        fragments = 0;
        warps = warps_that_fit(tables, warp_bytes, room, max_warps);
    }
    if (warps == 0) return rb_fail(err, RB_EUNSUPPORTED, "the decode kernel needs %zu bytes of shared memory, the GPU has %d", tables + warp_bytes, limits.shared_bytes);
    args.fragment_bytes = static_cast<int>(fragments);
    args.warp_bytes = static_cast<int>(warp_bytes);
    const size_t bytes = fragments + tables + warps * warp_bytes;
    st = rb_cuda_status(cudaFuncSetAttribute(decode_kernel<T, STEPS>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), "decode", err);
    if (st != RB_OK) return st;
    st = rb_cuda_status(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, decode_kernel<T, STEPS>, warps * 32, bytes), "decode", err);
    if (st != RB_OK) return st;
    const int64_t tiles = (args.n + WARP_ROWS - 1) / WARP_ROWS * image.n_heads, needed = (tiles + warps - 1) / warps;
    int64_t blocks = static_cast<int64_t>(resident) * limits.n_multiprocessors;
    if (blocks > needed) blocks = needed;
    decode_kernel<T, STEPS><<<static_cast<unsigned>(blocks), warps * 32, bytes, stream>>>(args);
    return rb_cuda_launched("decode kernel", err);
}

template <typename T>
static rb_status launch_type(decode_args &args, cudaStream_t stream, rb_error *err)
{
    if (args.image.max_steps <= 4) return launch<T, 4>(args, stream, err);
    if (args.image.max_steps <= 8) return launch<T, 8>(args, stream, err);
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
