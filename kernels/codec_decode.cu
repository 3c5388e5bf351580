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
    int64_t head_stride, n;
    int token_stride;
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
    uint32_t *packed;           /* [WARP_ROWS][packed_stride], bytes, and 16 bytes that are read and not used */
};

struct book_tables {
    const float *books;
    const uint32_t *halves;
};

/* ---- packed rows -------------------------------------------------------------------------------------------------------------- */

/* Where a row's 16-byte parts are known, rows lie an odd number of words apart in shared memory, so that lanes that read theirs meet different banks; else as in
 * the stream. */
__host__ __device__ inline int packed_stride(int packed_bytes) { return packed_bytes % 16 == 0 ? packed_bytes + 4 : packed_bytes; }

struct head_place {
    int n_groups, packed_bytes, packed_stride, stride;
    unsigned row_reciprocal;    /* row of 16-byte part i = i * row_reciprocal >> 22 */
};

__device__ __forceinline__ head_place place_head(const codec_image_head &head)
{
    const int n_groups = uniform(head.n_groups), packed_bytes = uniform(head.packed_bytes);
    const unsigned row_parts = packed_bytes % 16 == 0 ? packed_bytes / 16 : 1;
    return {n_groups, packed_bytes, packed_stride(packed_bytes), tile_stride(uniform(head.n_columns)), ((1u << 22) + row_parts - 1) / row_parts};
}

__device__ __forceinline__ void receive_packed(const warp_memory &memory, const uint8_t *from, const head_place &head, int n_rows)
{
    if (head.packed_stride == head.packed_bytes) {
        warp_copy(reinterpret_cast<uint8_t *>(memory.packed), from, n_rows * head.packed_bytes);
        return;
    }
    for (unsigned i = threadIdx.x & 31; i < static_cast<unsigned>(n_rows * head.packed_bytes) / 16; i += 32) {
        const uint4 part = reinterpret_cast<const uint4 *>(from)[i];
        uint32_t *to = memory.packed + 4 * i + (i * head.row_reciprocal >> 22);
        to[0] = part.x, to[1] = part.y, to[2] = part.z, to[3] = part.w;
    }
}

/* ---- codes to centroids ------------------------------------------------------------------------------------------------------- */

/* One vector a lane, 8 columns at a time: all lanes are at the same column, so widths are uniform over the warp, and a table of up to 32 words is read
 * without bank conflicts. */
template <int WIDTH>
__device__ __forceinline__ void unpack_group(const codec_image_group &group, const group_shape &shape, const warp_memory &memory, const head_place &head,
                                             const uint32_t *halves)
{
    const int lane = threadIdx.x & 31, width = WIDTH ? WIDTH : shape.width;
    const uint32_t mask = (1u << (WIDTH ? 2 * width : width)) - 1, *table = halves + group.halves;
    int bit = lane * head.packed_stride * 8 + group.bit_first;
    __half *row = memory.tile + lane * head.stride + shape.column;
#pragma unroll 1
    for (int left = shape.dims; left > 0; left -= 8, bit += 8 * width, row += 8) {
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
        if (left < 8) {     /* the last part: what follows in the stream is another group's */
#pragma unroll
            for (int i = 1; i < 4; i++)
                if (2 * i >= left) out[i] = 0;
        }
        *reinterpret_cast<uint4 *>(row) = make_uint4(out[0], out[1], out[2], out[3]);
    }
}

/* The same with centroids in f32, split into high and low. */
__device__ __forceinline__ void unpack_group_exact(const codec_image_group &group, const group_shape &shape, const warp_memory &memory, const head_place &head,
                                                   const float *books)
{
    const int lane = threadIdx.x & 31, width = shape.width;
    const uint32_t mask = (1u << width) - 1;
    const float *centroids = books + group.book + (1 << width) / 2;
    int bit = lane * head.packed_stride * 8 + group.bit_first;
    for (int j = 0; j < shape.dims; j++, bit += width) {
        const uint32_t *word = memory.packed + (bit >> 5);
        const float y = centroids[__funnelshift_r(word[0], word[1], bit & 31) & mask] * CODEC_IMAGE_CENTROID_SCALE;
        const __half high = __float2half_rn(y);
        memory.tile[lane * head.stride + shape.column + j] = high;
        memory.tile_low[lane * head.stride + shape.column + j] = __float2half_rn(y - __half2float(high));
    }
}

