/* Family trellis: how two of its heads differ (allocate/plan_diff.h). */

#include "allocate/plan_diff.h"

static void compare(plan_diff *diff, const plan_head *a, const plan_head *b, int n_blocks)
{
    const plan_trellis *x = &a->trellis, *y = &b->trellis;
    (void)n_blocks;
    diff->maps_differing += x->gain_bits != y->gain_bits || x->gain_zero != y->gain_zero
                            || !plan_floats_equal(x->basis, y->basis, x->n_dims * x->n_dims)
                            || !plan_floats_equal(x->weights, y->weights, x->n_dims);
}

extern const diff_functions trellis_diff_functions;
const diff_functions trellis_diff_functions = {.compare = compare};
