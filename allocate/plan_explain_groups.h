/* Family groups: what each group of a head costs, what it errs, and what a bit more or less of it would do (`ropebits
 * explain`). */
#ifndef RB_ALLOCATE_PLAN_EXPLAIN_GROUPS_H
#define RB_ALLOCATE_PLAN_EXPLAIN_GROUPS_H

#include "allocate/plan_explain.h"
#include "methods/groups_error.h"
#include "methods/rate_bound.h"

/* A change of a group's width by one bit. */
typedef struct width_change {
    bool is_possible;
    double bits;     /* stored bits it takes, or saves; a head's padding left out */
    double variance; /* that it takes off the logit's error, or adds */
} width_change;

typedef struct explained_group {
    int width, n_blocks; /* width 0: the blocks of no group, which come last */
    int blocks[RB_MAX_BLOCKS];
    double bits; /* stored: codes and norm */
    group_error error;
    width_change more, less;
} explained_group;

typedef struct explained_block {
    int group;                  /* index into explained_groups.groups */
    double q_energy, k_energy;  /* the profile's */
    double scale, center_share; /* center_share: part of k_energy that the centre takes off; 0 without one */
    /* Its part of the group's. A group's error is spread evenly over its dims, so query energy says whose it is; that
     * of lost blocks is shared by q_energy * k_energy. */
    double variance;
} explained_block;

typedef struct explained_groups {
    int n_groups, n_blocks;
    explained_group *groups; /* [n_groups], owned */
    explained_block blocks[RB_MAX_BLOCKS];
    double variance, bits; /* V; stored bits, padding included */
    rate_distance distance;
} explained_groups;

/* Head h of the plan, which is of groups. The statistics are those of its model; `errors` has what the plan uses.
 * RB_ENOMEM. */
rb_status plan_explain_groups(explained_groups *out, const bit_plan *plan, int h, const head_statistics *statistics,
                              const codec_errors *errors, rb_error *err);
void explained_groups_clear(explained_groups *explained);

/* Share of the head's V that a change moves, a byte. */
double width_change_per_byte(const width_change *change, double head_variance);
/* The group, other than this, whose bit less adds the least a byte; -1: none can give. */
int explained_cheapest_other(const explained_groups *explained, int group);

rb_status explained_groups_to_json(cJSON **out, const explained_groups *explained, rb_error *err);

#endif
