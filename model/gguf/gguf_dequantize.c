/* See model/gguf/gguf_dequantize.h. */
#include "model/gguf/gguf_dequantize.h"

#include <assert.h>
#include <string.h>

#include "core/half.h"
#include "core/threads.h"

enum { SMALL = 32, LARGE = 256, HALF = SMALL / 2 };

static float read_f16(const unsigned char *at)
{
    uint16_t bits;
    memcpy(&bits, at, sizeof bits);
    return rb_f16_to_f32(bits);
}

static uint32_t read_u32(const unsigned char *at)
{
    uint32_t bits;
    memcpy(&bits, at, sizeof bits);
    return bits;
}

/* ---- blocks of 32 ---------------------------------------------------------------------------- */

RB_CPU_CLONES static void q4_0(const unsigned char *restrict block, int64_t n_blocks, float *restrict out)
{
    for (int64_t b = 0; b < n_blocks; b++, block += 18, out += SMALL) {
        const float d = read_f16(block);
        for (int i = 0; i < HALF; i++) {
            out[i] = d * (float)((block[2 + i] & 15) - 8);
            out[i + HALF] = d * (float)((block[2 + i] >> 4) - 8);
        }
    }
}

RB_CPU_CLONES static void q4_1(const unsigned char *restrict block, int64_t n_blocks, float *restrict out)
{
    for (int64_t b = 0; b < n_blocks; b++, block += 20, out += SMALL) {
        const float d = read_f16(block), m = read_f16(block + 2);
        for (int i = 0; i < HALF; i++) {
            out[i] = d * (float)(block[4 + i] & 15) + m;
            out[i + HALF] = d * (float)(block[4 + i] >> 4) + m;
        }
    }
}

RB_CPU_CLONES static void q5_0(const unsigned char *restrict block, int64_t n_blocks, float *restrict out)
{
    for (int64_t b = 0; b < n_blocks; b++, block += 22, out += SMALL) {
        const float d = read_f16(block);
        const uint32_t high = read_u32(block + 2);
        for (int i = 0; i < HALF; i++) {
            const uint32_t low = block[6 + i];
            out[i] = d * (float)((int)((low & 15) | (high >> i & 1) << 4) - 16);
            out[i + HALF] = d * (float)((int)(low >> 4 | (high >> (i + HALF) & 1) << 4) - 16);
        }
    }
}

RB_CPU_CLONES static void q5_1(const unsigned char *restrict block, int64_t n_blocks, float *restrict out)
{
    for (int64_t b = 0; b < n_blocks; b++, block += 24, out += SMALL) {
        const float d = read_f16(block), m = read_f16(block + 2);
        const uint32_t high = read_u32(block + 4);
        for (int i = 0; i < HALF; i++) {
            const uint32_t low = block[8 + i];
            out[i] = d * (float)(int)((low & 15) | (high >> i & 1) << 4) + m;
            out[i + HALF] = d * (float)(int)(low >> 4 | (high >> (i + HALF) & 1) << 4) + m;
        }
    }
}

RB_CPU_CLONES static void q8_0(const unsigned char *restrict block, int64_t n_blocks, float *restrict out)
{
    for (int64_t b = 0; b < n_blocks; b++, block += 34, out += SMALL) {
        const float d = read_f16(block);
        for (int i = 0; i < SMALL; i++) out[i] = (float)(int8_t)block[2 + i] * d;
    }
}

/* ---- blocks of 256 --------------------------------------------------------------------------- */

enum { N_SCALES = 8 };

/* 8 scales and 8 minima of 6 bits, four of each in a byte's low 6 bits, the other four spread:
 *
 *   bytes 0-3    EEAAAAAA  scale i, and the high bits of scale i + 4
 *   bytes 4-7    eeaaaaaa  minimum i, and the high bits of minimum i + 4
 *   bytes 8-11   eeeeEEEE  the low bits of minimum and scale i + 4 */