template <bool IS_EXACT>
__device__ __forceinline__ void unpack_rows(const warp_memory &memory, const codec_image_group *groups, uint32_t my_shape, const head_place &head,
                                            const book_tables &tables)
{
#pragma unroll 1
    for (int g = 0; g < head.n_groups; g++) {
        const codec_image_group &group = groups[g];
        const group_shape shape = read_shape(my_shape, g);
        if constexpr (IS_EXACT) {
            unpack_group_exact(group, shape, memory, head, tables.books);
        } else {
            switch (shape.width) {
            case 1: unpack_group<1>(group, shape, memory, head, tables.halves); break;
            case 2: unpack_group<2>(group, shape, memory, head, tables.halves); break;
            case 3: unpack_group<3>(group, shape, memory, head, tables.halves); break;
            case 4: unpack_group<4>(group, shape, memory, head, tables.halves); break;
            default: unpack_group<0>(group, shape, memory, head, tables.halves); break;
            }
        }
    }
}

/* ---- inverse rotation --------------------------------------------------------------------------------------------------------- */

/* Where a lane finds operands and leaves results: places in its warp's tile, in the first column. */
struct lane_place {
    const __half *operand[2];   /* of each row block: what ldmatrix asks of the lane */
    int row[4];                 /* of its results: rows lane / 4 + 8 i; from the tile's start, in elements */
    const uint16_t *norms;      /* of row[0]; the others are 8 rows further each */
};

__device__ __forceinline__ lane_place find_place(const warp_memory &memory, const head_place &head)
{
    const int lane = threadIdx.x & 31;
    lane_place place;
    for (int m = 0; m < 2; m++) place.operand[m] = memory.tile + (m * 16 + (lane & 15)) * head.stride + (lane >> 4) * 8;
    for (int i = 0; i < 4; i++) place.row[i] = (i * 8 + (lane >> 2)) * head.stride + 2 * (lane & 3);
    place.norms = memory.norms + (lane >> 2) * head.n_groups;
    return place;
}

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

/* One group for BLOCKS row blocks from `block` on. */
template <int BLOCKS>
struct group_call {
    const codec_image_group &group;
    const group_shape &shape;
    int g, n_groups, block;
    const lane_place &place;
    const warp_memory &memory;
    const uint4 *fragments;
};

