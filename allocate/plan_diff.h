/* How two plans of one model differ (`ropebits diff`). */
#ifndef RB_ALLOCATE_PLAN_DIFF_H
#define RB_ALLOCATE_PLAN_DIFF_H

#include <cjson/cJSON.h>

#include "plan/bit_plan.h"

/* What a plan's heads do. A head of groups counts for a kind if one of its groups has it; heads of other families have
 * no such kinds. */
typedef struct coding_counts {
    int family[FAMILY_N_KINDS];
    int norm[NORM_N_KINDS], encoder[ENCODER_N_KINDS], codebook[CODEBOOK_N_KINDS], rotation[ROTATION_N_KINDS];
    int centered, scaled, with_lost_blocks;
} coding_counts;

typedef struct head_change {
    int layer, kv_head;
    int blocks_changed; /* whose bits differ */
    int width_moved;    /* sum over blocks of |difference of bits|: widths, or by_block bits of a block */
    double true_bits[2];
} head_change;

typedef struct plan_diff {
    const bit_plan *plans[2]; /* borrowed */
    plan_cost cost[2];
    coding_counts coding[2];
    /* Some head counts bits by the block, both dims together: what is compared are bits of blocks in all heads. */
    bool by_block;
    int n_heads;
    /* How many heads differ, and in what. Maps, norms, encoders and scales are compared within a family. */
    int heads_differing; /* in anything: family, groups, rotations, norms, scales, centres, maps, width of values */
    int families_differing;
    int maps_differing;   /* in their maps, weights or bits of the gain */
    int values_differing; /* in the width of their values */
    int norms_differing, encoders_differing, scales_differing, centers_differing;
    head_change *heads; /* [n_layers][n_kv_heads], owned */
} plan_diff;

/* RB_EMISMATCH: plans of two models, naming what differs; RB_ENOMEM. Names are for messages. */
rb_status plan_diff_find(plan_diff *out, const bit_plan *a, const char *name_a, const bit_plan *b, const char *name_b,
                         rb_error *err);
void plan_diff_free(plan_diff *diff);
/* Whether a runtime would do the same by either plan: heads, values and exact tokens are equal. Texts of calibration,
 * methods' names and nominal budgets may differ. */
bool plan_diff_is_none(const plan_diff *diff);

head_change plan_diff_layer(const plan_diff *diff, int layer); /* sums over heads, true bits their mean; kv_head -1 */
/* Index into heads of the n heads that moved most width, most first, ties to the lowest; fewer where fewer moved. */
int plan_diff_largest(int *heads, int n, const plan_diff *diff);

rb_status plan_diff_to_json(cJSON **out, const plan_diff *diff, rb_error *err);

/* ---- what a family gives: one row of functions in the table of plan_diff.c ------------------- */

typedef struct diff_functions {
    void (*count)(coding_counts *counts, const plan_head *head); /* what only the family knows; NULL: nothing */
    void (*compare)(plan_diff *diff, const plan_head *a, const plan_head *b, int n_blocks); /* both of the family */
} diff_functions;

#endif
