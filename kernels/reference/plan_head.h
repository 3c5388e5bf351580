/* The plan of one head: what the quantizer executes. A head is of one codec family (codec_family.h); only that family's
 * functions look at its part. bit_plan (plan/bit_plan.h) has one for every (layer, KV head), allocators make them,
 * plan.json and plan.rbp store them.
 *
 * True bits: a plan costs what it stores, in bits a dim: codes, norms or gains, and padding to whole bytes, divided by
 * head_dim. */
#ifndef RB_KERNELS_REFERENCE_PLAN_HEAD_H
#define RB_KERNELS_REFERENCE_PLAN_HEAD_H

#include "kernels/reference/block_codebook_plan.h"
#include "kernels/reference/codec_family.h"
#include "kernels/reference/groups_plan.h"
#include "kernels/reference/trellis_plan.h"

typedef struct plan_head {
    codec_family family;
    float *center; /* [head_dim], taken off a key before anything else; values that fp16 holds. NULL: none. Owned */
    union {
        plan_groups groups;
        plan_block_codebook block_codebook;
        plan_trellis trellis;
    };
} plan_head;

/* ---- making ---------------------------------------------------------------------------------- */

/* Frees what the head holds. It becomes a head of no groups, as one of zeroes is. */
void plan_head_clear(plan_head *head);
/* A copy of its own, to be cleared by the caller. */
rb_status plan_head_copy(plan_head *out, const plan_head *head, int n_blocks, int head_dim, rb_error *err);
/* Takes the fp16 rounding of center [head_dim]; NULL: none. */
rb_status plan_head_set_center(plan_head *head, const double *center, int head_dim, rb_error *err);

/* Replaces the head by: blocks of equal width form a group, ascending width, haar with seed 42 + width, block order.
 * bits [n_blocks]. */
rb_status plan_head_set_block_widths(plan_head *head, const uint8_t *bits, int n_blocks, codebook_kind codebook,
                                     rb_error *err);
/* One group of all dims in natural order, haar with this seed: UNIFORM_SEED for keys. */
rb_status plan_head_set_uniform(plan_head *head, int width, int n_blocks, uint64_t seed, codebook_kind codebook,
                                rb_error *err);
/* The value codec of this width and KV head: one group of all dims in natural order, haar, seed VALUE_SEED + kv_head.
 */
rb_status plan_head_set_values(plan_head *head, int width, int n_blocks, int kv_head, codebook_kind codebook,
                               rb_error *err);
/* Appends a group of blocks [n] (copied), ascending, with this width and seed 42 + width, haar, block order, codebook,
 * coherence 1, to a head of groups. For the head's norm kind, norm_exponent is the group's. The list of groups grows,
 * so pointers into it end. */
rb_status plan_head_add_group(plan_head *head, int width, const int *blocks, int n, codebook_kind codebook,
                              int norm_exponent, rb_error *err);
/* Takes the fp16 roundings of scales [n_blocks], which only a head of groups may have, and of center [head_dim]; NULL:
 * none. */
rb_status plan_head_set_transform(plan_head *head, const double *scales, int n_blocks, const double *center,
                                  int head_dim, rb_error *err);
/* The head becomes one of block-codebook, its centre stays. bits, weights [n_blocks], maps
 * [n_blocks][BLOCK_CODEBOOK_MAP_SIZE]. Takes fp16 roundings, weights at least BLOCK_CODEBOOK_LEAST_WEIGHT. */
rb_status plan_head_set_block_codebook(plan_head *head, const uint8_t *bits, const double *maps, const double *weights,
                                       int gain_bits, int n_blocks, rb_error *err);

/* The head becomes one of trellis, its centre stays. widths, weights [n_dims], basis [n_dims][n_dims]. Takes fp16
 * roundings, weights at least TRELLIS_LEAST_WEIGHT. */
rb_status plan_head_set_trellis(plan_head *head, const uint8_t *widths, const double *basis, const double *weights,
                                int gain_bits, int gain_zero, int n_dims, rb_error *err);

/* ---- looking, whatever the family ------------------------------------------------------------ */

bool plan_head_equal(const plan_head *a, const plan_head *b, const model_facts *model);
/* Bits of every block, [n_blocks]: of a dim, or of both dims together where plan_head_bits_are_of_block; 0: nothing is
 * stored of it. */
void plan_head_bits(const plan_head *head, uint8_t *bits, int n_blocks);
bool plan_head_bits_are_of_block(const plan_head *head);
/* Bits of a vector's codes, and of all that is stored of it. */
int plan_head_code_bits(const plan_head *head, int n_blocks);
int plan_head_stored_bits(const plan_head *head, int n_blocks);
/* The same in bits per dim. */
double plan_head_nominal_bits(const plan_head *head, int head_dim);
double plan_head_true_bits(const plan_head *head, int head_dim);
/* Whether the published method's decoder restores it: every block in a group, fp16 norms, no scales and no centre. */
bool plan_head_is_published_form(const plan_head *head, int n_blocks);
/* Whether it can be executed: for heads that come from a file. `where` starts the message. Fails: RB_EFORMAT. */
rb_status plan_head_check(const plan_head *head, const model_facts *model, const char *where, rb_error *err);

/* Its groups; none where the head is of another family. */
const plan_groups *plan_head_groups(const plan_head *head);

/* ---- what a family gives: one row of functions in the table of plan_head.c ------------------- */

typedef struct plan_head_functions {
    bool bits_are_of_block;
    void (*clear)(plan_head *head);                                                        /* its part; zeroes follow */
    rb_status (*copy)(plan_head *out, const plan_head *head, int n_blocks, rb_error *err); /* its part, into zeroes */
    bool (*equal)(const plan_head *a, const plan_head *b, int n_blocks);                   /* of the family both */
    void (*bits)(const plan_head *head, uint8_t *bits, int n_blocks);                      /* into zeroes */
    int (*code_bits)(const plan_head *head, int n_blocks);
    int (*stored_bits)(const plan_head *head, int n_blocks);
    bool (*is_published_form)(const plan_head *head, int n_blocks);                            /* but for the centre */
    rb_status (*check)(const plan_head *head, int n_blocks, const char *where, rb_error *err); /* its part */
} plan_head_functions;

/* Helpers of the families' files. */
bool plan_floats_equal(const float *a, const float *b, int n); /* bit by bit; NULL equals NULL only */
rb_status plan_floats_copy(float **out, const float *from, int n, rb_error *err); /* NULL stays NULL */
rb_status plan_floats_round(float **out, const double *from, int n,
                            rb_error *err); /* frees *out; fp16 roundings; NULL: NULL */
float plan_fp16(double value);
/* Finite, above `above`, held by fp16; `what` names them in the message. */
rb_status plan_floats_check(const float *values, int n, float above, const char *what, const char *where,
                            rb_error *err);

#endif
