/* From packed vectors of family groups to centroids: the first part of decoding. */
#ifndef RB_KERNELS_CUDA_GROUPS_UNPACK_CUH
#define RB_KERNELS_CUDA_GROUPS_UNPACK_CUH

#include "kernels/cuda/groups_product.cuh"

/* What a warp has in shared memory. */
struct decode_memory {
    __half *tile, *tile_low; /* [rows][stride]: centroids, by column */
    float *result;           /* f32 output: [rows][stride] */
    uint8_t *norms;          /* [rows][n_groups], of norm_bytes */
    int norm_bytes;
    const float *centers; /* the block's: [columns], what is added to restored dims */
    uint32_t *packed;     /* [rows][packed_stride], bytes, and 16 bytes that are read and not used */
};

struct book_tables {
    const float *books;
    const uint32_t *halves;
};

/* ---- packed rows ----------------------------------------------------------------------------- */

/* Where a row's 16-byte parts are known, rows lie an odd number of words apart in shared memory, so that lanes that
 * read theirs meet different banks; else as in the stream. */
__host__ __device__ inline int packed_stride(int packed_bytes)
{
    return packed_bytes % 16 == 0 ? packed_bytes + 4 : packed_bytes;
}
__host__ __device__ inline int round_up_16(int n) { return (n + 15) / 16 * 16; }

struct decode_place {
    int n_groups, packed_bytes, packed_stride, stride;
    unsigned row_reciprocal; /* row of 16-byte part i = i * row_reciprocal >> 22 */
};

__device__ __forceinline__ decode_place place_head(const codec_image_head &streams, const groups_image_head &head)
{
    const int n_groups = uniform(head.n_groups), packed_bytes = uniform(streams.packed_bytes);
    const unsigned row_parts = packed_bytes % 16 == 0 ? packed_bytes / 16 : 1;
    return {n_groups, packed_bytes, packed_stride(packed_bytes), tile_stride(uniform(head.n_columns)),
            ((1u << 22) + row_parts - 1) / row_parts};
}

__device__ __forceinline__ void receive_packed(const decode_memory &memory, const uint8_t *from,
                                               const decode_place &head, int n_rows)
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

/* ---- codes to centroids ---------------------------------------------------------------------- */

/* The centroids of 8 codes from bit `bit` on. A table of pairs has 2^(2 width) words, one of single centroids 2^width.
 */
template <int WIDTH>
__device__ __forceinline__ void look_up(uint32_t (&out)[4], const uint32_t *packed, int bit, int width,
                                        const uint32_t *table)
{
    const uint32_t *word = packed + (bit >> 5), mask = (1u << (WIDTH ? 2 * WIDTH : width)) - 1;
    const uint32_t second = word[1], low = __funnelshift_r(word[0], second, bit),
                   high = WIDTH ? 0 : __funnelshift_r(second, word[2], bit);
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
}

/* 8 columns of a vector a lane at a time; with 16 rows a row's two lanes take turns. All lanes are in one group, so
 * widths are uniform over the warp, and a table of up to 32 words is read without bank conflicts. */
template <int WIDTH, int ROWS>
__device__ __forceinline__ void unpack_group(const groups_image_group &group, const group_shape &shape,
                                             const decode_memory &memory, const decode_place &head,
                                             const uint32_t *halves)
{
    enum { LANES = 32 / ROWS }; /* of a row */
    const int lane = threadIdx.x & 31, own = lane / ROWS, width = WIDTH ? WIDTH : shape.width, n_whole = shape.dims / 8,
              rest = shape.dims % 8;
    const uint32_t *table = halves + group.halves;
    int bit = lane % ROWS * head.packed_stride * 8 + group.bit_first + 8 * width * own;
    uint4 *row = reinterpret_cast<uint4 *>(memory.tile + lane % ROWS * head.stride + shape.column) + own;
    uint32_t out[4];
    int part = own;
#pragma unroll 1
    for (; part < n_whole; part += LANES, bit += 8 * LANES * width, row += LANES) {
        look_up<WIDTH>(out, memory.packed, bit, width, table);
        *row = make_uint4(out[0], out[1], out[2], out[3]);
    }
    if (rest > 0 && part == n_whole) { /* what follows in the stream is another group's */
        look_up<WIDTH>(out, memory.packed, bit, width, table);
        *row = make_uint4(out[0], rest > 2 ? out[1] : 0, rest > 4 ? out[2] : 0, 0);
    }
}

/* The same with centroids in f32, split into high and low, one after the other. */
template <int ROWS>
__device__ __forceinline__ void unpack_group_exact(const groups_image_group &group, const group_shape &shape,
                                                   const decode_memory &memory, const decode_place &head,
                                                   const float *books)
{
    enum { LANES = 32 / ROWS };
    const int lane = threadIdx.x & 31, own = lane / ROWS, width = shape.width;
    const uint32_t mask = (1u << width) - 1;
    const float *centroids = books + group.book + (1 << width) / 2;
    int bit = lane % ROWS * head.packed_stride * 8 + group.bit_first + own * width,
        at = lane % ROWS * head.stride + shape.column + own;
    for (int j = own; j < shape.dims; j += LANES, bit += LANES * width, at += LANES) {
        const uint32_t *word = memory.packed + (bit >> 5);
        const float y = centroids[__funnelshift_r(word[0], word[1], bit & 31) & mask] * GROUPS_CENTROID_SCALE;
        const __half high = __float2half_rn(y);
        memory.tile[at] = high;
        memory.tile_low[at] = __float2half_rn(y - __half2float(high));
    }
}

template <bool IS_EXACT, int ROWS>
__device__ __forceinline__ void unpack_rows(const decode_memory &memory, const groups_image_group *groups,
                                            uint32_t my_shape, const decode_place &head, const book_tables &tables)
{
#pragma unroll 1
    for (int g = 0; g < head.n_groups; g++) {
        const groups_image_group &group = groups[g];
        const group_shape shape = read_shape(my_shape, g);
        if constexpr (IS_EXACT) {
            unpack_group_exact<ROWS>(group, shape, memory, head, tables.books);
        } else {
            switch (shape.width) {
            case 1: unpack_group<1, ROWS>(group, shape, memory, head, tables.halves); break;
            case 2: unpack_group<2, ROWS>(group, shape, memory, head, tables.halves); break;
            case 3: unpack_group<3, ROWS>(group, shape, memory, head, tables.halves); break;
            case 4: unpack_group<4, ROWS>(group, shape, memory, head, tables.halves); break;
            default: unpack_group<0, ROWS>(group, shape, memory, head, tables.halves); break;
            }
        }
    }
}

#endif
