/* Restoring vectors: see kernels/cuda/codec_cuda.h for the contract and kernels/cuda/groups_image.h for the layout.
 *
 * A warp takes 16 or 32 vectors of one head. First it looks up the centroids of codes, as fp16 operands in shared
 * memory. Then, group by group, it sums the operands' norms and rotates back on the tensor cores. Results overwrite the
 * operands they came from, and go from there to the dims of the vector. For f32 output centroids are split into high
 * and low like the rotation, and results have a place of their own. */
#include "kernels/cuda/codec_kernels.cuh"
#include "kernels/cuda/codec_launch.cuh"
#include "kernels/cuda/groups_transform.cuh"
#include "kernels/cuda/groups_unpack.cuh"

struct decode_args {
    codec_image image;     /* on the device */
    const uint8_t *packed; /* [n_heads] streams of [n][packed_bytes] u8 */
    const uint8_t *norms;  /* [n_heads] streams of [n][n_groups] fp16 or u8 */
    void *x_hat;           /* [n_heads][n][head_dim] of the kernel's T; elements from head to head, vector to vector: */
    int64_t head_stride, n;
    int token_stride;
    int fast_bytes, warp_bytes; /* of shared memory: for the fragments, and a warp's */
};

template <typename T> struct output_traits {
    enum { IS_EXACT = 0 };
};
template <> struct output_traits<float> {
    enum { IS_EXACT = 1 };
};

/* Row blocks of 16 vectors a warp takes at a time, rows of them, and warps of a block: as encode_plan has them. */
template <typename T, int STEPS> struct decode_plan {
    enum {
        BLOCKS = STEPS > 8 || output_traits<T>::IS_EXACT ? 1 : 2,
        ROWS = 16 * BLOCKS,
        WARPS = output_traits<T>::IS_EXACT ? (STEPS <= 4 ? 16 : 8)
                : STEPS <= 4               ? 16
                                           : 12
    };
};

/* ---- inverse rotation ------------------------------------------------------------------------ */

/* signs: the sign bits to turn, of `a` in bit 15 and of `b` in bit 31. */
__device__ __forceinline__ void put_pair(const decode_memory &memory, int at, float a, float b, uint32_t signs, __half)
{
    *reinterpret_cast<uint32_t *>(memory.tile + at) = as_bits(__floats2half2_rn(a, b)) ^ signs;
}
__device__ __forceinline__ void put_pair(const decode_memory &memory, int at, float a, float b, uint32_t signs,
                                         __nv_bfloat16)
{
    *reinterpret_cast<uint32_t *>(memory.tile + at) = as_bits(__floats2bfloat162_rn(a, b)) ^ signs;
}
__device__ __forceinline__ void put_pair(const decode_memory &memory, int at, float a, float b, uint32_t signs, float)
{
    *reinterpret_cast<float2 *>(memory.result + at) = make_float2(
        __uint_as_float(__float_as_uint(a) ^ signs << 16), __uint_as_float(__float_as_uint(b) ^ (signs & 0x80000000u)));
}

/* Where row i of the lane goes, and what its products are multiplied by. square: the sum of its operands' squares. */
template <bool IS_GENERAL, int BLOCKS>
__device__ __forceinline__ void start_row(int &at, float &factor, const group_call<BLOCKS, decode_memory> &call, int i,
                                          float square, float product_scale)
{
    const int stored_at = i * 8 * call.n_groups + call.g;
    if (IS_GENERAL && call.memory.norm_bytes == 1)
        factor = norm_of_byte(call.memory.norms[(threadIdx.x & 31) / 4 * call.n_groups + stored_at],
                              call.group.norm_exponent);
    else factor = __half2float(__ushort_as_half(call.place.norms[stored_at]));
    if (IS_GENERAL) factor *= call.group.decode_scale;
    factor = factor * (1.0f / product_scale) * fast_rsqrt(square);
    at = call.place.row[i] + call.shape.column + 2 * (threadIdx.x & 3);
}

