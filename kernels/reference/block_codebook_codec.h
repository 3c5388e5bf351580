/* The quantizer of a head of family block-codebook: the definition, in double, that kernels are held to. head_codec.h
 * calls it; its users need not.
 *
 * A key as it enters RoPE, less its centre, is a complex number z_i in every block. With the gain's levels g_c = 2^((c
 * - zero) / 2), c = 0 to 2^gain_bits - 1, zero = 2^gain_bits / 4, as f32 values, and p the points of the universal
 * codebook of the block's bits,
 *
 *      restored  z^_i = g_c M_i p[code_i]
 *      code_i    the point that lies nearest to z_i / g_c, the lowest of equals
 *      c         of the levels next to log2(sum w_i |z_i|^2 / sum w_i |M_i|^2), rounded and kept within the levels, and
 * of the levels above and below it, the one that leaves the least sum w_i |z_i - z^_i|^2, the lowest of equals; sums
 * over the blocks that have bits, |M| of the three numbers
 *
 * log2 of a ratio of squares counts half octaves. A fixed codebook alone cuts off what lies beyond it, and rare tokens,
 * which carry retrieval, do; a norm for every key would cost the codebook its fit (docs/method.md has both). So the
 * gain is coarse: most keys take level `zero`.
 *
 * Stream of a vector: the gain's bits, then every block's in order, least significant first, padded to a byte. Codes of
 * head_codec.h are bytes: each block has two, the first 8 bits of its part of the stream and the rest, and the gain
 * belongs to the part of block 0. */
#ifndef RB_KERNELS_REFERENCE_BLOCK_CODEBOOK_CODEC_H
#define RB_KERNELS_REFERENCE_BLOCK_CODEBOOK_CODEC_H

#include "kernels/reference/head_codec.h"

/* A level of the gain, an f32 value. */
double plane_gain(int gain_bits, int code);
static inline int plane_gain_zero(int gain_bits)
{
    return gain_bits > 0 ? (1 << gain_bits) / 4 : 0;
} /* the level that is 1 */
/* The level nearest to one that is not whole (or infinite), within the levels. */
int plane_gain_near(int gain_bits, double level);
/* Widths of the bytes of a vector's codes, [2 * n_blocks]. */
void plane_code_widths(uint8_t *widths, const plan_planes *planes, int n_blocks);
/* Gain and codes [n_blocks] of blocks to bytes [2 * n_blocks] and back. */
void plane_codes_join(uint8_t *bytes, int gain, const uint16_t *codes, const plan_planes *planes, int n_blocks);
int plane_codes_split(uint16_t *codes, const uint8_t *bytes, const plan_planes *planes,
                      int n_blocks); /* returns the gain */

typedef struct plane_codec plane_codec;
/* Copies what it needs of head and model; keeps pointers into tables. */
rb_status plane_codec_create(plane_codec **out, const plan_head *head, const model_facts *model, codec_tables *tables,
                             rb_error *err);
void plane_codec_free(plane_codec *codec);

/* x [n][head_dim] -> codes [n][head_dim], and back. Not parallel inside. Fails with RB_ENONFINITE naming the vector,
 * counted from first_vector. */
rb_status plane_codec_encode(const plane_codec *codec, const float *x, int64_t n, uint8_t *codes, int64_t first_vector,
                             rb_error *err);
void plane_codec_decode(const plane_codec *codec, const uint8_t *codes, int64_t n, float *x_hat);

/* For those who judge an encoder: of one vector, sum w |z - z^|^2 of these codes, of the best codes at a level, and the
 * level that its size points to (not rounded; -INFINITY of a vector at its centre). */
double plane_codec_error(const plane_codec *codec, const float *x, int gain, const uint16_t *codes);
double plane_codec_least_error(const plane_codec *codec, const float *x, int gain);
double plane_codec_level(const plane_codec *codec, const float *x);

#endif
