/* The bit plan as data: for every (layer, kv head) which blocks share a group, and each group's width, rotation and
 * codebook. It is what the quantizer executes, what allocators make, what plan.json and plan.rbp store, so it lives
 * here, below all of them.
 *
 * True bits: a plan costs what it stores. Per head: sum over groups of width * dims, padded to a whole byte, plus each
 * group's norm (16 bits, or 8), divided by head_dim. A block in no group has width 0: it stores nothing and is restored
 * as its centre.
 *
 * A head is of one of two codec families: groups (the paper's), or block-codebook, a codebook of points in the plane
 * for every block and no norm (kernels/reference/block_codebook_codec.h). It costs its codes and gain, padded to a
 * whole byte.
 *
 * Beyond the paper (design.md, section 3): a head's keys may be centred and equalized before they are coded, x -> (x -
 * center) * scale, and put back after, so a runtime either does the same, or folds the scales into its projections and
 * adds q . R_t center to its logits. */
#ifndef RB_PLAN_BIT_PLAN_H
#define RB_PLAN_BIT_PLAN_H

#include <stdbool.h>

#include "core/model_facts.h"
#include "kernels/reference/block_codebook.h"
#include "kernels/reference/codebook.h"
#include "kernels/reference/norm_code.h"
#include "kernels/reference/rotation.h"

enum { PLAN_MIN_WIDTH = 1, PLAN_MAX_WIDTH = 8, PLAN_FP16_WIDTH = 16 };

/* Order of dims inside a group: `block` is dims of block b0, dims of b1, ... (Block-GTQ); `natural` is ascending dims
 * (uniform, values). */
typedef enum group_order { GROUP_ORDER_BLOCK, GROUP_ORDER_NATURAL } group_order;
const char *group_order_name(group_order order); /* "block", "natural" */

/* How codes are chosen; a decoder need not know.
 * nearest  as published: each coordinate's nearest centroid, the norm of x.
 * search   among codes of the vector stretched by each of ENCODER_STRETCHES, those closest to it in angle, and the norm
 * that serves the logits best: fewer errors from the same bits, since a decoder normalises what the codes say. With cos
 * the cosine of that angle and kappa the group's coherence (methods/partition.h) the norm is |x| cos kappa / (cos^2
 * kappa + 1 - cos^2): |x| cos, the least squared error, for kappa = 1, and |x| / cos, no bias along x, where kappa is
 * large. */
typedef enum plan_encoder { ENCODER_NEAREST, ENCODER_SEARCH, ENCODER_N_KINDS } plan_encoder;
extern const char *const plan_encoder_names[]; /* "nearest", "search"; NULL-terminated, for option tables */
/* Stored norm over |x| of the search encoder. */
static inline double plan_encoder_gain(double cosine, double coherence)
{
    return cosine * coherence / (cosine * cosine * coherence + 1.0 - cosine * cosine);
}

typedef struct plan_group {
    int width; /* 1..8 bits a code */
    int n_blocks;
    int *blocks; /* [n_blocks], ascending, owned */
    group_order order;
    rotation_spec rotation; /* dims = 2 * n_blocks */
    codebook_kind codebook;
    int norm_exponent; /* of NORM_LOG8; else 0 */
    float coherence;   /* of ENCODER_SEARCH: kappa, above 0, a value fp16 holds; else 1 */
} plan_group;

/* Codec family block-codebook: block i of a key, less its centre, is coded as one of 2^bits[i] points gain * M_i p, p a
 * point of the universal codebook of so many bits (kernels/reference/block_codebook.h), M_i = (m0 0; m1 m2). */
enum { PLAN_MAX_GAIN_BITS = 4, PLAN_MAP_SIZE = 3 };
#define PLAN_LEAST_WEIGHT 0x1p-14 /* fp16's smallest normal number */
typedef struct plan_planes {
    uint8_t *bits;  /* [n_blocks], owned: 0 to PLANE_MAX_BITS; 0: nothing is stored, restored as its centre */
    float *maps;    /* [n_blocks][PLAN_MAP_SIZE], owned: m0, m1, m2; values that fp16 holds */
    float *weights; /* [n_blocks], owned, at least PLAN_LEAST_WEIGHT, values that fp16 holds: what an error of the block
                       counts for when the encoder chooses the gain. A decoder need not know */
    int gain_bits;  /* 0 to PLAN_MAX_GAIN_BITS: of a vector's gain, one of 2^gain_bits half octaves; 0: it is 1 */
} plan_planes;

/* Of a head. */
typedef enum plan_family { FAMILY_GROUPS, FAMILY_BLOCK_CODEBOOK, FAMILY_N_KINDS } plan_family;
extern const char *const plan_family_names[]; /* "groups", "block-codebook"; NULL-terminated */

typedef struct plan_head {
    plan_planes *planes; /* NULL: the head is of groups. Owned; then there are no groups, norms, encoder or scales */
    int n_groups;
    plan_group *groups; /* owned; every block of the head is in one at most */
    norm_kind norm;
    plan_encoder encoder;
    /* NULL: as it is. Values that fp16 holds, owned. */
    float *scales; /* [n_blocks], above 0: of both dims of a block */
    float *center; /* [head_dim], before the scale */
} plan_head;

