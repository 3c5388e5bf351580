/* Family groups, the plan of a head: blocks of equal width form a group, and each group has its own norm, rotation and
 * codebook. Published as Block-GTQ (arXiv 2606.24033) on TurboQuant-MSE (arXiv 2504.19874); `uniform` is one group of
 * all dims.
 *
 * Cost: sum over groups of width * dims, padded to a whole byte, plus each group's norm (16 bits, or 8). A block in no
 * group has width 0: it stores nothing and is restored as its centre.
 *
 * Beyond the published form, keys may be equalized before they are coded, x -> (x - center) * scale, and put back
 * after, norms may take 8 bits, and the encoder may search. */
#ifndef RB_KERNELS_REFERENCE_GROUPS_PLAN_H
#define RB_KERNELS_REFERENCE_GROUPS_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "core/model_facts.h"
#include "kernels/reference/codebook.h"
#include "kernels/reference/norm_code.h"
#include "kernels/reference/rotation.h"

enum { PLAN_MIN_WIDTH = 1, PLAN_MAX_WIDTH = 8, PLAN_FP16_WIDTH = 16 };
/* Seeds of rotations: of one group of all dims of a key; of a group of this width, plus the width; of values, plus the
 * KV head. */
enum { UNIFORM_SEED = 42, WIDTH_SEED = 42, VALUE_SEED = 1000 };

/* Order of dims inside a group: `block` is dims of block b0, dims of b1, ... (Block-GTQ); `natural` is ascending dims
 * (uniform, values). */
typedef enum group_order { GROUP_ORDER_BLOCK, GROUP_ORDER_NATURAL } group_order;
const char *group_order_name(group_order order); /* "block", "natural" */

/* How codes are chosen; a decoder need not know.
 * nearest  as published: each coordinate's nearest centroid, the norm of x.
 * search   among codes of the vector stretched by each of ENCODER_STRETCHES, those closest to it in angle, and the norm
 *          that serves the logits best. That makes fewer errors from the same bits, since a decoder normalises what the
 *          codes say. With cos the cosine of that angle and kappa the group's coherence (methods/partition.h) the norm
 *          is |x| cos kappa / (cos^2 kappa + 1 - cos^2). It is |x| cos, the least squared error, for kappa = 1, and
 *          |x| / cos, no bias along x, where kappa is large. */
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

typedef struct plan_groups {
    int n;
    plan_group *at; /* [n], owned; every block of the head is in one at most */
    norm_kind norm;
    plan_encoder encoder;
    float *scales; /* [n_blocks], above 0, values that fp16 holds: of both dims of a block; NULL: 1. Owned */
} plan_groups;

/* Dims of a group in coding order, [2 * n_blocks of the group]. */
void plan_group_dims(const plan_group *group, const model_facts *model, int *dims);

#endif
