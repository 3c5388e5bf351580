/* The seeds of a plan's random rotations. What a method costs depends on them: another seed is another draw. So results
 * record them, and a plan can be drawn anew. Plans of block-codebook and trellis have none. */
#ifndef RB_PLAN_PLAN_SEEDS_H
#define RB_PLAN_PLAN_SEEDS_H

#include <cjson/cJSON.h>

#include "plan/bit_plan.h"

enum { PLAN_MAX_SEEDS = 64 };

typedef struct plan_seed {
    int width; /* of the group that is rotated */
    uint64_t seed;
} plan_seed;

/* The different ones of a plan's keys, by width and seed; the first PLAN_MAX_SEEDS of them. */
typedef struct plan_seeds {
    int n;
    plan_seed at[PLAN_MAX_SEEDS];
} plan_seeds;

plan_seeds plan_seeds_of(const bit_plan *plan);
/* A plan like this one, every seed of whose keys is larger by `shift`. Freed with bit_plan_free. */
rb_status plan_draw_anew(bit_plan **out, const bit_plan *plan, uint64_t shift, rb_error *err);

/* Adds "rotation_seeds": [[width, seed], ..] to an object. */
rb_status plan_seeds_add(cJSON *object, const plan_seeds *seeds, rb_error *err);

#endif
