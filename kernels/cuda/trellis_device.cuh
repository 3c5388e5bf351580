/* What the kernels of family trellis share: tables in shared memory, and looking up a quad's numbers
 * (kernels/cuda/trellis_image.h). */
#ifndef RB_KERNELS_CUDA_TRELLIS_DEVICE_CUH
#define RB_KERNELS_CUDA_TRELLIS_DEVICE_CUH

#include "kernels/cuda/codec_kernels.cuh"
#include "kernels/cuda/codec_launch.cuh"

enum {
    TRELLIS_TABLE_NUMBERS = (TRELLIS_MAX_WIDTH + 1) * TRELLIS_STATES,
    TRELLIS_TABLE_BYTES = TRELLIS_TABLE_NUMBERS * 2
};

/* Words of pair tables up to this width. */
__host__ __device__ inline int trellis_pair_words(int max_pair) { return TRELLIS_PAIRS_AT + (512 << max_pair) - 512; }

/* A block's tables: numbers as fp16, then as pairs. */
struct trellis_tables_memory {
    const uint16_t *numbers; /* [9][256] */
    const uint32_t *pairs;   /* [trellis_pair_words] */
};

static inline size_t trellis_tables_bytes(const trellis_image &own)
{
    return TRELLIS_TABLE_BYTES + static_cast<size_t>(trellis_pair_words(own.max_pair)) * sizeof(uint32_t);
}

/* Fills a block's tables; all its threads, which wait for each other once more before they look anything up. */
__device__ inline trellis_tables_memory fill_tables(uint8_t *memory, const trellis_image &own)
{
    uint16_t *numbers = reinterpret_cast<uint16_t *>(memory);
    uint32_t *pairs = reinterpret_cast<uint32_t *>(memory + TRELLIS_TABLE_BYTES);
    block_copy(reinterpret_cast<uint4 *>(numbers), reinterpret_cast<const uint4 *>(own.tables),
               TRELLIS_TABLE_BYTES / 16);
    for (int i = threadIdx.x; i < TRELLIS_PAIRS_AT; i += blockDim.x) pairs[i] = 0;
    for (int width = 1; width <= own.max_pair; width++) {
        const uint16_t *table = own.tables + 256 * width;
        uint32_t *to = pairs + TRELLIS_PAIRS_AT + (256 << width) - 512;
        for (int i = threadIdx.x; i < 256 << width; i += blockDim.x)
            to[i] = table[i & 255] | static_cast<uint32_t>(table[i >> width]) << 16;
    }
    return {numbers, pairs};
}

/* A quad's facts, in registers. */
struct quad_facts {
    int bit, third;
    uint32_t first[2], mask[2], width[TRELLIS_QUAD];
    bool is_paired, is_step_paired;
};

__device__ __forceinline__ quad_facts read_quad(const trellis_image_quad *quads, int q)
{
    const uint4 all = reinterpret_cast<const uint4 *>(quads)[q];
    quad_facts facts;
    facts.bit = all.x & 0xffffu;
    facts.third = all.x >> 16 & 31u;
    facts.is_paired = (all.x >> 16 & TRELLIS_QUAD_PAIRED) != 0;
    facts.is_step_paired = (all.x >> 16 & TRELLIS_STEP_PAIRED) != 0;
    facts.first[0] = all.y & 0xffffu, facts.first[1] = all.y >> 16;
    facts.mask[0] = all.z & 0xffffu, facts.mask[1] = all.z >> 16;
#pragma unroll
    for (int i = 0; i < TRELLIS_QUAD; i++) facts.width[i] = all.w >> 8 * i & 255u;
    return facts;
}

/* 32 bits of packed rows from any bit on. Reads up to 8 bytes from the bit's word. */
__device__ __forceinline__ uint32_t read_windows(const uint32_t *packed, int bit)
{
    const uint32_t *word = packed + (bit >> 5);
    return __funnelshift_r(word[0], word[1], bit);
}

/* The quad's numbers as two pairs of fp16, of a quad in tables of pairs. */
__device__ __forceinline__ uint2 look_up_pairs(uint32_t windows, const quad_facts &facts, const uint32_t *pairs)
{
    return make_uint2(pairs[(windows & facts.mask[0]) + facts.first[0]],
                      pairs[(windows >> facts.third & facts.mask[1]) + facts.first[1]]);
}

/* Of any quad. */
__device__ __forceinline__ uint2 look_up_numbers(uint32_t windows, const quad_facts &facts, const uint16_t *numbers)
{
    const int second = static_cast<int>(facts.width[1]), fourth = facts.third + static_cast<int>(facts.width[3]);
    const uint32_t a = numbers[facts.width[0] * 256 + (windows & 255u)],
                   b = numbers[facts.width[1] * 256 + (windows >> second & 255u)],
                   c = numbers[facts.width[2] * 256 + (windows >> facts.third & 255u)],
                   d = numbers[facts.width[3] * 256 + (windows >> fourth & 255u)];
    return make_uint2(a | b << 16, c | d << 16);
}

__device__ __forceinline__ float2 pair_numbers(uint32_t word)
{
    __half2 pair;
    memcpy(&pair, &word, sizeof pair);
    return __half22float2(pair);
}

/* Where a head's gains are: bits from a row's start on, and their mask. */
struct gain_place {
    int bit;
    uint32_t mask;
};

__device__ __forceinline__ gain_place find_gain(const trellis_image_head &head)
{
    return {head.code_bits, (1u << head.gain_bits) - 1u};
}

/* The gain's level of the row whose bits start here. */
__device__ __forceinline__ int read_level(const uint32_t *packed, int row_bit, const gain_place &gain)
{
    return static_cast<int>(read_windows(packed, row_bit + gain.bit) & gain.mask);
}

#endif
