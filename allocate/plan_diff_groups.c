/* Family groups: what its heads count for, and how two of them differ (allocate/plan_diff.h). */
#include "allocate/plan_diff.h"

static void count(coding_counts *counts, const plan_head *head)
{
    bool codebooks[CODEBOOK_N_KINDS] = {false}, rotations[ROTATION_N_KINDS] = {false};
    for (int g = 0; g < head->groups.n; g++) {
        codebooks[head->groups.at[g].codebook] = true;
        rotations[head->groups.at[g].rotation.kind] = true;
    }
    for (int i = 0; i < CODEBOOK_N_KINDS; i++) counts->codebook[i] += codebooks[i];
    for (int i = 0; i < ROTATION_N_KINDS; i++) counts->rotation[i] += rotations[i];
    counts->norm[head->groups.norm]++;
    counts->encoder[head->groups.encoder]++;
    counts->scaled += head->groups.scales != NULL;
}

static void compare(plan_diff *diff, const plan_head *a, const plan_head *b, int n_blocks)
{
    diff->norms_differing += a->groups.norm != b->groups.norm;
    diff->encoders_differing += a->groups.encoder != b->groups.encoder;
    diff->scales_differing += !plan_floats_equal(a->groups.scales, b->groups.scales, n_blocks);
}

extern const diff_functions groups_diff_functions;
const diff_functions groups_diff_functions = {.count = count, .compare = compare};
