/* From pairs of codes in a warp's tile to packed vectors in the stream. */
#ifndef RB_KERNELS_CUDA_CODEC_PACK_CUH
#define RB_KERNELS_CUDA_CODEC_PACK_CUH

#include "kernels/cuda/codec_coding.cuh"
#include "kernels/cuda/groups_product.cuh"

/* Bits of one vector, a lane's, sent out 32 at a time. All lanes are at the same bit; those that have no vector of
 * their own send nothing. */
struct bit_writer {
    uint32_t *word;
    uint32_t bits;
    int n;
    bool is_own;
};

__device__ __forceinline__ void append(bit_writer &writer, uint32_t value, int n_bits)
{
    writer.bits |= value << writer.n;
    const uint32_t rest = __funnelshift_l(value, 0, writer.n); /* what the shift lost */
    writer.n += n_bits;
    if (writer.n >= 32) {
        if (writer.is_own) *writer.word = writer.bits;
        writer.word++;
        writer.bits = rest;
        writer.n -= 32;
    }
}

/* How pairs of one width are put together. */
struct pair_joint {
    uint32_t second_pair; /* a word's upper pair times this is what moves it down, behind the lower one */
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

struct head_place {
    int n_groups, norm_bytes, packed_bytes, stride;
    int part_bytes;          /* a packed row is sent in parts of 16, 4 or 1 bytes */
    unsigned row_reciprocal; /* row of part i = i * row_reciprocal >> 22 */
};

__device__ __forceinline__ head_place place_head(const codec_image_head &head)
{
    const int packed_bytes = uniform(head.packed_bytes), part_bytes = packed_bytes % 16 == 0  ? 16
                                                                      : packed_bytes % 4 == 0 ? 4
                                                                                              : 1;
    const unsigned row_parts = packed_bytes / part_bytes;
    return {uniform(head.n_groups),
            uniform(head.norm_bytes),
            packed_bytes,
            tile_stride(uniform(head.n_columns)),
            part_bytes,
            ((1u << 22) + row_parts - 1) / row_parts};
}

template <typename PART>
__device__ __forceinline__ void send_parts(uint8_t *to, const head_place &head, const __half *tile, int n_rows)
{
    const unsigned row_parts = head.packed_bytes / sizeof(PART), gap = 2 * head.stride - head.packed_bytes;
    const uint8_t *from = reinterpret_cast<const uint8_t *>(tile);
    for (unsigned i = threadIdx.x & 31; i < n_rows * row_parts; i += 32)
        reinterpret_cast<PART *>(to)[i] =
            *reinterpret_cast<const PART *>(from + i * sizeof(PART) + (i * head.row_reciprocal >> 22) * gap);
}

/* Rows of packed vectors to the stream, where they lie without gaps. */
__device__ __forceinline__ void send_packed(uint8_t *to, const head_place &head, const __half *tile, int n_rows)
{
    if (head.part_bytes == 16) send_parts<uint4>(to, head, tile, n_rows);
    else if (head.part_bytes == 4) send_parts<uint32_t>(to, head, tile, n_rows);
    else send_parts<uint8_t>(to, head, tile, n_rows);
}

#endif