/* N_STEPS: of the group, or 0: at most STEPS. */
template <int N_STEPS, bool IS_GENERAL, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void decode_group(const group_call<BLOCKS, decode_memory> &call)
{
    enum { IS_EXACT = output_traits<T>::IS_EXACT };
    const group_shape &shape = call.shape;
    const decode_memory &memory = call.memory;
    const int lane = threadIdx.x & 31, n_steps = N_STEPS ? N_STEPS : shape.n_steps;
    row_operands<STEPS, IS_EXACT> operands[BLOCKS];
    float factor[2 * BLOCKS];
    int at[2 * BLOCKS];
#pragma unroll
    for (int m = 0; m < BLOCKS; m++) {
        float squares[2];
        load_operands<N_STEPS>(operands[m], squares, call.place.operand[m] + shape.column, call.place.low, shape);
#pragma unroll
        for (int r = 0; r < 2; r++)
            start_row<IS_GENERAL>(at[2 * m + r], factor[2 * m + r], call, 2 * m + r, squares[r], GROUPS_FRAGMENT_SCALE);
    }
    __syncwarp(); /* all operands are in registers: their place may be written */
    const uint4 *fragment = call.fragments + call.group.decode * GROUPS_LANES + lane;
    const float2 *centers = reinterpret_cast<const float2 *>(memory.centers + shape.column) + (lane & 3);
#pragma unroll 2
    for (int tile = 0; tile < shape.n_tiles; tile++, fragment += n_steps * GROUPS_LANES) {
        float c[BLOCKS][4];
#pragma unroll
        for (int s = 0; s < STEPS; s++)
            if (N_STEPS || s < n_steps) {
                const uint4 rotation = fragment[s * GROUPS_LANES];
#pragma unroll
                for (int m = 0; m < BLOCKS; m++) {
                    if (s == 0) multiply_from(c[m], operands[m].a[s], rotation.x, rotation.y, 0.0f);
                    else multiply(c[m], operands[m].a[s], rotation.x, rotation.y);
                    if (IS_EXACT) {
                        multiply(c[m], operands[m].a[s], rotation.z, rotation.w);
                        multiply(c[m], operands[m].a_low[IS_EXACT ? s : 0], rotation.x, rotation.y);
                    }
                }
            }
        /* Columns past the group's dims get 0, which is what they hold. */
        const float2 center = IS_GENERAL ? centers[4 * tile] : make_float2(-0.0f, -0.0f);
#pragma unroll
        for (int i = 0; i < 2 * BLOCKS; i++)
            put_pair(memory, at[i] + 8 * tile, fmaf(c[i / 2][2 * (i & 1)], factor[i], center.x),
                     fmaf(c[i / 2][2 * (i & 1) + 1], factor[i], center.y), 0, T());
    }
}

/* The same by a transform, one row block after the other. */
template <int N_STEPS, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void transform_group(const group_call<BLOCKS, decode_memory> &whole)
{
    typedef transform_plan<N_STEPS, STEPS> plan;
    const uint4 *fragment = whole.fragments + whole.group.decode * GROUPS_LANES + (threadIdx.x & 31);
    const uint4 signs = fragment[GROUPS_LANES];
#pragma unroll 1
    for (int m = 0; m < BLOCKS; m++) {
        const lane_place<1> place = place_of_block(whole.place, m, whole.n_groups);
        const group_call<1, decode_memory> call = {whole.group, whole.shape,  whole.g,        whole.n_groups,
                                                   place,       whole.memory, whole.fragments};
        row_operands<N_STEPS, output_traits<T>::IS_EXACT> operands;
        float squares[2], factor[2];
        int at[2];
        load_operands<N_STEPS>(operands, squares, place.operand[0] + call.shape.column, place.low, call.shape);
#pragma unroll
        for (int r = 0; r < 2; r++) start_row<false>(at[r], factor[r], call, r, squares[r], transform_scale(N_STEPS));
        __syncwarp();
#pragma unroll 1
        for (int part = 0; part < plan::PARTS; part++) {
            const int first_tile = plan::TILES * part;
            const uint32_t part_signs = (first_tile < 16 ? signs.x : signs.y) >> first_tile % 16;
            float c[plan::TILES][4];
            transform_rows<plan>(c, operands, fragment, 0, part, 0.0f);
#pragma unroll
            for (int tile = 0; tile < plan::TILES; tile++)
#pragma unroll
                for (int r = 0; r < 2; r++)
                    put_pair(call.memory, at[r] + 8 * (first_tile + tile), c[tile][2 * r] * factor[r],
                             c[tile][2 * r + 1] * factor[r], part_signs << (15 - tile) & 0x80008000u, T());
        }
    }
}

