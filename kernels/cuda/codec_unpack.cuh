/* Reading packed codes, one vector a lane: all lanes are at the same coding position, so widths are uniform over the
 * warp and a codebook of up to 32 entries is read without bank conflicts. */
#ifndef RB_KERNELS_CUDA_CODEC_UNPACK_CUH
#define RB_KERNELS_CUDA_CODEC_UNPACK_CUH

#include "kernels/cuda/codec_device.cuh"

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

/* A pair of coding positions as the image describes it (codec_image.h, `pairs`). */
struct pair_facts {
    int width, group, centroids;
    bool is_last;
};

__device__ __forceinline__ pair_facts read_pair(uint32_t word)
{
    return {static_cast<int>(word & 0xff), static_cast<int>(word >> 8 & 0x7f), static_cast<int>(word >> 16),
            (word & 0x8000u) != 0};
}

/* The centroids of the next two codes. */
__device__ __forceinline__ float2 read_centroids(bit_reader &reader, const pair_facts &pair, const float *books)
{
    const uint32_t codes = read_bits(reader, 2 * pair.width);
    const float *centroids = books + pair.centroids;
    return make_float2(centroids[codes & ((1u << pair.width) - 1)], centroids[codes >> pair.width]);
}

#endif