typedef struct bit_plan {
    model_facts model;
    text_facts calibration; /* what the plan was calibrated on */
    char method[32];        /* "uniform", "block-gtq" */
    double avg_bits;        /* nominal budget of the keys */
    uint8_t *value_widths;  /* [n_layers][n_kv_heads], owned: 1..8, or all PLAN_FP16_WIDTH: values are not quantized.
                               Values are one group of all dims in  natural order, haar, seed 1000 + kv_head, codebook
                               value_codebook */
    codebook_kind value_codebook;
    plan_head *heads; /* [n_layers][n_kv_heads], owned */
} bit_plan;

/* Widths of the values over all heads; one for all where least is most. */
typedef struct value_range {
    int least, most;
    double mean;
} value_range;

/* What a plan costs. Bits are per dim, averages over all heads. */
typedef struct plan_cost {
    double key_nominal_bits; /* codes only */
    double key_true_bits;    /* codes, norms, padding */
    double value_true_bits;
    double bytes_per_token; /* all layers and heads, keys and values */
    double fp16_bytes_per_token;
    double compression; /* fp16_bytes_per_token / bytes_per_token */
} plan_cost;

rb_status bit_plan_create(bit_plan **out, const model_facts *model,
                          rb_error *err); /* heads empty (no groups), values fp16 */
void bit_plan_free(bit_plan *plan);
plan_head *bit_plan_head(const bit_plan *plan, int layer, int kv_head);
plan_family plan_head_family(const plan_head *head);
bool bit_plan_has_planes(const bit_plan *plan); /* a head of block-codebook */

/* Replaces the head's groups by: blocks of equal width form a group, ascending width, haar with seed 42 + width, block
 * order. bits [n_blocks]. */
rb_status plan_head_set_block_widths(plan_head *head, const uint8_t *bits, int n_blocks, codebook_kind codebook,
                                     rb_error *err);
/* One group of all dims in natural order, haar with this seed (42 for uniform keys, 1000 + kv_head for values). */
rb_status plan_head_set_uniform(plan_head *head, int width, int n_blocks, uint64_t seed, codebook_kind codebook,
                                rb_error *err);
void plan_head_clear(plan_head *head);
/* A copy of its own, to be cleared by the caller. */
rb_status plan_head_copy(plan_head *out, const plan_head *head, int n_blocks, int head_dim, rb_error *err);
/* Appends a group of blocks [n] (copied), ascending, with this width and seed 42 + width, haar, block order, codebook,
 * coherence 1; for the head's norm kind, exponent is its norm_exponent. `head->groups` grows. */
rb_status plan_head_add_group(plan_head *head, int width, const int *blocks, int n, codebook_kind codebook,
                              int norm_exponent, rb_error *err);
/* Takes fp16 roundings of scales [n_blocks] and center [head_dim]; NULL: none. */
rb_status plan_head_set_transform(plan_head *head, const double *scales, int n_blocks, const double *center,
                                  int head_dim, rb_error *err);
/* The head becomes one of block-codebook, its centre stays. bits, weights [n_blocks], maps [n_blocks][PLAN_MAP_SIZE];
 * takes fp16 roundings, weights at least PLAN_LEAST_WEIGHT. */
rb_status plan_head_set_planes(plan_head *head, const uint8_t *bits, const double *maps, const double *weights,
                               int gain_bits, int n_blocks, rb_error *err);
/* Whether the published method's decoder restores it: every block in a group, fp16 norms, no transform; of a plan, one
 * width of all values too. */
bool plan_head_is_published_form(const plan_head *head, int n_blocks);
bool bit_plan_is_published_form(const bit_plan *plan);
/* The value codec of a kv head as a head of its own (to be cleared by the caller); RB_EINVAL where values are not
 * quantized. */
rb_status bit_plan_value_head(const bit_plan *plan, int layer, int kv_head, plan_head *out, rb_error *err);
/* The value codec of this width: what bit_plan_value_head gives. */
rb_status plan_head_set_values(plan_head *head, int width, int n_blocks, int kv_head, codebook_kind codebook,
                               rb_error *err);
void bit_plan_set_value_width(bit_plan *plan, int width); /* of every head: 1..8 or PLAN_FP16_WIDTH */
bool bit_plan_quantizes_values(const bit_plan *plan);

bool plan_head_equal(const plan_head *a, const plan_head *b, const model_facts *model);
/* Width of every block, [n_blocks]; 0 in no group. Of block-codebook the bits of the block, both dims together. */
void plan_head_bits(const plan_head *head, uint8_t *bits, int n_blocks);
/* Dims of a group in coding order, [2 * n_blocks of the group]. */
void plan_group_dims(const plan_group *group, const model_facts *model, int *dims);
/* Bits per dim of one head. */
double plan_head_true_bits(const plan_head *head, int head_dim);
double plan_head_nominal_bits(const plan_head *head, int head_dim);
plan_cost bit_plan_cost(const bit_plan *plan);
int plan_value_bits(int width, int head_dim); /* stored bits of a value vector: 1..8 or PLAN_FP16_WIDTH */
value_range bit_plan_value_range(const bit_plan *plan);
/* "3.250 true bits a dim", or "3.250 true bits a dim, widths 1 to 5". */
void bit_plan_describe_values(char *out, size_t size, const bit_plan *plan);

/* Every block in one group at most, widths in range, dims match, ...: for plans that come from a file. `where` starts
 * the message. */
rb_status bit_plan_check(const bit_plan *plan, const char *where, rb_error *err);

#endif
