/* The quantizer of a head of family block-codebook: the definition, in double, that kernels are held to. head_codec.h
 * calls it, so its users need not; judges and images of the family look here.
 *
 * A key as it enters RoPE, less its centre, is a complex number z_i in every block. The levels of the gain are
 *      g_c = 2^((c - zero) / 2),      c = 0 to 2^gain_bits - 1,      zero = 2^gain_bits / 4,
 * as f32 values. With p the points of the universal codebook of the block's bits,
 *
 *   restored  z^_i = g_c M_i p[code_i]
 *   code_i    the point that lies nearest to z_i / g_c, the lowest of equals. In a block of more than
 *             BLOCK_CODEBOOK_MAX_POINT_BITS bits p is (s[a], t[b]) with s and t the levels of so many bits as
 *             block_codebook_first_bits says and of the rest, and code_i = a | b << first bits. With (x, y) = z_i /
 * g_c, m0 s[a] lies nearest to x, and m2 t[b] to y - m1 s[a]: one after the other, so the skew of the map costs
 *             nothing. A number of the map that is 0 has level 0
 *   c         starts at log2(sum w_i |z_i|^2 / sum w_i |M_i|^2) + zero, rounded and kept within the levels. Of that
 *             level and those above and below it, the one that leaves the least sum w_i |z_i - z^_i|^2 is taken, the
 *             lowest of equals. Sums are over the blocks that have bits, |M| is that of the three numbers
 *
 * log2 of a ratio of squares counts half octaves. A codebook of fixed range cuts off what lies beyond it, and rare
 * tokens, which carry retrieval, do; a norm for every key would cost the codebook its fit (docs/method.md has both). So
 * the gain is coarse: most keys take level `zero`.
 *
 * Stream of a vector: the gain's bits, then every block's in order, least significant first, padded to a byte. Codes of
 * head_codec.h are bytes: each block has two, the first 8 bits of its part of the stream and the rest, and the gain
 * belongs to the part of block 0, which therefore has at most 16 bits less those of the gain. */
#ifndef RB_KERNELS_REFERENCE_BLOCK_CODEBOOK_CODEC_H
#define RB_KERNELS_REFERENCE_BLOCK_CODEBOOK_CODEC_H

#include "kernels/reference/head_codec.h"

/* A level of the gain, an f32 value. */
double block_codebook_gain(int gain_bits, int code);
static inline int block_codebook_gain_zero(int gain_bits)
{
    return gain_bits > 0 ? (1 << gain_bits) / 4 : 0;
} /* the level that is 1 */
/* The level nearest to one that is not whole (or infinite), within the levels. */
int block_codebook_gain_near(int gain_bits, double level);
/* Widths of the bytes of a vector's codes, [2 * n_blocks]. */
void block_codebook_code_widths(uint8_t *widths, const plan_block_codebook *plan, int n_blocks);
/* Gain and codes [n_blocks] of blocks to bytes [2 * n_blocks] and back. */
void block_codebook_codes_join(uint8_t *bytes, int gain, const uint16_t *codes, const plan_block_codebook *plan,
                               int n_blocks);
int block_codebook_codes_split(uint16_t *codes, const uint8_t *bytes, const plan_block_codebook *plan,
                               int n_blocks); /* returns the gain */

typedef struct block_codebook_codec block_codebook_codec;
/* The family's part of a codec of this family; owned by codec. */
static inline const block_codebook_codec *head_codec_block_codebook(const head_codec *codec)
{
    return head_codec_own(codec, FAMILY_BLOCK_CODEBOOK);
}

/* For those who judge an encoder: of one vector, sum w |z - z^|^2 of these codes, of the best codes at a level, and the
 * level that its size points to (not rounded; -INFINITY of a vector at its centre). */
double block_codebook_codec_error(const block_codebook_codec *codec, const float *x, int gain, const uint16_t *codes);
double block_codebook_codec_least_error(const block_codebook_codec *codec, const float *x, int gain);
double block_codebook_codec_level(const block_codebook_codec *codec, const float *x);

#endif