/* N_STEPS: of the group, or 0: at most STEPS. */
template <int N_STEPS, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void decode_group(const group_call<BLOCKS> &call)
{
    enum { IS_EXACT = output_traits<T>::IS_EXACT };
    const group_shape &shape = call.shape;
    const warp_memory &memory = call.memory;
    const int lane = threadIdx.x & 31, n_steps = N_STEPS ? N_STEPS : shape.n_steps;
    uint32_t a[BLOCKS][STEPS][4], a_low[BLOCKS][IS_EXACT ? STEPS : 1][4];
    float factor[2 * BLOCKS];
    int at[2 * BLOCKS];
#pragma unroll
    for (int m = 0; m < BLOCKS; m++) {
        const __half *from = call.place.operand[BLOCKS == 1 ? call.block : m] + shape.column;
        float squares[2] = {NO_SQUARES, NO_SQUARES};
#pragma unroll
        for (int s = 0; s < STEPS; s++)
            if (N_STEPS || s < n_steps) {
                load_matrices(a[m][s], from + 16 * s);
                if (IS_EXACT) load_matrices(a_low[m][IS_EXACT ? s : 0], from + (memory.tile_low - memory.tile) + 16 * s);
                if (!N_STEPS || (N_STEPS > 4 && s >= N_STEPS - 4)) {
                    keep_own(a[m][s], s, shape.n_tiles);
                    if (IS_EXACT) keep_own(a_low[m][IS_EXACT ? s : 0], s, shape.n_tiles);
                }
            }
        add_row_products<N_STEPS>(squares, a[m], a[m], shape.n_tiles);
        if constexpr (IS_EXACT) {
            float mixed[2] = {0.0f, 0.0f};
            add_row_products<N_STEPS>(mixed, a[m], a_low[m], shape.n_tiles);
            squares[0] += 2.0f * mixed[0];
            squares[1] += 2.0f * mixed[1];
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int i = 2 * (BLOCKS == 1 ? call.block : m) + r;
            factor[2 * m + r] = __half2float(__ushort_as_half(call.place.norms[i * 8 * call.n_groups + call.g])) * (1.0f / CODEC_IMAGE_FRAGMENT_SCALE) *
                                fast_rsqrt(squares[r]);
            at[2 * m + r] = call.place.row[i] + shape.column;
        }
    }
    __syncwarp();       /* all operands are in registers: their place may be written */
    const uint4 *fragment = call.fragments + call.group.decode * CODEC_IMAGE_LANES + lane;
#pragma unroll 2
    for (int tile = 0; tile < shape.n_tiles; tile++, fragment += n_steps * CODEC_IMAGE_LANES) {
        float c[BLOCKS][4];
#pragma unroll
        for (int s = 0; s < STEPS; s++)
            if (N_STEPS || s < n_steps) {
                const uint4 rotation = fragment[s * CODEC_IMAGE_LANES];
#pragma unroll
                for (int m = 0; m < BLOCKS; m++) {
                    if (s == 0) multiply_from(c[m], a[m][s], rotation.x, rotation.y, 0.0f);
                    else multiply(c[m], a[m][s], rotation.x, rotation.y);
                    if (IS_EXACT) {
                        multiply(c[m], a[m][s], rotation.z, rotation.w);
                        multiply(c[m], a_low[m][IS_EXACT ? s : 0], rotation.x, rotation.y);
                    }
                }
            }
        /* Columns past the group's dims get 0, which is what they hold. */
#pragma unroll
        for (int i = 0; i < 2 * BLOCKS; i++)
            put_pair(memory, at[i] + 8 * tile, c[i / 2][2 * (i & 1)] * factor[i], c[i / 2][2 * (i & 1) + 1] * factor[i], T());
    }
}

/* Code of its own for every number of steps that codec_image_steps gives, up to STEPS. */
template <typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void decode_exactly(const group_call<BLOCKS> &call)
{
    const int n_steps = call.shape.n_steps;
    if (n_steps == 1) decode_group<1, T, 1>(call);
    else if (n_steps == 2) decode_group<2, T, 2>(call);
    else if (n_steps == 3) decode_group<3, T, 3>(call);
    else if (n_steps == 4) decode_group<4, T, 4>(call);
    else if constexpr (STEPS > 4) {
        if (n_steps == 6) decode_group<6, T, 6>(call);
        else if (n_steps == 8) decode_group<8, T, 8>(call);
        else if constexpr (STEPS > 8) {
            if (n_steps == 12) decode_group<12, T, 12>(call);
            else decode_group<16, T, 16>(call);
        }
    }
}

/* All of a head's groups for the rows of the warp. */
template <typename T, int STEPS, bool IS_FAST>
__device__ __forceinline__ void decode_groups(const codec_image_group *groups, uint32_t my_shape, int n_groups, const lane_place &place,
                                              const warp_memory &memory, const uint4 *fragments)
{
    enum { IS_EXACT = output_traits<T>::IS_EXACT, BLOCKS = STEPS > (IS_EXACT ? 4 : 8) ? 1 : 2 };
#pragma unroll 1
    for (int g = 0; g < n_groups; g++) {
        const group_shape shape = read_shape(my_shape, g);
#pragma unroll 1
        for (int block = 0; block < 2; block += BLOCKS) {
            const group_call<BLOCKS> call = {groups[g], shape, g, n_groups, block, place, memory, fragments};
            if constexpr (IS_FAST && !IS_EXACT) decode_exactly<T, STEPS>(call);
            else decode_group<0, T, STEPS>(call);
        }
    }
}

/* ---- columns to dims ----------------------------------------------------------------------------------------------------------- */

