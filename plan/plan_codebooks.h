/* Which codebooks a plan needs: every exporter stores them, each in its own way. */
#ifndef RB_PLAN_PLAN_CODEBOOKS_H
#define RB_PLAN_PLAN_CODEBOOKS_H

#include "plan/bit_plan.h"

typedef struct codebook_spec {
    codebook_kind kind;
    int width, dims;
} codebook_spec;

typedef struct plan_codebooks {
    int n;
    codebook_spec *at;                            /* distinct, ascending by kind, width, dims; owned */
    bool has_points[BLOCK_CODEBOOK_MAX_BITS + 1]; /* by the bits of blocks of block-codebook, from 1 */
    int n_points;                                 /* how many of them */
} plan_codebooks;

/* Of all key groups and blocks, and of the values unless they stay fp16. */
rb_status plan_codebooks_collect(plan_codebooks *out, const bit_plan *plan, rb_error *err);
void plan_codebooks_free(plan_codebooks *books);

#endif
