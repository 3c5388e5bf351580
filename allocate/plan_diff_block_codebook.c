/* Family block-codebook: how two of its heads differ (allocate/plan_diff.h). */
#include "allocate/plan_diff.h"

static void compare(plan_diff *diff, const plan_head *a, const plan_head *b, int n_blocks)
{
    const plan_block_codebook *x = &a->block_codebook, *y = &b->block_codebook;
    diff->maps_differing += x->gain_bits != y->gain_bits
                            || !plan_floats_equal(x->maps, y->maps, BLOCK_CODEBOOK_MAP_SIZE * n_blocks)
                            || !plan_floats_equal(x->weights, y->weights, n_blocks);
}

extern const diff_functions block_codebook_diff_functions;
const diff_functions block_codebook_diff_functions = {.compare = compare};
