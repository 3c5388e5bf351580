/* Quantizing vectors, the frame: see kernels/cuda/codec_cuda.h for the contract and kernels/cuda/groups_image.h for the
 * layout. What is done with the groups is a coder's, of which there are two: groups_encode.cu has that of the published
 * form, groups_encode_general.cu that of the general form.
 *
 * A warp takes 16 or 32 vectors of one head at a time: loads them and puts their dims in coding order in its own part
 * of shared memory; then, group by group, codes them and leaves pairs of codes where the dims were; then packs them, a
 * vector a lane. Warps never wait for each other.
 *
 * fp16 input is an exact operand. bf16 and f32 are first brought near 1 by a power of two for each vector; bf16 then is
 * exact again, f32 is split like the rotation into high and low, and the product low x low is dropped. */
#ifndef RB_KERNELS_CUDA_GROUPS_ENCODE_CUH
#define RB_KERNELS_CUDA_GROUPS_ENCODE_CUH

#include <string.h>

#include "kernels/cuda/codec_kernels.cuh"
#include "kernels/cuda/codec_launch.cuh"
#include "kernels/cuda/groups_load.cuh"
#include "kernels/cuda/groups_pack.cuh"

struct encode_args {
    codec_image image; /* on the device */
    const void *x;     /* [n_heads][n][head_dim] of the coder's input; elements from head to head, vector to vector: */
    int64_t head_stride, n;
    int token_stride;
    uint8_t *packed;               /* [n_heads] streams of [n][packed_bytes] u8 */
    uint8_t *norms;                /* [n_heads] streams of [n][n_groups] fp16 or u8 */
    unsigned long long *first_bad; /* [1] u64 */
    int fast_bytes;                /* of shared memory for the fragments */
    int warp_bytes;
    int is_fast; /* for a coder that asks at run time */
};

/* The general form's kernels: groups_encode_general.cu. */
rb_status groups_encode_general(encode_args &args, codec_dtype type, cudaStream_t stream, rb_error *err);

/* What a warp has in shared memory. */
struct encode_memory {
    /* [rows][tile_stride(n_columns)], and f32's low parts after it. A group's pairs of codes, 16 bits each, take the
     * place of its dims; a row's packed codes that of the row: they never get ahead of the pairs they are made of. */
    __half *tile;
    float *inverse_scale; /* [rows] */
    uint8_t *norms;       /* [rows][n_groups] of the head's norm_bytes */
    const float *books;   /* the block's */
    const groups_image_cell *cells;
    /* In the general form only. */
    float4 *
        coordinates; /* [tiles of a group][lanes] of 16 rows, as products have them: two columns of a lane's two rows */
    const float *shifts; /* the block's: [columns] */
};

/* ---- coding ---------------------------------------------------------------------------------- */

/* Coding of a group's rows: boundaries of each, and where its next pair of codes goes. */
template <int BLOCKS> struct group_coding {
    coder by;
    row_edges edges[2 * BLOCKS];
    uint16_t *pairs[2 * BLOCKS];
};

/* Codes of a tile of row block m, in pairs to where the lane's rows have them. Pairs past the group's end, which lanes
 * without dims make, stay within its own columns. */
template <coding BY, int BLOCKS>
__device__ __forceinline__ void code_tile(const float (&c)[4], const group_coding<BLOCKS> &coding, int m, int tile)
{
    const coder &by = coding.by;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const row_edges &edges = coding.edges[2 * m + r];
        const float pair =
            fmaf(code_of<BY>(c[2 * r + 1], edges, by), by.second_code, code_of<BY>(c[2 * r], edges, by)) + by.pair_bias;
        coding.pairs[2 * m + r][4 * tile] = static_cast<uint16_t>(__float_as_uint(pair));
    }
}

template <int BLOCKS> __device__ __forceinline__ void skip_tiles(group_coding<BLOCKS> &coding, int n_tiles)
{
#pragma unroll
    for (int i = 0; i < 2 * BLOCKS; i++) coding.pairs[i] += 4 * n_tiles;
}

template <coding BY> struct coding_tag {
    static constexpr coding value = BY;
};

/* Calls code_with with the tag of the coding that the group has. */
template <bool IS_FAST, typename CODE>
__device__ __forceinline__ void choose_coding(const group_shape &shape, const CODE &code_with)
{
    if (!IS_FAST && shape.is_searched) {
        code_with(coding_tag<BY_SEARCH>());
        return;
    }
    switch (shape.width) {
    case BY_WIDTH_1: code_with(coding_tag<BY_WIDTH_1>()); break;
    case BY_WIDTH_2: code_with(coding_tag<BY_WIDTH_2>()); break;
    case BY_WIDTH_3: code_with(coding_tag<BY_WIDTH_3>()); break;
    default: code_with(coding_tag<BY_CELLS>()); break;
    }
}

