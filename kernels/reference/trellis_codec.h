/* The quantizer of a head of family trellis: the definition, in double, that kernels are held to. head_codec.h calls
 * it, so its users need not; judges and images of the family look here.
 *
 * With B the basis, c the centre, g_l = 2^((l - gain_zero) / 2), as f32 values, the levels of the gain, and y^_i the
 * number that the trellis restores for coordinate i,
 *
 *   restored  x^ = c + g_l sum over coded i of y^_i B_i
 *   coords    z = (x - c) B^-1, y_i = z_i s_i / g_l, s_i = 1 / (1 - trellis_errors[width_i])
 *   l         the nearest level to log2(sum w_i (z_i s_i)^2 / sum w_i) + gain_zero, over coded i, within the levels
 *   states    the path of the least sum w_i (y_i - y^_i)^2 (trellis.h)
 *
 * The number that is nearest to a coordinate is on average too small by its error, 1 - c_w: errors of all tokens that
 * agree, which attention does not average out. So basis vectors are stretched, and an encoder undoes it: z s is a
 * coordinate of variance 1 where B_i holds the stretch 1 / (1 - c_w).
 *
 * Stream of a vector: the bits of the coordinates in order, each least significant first, the first coordinate's 8, and
 * then the gain's, padded to a byte. Coordinate i is decoded from the 8 bits that end where its own bits end. Codes of
 * head_codec.h are the bits that a coordinate adds; the gain stands above those of the last. */
#ifndef RB_KERNELS_REFERENCE_TRELLIS_CODEC_H
#define RB_KERNELS_REFERENCE_TRELLIS_CODEC_H

#include "kernels/reference/head_codec.h"

double trellis_gain(const plan_trellis *plan, int level); /* an f32 value */
/* 1 / (1 - trellis_errors[width]). */
double trellis_stretch(int width);
/* [n_dims][n_dims] <- B^-1, both row by row, in double: z = x B^-1. RB_EFORMAT where B cannot be inverted. */
rb_status trellis_invert_basis(double *inverse, const plan_trellis *plan, rb_error *err);

typedef struct trellis_codec trellis_codec;
/* The family's part of a codec of this family; owned by codec. */
static inline const trellis_codec *head_codec_trellis(const head_codec *codec)
{
    return head_codec_own(codec, FAMILY_TRELLIS);
}

/* For those who judge an encoder: of one vector, the level of gain that its size points to (not rounded, -INFINITY of
 * a vector at its centre), and the sum of w (y - y^)^2 of codes at a level; codes [n_dims] as head_codec.h has them. */
double trellis_codec_level(const trellis_codec *codec, const float *x);
double trellis_codec_error(const trellis_codec *codec, const float *x, int level, const uint8_t *codes);
/* The level that codes name. */
int trellis_codes_gain(const plan_trellis *plan, const uint8_t *codes);

#endif
