/* What an allocator may know, out of a profile: borrowed from the table. */
#ifndef RB_PROFILE_PROFILE_STATISTICS_H
#define RB_PROFILE_PROFILE_STATISTICS_H

#include "methods/allocator.h"
#include "profile/profile_table.h"

/* For plans of n_sink tokens that stay exact: profile_table_statistics. The sensitivity is without the table's sinks.
 */
static inline head_statistics profile_statistics(const profile_table *table, int64_t n_sink)
{
    const token_statistics *known = profile_table_statistics(table, n_sink);
    return (head_statistics){.q_energy = known->q_energy,
                             .k_energy = known->k_energy,
                             .all_q_energy = table->all.q_energy,
                             .all_k_energy = table->all.k_energy,
                             .k_mean = known->k_mean,
                             .moment = known->logit_moment,
                             .moment_centered = known->logit_moment_centered,
                             .block_codebook_map = known->block_codebook_map,
                             .block_codebook_error = known->block_codebook_error,
                             .key_metric = table->sensitivity.key_metric,
                             .key_covariance = table->sensitivity.key_covariance,
                             .value_metric = table->sensitivity.value_metric,
                             .value_moment = table->sensitivity.value_moment,
                             .value_moment_weighted = table->sensitivity.value_moment_weighted,
                             .residual_energy = table->sensitivity.residual_energy};
}

#endif