/* ---- the kernel ------------------------------------------------------------------------------ */

static_assert(sizeof(block_share)
                      + GROUPS_MAX_GROUPS * (sizeof(groups_image_group) + sizeof(uint32_t) + sizeof(uint16_t))
                  <= STATIC_SHARED_BYTES,
              "room for share, groups, shapes and pads");

/* A CODER has
 *   input           the element type
 *   BLOCKS, WARPS   row blocks of 16 vectors that a warp takes, warps of a block
 *   IS_GENERAL      its form: the general one, or the published one
 *   IS_FAST         whether the fragments are in shared memory; in the general form args.is_fast says so
 *   encode_groups   codes all groups of a warp's rows
 *   is_bad_row      whether a row cannot be stored, where encode_groups found that some cannot */
template <typename CODER> __global__ void __launch_bounds__(CODER::WARPS * 32, 1) encode_kernel(const encode_args args)
{
    typedef typename CODER::input T;
    enum {
        BLOCKS = CODER::BLOCKS,
        ROWS = 16 * BLOCKS,
        HAS_LOW = input_traits<T>::HAS_LOW,
        IS_GENERAL = CODER::IS_GENERAL
    };
    const bool is_fast = CODER::IS_FAST || (IS_GENERAL && args.is_fast);
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ block_share share;
    __shared__ groups_image_group groups[GROUPS_MAX_GROUPS];
    __shared__ uint32_t shapes[GROUPS_MAX_GROUPS];
    __shared__ uint16_t pads[GROUPS_MAX_GROUPS];
    const codec_image &image = args.image;
    const groups_image &own = image.groups;
    const int head_dim = image.head_dim, lane = threadIdx.x & 31, warp = threadIdx.x / 32;

    uint8_t *next = shared;
    uint4 *fragments = reinterpret_cast<uint4 *>(next);
    if (is_fast) next += args.fast_bytes;
    float *books = reinterpret_cast<float *>(next);
    next += (own.max_books * 4 + 15) / 16 * 16;
    groups_image_cell *cells = reinterpret_cast<groups_image_cell *>(next);
    next += (own.max_cells * 8 + 15) / 16 * 16;
    float *shifts = reinterpret_cast<float *>(next);
    if (IS_GENERAL) next += own.max_columns * 4;
    uint16_t *column = reinterpret_cast<uint16_t *>(next);
    next += head_dim * 2 + warp * args.warp_bytes;
    const int max_stride = tile_stride(own.max_columns) + 8, low_distance = ROWS * max_stride;
    encode_memory memory;
    memory.books = books;
    memory.cells = cells;
    memory.tile = reinterpret_cast<__half *>(next);
    next += ROWS * max_stride * (HAS_LOW ? 4 : 2);
    memory.coordinates = reinterpret_cast<float4 *>(next);
    memory.shifts = shifts;
    if (IS_GENERAL) next += own.max_tiles * 32 * sizeof(float4);
    memory.inverse_scale = reinterpret_cast<float *>(next);
    next += ROWS * 4;
    memory.norms = next;
    const uint4 zero = make_uint4(0, 0, 0, 0);

    find_share(&share, image.heads, image.n_heads, args.n, ROWS);
    for (int head_index = share.first_head; head_index < image.n_heads; head_index++) {
        const groups_image_head head = own.heads[head_index];
        if (!reaches_head(share, image.heads[head_index], args.n, ROWS)) break;
        const head_place head_at = place_head(image.heads[head_index], head);
        const int order = uniform(head.order), stride = head_at.rows.stride,
                  row_norm_bytes = head_at.n_groups * (IS_GENERAL ? head_at.norm_bytes : 2);
        const uint4 *head_fragments =
            reinterpret_cast<const uint4 *>(own.fragments) + static_cast<int64_t>(head.first_fragment) * GROUPS_LANES;
        __syncthreads();
        if (warp == 0) start_run(&share, image.heads, head_index, args.n, ROWS);
        if (is_fast) block_copy(fragments, head_fragments, head.n_fragments_encode * GROUPS_LANES);
        block_copy(books, own.books + head.first_book, head.n_books);
        block_copy(cells, own.cells + head.first_cell, head.n_cells);
        if (IS_GENERAL) block_copy(shifts, own.shifts + head_index * own.max_columns, own.max_columns);
        block_copy(column, own.column + head_index * head_dim, head_dim);
        for (int i = threadIdx.x; i < head_at.n_groups; i += blockDim.x) {
            groups[i] = own.at[head.first_group + i];
            groups[i].encode -= head.first_fragment;
            shapes[i] = pack_shape(groups[i]);
            pads[i] = static_cast<uint16_t>(
                groups[i].column + groups[i].dims / 8 * 8); /* the last 8 columns, if not all of them are dims */
        }
        /* Columns between groups and after the last are 0: rows are written column by column of what they have. */
        for (int i = lane; i < ROWS * stride / 8; i += 32) {
            reinterpret_cast<uint4 *>(memory.tile)[i] = zero;
            if (HAS_LOW) reinterpret_cast<uint4 *>(memory.tile + low_distance)[i] = zero;
        }
        __syncthreads();

        const tile_run run = share.run;
        const head_streams streams = share.streams;
        const row_split split = split_rows(head_dim);
        const row_place to = {
            memory.tile, stride, low_distance, column, memory.inverse_scale, IS_GENERAL ? head.largest_center : 0.0f};
        const lane_place<BLOCKS> place =
            find_place<BLOCKS>(memory.tile, memory.norms, low_distance, stride, head_at.n_groups);
        const uint32_t my_shape = lane < head_at.n_groups ? shapes[lane] : 0;
        const T *x = static_cast<const T *>(args.x) + head_index * args.head_stride;
        for (unsigned tile = next_tile(run, &share), later; tile != NO_TILE; tile = later) {
            const int64_t first = static_cast<int64_t>(tile) * ROWS;
            const int n_rows = static_cast<int>(min(static_cast<int64_t>(ROWS), args.n - first));
            const T *rows = x + first * args.token_stride;
            /* The last 8 columns of each group become 0 again, which codes and packed bits have overwritten; dims are
             * written next. Where a group ends with a whole part, these are its neighbour's first 8 columns. */
            for (int i = lane; i < head_at.n_groups * ROWS; i += 32)
                *reinterpret_cast<uint4 *>(memory.tile + i % ROWS * stride + pads[i / ROWS]) = zero;
            __syncwarp();
            if (order == GROUPS_ORDER_SPLIT_PAIRS)
                load_rows<GROUPS_ORDER_SPLIT_PAIRS, ROWS>(to, rows, args.token_stride, n_rows, split, head_dim);
            else if (order == GROUPS_ORDER_NATURAL)
                load_rows<GROUPS_ORDER_NATURAL, ROWS>(to, rows, args.token_stride, n_rows, split, head_dim);
            else load_rows<GROUPS_ORDER_ANY, ROWS>(to, rows, args.token_stride, n_rows, split, head_dim);
            later = next_tile(run, &share);
            if (later != NO_TILE) {
                const int64_t row = min(static_cast<int64_t>(later) * ROWS + lane % ROWS, args.n - 1);
                for (int at = lane / ROWS * LINE_BYTES; at < head_dim * static_cast<int>(sizeof(T));
                     at += 32 / ROWS * LINE_BYTES)
                    prefetch(reinterpret_cast<const char *>(x + row * args.token_stride) + at);
            }
            __syncwarp();
            const bool has_bad = CODER::encode_groups(groups, my_shape, head_at, head, place, memory,
                                                      is_fast ? fragments : head_fragments);
            __syncwarp();
            pack_rows<ROWS>(my_shape, head_at.n_groups, stride, memory.tile);
            __syncwarp();
            send_packed(args.packed + streams.packed + first * head_at.rows.packed_bytes, head_at.rows, memory.tile,
                        n_rows);
            warp_copy(args.norms + streams.norms + first * row_norm_bytes, memory.norms, n_rows * row_norm_bytes);
            if (__any_sync(0xffffffffu, has_bad)) {
                const bool is_bad = lane < n_rows && CODER::is_bad_row(memory, head_at.n_groups, lane);
                if (is_bad)
                    atomicMin(args.first_bad, static_cast<unsigned long long>(static_cast<uint64_t>(head_index) * args.n
                                                                              + first + lane));
            }
            __syncwarp();
        }
    }
}

/* Shared memory of a coder whose warps have warp_bytes more than tile, scales and norms, and block_bytes more than
 * tables. */
template <typename CODER> static tile_sizes find_sizes(const codec_image &image, size_t block_bytes, size_t warp_bytes)
{
    const groups_image &own = image.groups;
    const size_t rows = 16 * CODER::BLOCKS, tile = rows * 2 * static_cast<size_t>(tile_stride(own.max_columns) + 8);
    return {static_cast<size_t>(own.max_fragments_encode) * GROUPS_LANES * sizeof(groups_image_lane),
            round_up(static_cast<size_t>(own.max_books) * 4, 16)
                + round_up(static_cast<size_t>(own.max_cells) * sizeof(groups_image_cell), 16) + block_bytes
                + static_cast<size_t>(image.head_dim) * 2,
            round_up(tile * (input_traits<typename CODER::input>::HAS_LOW ? 2 : 1) + rows * 4
                         + rows * 2 * image.max_norms + warp_bytes,
                     128)};
}

#endif
