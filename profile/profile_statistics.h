/* What an allocator may know, out of a profile: borrowed from the table. */
#ifndef RB_PROFILE_PROFILE_STATISTICS_H
#define RB_PROFILE_PROFILE_STATISTICS_H

#include "methods/allocator.h"
#include "profile/profile_table.h"

static inline head_statistics profile_statistics(const profile_table *table)
{
    return (head_statistics){.q_energy = table->q_energy,
                             .k_energy = table->k_energy,
                             .k_mean = table->k_mean,
                             .moment = table->logit_moment,
                             .moment_centered = table->logit_moment_centered,
                             .block_codebook_map = table->block_codebook_map,
                             .block_codebook_error = table->block_codebook_error};
}

#endif
