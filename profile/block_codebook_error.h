/* What family block-codebook (kernels/reference/block_codebook_codec.h) needs to know of a head's calibration keys: a
 * map for every RoPE block, and the error of every number of bits.
 *
 *   map    M_i, the Cholesky factor of the covariance of z_i / g over keys weighted by g^2. z_i is the block less its
 *          mean and g the gain that the codec's rule gives the key. That is the covariance of z_i divided by the mean
 *          of g^2. The start is gain 1 for the median key; a few rounds bring rule and mean to agree.
 *   error  mean of |z_i - z^_i|^2, z^_i the nearest of the 2^B points g M_i p (or what two levels make of it), at the
 *          level of the gain that the codec's search takes. It takes the level of the least error over the whole key,
 *          so what the other blocks have counts: they are given the bits that go with B of this one, by which
 *          weight |z|^2 2^-bits is about the same in all. At the level of the key's size alone the error would be
 *          told 20 to 40 % too high.
 *
 * BLOCK_CODEBOOK_ERROR_KEYS keys at most are looked at, evenly spaced. */
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
