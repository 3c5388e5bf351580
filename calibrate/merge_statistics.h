/* The statistics of several texts together, from those of each: energies and means are means over tokens, so that the
 * whole's is the sum of n x / the sum of n, in double. The order of the parts is the order of the sums. Against sums
 * over all tokens at once it is the same to rounding, a few 1e-16 relative. */
#ifndef RB_CALIBRATE_MERGE_STATISTICS_H
#define RB_CALIBRATE_MERGE_STATISTICS_H

#include "calibrate/block_statistics.h"

/* Adds a part of n_tokens to sums that start at zero (block_statistics_create). */
void merge_statistics_add(block_statistics *sums, const block_statistics *part, int64_t n_tokens);
/* From sums over n_tokens to means. */
void merge_statistics_finish(block_statistics *sums, int64_t n_tokens);

/* Harmonic means over tokens, as calibrate/output_metric.h takes them: of n_tokens[i] tokens energies[i]. Parts of 0
 * had no token above 0, and are left out; 0 where all are. */
double merge_residual_energy(const double *energies, const int64_t *n_tokens, int n_parts);

#endif
