/* The quantizer of one head, as its plan_head says, whatever its family: the definition that the CUDA kernels are held
 * to. Families: kernels/reference/groups_codec.c, kernels/reference/block_codebook_codec.h.
 *
 * Products and sums are in double, rotations and codebooks are the f32 values that a runtime holds. A vector's codes
 * lie in coding order, one a byte: position j of the codes is dim permutation[j] of x, and takes widths[j] bits in the
 * packed stream. */
#ifndef RB_KERNELS_REFERENCE_HEAD_CODEC_H
#define RB_KERNELS_REFERENCE_HEAD_CODEC_H

#include "kernels/reference/codec_tables.h"
#include "kernels/reference/plan_head.h"

typedef struct head_codec head_codec;
/* Copies what it needs of head and model; keeps pointers into tables. */
rb_status head_codec_create(head_codec **out, const plan_head *head, const model_facts *model, codec_tables *tables,
                            rb_error *err);
void head_codec_free(head_codec *codec);

int head_codec_n_norms(const head_codec *codec);            /* that a vector has: one a group */
int head_codec_dims(const head_codec *codec);               /* head_dim */
const int *head_codec_permutation(const head_codec *codec); /* [head_dim]: the dim of x at each coding position */
const uint8_t *head_codec_widths(const head_codec *codec);  /* [head_dim], by coding position */
size_t head_codec_packed_bytes(const head_codec *codec);    /* codes of a vector, padded to bytes; norms not included */

/* x [n][head_dim] f32 -> codes [n][head_dim] and norms [n][n_norms]. Not parallel inside. Fails with RB_ENONFINITE
 * naming the vector on a non-finite x or a norm that rounds to more than fp16's 65504. */
rb_status head_codec_encode(const head_codec *codec, const float *x, int64_t n, uint8_t *codes, uint16_t *norms,
                            rb_error *err);
/* The inverse: x_hat [n][head_dim] f32. */
rb_status head_codec_decode(const head_codec *codec, const uint8_t *codes, const uint16_t *norms, int64_t n,
                            float *x_hat, rb_error *err);
/* encode then decode, without the codes; x_hat may be x. */
rb_status head_codec_round_trip(const head_codec *codec, const float *x, int64_t n, float *x_hat, rb_error *err);

/* ---- what a family gives: one row of functions in the table of head_codec.c ------------------ */

enum {
    HEAD_CODEC_TILE = 128
}; /* vectors at a time. Fixed, so a vector's bits do not depend on how many threads there are */

/* Where a vector's codes are; arrays of [head_dim], zeroed, owned by the head_codec. */
typedef struct code_layout {
    int *permutation;
    uint8_t *widths;
    int n_norms;
} code_layout;

typedef struct head_codec_functions {
    rb_status (*create)(void **own, code_layout *layout, const plan_head *head, const model_facts *model,
                        codec_tables *tables, rb_error *err);
    void (*free)(void *own);              /* NULL is fine */
    size_t (*work_size)(const void *own); /* bytes of working memory that encode and decode want */
    /* n <= HEAD_CODEC_TILE vectors. first_vector is what the first is called in messages. */
    rb_status (*encode)(const void *own, void *work, const float *x, int n, uint8_t *codes, uint16_t *norms,
                        int64_t first_vector, rb_error *err);
    void (*decode)(const void *own, void *work, const uint8_t *codes, const uint16_t *norms, int n, float *x_hat);
} head_codec_functions;

/* The family's own part, for its judge. The codec is of that family. */
const void *head_codec_own(const head_codec *codec, codec_family family);

#endif
