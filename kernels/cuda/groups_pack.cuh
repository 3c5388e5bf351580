/* From pairs of codes in a warp's tile to packed vectors in the stream. */
#ifndef RB_KERNELS_CUDA_GROUPS_PACK_CUH
#define RB_KERNELS_CUDA_GROUPS_PACK_CUH

#include "kernels/cuda/codec_bits.cuh"
#include "kernels/cuda/groups_coding.cuh"
#include "kernels/cuda/groups_product.cuh"

/* How pairs of one width are put together. */
struct pair_joint {
    uint32_t second_pair; /* a word's upper pair times this is what moves it down, after the lower one */
    int four, shift;      /* bits of four codes; and how far pairs are shifted, which are doubled up to 3 bits */
};

__device__ __forceinline__ uint32_t join_pairs(uint32_t word, const pair_joint &joint)
{
    return word + (word >> 16) * joint.second_pair;
}

/* Eight codes of at most 4 bits. */
__device__ __forceinline__ uint32_t join_eight(const uint2 &words, const pair_joint &joint)
{
    return (join_pairs(words.x, joint) | join_pairs(words.y, joint) << joint.four) >> joint.shift;
}

/* n of the first bits, which may be all or none. */
__device__ __forceinline__ void append_first(bit_writer &writer, uint32_t bits, int n)
{
    append(writer, n >= 32 ? bits : bits & ((1u << n) - 1), n);
}

/* Four pairs of a lane's own vector. Another lane's may not be read here: it is being overwritten. */
__device__ __forceinline__ uint2 own_pairs(const bit_writer &writer, const uint2 *from)
{
    return writer.is_own ? *from : make_uint2(0, 0);
}

/* Pairs of codes to packed bits, one vector a lane, eight codes at a time; of the last eight of a group some may not be
 * codes. */
template <int ROWS> __device__ __forceinline__ void pack_rows(uint32_t my_shape, int n_groups, int stride, __half *tile)
{
    const int lane = threadIdx.x & 31;
    __half *row = tile + lane % ROWS * stride;
    bit_writer writer = {reinterpret_cast<uint32_t *>(row), 0, 0, ROWS == 32 || lane < ROWS};
#pragma unroll 1
    for (int g = 0; g < n_groups; g++) {
        const group_shape shape = read_shape(my_shape, g);
        const pair_joint joint = {(1u << 2 * shape.width) - (1u << 16), 4 * shape.width,
                                  shape.width <= BY_WIDTH_3 ? 1 : 0};
        const uint2 *from = reinterpret_cast<const uint2 *>(row + shape.column), *end = from + shape.dims / 8;
        const int left = shape.dims % 8 * shape.width; /* bits */
        if (joint.four <= 16) {
#pragma unroll 1
            for (; from < end; from++) append(writer, join_eight(own_pairs(writer, from), joint), 2 * joint.four);
            if (left > 0) append_first(writer, join_eight(own_pairs(writer, from), joint), left);
        } else {
#pragma unroll 1
            for (; from < end; from++) {
                const uint2 words = own_pairs(writer, from);
                append(writer, join_pairs(words.x, joint), joint.four);
                append(writer, join_pairs(words.y, joint), joint.four);
            }
            if (left > 0) append_first(writer, join_pairs(own_pairs(writer, from).x, joint), min(left, joint.four));
            if (left > joint.four)
                append_first(writer, join_pairs(own_pairs(writer, from).y, joint), left - joint.four);
        }
    }
    if (writer.n > 0 && writer.is_own) *writer.word = writer.bits;
}

/* What the kernel asks of a head all the time. */
struct head_place {
    int n_groups, norm_bytes;
    packed_rows rows;
};

__device__ __forceinline__ head_place place_head(const codec_image_head &streams, const groups_image_head &head)
{
    const int packed_bytes = uniform(streams.packed_bytes), part_bytes = packed_bytes % 16 == 0  ? 16
                                                                         : packed_bytes % 4 == 0 ? 4
                                                                                                 : 1;
    return {uniform(head.n_groups), uniform(streams.norm_bytes),
            find_rows(packed_bytes, tile_stride(uniform(head.n_columns)), part_bytes)};
}

/* Rows of packed vectors to the stream, where they lie without gaps. */
__device__ __forceinline__ void send_packed(uint8_t *to, const packed_rows &rows, const __half *tile, int n_rows)
{
    if (rows.part_bytes == 16) send_parts<uint4>(to, rows, tile, n_rows);
    else if (rows.part_bytes == 4) send_parts<uint32_t>(to, rows, tile, n_rows);
    else send_parts<uint8_t>(to, rows, tile, n_rows);
}

#endif
