/* The best partition of a head's RoPE blocks into groups, exactly, for every budget at once.
 *
 * Model (docs/method.md). Block i has query energy a_i and key energy b_i, as the caller has centred or equalized them.
 * A group S of m blocks with width w > 0 rotates and codes its 2m dims with one norm. It stores 2 m w bits of codes and
 * norm_bits for the norm. The rotation spreads the error evenly over the dims, so the group adds to the variance of a
 * logit's error
 *      c[w][m] * (sum_S a) * (sum_S b) / (2 m),      c the relative squared error of the codec, measured by the caller.
 * Width 0 stores nothing and loses its blocks: each adds a_i b_i / 2. The variance V of a head is the sum over its
 * groups.
 *
 * That takes blocks for independent, of random phase. With the second moments M of what blocks add to a logit
 * (profile/logit_moment.h) the model knows better. The part of a key that a coarse code loses is the key's own, shrunk,
 * and errs as coherently as the key itself. With
 *      G = (sum_S a)(sum_S b) / (2 m),      the coherence kappa = sum_S M_ij / G,
 * and an encoder that stretches what it stores by kappa / ((1 - c) kappa + c), the best stretch (1 for kappa = 1),
 *      a group adds       G kappa c / ((1 - c) kappa + c),
 *      a lost block adds  M_ii + 2 sum of M_ij > 0 over the blocks j after it in the order.
 * A head's codes are padded to a whole byte: it stores roundup8(sum of code bits) + norms. Norms are whole bytes here,
 * so that is the sum rounded up, and a head has one point a byte.
 *
 * Groups are contiguous in the order of descending a_i b_i (equal ones by index). f[i][B], the least V of the first i
 * blocks within B bits, follows from f[j][B - bits of the group j..i-1], j < i, for every width. That is exact among
 * contiguous partitions. Others can be better, seldom and by little (docs/method.md has numbers); equalized energies
 * (a = b in every block) leave the least of it.
 *
 * The result is the same for any number of threads and any instruction set: every sum has one order, and ties have one
 * winner. */
#ifndef RB_METHODS_PARTITION_H
#define RB_METHODS_PARTITION_H

#include <stdint.h>

#include "core/model_facts.h"

enum { PARTITION_MAX_WIDTH = 8, PARTITION_N_WIDTHS = PARTITION_MAX_WIDTH + 1 };

/* Relative squared error of a group, E|x^ - x|^2 / E|x|^2, by width and number of blocks; borrowed. Row 0, column 0 and
 * rows of widths that are not allowed are not read. */
typedef struct group_distortion {
    int max_blocks;  /* at least the head's n_blocks */
    const double *c; /* [PARTITION_N_WIDTHS][max_blocks + 1] */
} group_distortion;

typedef struct partition_options {
    unsigned widths; /* bit w set: width w is allowed, 0..8; at least one above 0. Two groups may have the same width */
    int norm_bits;   /* a group's norm: 0 to 64 bits, whole bytes */
    int max_groups;  /* most groups of width > 0; 0: no limit. Width 0 does not count: no kernel runs for it */
    /* Stored bits that the curve goes up to; it ends earlier where more is of no use. 0: every block at the largest
     * width, one norm. */
    int64_t max_bits;
} partition_options;

/* Widths 0..8, norms of 16 bits, no limit of groups, the whole curve. */
partition_options partition_options_default(void);

/* Who shares a group. No memory of its own. */
typedef struct block_partition {
    int n_blocks, n_groups;
    uint8_t width[RB_MAX_BLOCKS];     /* [n_groups], by descending energy; at most one of width 0, which comes last */
    int16_t first[RB_MAX_BLOCKS + 1]; /* group g is blocks[first[g]] to blocks[first[g + 1] - 1] */
    int16_t blocks[RB_MAX_BLOCKS];    /* [n_blocks], ascending inside a group */
} block_partition;

/* roundup8(codes) + norms; norm_bits as in the options. */
int64_t partition_stored_bits(const block_partition *partition, int norm_bits);
/* V of any partition under the model above: q_energy, k_energy [n_blocks] >= 0, moment (upper triangle of M, row by
 * row; NULL: independent blocks), by the same c. */
double partition_error(const block_partition *partition, const double *q_energy, const double *k_energy,
                       const float *moment, const group_distortion *distortion);
/* kappa of blocks [n]; 1 where G is 0 or moment is NULL. At least PARTITION_LEAST_COHERENCE. */
double partition_coherence(const int16_t *blocks, int n, int n_blocks, const double *q_energy, const double *k_energy,
                           const float *moment);
/* What the model takes of a group: kappa is moment / independent. */
typedef struct partition_sums {
    double independent; /* G = (sum a)(sum b) / (2 m) */
    double moment;      /* sum of M over pairs of blocks, at least PARTITION_LEAST_COHERENCE of G; G without moments */
    double diagonal;    /* sum of a b / 2 */
} partition_sums;
partition_sums partition_sums_of(const int16_t *blocks, int n, int n_blocks, const double *q_energy,
                                 const double *k_energy, const float *moment);
#define PARTITION_LEAST_COHERENCE 0.0625

/* Least V of a head for every budget. Point p: within p stored bytes. */
typedef struct partition_curve {
    int n_blocks, n_points;
    double *error;    /* [n_points], owned; V, does not rise. INFINITY where nothing fits (only without width 0) */
    uint8_t *choices; /* [n_points][n_blocks], owned: how a point is made, for partition_curve_at */
    int16_t *order;   /* [n_blocks], owned: blocks by descending a_i b_i */
} partition_curve;

/* Curves of n_heads heads, in parallel over heads. curves [n_heads] is the caller's, each then freed by
 * partition_curve_free (also after a failure, which leaves all empty). q_energy, k_energy [n_heads][n_blocks]; moments
 * [n_heads][n_blocks (n_blocks + 1) / 2] or NULL; distortion [n_heads], or one for all with n_distortions = 1. At most
 * n_blocks^2 / 2 * widths * bits / 2 steps a head: 64 blocks to 8 bits a dim take 1.5 ms. A limit of N groups that a
 * head exceeds adds up to N times that. RB_EINVAL: sizes or options out of range, a negative c; RB_ENONFINITE: an
 * energy that is negative or not finite, naming head and block; RB_ENOMEM. */
rb_status partition_curves_build(partition_curve *curves, int n_heads, int n_blocks, const double *q_energy,
                                 const double *k_energy, const float *moments, const group_distortion *distortion,
                                 int n_distortions, const partition_options *options, rb_error *err);
void partition_curve_free(partition_curve *curve); /* accepts NULL and an empty one */

/* The partition of a point with a finite error. It may store less than p bytes. */
void partition_curve_at(const partition_curve *curve, int point, block_partition *out);

#endif
