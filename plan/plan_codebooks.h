/* Which codebooks a plan needs: every form stores them, each in its own way. */
#ifndef RB_PLAN_PLAN_CODEBOOKS_H
#define RB_PLAN_PLAN_CODEBOOKS_H

#include "plan/bit_plan.h"

enum {
    PLAN_MAX_POINT_BITS = BLOCK_CODEBOOK_MAX_POINT_BITS,
    PLAN_MAX_LEVEL_BITS = BLOCK_CODEBOOK_MAX_LEVEL_BITS,
    PLAN_MAX_TRELLIS_WIDTH = TRELLIS_MAX_WIDTH
};

/* A codebook of numbers. */
typedef struct codebook_spec {
    codebook_kind kind;
    int width, dims;
} codebook_spec;

typedef struct plan_codebooks {
    int n, room;
    codebook_spec *at;                            /* distinct, ascending by kind, width, dims; owned */
    bool has_points[PLAN_MAX_POINT_BITS + 1];     /* codebooks of points in the plane, by the bits of a code, from 1 */
    int n_points;                                 /* how many of them */
    bool has_levels[PLAN_MAX_LEVEL_BITS + 1];     /* levels of a coordinate, by their bits, from 1 */
    int n_levels;                                 /* how many of them */
    bool has_trellis[PLAN_MAX_TRELLIS_WIDTH + 1]; /* trellis_tables, by width, from 1 */
    int n_trellis;                                /* how many of them */
} plan_codebooks;

/* Those of all keys, and of the values unless they stay fp16. */
rb_status plan_codebooks_collect(plan_codebooks *out, const bit_plan *plan, rb_error *err);
void plan_codebooks_free(plan_codebooks *books);

/* For families that collect theirs: appends one. */
rb_status plan_codebooks_add(plan_codebooks *books, const codebook_spec *spec, rb_error *err);

/* The points for codes of so many bits, [2][1 << bits]: every point's x, then every point's y. Freed by free(). */
rb_status plan_points_build(float **out, int bits, rb_error *err);

#endif