/* Transforms of 4, 8 and 16 steps. */
template <typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void decode_transform(const group_call<BLOCKS, decode_memory> &call)
{
    if (call.shape.n_steps == 4) transform_group<4, T, STEPS>(call);
    else if constexpr (STEPS > 4) {
        if (call.shape.n_steps == 8) transform_group<8, T, STEPS>(call);
        else if constexpr (STEPS > 8) transform_group<16, T, STEPS>(call);
    }
}

/* Code of its own for every number of steps that groups_image_steps gives, up to STEPS. */
template <bool IS_GENERAL, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void decode_exactly(const group_call<BLOCKS, decode_memory> &call)
{
    const int n_steps = call.shape.n_steps;
    if (n_steps == 1) decode_group<1, IS_GENERAL, T, 1>(call);
    else if (n_steps == 2) decode_group<2, IS_GENERAL, T, 2>(call);
    else if (n_steps == 3) decode_group<3, IS_GENERAL, T, 3>(call);
    else if (n_steps == 4) decode_group<4, IS_GENERAL, T, 4>(call);
    else if constexpr (STEPS > 4) {
        if (n_steps == 6) decode_group<6, IS_GENERAL, T, 6>(call);
        else if (n_steps == 8) decode_group<8, IS_GENERAL, T, 8>(call);
        else if constexpr (STEPS > 8) {
            if (n_steps == 12) decode_group<12, IS_GENERAL, T, 12>(call);
            else decode_group<16, IS_GENERAL, T, 16>(call);
        }
    }
}

/* All of a head's groups for the rows of the warp. */
template <bool IS_GENERAL, typename T, int STEPS, bool IS_FAST, int BLOCKS>
__device__ __forceinline__ void decode_groups(const groups_image_group *groups, uint32_t my_shape, int n_groups,
                                              const lane_place<BLOCKS> &place, const decode_memory &memory,
                                              const uint4 *fragments)
{
#pragma unroll 1
    for (int g = 0; g < n_groups; g++) {
        const group_shape shape = read_shape(my_shape, g);
        const group_call<BLOCKS, decode_memory> call = {groups[g], shape, g, n_groups, place, memory, fragments};
        if (!IS_GENERAL && shape.is_transform) decode_transform<T, STEPS>(call);
        else if constexpr (IS_FAST && !output_traits<T>::IS_EXACT) decode_exactly<IS_GENERAL, T, STEPS>(call);
        else decode_group<0, IS_GENERAL, T, STEPS>(call);
    }
}

/* ---- columns to dims ------------------------------------------------------------------------- */

/* Rows from shared memory to the vectors' places: 16-byte stores of neighbouring dims, two runs of 8 of them a lane,
 * half a vector apart. */