/* Rows from shared memory to the vectors' places: 16-byte stores of neighbouring dims, two runs of 8 of them a lane, half a vector apart. */
template <int ORDER>
__device__ __forceinline__ void store_rows_in(uint16_t *x, int token_stride, const warp_memory &memory, int n_rows, const uint16_t *column, int head_dim, int stride)
{
    const int lane = threadIdx.x & 31, half_dim = head_dim / 2;
    int lanes = 1;
    while (lanes < head_dim / 16) lanes *= 2;
    const int dim = 8 * (lane & (lanes - 1)), rows = 32 / lanes;
    if (dim >= half_dim) return;
    const uint16_t *low_at[8], *high_at[8], *first_row = reinterpret_cast<const uint16_t *>(memory.tile) + lane / lanes * stride;
#pragma unroll
    for (int i = 0; i < (ORDER == CODEC_ORDER_NATURAL ? 1 : 8); i++) {
        low_at[i] = first_row + column[dim + i];
        high_at[i] = first_row + column[half_dim + dim + i];
    }
    uint16_t *to = x + static_cast<int64_t>(lane / lanes) * token_stride + dim;
#pragma unroll 2
    for (int row = 0; row < WARP_ROWS; row += rows, to += static_cast<int64_t>(rows) * token_stride) {
        const int distance = row * stride;
        uint4 low, high;
        if (ORDER == CODEC_ORDER_NATURAL) {
            low = *reinterpret_cast<const uint4 *>(low_at[0] + distance);
            high = *reinterpret_cast<const uint4 *>(high_at[0] + distance);
        } else {
            uint32_t a[8], b[4], d[4];
#pragma unroll
            for (int i = 0; i < 8; i++)
                a[i] = ORDER == CODEC_ORDER_SPLIT_PAIRS ? *reinterpret_cast<const uint32_t *>(low_at[i] + distance)
                                                        : low_at[i][distance] | static_cast<uint32_t>(high_at[i][distance]) << 16;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                b[i] = __byte_perm(a[2 * i], a[2 * i + 1], 0x5410);
                d[i] = __byte_perm(a[2 * i], a[2 * i + 1], 0x7632);
            }
            low = make_uint4(b[0], b[1], b[2], b[3]);
            high = make_uint4(d[0], d[1], d[2], d[3]);
        }
        if (row + lane / lanes < n_rows) {
            __stcs(reinterpret_cast<uint4 *>(to), low);
            __stcs(reinterpret_cast<uint4 *>(to + half_dim), high);
        }
    }
}

__device__ __forceinline__ void store_rows(uint16_t *x, int token_stride, const warp_memory &memory, int n_rows, const uint16_t *column, int head_dim, int stride,
                                           int order)
{
    if (order == CODEC_ORDER_SPLIT_PAIRS) store_rows_in<CODEC_ORDER_SPLIT_PAIRS>(x, token_stride, memory, n_rows, column, head_dim, stride);
    else if (order == CODEC_ORDER_NATURAL) store_rows_in<CODEC_ORDER_NATURAL>(x, token_stride, memory, n_rows, column, head_dim, stride);
    else store_rows_in<CODEC_ORDER_ANY>(x, token_stride, memory, n_rows, column, head_dim, stride);
}

__device__ __forceinline__ void store_rows(float *x, int token_stride, const warp_memory &memory, int n_rows, const uint16_t *column, int head_dim, int stride, int)
{
    for (int dim = threadIdx.x & 31; dim < head_dim; dim += 32) {
        const float *from = memory.result + column[dim];
#pragma unroll 4
        for (int row = 0; row < n_rows; row++) x[static_cast<int64_t>(row) * token_stride + dim] = from[row * stride];
    }
}

template <typename T> struct stored_as { typedef uint16_t type; };
template <> struct stored_as<float> { typedef float type; };

/* ---- the kernel ---------------------------------------------------------------------------------------------------------------- */

