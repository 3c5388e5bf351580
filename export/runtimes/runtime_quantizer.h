/* The quantizers of other runtimes: what their caches store of a key or value, and what they give back. They code what
 * leaves RoPE, head by head. */
#ifndef RB_EXPORT_RUNTIMES_RUNTIME_QUANTIZER_H
#define RB_EXPORT_RUNTIMES_RUNTIME_QUANTIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/reference/codec_tables.h"

/* How the numbers that share a scale are coded: export/runtimes/quantizer_blocks.h. */
typedef enum quantizer_kind {
    QUANTIZER_FP16,
    QUANTIZER_FP8,        /* one number after the other, without a scale */
    QUANTIZER_FP8_SCALED, /* the same times one scale for all vectors */
    QUANTIZER_NVFP4,
    QUANTIZER_EXTREME,
    QUANTIZER_LARGEST,
    QUANTIZER_RANGE,
    QUANTIZER_IQ4_NL,
    QUANTIZER_MIDRISE,
    QUANTIZER_EDGE,
    QUANTIZER_WHOLE_STEPS,
    QUANTIZER_DIRECTION,
    QUANTIZER_N_KINDS
} quantizer_kind;

/* The Hadamard transform of Sylvester's form, divided by the square root of its size, that a vector goes through before
 * it is coded and after it is decoded. */
typedef enum quantizer_rotation {
    ROTATE_NOTHING,
    ROTATE_GROUP,       /* in blocks of the numbers that share a scale */
    ROTATE_64,          /* in blocks of 64; nothing where 64 does not divide the dims */
    ROTATE_LARGEST,     /* in blocks of the largest power of two that divides the dims, if that is 64 or more */
    ROTATE_POWER_OF_TWO /* the whole vector; nothing where its dims are no power of two */
} quantizer_rotation;

typedef struct runtime_quantizer {
    quantizer_kind kind;
    int width; /* bits of a code */
    int group; /* numbers that share a scale; 0: the whole vector */
    quantizer_rotation rotation;
    bool along_tokens; /* a group is of one dim of so many tokens, in place of so many dims of one token; the tokens of
                        * a sequence that make no whole group stay as they are */
} runtime_quantizer;

/* Dims that the Hadamard transform mixes; 1: none. */
int runtime_quantizer_rotated(const runtime_quantizer *q, int dims);

/* Whether vectors of so many dims can be coded: groups are whole. */
bool runtime_quantizer_fits(const runtime_quantizer *q, int dims);

/* Stored bits of a vector: codes and scales; along tokens, its share of them. */
int runtime_quantizer_bits(const runtime_quantizer *q, int dims);

/* x [n_tokens][dims] -> x_hat, what the cache gives back; may be the same. Sequences of `context` tokens, the last may
 * be shorter. One scale for all vectors, where a quantizer has it, is of these vectors. Not parallel inside. Fails with
 * RB_ENONFINITE where a result is not finite, naming the vector. */
rb_status runtime_quantizer_restore(const runtime_quantizer *q, const float *x, int64_t n_tokens, int dims,
                                    int64_t context, codec_tables *tables, float *x_hat, rb_error *err);

/* |x - x^|^2 over |x|^2 for normal vectors, the same each time. */
rb_status runtime_quantizer_distortion(double *out, const runtime_quantizer *q, int dims, codec_tables *tables,
                                       rb_error *err);

#endif