template <int ORDER, int ROWS>
__device__ __forceinline__ void store_rows_in(uint16_t *x, int token_stride, const decode_memory &memory, int n_rows,
                                              const uint16_t *column, int head_dim, int stride)
{
    const int lane = threadIdx.x & 31, half_dim = head_dim / 2;
    int lanes = 1;
    while (lanes < head_dim / 16) lanes *= 2;
    const int dim = 8 * (lane & (lanes - 1)), rows = 32 / lanes;
    if (dim >= half_dim) return;
    const uint16_t *low_at[8], *high_at[8],
        *first_row = reinterpret_cast<const uint16_t *>(memory.tile) + lane / lanes * stride;
#pragma unroll
    for (int i = 0; i < (ORDER == GROUPS_ORDER_NATURAL ? 1 : 8); i++) {
        low_at[i] = first_row + column[dim + i];
        high_at[i] = first_row + column[half_dim + dim + i];
    }
    uint16_t *to = x + static_cast<int64_t>(lane / lanes) * token_stride + dim;
#pragma unroll 2
    for (int row = 0; row < ROWS; row += rows, to += static_cast<int64_t>(rows) * token_stride) {
        const int distance = row * stride;
        uint4 low, high;
        if (ORDER == GROUPS_ORDER_NATURAL) {
            low = load_shared(low_at[0] + distance);
            high = load_shared(high_at[0] + distance);
        } else {
            uint32_t a[8], b[4], d[4];
#pragma unroll
            for (int i = 0; i < 8; i++)
                a[i] = ORDER == GROUPS_ORDER_SPLIT_PAIRS
                           ? *reinterpret_cast<const uint32_t *>(low_at[i] + distance)
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

template <int ROWS>
__device__ __forceinline__ void store_rows(uint16_t *x, int token_stride, const decode_memory &memory, int n_rows,
                                           const uint16_t *column, int head_dim, int stride, int order)
{
    if (order == GROUPS_ORDER_SPLIT_PAIRS)
        store_rows_in<GROUPS_ORDER_SPLIT_PAIRS, ROWS>(x, token_stride, memory, n_rows, column, head_dim, stride);
    else if (order == GROUPS_ORDER_NATURAL)
        store_rows_in<GROUPS_ORDER_NATURAL, ROWS>(x, token_stride, memory, n_rows, column, head_dim, stride);
    else store_rows_in<GROUPS_ORDER_ANY, ROWS>(x, token_stride, memory, n_rows, column, head_dim, stride);
}

template <int ROWS>
__device__ __forceinline__ void store_rows(float *x, int token_stride, const decode_memory &memory, int n_rows,
                                           const uint16_t *column, int head_dim, int stride, int)
{
    for (int dim = threadIdx.x & 31; dim < head_dim; dim += 32) {
        const float *from = memory.result + column[dim];
#pragma unroll 4
        for (int row = 0; row < n_rows; row++) x[static_cast<int64_t>(row) * token_stride + dim] = from[row * stride];
    }
}

template <typename T> struct stored_as {
    typedef uint16_t type;
};
template <> struct stored_as<float> {
    typedef float type;
};

/* Dims of no group, whose columns nothing else writes: their centres. */
template <int ROWS, typename T>
__device__ __forceinline__ void fill_uncoded(const decode_memory &memory, const groups_image_head &head, int stride, T)
{
    const int lane = threadIdx.x & 31, n_pairs = (head.n_columns - head.first_uncoded) / 2;
    for (int i = lane; i < ROWS * n_pairs; i += 32) {
        const int column = head.first_uncoded + i % n_pairs * 2;
        put_pair(memory, i / n_pairs * stride + column, memory.centers[column], memory.centers[column + 1], 0, T());
    }
    __syncwarp();
}

/* ---- the kernel ------------------------------------------------------------------------------ */

/* IS_FAST: the fragments have room in shared memory; else they are read from global memory. IS_GENERAL: the
 * general form, whose norms may be bytes, and which may have scales, centres and dims of no group. */
template <typename T, int STEPS, bool IS_FAST, bool IS_GENERAL>
__global__ void __launch_bounds__(decode_plan<T, STEPS>::WARPS * 32, 1) decode_kernel(const decode_args args)
{
    enum {
        BLOCKS = decode_plan<T, STEPS>::BLOCKS,
        ROWS = decode_plan<T, STEPS>::ROWS,
        IS_EXACT = output_traits<T>::IS_EXACT
    };
    typedef typename stored_as<T>::type stored;
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ block_share share;
    __shared__ groups_image_group groups[GROUPS_MAX_GROUPS];
    __shared__ uint32_t shapes[GROUPS_MAX_GROUPS];
    const codec_image &image = args.image;
    const groups_image &own = image.groups;
    const int head_dim = image.head_dim, lane = threadIdx.x & 31, warp = threadIdx.x / 32;

    uint8_t *next = shared;
    uint4 *fragments = reinterpret_cast<uint4 *>(next);
    if (IS_FAST) next += args.fast_bytes;
    float *books = reinterpret_cast<float *>(next);
    next += (own.max_books * 4 + 15) / 16 * 16;
    uint32_t *halves = reinterpret_cast<uint32_t *>(next);
    next += (own.max_halves * 4 + 15) / 16 * 16;
    float *centers = reinterpret_cast<float *>(next);
    if (IS_GENERAL) next += own.max_columns * 4;
    uint16_t *column = reinterpret_cast<uint16_t *>(next);
    next += head_dim * 2 + warp * args.warp_bytes;
    const int max_stride = tile_stride(own.max_columns) + 8, low_distance = ROWS * max_stride;
    decode_memory memory;
    memory.tile = reinterpret_cast<__half *>(next);
    memory.tile_low = memory.tile + low_distance; /* these two for f32 only */
    memory.result = reinterpret_cast<float *>(memory.tile + 2 * low_distance);
    next += ROWS * max_stride * (IS_EXACT ? 8 : 2);
    memory.packed = reinterpret_cast<uint32_t *>(next);
    next += ROWS * (packed_stride(round_up_16(image.max_packed_bytes))) + 16;
    memory.norms = next;
    memory.centers = centers;

    find_share(&share, image.heads, image.n_heads, args.n, ROWS);
    for (int head_index = share.first_head; head_index < image.n_heads; head_index++) {
        const groups_image_head head = own.heads[head_index];
        if (!reaches_head(share, image.heads[head_index], args.n, ROWS)) break;
        const decode_place head_at = place_head(image.heads[head_index], head);
        const int order = uniform(head.order),
                  norm_bytes = IS_GENERAL ? uniform(image.heads[head_index].norm_bytes) : 2,
                  row_norm_bytes = head_at.n_groups * norm_bytes;
        memory.norm_bytes = norm_bytes;
        const uint4 *head_fragments =
            reinterpret_cast<const uint4 *>(own.fragments)
            + static_cast<int64_t>(head.first_fragment + head.n_fragments_encode) * GROUPS_LANES;
        __syncthreads();
        if (warp == 0) start_run(&share, image.heads, head_index, args.n, ROWS);
        if (IS_FAST) block_copy(fragments, head_fragments, head.n_fragments_decode * GROUPS_LANES);
        block_copy(books, own.books + head.first_book, head.n_books);
        block_copy(halves, own.halves + head.first_halves, head.n_halves);
        if (IS_GENERAL) block_copy(centers, own.centers + head_index * own.max_columns, own.max_columns);
        block_copy(column, own.column + head_index * head_dim, head_dim);
        for (int i = threadIdx.x; i < head_at.n_groups; i += blockDim.x) {
            groups[i] = own.at[head.first_group + i];
            groups[i].decode -= head.first_fragment + head.n_fragments_encode;
            shapes[i] = pack_shape(groups[i]);
        }
        /* What lies after the last column meets zeros in B, and must be finite; for f32 also what lies after a
         * group's dims, where unpacking does not write. */
        for (int i = lane; i < ROWS * head_at.stride / 8; i += 32) {
            reinterpret_cast<uint4 *>(memory.tile)[i] = make_uint4(0, 0, 0, 0);
            if (IS_EXACT) reinterpret_cast<uint4 *>(memory.tile_low)[i] = make_uint4(0, 0, 0, 0);
        }
        __syncthreads();
        if (IS_GENERAL && head.n_coded < head_dim) fill_uncoded<ROWS>(memory, head, head_at.stride, T());

        const tile_run run = share.run;
        const head_streams streams = share.streams;
        const book_tables tables = {books, halves};
        const lane_place<BLOCKS> place =
            find_place<BLOCKS>(memory.tile, memory.norms, low_distance, head_at.stride, head_at.n_groups);
        const uint32_t my_shape = lane < head_at.n_groups ? shapes[lane] : 0;
        const uint8_t *packed = args.packed + streams.packed;
        const uint8_t *norms = args.norms + streams.norms;
        stored *x_hat = static_cast<stored *>(args.x_hat) + head_index * args.head_stride;
        for (unsigned tile = next_tile(run, &share), later; tile != NO_TILE; tile = later) {
            const int64_t first = static_cast<int64_t>(tile) * ROWS;
            const int n_rows = static_cast<int>(min(static_cast<int64_t>(ROWS), args.n - first));
            receive_packed(memory, packed + first * head_at.packed_bytes, head_at, n_rows);
            warp_copy(memory.norms, norms + first * row_norm_bytes, n_rows * row_norm_bytes);
            later = next_tile(run, &share);
            if (STEPS <= 4 && later != NO_TILE
                && (later + 1ll) * ROWS <= args.n) { /* the others do not wait for memory */
                const uint8_t *codes = packed + static_cast<int64_t>(later) * ROWS * head_at.packed_bytes;
                for (int at = lane * LINE_BYTES; at < ROWS * head_at.packed_bytes; at += 32 * LINE_BYTES)
                    prefetch(codes + at);
                if (lane < 2) prefetch(norms + static_cast<int64_t>(later) * ROWS * row_norm_bytes + lane * LINE_BYTES);
            }
            __syncwarp();
            unpack_rows<IS_EXACT, ROWS>(memory, groups, my_shape, head_at, tables);
            __syncwarp();
            decode_groups<IS_GENERAL, T, STEPS, IS_FAST>(groups, my_shape, head_at.n_groups, place, memory,
                                                         IS_FAST ? fragments : head_fragments);
            __syncwarp();
            store_rows<ROWS>(x_hat + first * args.token_stride, args.token_stride, memory, n_rows, column, head_dim,
                             head_at.stride, order);
            __syncwarp();
        }
    }
}

template <typename T, int ROWS> static tile_sizes find_sizes(const codec_image &image)
{
    const groups_image &own = image.groups;
    const size_t tile =
        ROWS * static_cast<size_t>(tile_stride(own.max_columns) + 8) * (output_traits<T>::IS_EXACT ? 8 : 2);
    const size_t packed = static_cast<size_t>(ROWS) * packed_stride(round_up_16(image.max_packed_bytes)) + 16;
    return {static_cast<size_t>(own.max_fragments_decode) * GROUPS_LANES * sizeof(groups_image_lane),
            round_up(static_cast<size_t>(own.max_books) * 4, 16) + round_up(static_cast<size_t>(own.max_halves) * 4, 16)
                + static_cast<size_t>(own.max_columns) * 4 + static_cast<size_t>(image.head_dim) * 2,
            round_up(tile + packed + static_cast<size_t>(ROWS) * 2 * image.max_norms, 128)};
}

template <typename T, int STEPS, bool IS_FAST, bool IS_GENERAL>
static rb_status launch_steps(decode_args &args, bool *is_launched, cudaStream_t stream, rb_error *err)
{
    typedef decode_plan<T, STEPS> plan;
    return launch_tiles(decode_kernel<T, STEPS, IS_FAST, IS_GENERAL>, args, "decode kernel",
                        find_sizes<T, plan::ROWS>(args.image), IS_FAST, plan::WARPS, plan::ROWS, is_launched, stream,
                        err);
}

/* By the largest group; without fragments in shared memory where they leave too little room. */
template <bool IS_GENERAL, typename T>
static rb_status launch_type(decode_args &args, cudaStream_t stream, rb_error *err)
{
    const int max_steps = args.image.groups.max_steps;
    bool is_launched = false;
    rb_status st = RB_OK;
    if (max_steps <= 4) st = launch_steps<T, 4, true, IS_GENERAL>(args, &is_launched, stream, err);
    else if (max_steps <= 8) st = launch_steps<T, 8, true, IS_GENERAL>(args, &is_launched, stream, err);
    else if constexpr (!IS_GENERAL)
        st = launch_steps<T, GROUPS_MAX_STEPS, true, false>(args, &is_launched, stream, err);
    if (st == RB_OK && !is_launched)
        st = launch_steps<T, GROUPS_MAX_STEPS, false, IS_GENERAL>(args, &is_launched, stream, err);
    return st;
}

template <typename T> static rb_status launch_form(decode_args &args, cudaStream_t stream, rb_error *err)
{
    return args.image.groups.is_published ? launch_type<false, T>(args, stream, err)
                                          : launch_type<true, T>(args, stream, err);
}

rb_status groups_decode(const codec_decode_call &call, rb_error *err)
{
    decode_args args = {call.image,
                        call.packed,
                        call.norms,
                        call.x_hat.data,
                        call.x_hat.head_stride,
                        call.n,
                        static_cast<int>(call.x_hat.token_stride),
                        0,
                        0};
    if (call.x_hat.type == CODEC_F16) return launch_form<__half>(args, call.stream, err);
    if (call.x_hat.type == CODEC_BF16) return launch_form<__nv_bfloat16>(args, call.stream, err);
    return launch_form<float>(args, call.stream, err);
}