/* IS_FAST: the fragments have room in shared memory; else they are read from global memory. */
template <typename T, int STEPS, bool IS_FAST>
__global__ void __launch_bounds__(most_warps<T, STEPS>() * 32, 1) decode_kernel(const decode_args args)
{
    enum { IS_EXACT = output_traits<T>::IS_EXACT };
    typedef typename stored_as<T>::type stored;
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ block_share share;
    __shared__ codec_image_group groups[CODEC_IMAGE_MAX_GROUPS];
    __shared__ uint32_t shapes[CODEC_IMAGE_MAX_GROUPS];
    const codec_device_image &image = args.image;
    const int head_dim = image.head_dim, lane = threadIdx.x & 31, warp = threadIdx.x / 32;

    uint8_t *next = shared;
    uint4 *fragments = reinterpret_cast<uint4 *>(next);
    if (IS_FAST) next += args.fragment_bytes;
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

    find_share(&share, image.heads, image.n_heads, args.n);
    for (int head_index = share.first_head; head_index < image.n_heads; head_index++) {
        const codec_image_head head = image.heads[head_index];
        if (!reaches_head(share, head, args.n)) break;
        const head_place head_at = place_head(head);
        const int order = uniform(head.order);
        const uint4 *head_fragments = reinterpret_cast<const uint4 *>(image.fragments) +
                                      static_cast<int64_t>(head.first_fragment + head.n_fragments_encode) * CODEC_IMAGE_LANES;
        __syncthreads();
        if (warp == 0) start_run(&share, image.heads, head_index, args.n);
        if (IS_FAST)
            for (int i = threadIdx.x; i < head.n_fragments_decode * CODEC_IMAGE_LANES; i += blockDim.x) fragments[i] = head_fragments[i];
        for (int i = threadIdx.x; i < head.n_books; i += blockDim.x) books[i] = image.books[head.first_book + i];
        for (int i = threadIdx.x; i < head.n_halves; i += blockDim.x) halves[i] = image.halves[head.first_halves + i];
        for (int i = threadIdx.x; i < head_dim; i += blockDim.x) column[i] = image.column[head_index * head_dim + i];
        for (int i = threadIdx.x; i < head_at.n_groups; i += blockDim.x) {
            groups[i] = image.groups[head.first_group + i];
            groups[i].decode -= head.first_fragment + head.n_fragments_encode;
            shapes[i] = pack_shape(groups[i]);
        }
        /* What is behind the last column meets zeros in B, and must be finite; for f32 also what is behind a group's dims, which unpacking leaves alone. */
        for (int i = lane; i < WARP_ROWS * head_at.stride / 8; i += 32) {
            reinterpret_cast<uint4 *>(memory.tile)[i] = make_uint4(0, 0, 0, 0);
            if (IS_EXACT) reinterpret_cast<uint4 *>(memory.tile_low)[i] = make_uint4(0, 0, 0, 0);
        }
        __syncthreads();

        const tile_run run = share.run;
        const head_streams streams = share.streams;
        const book_tables tables = {books, halves};
        const lane_place place = find_place(memory, head_at);
        const uint32_t my_shape = lane < head_at.n_groups ? shapes[lane] : 0;
        const uint8_t *packed = args.packed + streams.packed;
        const uint16_t *norms = args.norms + streams.norms;
        stored *x_hat = static_cast<stored *>(args.x_hat) + head_index * args.head_stride;
        for (int64_t tile = next_tile(run, &share), later; tile >= 0; tile = later) {
            const int64_t first = tile * WARP_ROWS;
            const int n_rows = static_cast<int>(min(static_cast<int64_t>(WARP_ROWS), args.n - first));
            receive_packed(memory, packed + first * head_at.packed_bytes, head_at, n_rows);
            warp_copy(reinterpret_cast<uint8_t *>(memory.norms), reinterpret_cast<const uint8_t *>(norms + first * head_at.n_groups), n_rows * head_at.n_groups * 2);
            later = next_tile(run, &share);
            /* A whole tile's codes and norms are multiples of 16 bytes. */
            if (later >= 0 && (later + 1) * WARP_ROWS <= args.n && lane < 2) {
                if (lane == 0) prefetch(packed + later * WARP_ROWS * head_at.packed_bytes, WARP_ROWS * head_at.packed_bytes);
                else prefetch(norms + later * WARP_ROWS * head_at.n_groups, WARP_ROWS * head_at.n_groups * 2);
            }
            __syncwarp();
            unpack_rows<IS_EXACT>(memory, groups, my_shape, head_at, tables);
            __syncwarp();
            decode_groups<T, STEPS, IS_FAST>(groups, my_shape, head_at.n_groups, place, memory, IS_FAST ? fragments : head_fragments);
            __syncwarp();
            store_rows(x_hat + first * args.token_stride, args.token_stride, memory, n_rows, column, head_dim, head_at.stride, order);
            __syncwarp();
        }
    }
}

