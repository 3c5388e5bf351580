/* Family block-codebook, the plan of a head: block i of a key, less its centre, is coded as one of 2^bits[i] points
 * gain * M_i p, with p a point of the universal codebook of so many bits, or above 10 bits a pair of levels
 * (kernels/reference/block_codebook.h), and M_i = (m0 0; m1 m2). What the quantizer does with it:
 * kernels/reference/block_codebook_codec.h.
 *
 * Cost: the bits of all blocks and of the gain, padded to a whole byte. There are no norms. */
#ifndef RB_KERNELS_REFERENCE_BLOCK_CODEBOOK_PLAN_H
#define RB_KERNELS_REFERENCE_BLOCK_CODEBOOK_PLAN_H

#include <stdint.h>

#include "kernels/reference/block_codebook.h"

enum { BLOCK_CODEBOOK_MAX_GAIN_BITS = 4 };
enum { BLOCK_CODEBOOK_LEAST_WEIGHT_INVERSE = 1 << 14 };
#define BLOCK_CODEBOOK_LEAST_WEIGHT (1.0 / BLOCK_CODEBOOK_LEAST_WEIGHT_INVERSE) /* fp16's smallest normal number */

typedef struct plan_block_codebook {
    uint8_t *bits;  /* [n_blocks], owned: 0 to block_codebook_most_bits; 0: nothing is stored, restored as its centre */
    float *maps;    /* [n_blocks][BLOCK_CODEBOOK_MAP_SIZE], owned: m0, m1, m2; values that fp16 holds */
    float *weights; /* [n_blocks], owned, at least BLOCK_CODEBOOK_LEAST_WEIGHT, values that fp16 holds: what an error of
                     * the block counts for when the encoder chooses the gain. A decoder need not know */
    int gain_bits; /* 0 to BLOCK_CODEBOOK_MAX_GAIN_BITS: of a vector's gain, one of 2^gain_bits half octaves; 0: it is 1
                    */
} plan_block_codebook;

/* The gain is kept with the code of block 0, and both have 16 bits at most. */
static inline int block_codebook_most_bits(int block, int gain_bits)
{
    return block == 0 ? BLOCK_CODEBOOK_MAX_BITS - gain_bits : BLOCK_CODEBOOK_MAX_BITS;
}

#endif
