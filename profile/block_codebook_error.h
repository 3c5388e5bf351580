/* What family block-codebook (kernels/reference/block_codebook_codec.h) needs to know of a head's calibration keys: a
 * map for every RoPE block, and the error of every number of bits.
 *
 *   map    M_i, the Cholesky factor of the covariance of z_i / g over keys weighted by g^2. z_i is the block less its
 *          mean and g the gain that the codec's rule gives the key. That is the covariance of z_i divided by the mean
 *          of g^2. The start is gain 1 for the median key; a few rounds bring rule and mean to agree.
 *   error  mean of |z_i - z^_i|^2 at that gain, z^_i the nearest of the 2^B points g M_i p. The codec also tries the
 *          levels beside it, so it errs less.
 *
 * Many bits are measured on fewer keys, evenly spaced: BLOCK_CODEBOOK_ERROR_KEYS up to 8 bits, half of them for each
 * bit more. */
#ifndef RB_PROFILE_BLOCK_CODEBOOK_ERROR_H
#define RB_PROFILE_BLOCK_CODEBOOK_ERROR_H

#include "kernels/reference/head_codec.h"

enum { BLOCK_CODEBOOK_ERROR_KEYS = 2048, BLOCK_CODEBOOK_N_BITS = BLOCK_CODEBOOK_MAX_BITS + 1 };

/* maps [n_blocks][BLOCK_CODEBOOK_MAP_SIZE], error [n_blocks][BLOCK_CODEBOOK_N_BITS]. k [n_tokens][head_dim] as they
 * enter RoPE, n_tokens > 0; mean [head_dim]; weights [n_blocks] >= 0, the blocks' query energies. Not parallel inside.
 */
rb_status block_codebook_error_measure(float *maps, float *error, const model_facts *model, const float *k,
                                       int64_t n_tokens, const double *mean, const double *weights,
                                       codec_tables *tables, rb_error *err);

#endif