/* Shared memory of a block: what all its warps read, and each warp's own. */
struct decode_sizes {
    size_t fragments, tables, warp;
};

template <typename T>
static decode_sizes find_sizes(const codec_device_image &image)
{
    const size_t tile = WARP_ROWS * 2 * static_cast<size_t>(tile_stride(image.max_columns) + 8);
    const size_t packed = static_cast<size_t>(WARP_ROWS) * (round_up(static_cast<size_t>(image.max_packed_bytes), 4) + 4) + 16;
    return {static_cast<size_t>(image.max_fragments_decode) * CODEC_IMAGE_LANES * sizeof(codec_image_lane),
            round_up(static_cast<size_t>(image.max_books) * 4, 16) + round_up(static_cast<size_t>(image.max_halves) * 4, 16) + static_cast<size_t>(image.head_dim) * 2,
            round_up(tile * (output_traits<T>::IS_EXACT ? 4 : 1) + static_cast<size_t>(WARP_ROWS) * 2 * image.max_groups + packed, 128)};
}

template <typename T, int STEPS, bool IS_FAST>
static rb_status launch_with(decode_args &args, const decode_sizes &sizes, int warps, const codec_device_limits &limits, cudaStream_t stream, rb_error *err)
{
    const size_t bytes = (IS_FAST ? sizes.fragments : 0) + sizes.tables + warps * sizes.warp;
    args.fragment_bytes = static_cast<int>(sizes.fragments);
    args.warp_bytes = static_cast<int>(sizes.warp);
    return launch_tiles(decode_kernel<T, STEPS, IS_FAST>, args, (args.n + WARP_ROWS - 1) / WARP_ROWS * args.image.n_heads, warps, bytes, limits, "decode kernel", stream,
                        err);
}

template <typename T, int STEPS>
static rb_status launch(decode_args &args, cudaStream_t stream, rb_error *err)
{
    const int max_warps = most_warps<T, STEPS>();
    const decode_sizes sizes = find_sizes<T>(args.image);
    codec_device_limits limits;
    const rb_status st = find_limits(&limits, err);
    if (st != RB_OK) return st;
    const size_t room = limits.shared_bytes - STATIC_SHARED_BYTES;
    const int warps = warps_that_fit(sizes.fragments + sizes.tables, sizes.warp, room, max_warps);
    if (warps >= max_warps / 4) return launch_with<T, STEPS, true>(args, sizes, warps, limits, stream, err);
    const int more_warps = warps_that_fit(sizes.tables, sizes.warp, room, most_warps<T, CODEC_IMAGE_MAX_STEPS>());
    if (more_warps == 0)
        return rb_fail(err, RB_EUNSUPPORTED, "the decode kernel needs %zu bytes of shared memory, the GPU has %d", sizes.tables + sizes.warp, limits.shared_bytes);
    return launch_with<T, CODEC_IMAGE_MAX_STEPS, false>(args, sizes, more_warps, limits, stream, err);
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
    decode_args args = {*image, packed, norms, x_hat->data, x_hat->head_stride, n, static_cast<int>(x_hat->token_stride), 0, 0};
    if (x_hat->token_stride < 0 || x_hat->token_stride > INT32_MAX)
        return rb_fail(err, RB_EINVAL, "vectors lie %lld elements apart, expected at most %d", static_cast<long long>(x_hat->token_stride), INT32_MAX);
    if (n == 0) return RB_OK;
    if (x_hat->type == CODEC_F16) return launch_type<__half>(args, static_cast<cudaStream_t>(stream), err);
    if (x_hat->type == CODEC_BF16) return launch_type<__nv_bfloat16>(args, static_cast<cudaStream_t>(stream), err);
    return launch_type<float>(args, static_cast<cudaStream_t>(stream), err);
}
