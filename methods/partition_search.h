/* The dynamic program that methods/partition.h tells of, for one head. Only partition.c uses it. */
#ifndef RB_METHODS_PARTITION_SEARCH_H
#define RB_METHODS_PARTITION_SEARCH_H

#include <stdbool.h>

#include "methods/partition.h"

/* What does not depend on the head, and the tables one head at a time is solved in. */
typedef struct partition_search {
    int n_blocks, n_points;
    int unit;                                         /* bits: every cost is a multiple of it */
    int n_units;                                      /* largest budget, in units */
    int n_widths;                                     /* allowed, above 0 */
    int width[PARTITION_MAX_WIDTH];                   /* [n_widths], ascending */
    int block_units[PARTITION_MAX_WIDTH], norm_units; /* a block costs block_units[w], a group norm_units besides */
    bool zero;                                        /* width 0 is allowed */
    int max_groups;                                   /* 0: no limit */
    bool limited; /* this pass keeps the limit, and layer g holds at most g groups; else one layer has any number */
    /* [max_groups + 1][n_blocks + 1][n_units + 1]: least V of the first i blocks within a budget, by layer. */
    double *least;
    double *group_error; /* [pair][n_widths]: V of the group of blocks j..i-1, pair i (i - 1) / 2 + j */
    double *lost;        /* [n_blocks]: V of a block without bits */
} partition_search;

/* n_blocks 1..RB_MAX_BLOCKS and valid options. search is zeroed first and freed by partition_search_free, also after a
 * failure (RB_ENOMEM). */
rb_status partition_search_create(partition_search *search, int n_blocks, const partition_options *options,
                                  rb_error *err);
void partition_search_free(partition_search *search);

/* Solves a head whose blocks come in the order of the groups: a, b [n_blocks], moment [n_blocks][n_blocks] or NULL.
 * error [n_points]; choices [n_points][n_blocks]: the width of the block in that place, plus PARTITION_STARTS where it
 * starts a group of width > 0; zeros at points of infinite error. */
enum { PARTITION_STARTS = 0x80 };
void partition_search_solve(partition_search *search, const double *a, const double *b, const double *moment,
                            const group_distortion *distortion, double *error, uint8_t *choices);

/* What a group adds: G = (sum a)(sum b) / (2 m), moment = sum of M over its pairs of blocks, c of its width and size.
 */
static inline double partition_group_error(double independent, double moment, double c)
{
    const double scale = (1.0 - c) * moment + c * independent;
    return scale > 0.0 ? independent * moment * c / scale : 0.0;
}
/* Moments of a measurement can be too small, even negative, where blocks cancel. */
static inline double partition_group_moment(double independent, double moment)
{
    return moment > PARTITION_LEAST_COHERENCE * independent ? moment : PARTITION_LEAST_COHERENCE * independent;
}

#endif
