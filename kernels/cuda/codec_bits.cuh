/* Packed vectors: reading and writing their bits, one vector a lane, and sending rows of them to the stream. */
#ifndef RB_KERNELS_CUDA_CODEC_BITS_CUH
#define RB_KERNELS_CUDA_CODEC_BITS_CUH

#include "kernels/cuda/codec_device.cuh"

/* ---- reading --------------------------------------------------------------------------------- */

/* The packed bits of one vector in shared memory, at any byte: 32 bits at a time, put together from two aligned words.
 * Reads up to 8 bytes past its end. */
struct bit_reader {
    const uint32_t *word;
    uint32_t previous;
    int shift; /* of the vector's first bit in its first word */
    uint64_t bits;
    int n; /* in `bits`; uniform over the warp */
};

__device__ __forceinline__ bit_reader start_reading(const uint32_t *tile, int first_byte)
{
    bit_reader reader = {tile + first_byte / 4 + 1, tile[first_byte / 4], first_byte % 4 * 8, 0, 0};
    return reader;
}

/* The next n_bits <= 16. */
__device__ __forceinline__ uint32_t read_bits(bit_reader &reader, int n_bits)
{
    if (reader.n < n_bits) {
        const uint32_t next = *reader.word++;
        reader.bits |= static_cast<uint64_t>(__funnelshift_r(reader.previous, next, reader.shift)) << reader.n;
        reader.previous = next;
        reader.n += 32;
    }
    const uint32_t value = static_cast<uint32_t>(reader.bits) & ((1u << n_bits) - 1);
    reader.bits >>= n_bits;
    reader.n -= n_bits;
    return value;
}

/* ---- writing --------------------------------------------------------------------------------- */

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

/* ---- rows to the stream ---------------------------------------------------------------------- */

/* Packed rows in a warp's tile. */
struct packed_rows {
    int packed_bytes, stride; /* of a row; halves from row to row */
    int part_bytes;           /* a row is sent in parts of 16, 4 or 1 bytes */
    unsigned row_reciprocal;  /* row of part i = i * row_reciprocal >> 22 */
};

__device__ __forceinline__ packed_rows find_rows(int packed_bytes, int stride, int part_bytes)
{
    const unsigned row_parts = max(packed_bytes / part_bytes, 1); /* a vector may have no bits */
    return {packed_bytes, stride, part_bytes, ((1u << 22) + row_parts - 1) / row_parts};
}

template <typename PART>
__device__ __forceinline__ void send_parts(uint8_t *to, const packed_rows &rows, const __half *tile, int n_rows)
{
    const unsigned row_parts = rows.packed_bytes / sizeof(PART), gap = 2 * rows.stride - rows.packed_bytes;
    const uint8_t *from = reinterpret_cast<const uint8_t *>(tile);
    for (unsigned i = threadIdx.x & 31; i < n_rows * row_parts; i += 32)
        reinterpret_cast<PART *>(to)[i] =
            *reinterpret_cast<const PART *>(from + i * sizeof(PART) + (i * rows.row_reciprocal >> 22) * gap);
}

#endif