static void unpack_scales(const unsigned char *packed, int scales[N_SCALES], int minima[N_SCALES])
{
    for (int i = 0; i < 4; i++) {
        scales[i] = packed[i] & 63;
        minima[i] = packed[4 + i] & 63;
        scales[4 + i] = (packed[8 + i] & 15) | (packed[i] >> 2 & 48);
        minima[4 + i] = packed[8 + i] >> 4 | (packed[4 + i] >> 2 & 48);
    }
}

/* Scale and minimum of each of the 8 stretches of 32 elements. */
static void stretch_scales(const unsigned char *block, float d_of[N_SCALES], float m_of[N_SCALES])
{
    const float d = read_f16(block), dmin = read_f16(block + 2);
    int scales[N_SCALES], minima[N_SCALES];
    unpack_scales(block + 4, scales, minima);
    for (int i = 0; i < N_SCALES; i++) {
        d_of[i] = d * (float)scales[i];
        m_of[i] = dmin * (float)minima[i];
    }
}

RB_CPU_CLONES static void q4_k(const unsigned char *restrict block, int64_t n_blocks, float *restrict out)
{
    for (int64_t b = 0; b < n_blocks; b++, block += 144, out += LARGE) {
        float d[N_SCALES], m[N_SCALES];
        stretch_scales(block, d, m);
        for (int s = 0; s < N_SCALES; s++) {
            const unsigned char *codes = block + 16 + s / 2 * 32;
            const int shift = s % 2 * 4;
            for (int i = 0; i < 32; i++) out[s * 32 + i] = d[s] * (float)(codes[i] >> shift & 15) - m[s];
        }
    }
}

RB_CPU_CLONES static void q5_k(const unsigned char *restrict block, int64_t n_blocks, float *restrict out)
{
    for (int64_t b = 0; b < n_blocks; b++, block += 176, out += LARGE) {
        float d[N_SCALES], m[N_SCALES];
        stretch_scales(block, d, m);
        for (int s = 0; s < N_SCALES; s++) {
            const unsigned char *high = block + 16, *codes = block + 48 + s / 2 * 32;
            const int shift = s % 2 * 4;
            for (int i = 0; i < 32; i++)
                out[s * 32 + i] = d[s] * (float)((codes[i] >> shift & 15) | (high[i] >> s & 1) << 4) - m[s];
        }
    }
}

/* Stretch s of 32: low bits in byte (s / 4) * 64 + (s % 2) * 32 + i, upper half for s % 4 > 1; high bits in byte
 * (s / 4) * 32 + i at bit 2 (s % 4). A scale covers 16 elements. */
RB_CPU_CLONES static void q6_k(const unsigned char *restrict block, int64_t n_blocks, float *restrict out)
{
    for (int64_t b = 0; b < n_blocks; b++, block += 210, out += LARGE) {
        const float d = read_f16(block + 208);
        for (int s = 0; s < 8; s++) {
            const unsigned char *low = block + s / 4 * 64 + s % 2 * 32, *high = block + 128 + s / 4 * 32;
            const int low_shift = s % 4 / 2 * 4, high_shift = s % 4 * 2;
            for (int half = 0; half < 2; half++) {
                const float scaled = d * (float)(int8_t)block[192 + 2 * s + half];
                for (int i = half * 16; i < half * 16 + 16; i++)
                    out[s * 32 + i] =
                        scaled * (float)(((low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4) - 32);
            }
        }
    }
}

void gguf_dequantize(tensor_dtype dtype, const unsigned char *blocks, int64_t n_blocks, float *out)
{
    switch (dtype) {
    case TENSOR_Q4_0: q4_0(blocks, n_blocks, out); break;
    case TENSOR_Q4_1: q4_1(blocks, n_blocks, out); break;
    case TENSOR_Q5_0: q5_0(blocks, n_blocks, out); break;
    case TENSOR_Q5_1: q5_1(blocks, n_blocks, out); break;
    case TENSOR_Q8_0: q8_0(blocks, n_blocks, out); break;
    case TENSOR_Q4_K: q4_k(blocks, n_blocks, out); break;
    case TENSOR_Q5_K: q5_k(blocks, n_blocks, out); break;
    case TENSOR_Q6_K: q6_k(blocks, n_blocks, out); break;
    default: assert(false && "a block type");
    }
}
